"""`python -m efficientquant_controller.cli`: the command without its script."""

from efficientquant_controller.cli import main

main()
