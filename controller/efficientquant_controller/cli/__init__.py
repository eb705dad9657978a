"""The `efficientquant` command: one file per verb, and nothing heavy imported before a verb runs."""


def main() -> None:
    """Run the command line; what the `efficientquant` script calls."""
    try:
        from efficientquant_controller.cli.app import run
    except KeyboardInterrupt:  # Ctrl-C while Python is still importing
        raise SystemExit(130) from None
    run()
