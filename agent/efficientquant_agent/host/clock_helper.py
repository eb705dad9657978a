#!/usr/bin/python3 -I
"""The root helper `efficientquant-clocks`, with fixed verbs that change clocks.

    status                          power mode and clocks, as JSON, without root
    set-power-mode N                nvpmodel -m N, then wait until nvpmodel reports it
    lock                            jetson_clocks --store, once, then jetson_clocks
    restore                         jetson_clocks --restore, if something is stored
    nvml-status GPU_UUID            clocks of a discrete GPU, as JSON, without root
    nvml-lock MIN_MHZ,MAX_MHZ GPU_UUID
    nvml-reset GPU_UUID             back to the driver's own clocks

Prints one JSON object. Exit code 0 means done, 1 that a tool failed, 2 that the request was refused and nothing was
touched. A refusal is one line on standard error, too. There is no shell, and no path comes from the caller. It runs
alone (`python3 -I clock_helper.py status`) on the standard library: root needs nothing of the agent's environment.
"""

import ctypes
import difflib
import fcntl
import glob
import json
import os
import re
import select
import stat
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

_GPU_UUID = r"GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_VALUES = {
    "set-power-mode": "N, a mode's number from 0 to 99",
    "nvml-status": "GPU_UUID",
    "nvml-lock": "MIN_MHZ,MAX_MHZ GPU_UUID, each clock from 100 to 9999",
    "nvml-reset": "GPU_UUID",
}
_ARGUMENTS = {
    "status": (),
    "set-power-mode": ("[0-9]{1,2}",),
    "lock": (),
    "restore": (),
    "nvml-status": (_GPU_UUID,),
    "nvml-lock": ("[0-9]{3,4},[0-9]{3,4}", _GPU_UUID),
    "nvml-reset": (_GPU_UUID,),
}  # type: Dict[str, Tuple[str, ...]]
# These undo a change, so they run even when the caller has exited.
_UNDOING = ("restore", "nvml-reset")
_TOOL_TIMEOUT_S = 60.0
_MODE_TIMEOUT_S = 10.0
_MODE_POLL_S = 0.1


class RefusedError(Exception):
    """A request that this helper does not serve."""


class ToolError(Exception):
    """A failed tool, described in one sentence."""


class Nvml:
    """The NVML calls that locking needs, through ctypes.

    Root's Python has no NVML binding. The signatures are from nvml.h, where NVML_CLOCK_SM is 1.
    """

    def __init__(self, library: str = "libnvidia-ml.so.1") -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise ToolError("NVML cannot be loaded: {}".format(error)) from error
        self._library.nvmlErrorString.restype = ctypes.c_char_p
        self._call("nvmlInit_v2")

    def lock(self, uuid: str, min_mhz: int, max_mhz: int) -> None:
        """Keep the GPU's clock between two bounds."""
        self._call("nvmlDeviceSetGpuLockedClocks", self._device(uuid), ctypes.c_uint(min_mhz), ctypes.c_uint(max_mhz))

    def reset(self, uuid: str) -> None:
        """Let the driver choose the clock again."""
        self._call("nvmlDeviceResetGpuLockedClocks", self._device(uuid))

    def clocks_hz(self, uuid: str) -> Dict[str, int]:
        """Return the current and the highest clock of the multiprocessors."""
        device, mhz = self._device(uuid), ctypes.c_uint()
        clocks = {}
        for key, function in (("current_hz", "nvmlDeviceGetClockInfo"), ("max_hz", "nvmlDeviceGetMaxClockInfo")):
            self._call(function, device, ctypes.c_int(1), ctypes.byref(mhz))
            clocks[key] = mhz.value * 1000000
        return clocks

    def close(self) -> None:
        """Stop to be a client of the driver."""
        self._call("nvmlShutdown")

    def _device(self, uuid: str) -> ctypes.c_void_p:
        device = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByUUID", ctypes.c_char_p(uuid.encode()), ctypes.byref(device))
        return device

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise ToolError("{}: {}".format(name, self._library.nvmlErrorString(code).decode()))


class ClockPaths(NamedTuple):
    """The paths of tools and files, which the command line cannot change."""

    nvpmodel: str = "/usr/sbin/nvpmodel"  # tests call main() with their own paths
    jetson_clocks: str = "/usr/bin/jetson_clocks"
    state_dir: str = "/var/lib/efficientquant-clocks"
    sys: str = "/sys"
    nvpmodel_conf: str = "/etc/nvpmodel.conf"
    nvpmodel_status: str = "/var/lib/nvpmodel/status"
    nvml: Callable[[], Nvml] = Nvml
    needs_root: bool = True


def main(arguments: Optional[Sequence[str]] = None, paths: Optional[ClockPaths] = None) -> int:
    """Serve one request and return the exit code."""
    request = list(sys.argv[1:] if arguments is None else arguments)
    try:
        answer = dict(_serve(request, paths or ClockPaths()), ok=True)  # type: Dict[str, Any]
        code = 0
    except RefusedError as error:
        answer, code = {"ok": False, "error": str(error)}, 2
        sys.stderr.write("efficientquant-clocks: {}\n".format(error))
    except (ToolError, OSError) as error:
        answer, code = {"ok": False, "error": str(error)}, 1
    sys.stdout.write(json.dumps(answer, sort_keys=True) + "\n")
    return code


def _serve(request: List[str], paths: ClockPaths) -> Dict[str, Any]:
    verb, arguments = request[0] if request else "", request[1:]
    patterns = _ARGUMENTS.get(verb)
    if patterns is None:
        meant = difflib.get_close_matches(verb.lstrip("-"), _ARGUMENTS, 1)
        hint = "did you mean {}? ".format(meant[0]) if meant else ""
        raise RefusedError("{!r} is no verb; {}there is {}".format(verb[:40], hint, ", ".join(_ARGUMENTS)))
    if len(arguments) != len(patterns) or not all(map(re.fullmatch, patterns, arguments)):
        raise RefusedError(
            "{} takes {}, not {!r}".format(verb, _VALUES.get(verb, "no arguments"), " ".join(arguments)[:80])
        )
    if verb == "status":
        return status(paths)
    if verb == "nvml-status":
        return paths.nvml().clocks_hz(arguments[0])
    if paths.needs_root and os.geteuid() != 0:
        raise RefusedError("{} needs root; run it through sudo".format(verb))
    with _StateDirectory(paths.state_dir) as state:
        if verb not in _UNDOING and _caller_has_exited():
            raise RefusedError("the caller has exited")
        return _change(verb, arguments, paths, state)


def _change(verb: str, arguments: List[str], paths: ClockPaths, state: "_StateDirectory") -> Dict[str, Any]:
    if verb == "set-power-mode":
        return _set_power_mode(int(arguments[0]), paths, state)
    if verb == "lock":
        return _lock(paths, state)
    if verb == "restore":
        return _restore(paths, state)
    if verb == "nvml-reset":
        paths.nvml().reset(arguments[0])
        return {}
    min_mhz, max_mhz = map(int, arguments[0].split(","))
    if min_mhz > max_mhz:
        raise RefusedError("nvml-lock: {} MHz is more than {} MHz".format(min_mhz, max_mhz))
    paths.nvml().lock(arguments[1], min_mhz, max_mhz)
    return {}


class _StateDirectory:
    """Root's own directory, locked while a helper or its tools run."""

    def __init__(self, path: str) -> None:
        self.stored = os.path.join(path, "stored.conf")
        self._path = path
        self.lock = -1

    def __enter__(self) -> "_StateDirectory":
        os.makedirs(self._path, mode=0o700, exist_ok=True)
        # Root writes a file in here to /sys, line by line, so nobody else may put one there.
        info = os.lstat(self._path)
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
            raise RefusedError("{} is not a directory that only its owner can write to".format(self._path))
        self.lock = os.open(os.path.join(self._path, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_: Any) -> None:
        os.close(self.lock)


def _caller_has_exited() -> bool:
    """Tell whether the caller has exited, by its closed end of stdin."""
    try:
        if not stat.S_ISFIFO(os.fstat(0).st_mode):
            return False
    except OSError:
        return False
    poll = select.poll()
    poll.register(0, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def _set_power_mode(mode: int, paths: ClockPaths, state: _StateDirectory) -> Dict[str, Any]:
    current = read_power_mode(paths)
    if current is None:
        raise ToolError("this machine has no power modes ({} is missing)".format(paths.nvpmodel))
    # nvpmodel may demand a reboot even for the mode that is already set.
    if current[0] == mode:
        return {"changed": False}
    modes = read_power_modes(paths)
    if modes and mode not in modes:
        names = ", ".join("{} {}".format(*item) for item in sorted(modes.items()))
        raise ToolError("there is no power mode {} (there is: {})".format(mode, names))
    output = _run([paths.nvpmodel, "-m", str(mode)], state)
    deadline_s = time.monotonic() + _MODE_TIMEOUT_S
    while True:
        current = read_power_mode(paths)
        if current is not None and current[0] == mode:
            return {"changed": True}
        if "reboot" in output.lower():
            raise ToolError(
                "power mode {0} takes a reboot: run `sudo nvpmodel -m {0}` by hand, then try again".format(mode)
            )
        if time.monotonic() > deadline_s:
            raise ToolError("nvpmodel was asked for mode {} and stays in {}".format(mode, current and current[0]))
        time.sleep(_MODE_POLL_S)


def _lock(paths: ClockPaths, state: _StateDirectory) -> Dict[str, Any]:
    # An existing store is the state from before a helper that died half-way. Never overwrite it.
    if not os.path.exists(state.stored):
        partial = state.stored + ".new"
        if os.path.exists(partial):
            os.unlink(partial)  # jetson_clocks asks before it overwrites
        output = _run([paths.jetson_clocks, "--store", partial], state)
        if not os.path.exists(partial):
            raise ToolError("jetson_clocks stored nothing: {}".format(_last_line(output)))
        _sync(partial)
        os.replace(partial, state.stored)
        _sync(os.path.dirname(state.stored))
    return {"complaints": _complaints(_run([paths.jetson_clocks], state))}


def _restore(paths: ClockPaths, state: _StateDirectory) -> Dict[str, Any]:
    if os.path.exists(state.stored + ".new"):
        os.unlink(state.stored + ".new")  # no lock followed an unfinished store
    if not os.path.exists(state.stored):
        return {"restored": False}
    output = _run([paths.jetson_clocks, "--restore", state.stored], state)
    os.unlink(state.stored)
    return {"restored": True, "complaints": _complaints(output)}


def _run(command: List[str], state: _StateDirectory) -> str:
    """Run a tool and return what it printed."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C",
        "HOME": os.path.dirname(state.stored),  # where jetson_clocks notes the fan's state
    }
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,  # its questions get no answer
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TOOL_TIMEOUT_S,
            env=environment,
            pass_fds=(state.lock,),  # it holds the lock as long as it runs
        )
    except FileNotFoundError as error:
        raise ToolError("{} is not installed".format(command[0])) from error
    except subprocess.TimeoutExpired as error:
        raise ToolError("{} took longer than {:g} s".format(" ".join(command), _TOOL_TIMEOUT_S)) from error
    output = done.stdout.decode(errors="replace")
    # nvpmodel also fails when it must ask about a reboot. _set_power_mode has a better sentence for that.
    if done.returncode and "reboot" not in output.lower():
        raise ToolError(
            "{} failed with code {}: {}".format(" ".join(command), done.returncode, _last_line(output) or "no message")
        )
    return output


def _complaints(output: str) -> List[str]:
    """Return the errors that jetson_clocks printed although it exits with 0."""
    return [line.strip() for line in output.splitlines() if line.startswith("Error")]


def _last_line(output: str) -> str:
    return (output.strip().splitlines() or [""])[-1]


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def status(paths: ClockPaths) -> Dict[str, Any]:
    """Return everything that can be read, as the verb `status` prints it."""
    return {
        "power_mode": read_power_mode(paths),
        "power_modes": read_power_modes(paths),
        "domains": read_domains(paths.sys),
        "jetson_clocks": os.path.exists(paths.jetson_clocks),
        "stored": os.path.exists(os.path.join(paths.state_dir, "stored.conf")),
    }


def read_power_mode(paths: ClockPaths) -> Optional[Tuple[int, str]]:
    """Return (id, name) of the power mode, None without one.

    R32's nvpmodel may refuse to answer a user. Its file for the next boot is readable by all.
    """
    try:
        done = subprocess.run(
            [paths.nvpmodel, "-q"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TOOL_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        output = ""
    else:
        output = done.stdout.decode(errors="replace")
    match = re.search(r"^NV Power Mode:[ \t]*(\S*)\s+([0-9]+)\s*$", output, re.MULTILINE)
    if match:
        return int(match.group(2)), match.group(1)
    match = re.search(r"\bpmode:([0-9]+)", _text(paths.nvpmodel_status))
    if match is None:
        return None
    mode = int(match.group(1))
    return mode, read_power_modes(paths).get(mode, "")


def read_power_modes(paths: ClockPaths) -> Dict[int, str]:
    """Return the power modes' names by number, empty without any."""
    pattern = r"^<\s*POWER_MODEL\s+ID=([0-9]+)\s+NAME=(\S+)\s*>"
    return {
        int(mode): name for mode, name in re.findall(pattern, _text(paths.nvpmodel_conf), re.MULTILINE | re.IGNORECASE)
    }


def read_domains(sys_root: str) -> Dict[str, Dict[str, int]]:
    """Return {"gpu", "emc", "cpu0", …: {"current_hz", "min_hz", "max_hz"}} of readable clocks."""
    domains = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(sys_root), "class/devfreq/*"))):
        # 57000000.gpu on a Nano, .gp10b on a TX2, .gv11b on a Xavier, .ga10b or .gpu on an Orin, gpu-gpc-0 on a Thor
        if re.fullmatch(r"(?:[0-9a-f]+\.)?(?:gpu|g[pvab][0-9]{2}b)(?:-gpc-0)?", os.path.basename(path)):
            domains["gpu"] = _domain(path, ("cur_freq", "min_freq", "max_freq"), 1)
    for path in sorted(glob.glob(os.path.join(glob.escape(sys_root), "devices/system/cpu/cpu[0-9]*"))):
        names = ("scaling_cur_freq", "scaling_min_freq", "scaling_max_freq")
        domains[os.path.basename(path)] = _domain(os.path.join(path, "cpufreq"), names, 1000)
    domains["emc"] = _emc(os.path.join(sys_root, "kernel"))
    return {name: clocks for name, clocks in domains.items() if clocks}


def _emc(kernel: str) -> Optional[Dict[str, int]]:
    """Return the memory's clocks from debugfs, which only root can read."""
    clocks = _domain(os.path.join(kernel, "debug/bpmp/debug/clk/emc"), ("rate", "min_rate", "max_rate"), 1)
    if clocks is None:  # before Tegra 186
        limits = ("tegra_bwmgr/emc_min_rate", "tegra_bwmgr/emc_max_rate")
        # The clock itself, else what jetson_clocks makes of it.
        for rate in ("clk/emc/clk_rate", "clk/override.emc/clk_rate"):
            clocks = clocks or _domain(os.path.join(kernel, "debug"), (rate,) + limits, 1)
        return clocks
    # The power mode's limit, 0 for none.
    cap = _text(os.path.join(kernel, "nvpmodel_emc_cap/emc_iso_cap"))
    if cap.isdigit() and 0 < int(cap) < clocks["max_hz"]:
        clocks["max_hz"] = int(cap)
    return clocks


def _domain(path: str, names: Sequence[str], unit_hz: int) -> Optional[Dict[str, int]]:
    texts = [_text(os.path.join(path, name)) for name in names]
    if not all(text.isdigit() for text in texts):
        return None
    return dict(zip(("current_hz", "min_hz", "max_hz"), (int(text) * unit_hz for text in texts)))


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
