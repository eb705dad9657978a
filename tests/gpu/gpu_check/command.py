"""The command that runs all checks and writes the report."""

import argparse
import os
import signal
import sys
import time
from typing import Any, Dict, Iterator, List, Optional, Sequence

from gpu_check import bounded, machine, report
from gpu_check.checks import CHECKS
from gpu_check.machine import Machine
from gpu_check.rows import FAILED, NOT_RUN, Row, decode

LIMIT_S = 300.0
EXIT_FAILED, EXIT_CANNOT, EXIT_INTERRUPTED = 1, 2, 130
# CUDA starts slowly on a server with many GPUs, and numpy loads slowly for the first time on a board.
_FIND_S = {"CUDA": 30.0, "NVML": 10.0, "nvidia-smi": 10.0, "board": 5.0, "numpy": 20.0}
# The time to kill the last child and to write the report.
_SPARE_S = 5.0
_LEAST_S = 0.5


class _Options(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> None:
        """Print one line and exit with 2."""
        sys.stderr.write("gpu-check: {}; --help shows what there is\n".format(message))
        sys.exit(EXIT_CANNOT)


def main(arguments: Sequence[str], reports: str) -> int:
    """Run all checks, write the report and return the exit code.

    The code is 0, 1 (a check failed), 2 (no GPU or numpy) or 130 (interrupted).
    """
    parser = _Options(prog="make gpu-check", description="Checks what runs on this machine's NVIDIA GPU, and reports.")
    parser.add_argument("--reports", metavar="DIR", default=reports, help="where the report goes (docs/gpu-checks)")
    parser.add_argument("--seconds", metavar="N", type=_seconds, default=LIMIT_S, help="the most it may take (300)")
    options = parser.parse_args(list(arguments))
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # which nohup sets
            signal.signal(number, _interrupt)
    started_s = time.monotonic()
    folders = machine.library_folders()
    environment = machine.with_libraries(os.environ, folders)
    try:
        here = _prepare(environment)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    if here is None:
        return EXIT_CANNOT
    environment["GPU_CHECK_UUID"] = here.uuid
    rows: List[Row] = []
    code = _run_checks(rows, environment, started_s, options.seconds)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # so that the report is written in every case
    _publish(options.reports, here, report.markdown(here, rows, folders, time.monotonic() - started_s), rows)
    return code or (EXIT_FAILED if any(row.outcome == FAILED for row in rows) else 0)


def _seconds(text: str) -> float:
    if not text.isdigit() or not 30 <= int(text) <= 3600:
        raise argparse.ArgumentTypeError("{} is no number of seconds from 30 to 3600".format(text))
    return float(text)


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _prepare(environment: Dict[str, str]) -> Optional[Machine]:
    """Return the GPU, or print what is missing and return None."""
    here = _find_gpu(environment)
    numpy = _facts_of("numpy", environment)
    missing = []
    if not here.name:
        missing.append(
            "an NVIDIA GPU, and neither CUDA, NVML nor nvidia-smi shows one here (CUDA: {})".format(here.trouble)
        )
    if "version" not in numpy:
        missing.append(machine.no_numpy(numpy["trouble"]))
    if missing:
        sys.stderr.write("gpu-check needs {}\n".format("; it also needs ".join(missing)))
        return None
    return here


def _find_gpu(environment: Dict[str, str]) -> Machine:
    trouble = ""
    for source in ("CUDA", "NVML", "nvidia-smi", "board"):
        facts = _facts_of(source, environment)
        if "name" in facts:
            return Machine(**dict(facts, trouble=trouble))
        trouble = trouble or facts["trouble"]
    return Machine("", trouble=trouble)


def _facts_of(source: str, environment: Dict[str, str]) -> Dict[str, str]:
    try:
        return next(bounded.messages(["find", source], _FIND_S[source], environment))
    except bounded.ChildError as error:
        return {"trouble": "{}: {}".format(source, error)}


def _run_checks(rows: List[Row], environment: Dict[str, str], started_s: float, limit_s: float) -> int:
    """Run every check and add its rows.

    Returns 130 when the user interrupts, else 0.
    """
    available_s = limit_s - _SPARE_S - (time.monotonic() - started_s)
    unit_s = available_s / sum(check.share_s for check in CHECKS.values())
    ends_s = time.monotonic()
    pending = list(CHECKS)
    try:
        while pending:
            ends_s += CHECKS[pending[0]].share_s * unit_s
            for row in _rows(pending[0], ends_s - time.monotonic(), environment):
                rows.append(row)
                _say("{:11} {}: {}".format(row.outcome, row.check, " ".join(row.seen.split())))
            del pending[0]
    except KeyboardInterrupt:
        rows += [Row(name, NOT_RUN, "the checks were interrupted") for name in pending]
        return EXIT_INTERRUPTED
    return 0


def _rows(name: str, limit_s: float, environment: Dict[str, str]) -> Iterator[Row]:
    if limit_s < _LEAST_S:
        yield Row(name, FAILED, "no time was left for it; --seconds gives more")
        return
    _say("{:11} {} (at most {:.0f} s)".format("checking", name, limit_s))
    last = "its start"
    try:
        for message in bounded.messages(["check", name], limit_s, environment):
            row = decode(message)
            last = row.check
            yield row
    except bounded.ChildError as error:
        yield Row(name, FAILED, "after {}: {}".format(last, error))


def _publish(folder: str, here: Machine, text: str, rows: List[Row]) -> None:
    """Write the report, or print it when it cannot be written."""
    try:
        path = report.write(folder, here, text)
    except OSError as error:
        sys.stderr.write(
            "gpu-check: the report cannot be written ({}), so it follows; --reports names a folder\n".format(error)
        )
        _say(text)
        path = "the report is above"
    failed = [row.check for row in rows if row.outcome == FAILED]
    _say("{}{}: {}".format(report.count(rows), ", failed: " + ", ".join(failed) if failed else "", path))


def _say(line: str) -> None:
    """Print a line.

    A closed output is replaced by the null device, so that the checks continue.
    """
    try:
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(line.encode(encoding, "replace").decode(encoding) + "\n")
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
