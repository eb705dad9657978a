"""The command `efficientquant-agent doctor`: what this device is and can do, and what to fix."""

import argparse
import glob
import json
import os
import platform
import re
import shutil
import socket
import sys
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from efficientquant_agent import __version__, config, diagnosis
from efficientquant_agent.clocks import HELPER, ClockControl
from efficientquant_agent.device import Probe, Runtimes, runtimes
from efficientquant_agent.diagnosis import Facts, Problem

# Of the JSON below. Keys are added without a new number; none is removed or changes its meaning without one.
SCHEMA = 1

# What tells how much about a board only root may read. tegrastats prints IRAM for root alone.
_ROOT_ONLY = {
    "emc_clock": (
        "kernel/debug/bpmp/debug/clk/emc/rate",
        "kernel/debug/clk/emc/clk_rate",
        "kernel/debug/clk/override.emc/clk_rate",
    ),
    "nvmap": ("kernel/debug/nvmap/iovmm/clients",),
}
_DISTRIBUTIONS = (
    "pip",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "pycuda",
    "pynvml",
    "nvidia-ml-py",
)


class DoctorOptions(NamedTuple):
    """What was asked for."""

    state_dir: str
    as_json: bool = False
    board_root: str = "/"
    tegrastats: str = ""  # what the agent would start; empty for none


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Serve `efficientquant-agent doctor`; return the exit code. It looks where an agent with these options would."""
    parser = argparse.ArgumentParser(
        prog="efficientquant-agent doctor",
        description="Says what this device is and can do, and how to fix what is wrong. "
        "Exit code 0: it can run a model; 2: it cannot.",
    )
    parser.add_argument("--json", action="store_true", help="print facts and problems as one JSON object")
    parser.add_argument("--name", help="the agent's name, as for efficientquant-agent")
    parser.add_argument("--state-dir", metavar="DIR", help="the agent's state directory")
    parser.add_argument(
        "--board-root", metavar="DIR", default="/", help="where the board's / is mounted, for an agent in a container"
    )
    parser.add_argument("--tegrastats", metavar="PATH", help="the tegrastats that the agent uses (default: from PATH)")
    given = parser.parse_args(list(arguments))
    if not os.path.isdir(given.board_root):
        parser.error("--board-root {} is not a directory; pass where the board's / is mounted".format(given.board_root))
    if given.tegrastats and not os.access(given.tegrastats, os.X_OK):
        parser.error("--tegrastats {} cannot be run; pass the path of the executable".format(given.tegrastats))
    name = given.name or socket.gethostname()
    return run_doctor(
        DoctorOptions(
            given.state_dir or config.default_state_dir(name, environment),
            given.json,
            given.board_root,
            given.tegrastats or shutil.which("tegrastats") or "",
        )
    )


def run_doctor(options: DoctorOptions) -> int:
    """Collect, diagnose and print; return 0 when this device can run a model, else 2."""
    probe = Probe.of_tree(options.board_root)
    facts = collect(probe, runtimes(), options.state_dir, os.environ, tegrastats=options.tegrastats)
    problems = diagnosis.diagnose(facts)
    text = (
        json.dumps(as_json(facts, problems), indent=2, sort_keys=True) if options.as_json else as_text(facts, problems)
    )
    sys.stdout.write(text + "\n")
    return 0 if diagnosis.can_run(facts) else 2


def collect(
    probe: Probe,
    found: Runtimes,
    state_dir: str,
    environment: Mapping[str, str],
    search_path: Optional[Sequence[str]] = None,
    control: Optional[ClockControl] = None,
    tegrastats: str = "",
) -> Facts:
    """Return the facts about a device, reading only; `search_path` is where Python's packages are, sys.path if None."""
    control = control or ClockControl(probe.clock_places())
    device = probe.snapshot(found.library_versions, found.backends, found.gpus, found.cuda_version, control.access())
    clocks = probe.max_clocks_hz()
    shared = {name: getattr(device, name) for name in Facts._fields if name in device._fields}
    return Facts(
        agent_version=__version__,
        soc=probe.soc(),
        cpu_max_hz=clocks.get("cpu"),
        gpu_max_hz=clocks.get("gpu"),
        broken=found.broken,
        power_modes=probe.power_modes(),
        clocks=control.observe().clocks,
        root_only=_root_only(probe) if probe.soc() else {},
        tools=_tools(probe, tegrastats),
        python_version=platform.python_version(),
        in_venv=sys.prefix != sys.base_prefix,
        sees_system_packages=_sees_system_packages(sys.prefix),
        installed=_installed(sys.path if search_path is None else search_path),
        system_tensorrt=_system_tensorrt(probe.usr),
        openblas_coretype=environment.get("OPENBLAS_CORETYPE", ""),
        state_dir=state_dir,
        state_dir_writable=os.access(_existing(state_dir), os.W_OK | os.X_OK),
        free_disk_bytes=shutil.disk_usage(_existing(state_dir)).free,
        **shared,
    )


def as_json(facts: Facts, problems: Sequence[Problem]) -> Dict[str, Any]:
    """Return {"schema", "can_run", "facts": diagnosis.Facts, "problems": [diagnosis.Problem]} as plain JSON values."""
    plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in facts._asdict().items()}
    for name in ("gpus", "backends"):
        plain[name] = [dict(each._asdict()) for each in plain[name]]
    return {
        "schema": SCHEMA,
        "can_run": diagnosis.can_run(facts),
        "facts": plain,
        "problems": [dict(problem._asdict()) for problem in problems],
    }


def as_text(facts: Facts, problems: Sequence[Problem]) -> str:
    """Return a table of what is known, then what is wrong, each with its fix."""
    rows = _rows(facts)
    width = max(len(name) for name, _ in rows)
    lines = ["{}  {}".format(name.ljust(width), value) for name, value in rows]
    lines.append("")
    for problem in problems:
        lines.append("{}: {}".format(problem.severity, problem.sentence))
        lines.append("    fix: {}".format(problem.fix))
    if not problems:
        lines.append("no problems")
    return "\n".join(lines)


def _rows(facts: Facts) -> List[Sequence[str]]:
    jetpack = " (JetPack {})".format(facts.jetpack) if facts.jetpack else ""
    clock = ", up to {:.0f} MHz".format(facts.cpu_max_hz / 1e6) if facts.cpu_max_hz else ""
    rows = [
        ("board", facts.board),
        ("serial or machine id", facts.board_id),
        ("system", ", ".join(filter(None, (facts.os, facts.l4t + jetpack, facts.kernel, facts.architecture)))),
        ("CPU", "{} × {}{}".format(facts.cpu_count, facts.cpu_model or "core", clock)),
        ("memory", "{}, swap {}".format(_size(facts.memory_total_bytes), _size(facts.swap_total_bytes))),
    ]
    rows += [("GPU", _gpu(gpu, facts)) for gpu in facts.gpus] or [("GPU", "none")]
    rows += [("CUDA", facts.cuda_version)] if facts.cuda_version else []
    rows += [("backend", "{} {}".format(each.name, each.version)) for each in facts.backends] or [("backend", "none")]
    rows.append(("Python", facts.python_version + _environment(facts)))
    versions = dict(facts.installed, **facts.library_versions)
    rows.append(
        ("packages", ", ".join("{} {}".format(*each) for each in sorted(versions.items()) if each[0] != "python"))
    )
    if facts.power_mode:
        rows.append(("power mode", "{} (of {})".format(facts.power_mode, ", ".join(facts.power_modes) or "unknown")))
    rows.append(("clocks", "{}, to be set by: {}".format(facts.clocks, facts.clock_control)))
    rows += [("for root only", "{}: {}".format(name, state)) for name, state in sorted(facts.root_only.items())]
    if facts.soc:
        rows += [(name, path or "missing") for name, path in sorted(facts.tools.items())]
    rows.append(("state directory", "{} ({} free)".format(facts.state_dir, _size(facts.free_disk_bytes))))
    return [(name, value or "unknown") for name, value in rows]


def _gpu(gpu: Any, facts: Facts) -> str:
    fast = [name for name in ("fp16", "int8", "tf32") if getattr(gpu, name)]
    parts = [
        gpu.name or "unnamed",
        "SM {}.{}".format(*divmod(gpu.compute_capability, 10)) if gpu.compute_capability else "SM unknown",
        "fast: {}".format(", ".join(fast).upper() or "FP32 only") if gpu.compute_capability else "",
        "shares the board's memory" if gpu.integrated else _size(gpu.memory_total_bytes),
        "up to {:.0f} MHz".format(facts.gpu_max_hz / 1e6) if gpu.integrated and facts.gpu_max_hz else "",
        "driver " + gpu.driver_version if gpu.driver_version else "",
        gpu.uuid,
    ]
    return ", ".join(part for part in parts if part)


def _environment(facts: Facts) -> str:
    if not facts.in_venv:
        return ", the system's own"
    return ", virtual environment with{} the system's packages".format("" if facts.sees_system_packages else "out")


def _size(size_bytes: Optional[int]) -> str:
    return "unknown" if size_bytes is None else "{:.1f} GiB".format(size_bytes / 1024**3) if size_bytes else "none"


def _root_only(probe: Probe) -> Dict[str, str]:
    found = {name: _readable([os.path.join(probe.sys, path) for path in paths]) for name, paths in _ROOT_ONLY.items()}
    found["iram"] = diagnosis.READABLE if os.geteuid() == 0 else diagnosis.NEEDS_ROOT
    return found


def _readable(paths: Sequence[str]) -> str:
    """Return whether one of these files can be read; a folder on the way that is closed hides whether it is there."""
    states = set()
    for path in paths:
        try:
            with open(path, "rb"):
                states.add(diagnosis.READABLE)
        except (FileNotFoundError, NotADirectoryError):
            states.add(diagnosis.ABSENT)
        except OSError:
            states.add(diagnosis.NEEDS_ROOT)
    return next(each for each in (diagnosis.READABLE, diagnosis.NEEDS_ROOT, diagnosis.ABSENT) if each in states)


def _tools(probe: Probe, tegrastats: str) -> Dict[str, str]:
    places = probe.clock_places()
    found = {
        "tegrastats": tegrastats,
        "nvpmodel": places.nvpmodel,
        "jetson_clocks": places.jetson_clocks,
        "helper": os.path.join(probe.usr, os.path.relpath(HELPER[-1], "/usr")),
    }
    return {name: path if os.access(path, os.X_OK) else "" for name, path in found.items()}


def _sees_system_packages(prefix: str) -> bool:
    """Return what a virtual environment's pyvenv.cfg says; without one this is the system's own Python."""
    try:
        with open(os.path.join(prefix, "pyvenv.cfg"), errors="replace") as stream:
            text = stream.read()
    except OSError:
        return True
    return re.search(r"^include-system-site-packages\s*=\s*true\s*$", text, re.MULTILINE | re.IGNORECASE) is not None


def _installed(search_path: Sequence[str]) -> Dict[str, str]:
    """Return {distribution: version} by the names of folders: numpy itself may not survive being loaded."""
    found = {}  # type: Dict[str, str]
    for folder in search_path:
        for name in _DISTRIBUTIONS:
            pattern = os.path.join(glob.escape(folder), name.replace("-", "_") + "-[0-9]*-info")
            for path in sorted(glob.glob(pattern)):
                # A wheel's numpy-1.19.4.dist-info, or Debian's numpy-1.13.3.egg-info and pip-9.0.1-py3.6.egg-info
                version = re.search(r"-([0-9][^-]*?)(?:-py[0-9.]+)?\.(?:dist|egg)-info$", path)
                if version:
                    found.setdefault(name, version.group(1))
    return found


def _system_tensorrt(usr: str) -> List[str]:
    return sorted(glob.glob(os.path.join(glob.escape(usr), "lib/python3*/dist-packages/tensorrt")))


def _existing(path: str) -> str:
    """Return the path, or the nearest folder above it that is there."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path
