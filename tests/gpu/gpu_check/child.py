"""The process of one check, which prints lines of JSON.

Usage: `python -m gpu_check.child check NAME` or `python -m gpu_check.child find SOURCE`.
"""

import json
import sys

from efficientquant_agent.streams import claim_standard_output

from gpu_check import checks, machine
from gpu_check.rows import encode, rows_of


def main(kind: str, name: str) -> None:
    """Run the named check or search.

    The output of a runtime goes to standard error.
    """
    with claim_standard_output() as answer:
        if kind == "find":
            answer.write(json.dumps(machine.SOURCES[name]()) + "\n")
        else:
            for row in rows_of(name, checks.CHECKS[name].check):
                answer.write(encode(row))
                answer.flush()
        answer.write('{"end": true}\n')


if __name__ == "__main__":
    main(*sys.argv[1:])
