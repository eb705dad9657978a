"""Mutate lines of tegrastats and parse them: `python tests/fuzz/tegrastats.py [INPUTS [SEED]]`, a million unless told.

It fails on any exception but the parser's own, on a value that is no finite number, on a load outside 0 … 1, and on an
input that takes the parser more than 0.1 s of CPU, which a regular expression gone wild would.
"""

# ruff: noqa: E402, T201, a script: it finds its neighbours first, and prints
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
# What the grammar is made of, and what decoders and regular expressions stumble over.
PIECES = [*" \t[]()/,@%.-:C", "mW", "MB", "kB", "off", "RAM ", "CPU [", "GPU ", "@[", "NC", "0", "-0", "9" * 12, "1e9"]
PIECES += ["nan", "²", "٣", "\0", "\x85", "\u2028", "\ud800", "\U0001f525", "\r", "\n", "A" * 50, "1/2/3/4", "0,0,0"]
MAX_CPU_S = 0.1


def mutated(rng: random.Random) -> str:
    """One to six changes to a line: cut, repeat, drop, overwrite, insert, or go on with another line."""
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
    """What is wrong with the parser's answer to this line, None when it is an answer or the parser's own refusal."""
    before_s = time.thread_time()
    try:
        found = values(parse_line(line))
    except TegrastatsError:
        return None
    except Exception as error:  # noqa: BLE001, any other is what is looked for
        return f"{type(error).__name__}: {error}"
    if time.thread_time() - before_s > MAX_CPU_S:
        return f"took {time.thread_time() - before_s:.3f} s"
    for name, value in found.items():
        if not isinstance(value, float) or not math.isfinite(value):
            return f"{name} is {value!r}"
        if name.startswith("load") and not 0 <= value <= 1:
            return f"{name} is {value!r}"
    return None


def main(inputs: int = 10**6, seed: int = 1) -> int:
    """Try so many inputs; print what was found, the first failures with the input that makes them again."""
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
