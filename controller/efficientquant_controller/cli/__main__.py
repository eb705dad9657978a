"""The `python -m efficientquant_controller.cli` entry point."""

from efficientquant_controller.cli import main

main()
