"""The `efficientquant` command: one file per verb, and nothing heavy imported before a verb runs."""


def main() -> None:
    """Run the command line; what the `efficientquant` script calls."""
    from efficientquant_controller.cli.app import run

    run()
