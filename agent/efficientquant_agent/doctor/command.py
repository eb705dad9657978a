"""The command `efficientquant-agent doctor`: facts about this device, and what to fix."""

import glob
import importlib.util
import json
import os
import platform
import re
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from efficientquant_agent import __version__, config, streams
from efficientquant_agent.command_line import Parser
from efficientquant_agent.config import Config
from efficientquant_agent.doctor import controller_check, diagnosis
from efficientquant_agent.doctor.facts import ControllerFacts, Facts, Problem
from efficientquant_agent.files import free_bytes
from efficientquant_agent.host.clocks import HELPER, ClockControl
from efficientquant_agent.host.device import DeviceFiles, Runtimes, runtimes

# The version of the JSON below. A new key needs no new number, a removed or changed key does.
SCHEMA = 1

# Files that may be for root only. tegrastats prints IRAM for root only.
_ROOT_ONLY = {
    "emc_clock": (
        "kernel/debug/bpmp/debug/clk/emc/rate",
        "kernel/debug/clk/emc/clk_rate",
        "kernel/debug/clk/override.emc/clk_rate",
    ),
    "nvmap": ("kernel/debug/nvmap/iovmm/clients",),
}
# The agent needs these modules, the doctor itself none of them.
_NEEDED_MODULES = ("grpc", "google.protobuf", "efficientquant_protos")
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


def build_parser() -> Parser:
    """Return the parser of `efficientquant-agent doctor`.

    It has the agent's options, and --json.
    """
    parser = Parser(
        prog="efficientquant-agent doctor",
        description="Says what this device is and can do, and how to fix what is wrong. It takes the agent's options "
        "and looks where an agent with them would; with --controller (or {}) it asks that controller for its "
        "versions and its clock, which disturbs nobody. Exit code 0: this device can run a model, and works with the "
        "controller where one is named; 2: it cannot.".format(config.CONTROLLER_VARIABLE),
    )
    parser.add_argument("--json", action="store_true", help="print facts and problems as one JSON object")
    config.add_options(parser)
    return parser


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run `efficientquant-agent doctor` and return the exit code.

    Raises UsageError where the agent does.
    """
    options = build_parser().parse(arguments)
    return run_doctor(config.from_options(options, environment), options.json, environment)


def run_doctor(settings: Config, as_json_: bool, environment: Mapping[str, str]) -> int:
    """Collect facts, diagnose, print, and return the exit code.

    It is 0 when this device can run a model and works with the named controller, if any, else 2.
    """
    files = DeviceFiles.of_tree(settings.board_root)
    facts = collect(files, runtimes(), settings.state_dir, environment, tegrastats=settings.tegrastats)
    if settings.names_controller:
        facts = facts._replace(controller=_controller(settings, facts.missing_modules))
    problems = diagnosis.diagnose(facts)
    text = json.dumps(as_json(facts, problems), indent=2, sort_keys=True) if as_json_ else as_text(facts, problems)
    streams.answer(text)
    return 0 if diagnosis.can_run(facts) and diagnosis.can_connect(facts) else 2


def _controller(settings: Config, missing_modules: Sequence[str]) -> ControllerFacts:
    """Return the facts about the controller, or why they are unknown."""
    if missing_modules:
        return ControllerFacts(settings.address, reason="not asked: {} is missing".format(", ".join(missing_modules)))
    try:
        return controller_check.ask(settings.host, settings.port, settings.address)
    except ImportError as error:
        return ControllerFacts(settings.address, reason="not asked: gRPC cannot be loaded ({})".format(error))


def collect(
    files: DeviceFiles,
    loaded: Runtimes,
    state_dir: str,
    environment: Mapping[str, str],
    search_path: Optional[Sequence[str]] = None,
    control: Optional[ClockControl] = None,
    tegrastats: str = "",
) -> Facts:
    """Return the facts about a device, reading only.

    `search_path` is where Python's packages are, sys.path if None.
    """
    control = control or ClockControl(files.clock_paths())
    device = files.snapshot(
        loaded.library_versions, loaded.backends, loaded.gpus, loaded.cuda_version, control.access()
    )
    clocks = files.max_clocks_hz()
    shared = {name: getattr(device, name) for name in Facts._fields if name in device._fields}
    return Facts(
        agent_version=__version__,
        soc=files.soc(),
        cpu_max_hz=clocks.get("cpu"),
        gpu_max_hz=clocks.get("gpu"),
        broken=loaded.broken,
        broken_causes=loaded.broken_causes,
        pycuda_error=loaded.pycuda_error,
        cuda_library=loaded.cuda_library,
        cuda_driver_version=loaded.cuda_driver_version,
        cuda_error=loaded.cuda_error,
        cuda_toolkit=files.cuda_toolkit(),
        power_modes=files.power_modes(),
        clocks=control.observe().clocks,
        root_only=_root_only(files) if files.soc() else {},
        tools=_tools(files, tegrastats),
        python_version=platform.python_version(),
        python=sys.executable,
        prefix=sys.prefix,
        prefix_writable=os.access(sys.prefix, os.W_OK),
        missing_modules=[name for name in _NEEDED_MODULES if not _can_be_imported(name)],
        in_venv=sys.prefix != sys.base_prefix,
        sees_system_packages=_sees_system_packages(sys.prefix),
        installed=_installed(sys.path if search_path is None else search_path),
        system_tensorrt=_system_tensorrt(files.usr),
        openblas_coretype=environment.get("OPENBLAS_CORETYPE", ""),
        state_dir=state_dir,
        state_dir_writable=os.access(config.nearest_existing(state_dir), os.W_OK | os.X_OK),
        free_disk_bytes=free_bytes(state_dir),
        **shared,
    )


def as_json(facts: Facts, problems: Sequence[Problem]) -> Dict[str, Any]:
    """Return facts and problems as plain JSON values.

    The result is {"schema", "can_run", "facts": facts.Facts, "problems": [facts.Problem]}.
    """
    plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in facts._asdict().items()}
    for name in ("gpus", "backends"):
        plain[name] = [dict(record._asdict()) for record in plain[name]]
    plain["controller"] = facts.controller and dict(facts.controller._asdict())
    return {
        "schema": SCHEMA,
        "can_run": diagnosis.can_run(facts),
        "facts": plain,
        "problems": [dict(problem._asdict()) for problem in problems],
    }


def as_text(facts: Facts, problems: Sequence[Problem]) -> str:
    """Return a table of the facts, then each problem with its fix."""
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


def _rows(facts: Facts) -> List[Tuple[str, str]]:
    jetpack = " (JetPack {})".format(facts.jetpack) if facts.jetpack else ""
    clock = ", up to {:.0f} MHz".format(facts.cpu_max_hz / 1e6) if facts.cpu_max_hz else ""
    rows = [
        ("board", facts.board),
        ("serial or machine id", facts.board_id),
        ("system", ", ".join(filter(None, (facts.os, facts.l4t + jetpack, facts.kernel, facts.architecture)))),
        ("CPU", "{} × {}{}".format(facts.cpu_count, facts.cpu_model or "core", clock)),
        ("integer products", ", ".join(facts.cpu_dot_products) or "none of vnni, amx, dotprod, i8mm"),
        ("memory", "{}, swap {}".format(_size(facts.memory_total_bytes), _size(facts.swap_total_bytes))),
    ]
    rows += [("GPU", _gpu(gpu, facts)) for gpu in facts.gpus] or [("GPU", "none")]
    rows += _cuda(facts)
    rows += [("backend", "{} {}".format(backend.name, backend.version)) for backend in facts.backends] or [
        ("backend", "none")
    ]
    rows.append(("Python", facts.python_version + _environment(facts)))
    versions = dict(facts.installed, **facts.library_versions)
    packages = ["{} {}".format(name, version) for name, version in sorted(versions.items()) if name != "python"]
    rows.append(("packages", ", ".join(packages)))
    if facts.power_mode:
        rows.append(("power mode", "{} (of {})".format(facts.power_mode, ", ".join(facts.power_modes) or "unknown")))
    rows.append(("clocks", "{}, to be set by: {}".format(facts.clocks, facts.clock_control)))
    rows += [("for root only", "{}: {}".format(name, state)) for name, state in sorted(facts.root_only.items())]
    if facts.soc:
        rows += [(name, path or "missing") for name, path in sorted(facts.tools.items())]
    rows.append(("state directory", "{} ({} free)".format(facts.state_dir, _size(facts.free_disk_bytes))))
    rows += _controller_rows(facts.controller)
    return [(name, value or "unknown") for name, value in rows]


def _cuda(facts: Facts) -> List[Tuple[str, str]]:
    """Return a row for each thing that people call "CUDA".

    Library, driver and toolkit have their own versions.
    """
    rows = []
    if facts.cuda_version:
        answer = "" if facts.gpus else "; the library is here, and no GPU answers it"
        rows.append(("CUDA runtime", "{} ({}){}".format(facts.cuda_version, facts.cuda_library or "library", answer)))
    if facts.cuda_driver_version:
        rows.append(("CUDA of the driver", "up to {}".format(facts.cuda_driver_version)))
    elif facts.cuda_version and not facts.gpus:
        rows.append(("CUDA of the driver", "none: no NVIDIA driver is loaded"))
    if facts.cuda_toolkit:
        rows.append(("CUDA toolkit", "{} (in /usr/local/cuda, for compiling)".format(facts.cuda_toolkit)))
    return rows


def _controller_rows(controller: Optional[ControllerFacts]) -> List[Tuple[str, str]]:
    if controller is None:
        return []
    if not controller.is_controller or controller.protocol_version is None:
        return [("controller", "{}: {}".format(controller.address, controller.reason))]
    return [
        ("controller", "{}, EfficientQuant {}".format(controller.address, controller.version)),
        ("protocol", "{} there, {} here".format(controller.protocol_version, controller.agent_protocol_version)),
        ("round trip", controller_check.duration_text(controller.round_trip_s or 0.0)),
        ("clock offset", "this device's clock is " + controller_check.offset_text(controller)),
    ]


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


def _root_only(files: DeviceFiles) -> Dict[str, str]:
    states = {name: _readable([os.path.join(files.sys, path) for path in paths]) for name, paths in _ROOT_ONLY.items()}
    states["iram"] = diagnosis.READABLE if os.geteuid() == 0 else diagnosis.NEEDS_ROOT
    return states


def _readable(paths: Sequence[str]) -> str:
    """Return READABLE, NEEDS_ROOT or ABSENT for a choice of files.

    One readable file is enough. A folder that this user may not enter hides its files, so it counts as NEEDS_ROOT.
    """
    states = set()
    for path in paths:
        try:
            with open(path, "rb"):
                states.add(diagnosis.READABLE)
        except (FileNotFoundError, NotADirectoryError):
            states.add(diagnosis.ABSENT)
        except OSError:
            states.add(diagnosis.NEEDS_ROOT)
    return next(state for state in (diagnosis.READABLE, diagnosis.NEEDS_ROOT, diagnosis.ABSENT) if state in states)


def _tools(files: DeviceFiles, tegrastats: str) -> Dict[str, str]:
    clock_paths = files.clock_paths()
    paths = {
        "tegrastats": tegrastats,
        "nvpmodel": clock_paths.nvpmodel,
        "jetson_clocks": clock_paths.jetson_clocks,
        "helper": os.path.join(files.usr, os.path.relpath(HELPER[-1], "/usr")),
    }
    return {name: path if os.access(path, os.X_OK) else "" for name, path in paths.items()}


def _sees_system_packages(prefix: str) -> bool:
    """Tell whether this Python sees the system's packages.

    The pyvenv.cfg of a virtual environment says so. Without it this is the system's own Python.
    """
    try:
        with open(os.path.join(prefix, "pyvenv.cfg"), encoding="utf-8", errors="replace") as stream:
            text = stream.read()
    except OSError:
        return True
    return re.search(r"^include-system-site-packages\s*=\s*true\s*$", text, re.MULTILINE | re.IGNORECASE) is not None


def _can_be_imported(module: str) -> bool:
    """Tell whether a module is installed, without loading it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent that is missing, or a module that something blocks
        return False


def _installed(search_path: Sequence[str]) -> Dict[str, str]:
    """Return {distribution: version} from the names of folders.

    Loading a package may crash, as numpy does on some boards.
    """
    versions = {}  # type: Dict[str, str]
    for folder in search_path:
        for name in _DISTRIBUTIONS:
            pattern = os.path.join(glob.escape(folder), name.replace("-", "_") + "-[0-9]*-info")
            for path in sorted(glob.glob(pattern)):
                # A wheel's numpy-1.19.4.dist-info, or Debian's numpy-1.13.3.egg-info and pip-9.0.1-py3.6.egg-info
                version = re.search(r"-([0-9][^-]*?)(?:-py[0-9.]+)?\.(?:dist|egg)-info$", path)
                if version:
                    versions.setdefault(name, version.group(1))
    return versions


def _system_tensorrt(usr: str) -> List[str]:
    return sorted(glob.glob(os.path.join(glob.escape(usr), "lib/python3*/dist-packages/tensorrt")))
