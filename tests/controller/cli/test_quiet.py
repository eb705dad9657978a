"""The messages of other libraries."""

import subprocess
import sys

NOISY = """
import logging, warnings, os
import efficientquant_controller.cli as cli
from efficientquant_controller.cli import app
def noisy():
    warnings.warn("a field is deprecated", FutureWarning)
    logging.getLogger("timm.models").warning("unexpected keys")
    print(os.environ["TORCH_CPP_LOG_LEVEL"])
app.run = noisy
cli.main()
"""


def test_remarks_of_other_libraries_stay_off_stderr():
    """Warnings and log records for programmers are printed only on request."""
    quiet, asked = (
        subprocess.run([sys.executable, *options, "-c", NOISY], capture_output=True, text=True, check=True)
        for options in ((), ("-W", "default"))
    )

    assert (quiet.stdout, quiet.stderr) == ("ERROR\n", "")
    assert "FutureWarning" in asked.stderr
