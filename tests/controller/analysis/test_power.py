"""The table of the power of `compare` in docs/comparing.md."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_table_is_what_its_script_gives() -> None:
    """The documented power is that of the rules of today."""
    script = runpy.run_path(str(ROOT / "tests/bench/studies/power.py"))

    assert script["table"]() in (ROOT / "docs/comparing.md").read_text()
