"""Makes the harness and the sweep importable by their tests."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "harness"), str(HERE / "sweep")]
