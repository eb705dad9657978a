"""Lets a program in this folder import the harness and tests/e2e.

Importing this module is enough.
"""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parent / "harness"), str(Path(__file__).parent.parent / "e2e")]
