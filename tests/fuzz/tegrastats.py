"""A fuzzer of the parser of tegrastats' lines.

Usage: `python tests/fuzz/tegrastats.py [INPUTS [SEED]]`, by default a million inputs.

It fails on any exception except TegrastatsError, on a value that is no finite number, on a load outside 0 … 1, and on
an input that takes the parser more than 0.1 s of CPU, as a regular expression with catastrophic backtracking would.
"""

# ruff: noqa: E402, T201, a script that sets its import path first, and prints
import math
import random
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS / "agent/samplers")]

from efficientquant_agent.errors import TegrastatsError
from efficientquant_agent.samplers.tegrastats import parse_line, values
from test_tegrastats import LINES

CORPUS = [line for line, _ in LINES.values()]
# Pieces of the grammar, and text that decoders and regular expressions may not expect.
PIECES = [*" \t[]()/,@%.-:C", "mW", "MB", "kB", "off", "RAM ", "CPU [", "GPU ", "@[", "NC", "0", "-0", "9" * 12, "1e9"]
PIECES += ["nan", "²", "٣", "\0", "\x85", "\u2028", "\ud800", "\U0001f525", "\r", "\n", "A" * 50, "1/2/3/4", "0,0,0"]
MAX_CPU_S = 0.1


def mutated(rng: random.Random) -> str:
    """Return a line of the corpus with one to six changes.

    A change cuts, repeats, drops, overwrites or inserts characters, or continues with another line.
    """
    line = rng.choice(CORPUS)
    for _ in range(rng.randint(1, 6)):
        start = rng.randrange(len(line) + 1)
        end = min(len(line), start + rng.choice((0, 1, 1, 2, 5, 30)))
        what = rng.randrange(6)
        if what == 0:
            line = line[:start]
        elif what == 1:
            line = line[:end] + line[start:]
        elif what == 2:
            line = line[:start] + line[end:]
        elif what == 3:
            line = line[:start] + rng.choice(PIECES) + line[end:]
        elif what == 4:
            line = line[:start] + chr(rng.randrange(32, 127)) + line[start:]
        else:
            other = rng.choice(CORPUS)
            line = line[:start] + other[rng.randrange(len(other)) :]
    return line


def complaint(line: str) -> str | None:
    """Return the problem with the parser's result, None without a problem.

    A TegrastatsError is no problem.
    """
    before_s = time.thread_time()
    try:
        by_series = values(parse_line(line))
    except TegrastatsError:
        return None
    except Exception as error:  # noqa: BLE001, the fuzzer searches for any other exception
        return f"{type(error).__name__}: {error}"
    if time.thread_time() - before_s > MAX_CPU_S:
        return f"took {time.thread_time() - before_s:.3f} s"
    for name, value in by_series.items():
        if not isinstance(value, float) or not math.isfinite(value):
            return f"{name} is {value!r}"
        if name.startswith("load") and not 0 <= value <= 1:
            return f"{name} is {value!r}"
    return None


def main(inputs: int = 10**6, seed: int = 1) -> int:
    """Parse this many inputs and print the failures.

    The first ten failures are printed with their input. Returns 1 when there are any.
    """
    rng, failures = random.Random(seed), 0
    started_s = time.monotonic()
    for number in range(inputs):
        line = mutated(rng)
        problem = complaint(line)
        if problem:
            failures += 1
            if failures <= 10:
                print(f"input {number} of seed {seed}: {problem}\n  {line!r}")
    print(f"{inputs} inputs of seed {seed} in {time.monotonic() - started_s:.1f} s: {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
