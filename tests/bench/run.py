"""The script of `make bench`, which measures the performance goals.

A goal and its reference are measured in the same run.
"""

import platform
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "runtimes"), str(HERE.parent / "e2e")]

import accuracy
import fleet_load
import idle
import latency
import library
import openvino_latency
import ort_latency
import sampler
import structure
import transfer

VERDICTS = {True: "met   ", False: "MISSED", None: "      "}


def main() -> int:
    """Print one line for each goal, and return the exit status.

    It is 0 when all goals are met, else 1.
    """
    print(f"on {platform.machine()}, {platform.system()} {platform.release()}, Python {platform.python_version()}")
    met = []
    parts = (latency, sampler, idle, transfer, structure, accuracy, library, ort_latency, openvino_latency, fleet_load)
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            for goal in part.measure(Path(folder)):
                met.append(goal.met is not False)
                print(f"{VERDICTS[goal.met]}  {goal.sentence}", flush=True)
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
