"""`make bench`: the performance goals, each measured beside what it is compared with, in one run."""

import platform
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "e2e")]

import accuracy
import idle
import latency
import structure
import transfer


def main() -> int:
    """Print one line for each goal; the exit status says whether all were met."""
    print(f"on {platform.machine()}, {platform.system()} {platform.release()}, Python {platform.python_version()}")
    met = []
    with tempfile.TemporaryDirectory() as folder:
        for measure in (latency.measure, idle.measure, transfer.measure, structure.measure, accuracy.measure):
            for goal in measure(Path(folder)):
                met.append(goal.met)
                print(f"{'met   ' if goal.met else 'MISSED'}  {goal.sentence}", flush=True)
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
