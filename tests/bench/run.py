"""The script of `make bench`, which measures the performance goals.

A goal and its reference are measured in the same run.
"""

import platform
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "e2e")]

import accuracy
import fleet_load
import idle
import latency
import library
import sampler
import structure
import transfer
from runtimes import ort_latency

VERDICTS = {True: "met   ", False: "MISSED", None: "      "}


def main() -> int:
    """Print one line for each goal, and return the exit status.

    It is 0 when all goals are met, else 1.
    """
    print(f"on {platform.machine()}, {platform.system()} {platform.release()}, Python {platform.python_version()}")
    met = []
    with tempfile.TemporaryDirectory() as folder:
        for part in (latency, sampler, idle, transfer, structure, accuracy, library, ort_latency, fleet_load):
            for goal in part.measure(Path(folder)):
                met.append(goal.met is not False)
                print(f"{VERDICTS[goal.met]}  {goal.sentence}", flush=True)
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
