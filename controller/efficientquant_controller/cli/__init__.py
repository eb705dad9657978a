"""The `efficientquant` command: one file per verb, and nothing heavy imported before a verb runs."""

import os
import sys


def main() -> None:
    """Run the command line; what the `efficientquant` script calls."""
    try:
        from efficientquant_controller.cli.app import run
    except KeyboardInterrupt:  # Ctrl-C while Python is still importing
        raise SystemExit(130) from None
    quiet_libraries()
    run()


def quiet_libraries() -> None:
    """Keep the remarks of other libraries, meant for programmers, off a user's stderr.

    Python's -W or PYTHONWARNINGS brings their warnings back, and so do the two variables of torch and the hub.
    """
    import logging
    import warnings

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # The handler for records that no one has configured a logger for.
    if logging.lastResort is not None:
        logging.lastResort.setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
