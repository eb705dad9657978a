"""The `efficientquant` command, with one file per verb.

Heavy packages are imported only when a verb runs.
"""

import os
import sys


def main() -> None:
    """Run the command line, as the `efficientquant` script does."""
    try:
        from efficientquant_controller.cli.app import run
    except KeyboardInterrupt:  # Ctrl-C while Python is still importing
        raise SystemExit(130) from None
    quiet_libraries()
    run()


def quiet_libraries() -> None:
    """Silence warnings and log records that other libraries write for programmers.

    Python's -W or PYTHONWARNINGS brings their warnings back. TORCH_CPP_LOG_LEVEL and HF_HUB_VERBOSITY bring back the
    messages of torch and the hub.
    """
    import logging
    import warnings

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # Python's handler for log records without another handler.
    if logging.lastResort is not None:
        logging.lastResort.setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
