"""Clocks and power mode for a run, journalled, verified and always restored."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from efficientquant_agent.errors import ClockError
from efficientquant_agent.host import clock_helper
from efficientquant_agent.host.clock_journal import Argument, Journal
from efficientquant_agent.records import Readings

HELPER = ("/usr/bin/sudo", "-n", "/usr/local/sbin/efficientquant-clocks")
# How far a clock may be from its target (measurement.md).
TOLERANCE = 0.01
# A discrete GPU boosts higher than it can hold. It holds this share of its highest clock without throttling (an
# RTX 3080: 1470 of 2100 MHz, with a base clock of 1440 MHz). Clocks come in steps of 15 MHz.
_SUSTAINABLE_SHARE = 0.7
_STEP_HZ = 15e6
_HELPER_TIMEOUT_S = 150.0
_POLL_S = 0.1


class ClockRequest(NamedTuple):
    """The power mode and clocks that a run asks for.

    By default it asks for nothing, and nothing is changed.
    """

    power_mode: str = ""  # name or number
    lock: bool = False
    gpu_uuid: str = ""  # the discrete GPU to lock, at what it can hold; empty for a Jetson


class AppliedClocks(NamedTuple):
    """The power mode and clocks in force.

    `clocks` is "locked", "free" or "unverifiable".
    """

    power_mode: str
    clocks: str
    targets_hz: Mapping[str, float] = MappingProxyType({})

    def conditions(self) -> Dict[str, str]:
        """Return the conditions of a run that the comparability guard compares."""
        return {"power_mode": self.power_mode, "clocks": self.clocks}

    def readings(self) -> Readings:
        """Return the target clocks, with the highest of several CPUs."""
        targets = self.targets_hz
        cpus = [target_hz for name, target_hz in targets.items() if name.startswith("cpu")]
        return Readings(
            clock_gpu_target_hz=targets.get("gpu"),
            clock_emc_target_hz=targets.get("emc"),
            clock_cpu_target_hz=max(cpus, default=None),
        )


class ClockControl:
    """Control of clocks as root, through the helper, or not at all.

    Only one thread at a time changes clocks.
    """

    def __init__(
        self,
        paths: Optional[clock_helper.ClockPaths] = None,
        helper: Optional[Sequence[str]] = None,
        settle_s: float = 5.0,
    ) -> None:
        self._paths = paths or clock_helper.ClockPaths()
        self._given_helper = helper
        self._settle_s = settle_s
        self._access = ""
        self._gpu_client: Optional[clock_helper.Nvml] = None
        self._turn = threading.Lock()
        self._is_closed = False

    def close(self) -> None:
        """Refuse every change from now on, except restoring.

        This takes effect at once, even while another thread applies.
        """
        self._is_closed = True

    def access(self) -> str:
        """Return how this process may change clocks: "root", "helper" or "none"."""
        if not self._access:
            self._access = "root" if os.geteuid() == 0 else "helper" if self._helper_answers() else "none"
        return self._access

    def observe(self) -> AppliedClocks:
        """Return what is in force, changing nothing and starting nothing as root."""
        status = clock_helper.status(self._paths)
        state = _state(status["domains"])
        targets = _targets(status["domains"]) if state == "locked" else {}
        return AppliedClocks(_mode_name(status["power_mode"]), state, targets)

    def apply(self, request: ClockRequest, journal_path: str) -> AppliedClocks:
        """Apply a request and verify it.

        The order is: power mode, wait, store, lock, verify. Each change is in the journal before it happens. Raises
        ClockError, with every change undone unless its code is "not_restored".
        """
        if not request.power_mode and not request.lock:
            return self.observe()
        if self.access() == "none":
            raise ClockError(
                "no_access",
                "clocks and power mode can only be set as root: install the helper (deploy/agent/sudoers) or do not "
                "ask for them",
            )
        journal = Journal(journal_path)
        with self._turn, contextlib.ExitStack() as unless_applied:
            self._undo(journal)  # changes left by an earlier run
            unless_applied.callback(self._undo, journal)
            applied = self._apply(request, journal)
            unless_applied.pop_all()
        return applied

    def _apply(self, request: ClockRequest, journal: Journal) -> AppliedClocks:
        status = self._call("status")
        if request.power_mode:
            self._set_power_mode(request.power_mode, status, journal)
        if not request.lock:
            return self.observe()
        if request.gpu_uuid:
            targets = self._lock_discrete(request, journal)
            return AppliedClocks(_mode_name(self._call("status")["power_mode"]), "locked", targets)
        if not status["jetson_clocks"]:
            raise ClockError("unsupported", "this machine has no clocks that can be locked: no jetson_clocks, no GPU")
        self._change(journal, ("restore",), ("lock",))
        status = self._call("status")
        targets = self._wait_for_targets()
        # The memory's clock can be read by root only, or not at all.
        return AppliedClocks(
            _mode_name(status["power_mode"]), "locked" if "emc" in targets else "unverifiable", targets
        )

    def _set_power_mode(self, wanted: str, status: Dict[str, Any], journal: Journal) -> None:
        if status["power_mode"] is None:
            raise ClockError("unsupported", "this machine has no power modes (no nvpmodel)")
        mode = _find_mode(wanted, status["power_modes"])
        before = status["power_mode"][0]
        if mode != before:
            self._change(journal, ("set-power-mode", before), ("set-power-mode", mode))

    def _lock_discrete(self, request: ClockRequest, journal: Journal) -> Dict[str, float]:
        self._hold_gpu(request.gpu_uuid)
        clocks = self._call("nvml-status", request.gpu_uuid)
        target_hz = clocks["max_hz"] * _SUSTAINABLE_SHARE // _STEP_HZ * _STEP_HZ
        mhz = round(target_hz / 1e6)
        undo = ("nvml-reset", request.gpu_uuid)
        self._change(journal, undo, ("nvml-lock", "{0},{0}".format(mhz), request.gpu_uuid))
        deadline_s = time.monotonic() + self._settle_s
        # An idle GPU may run below the target, but not above it. The verdict judges its clock under load.
        while True:
            current_hz = self._call("nvml-status", request.gpu_uuid)["current_hz"]
            if current_hz <= mhz * 1e6 * (1 + TOLERANCE):
                return {"gpu": mhz * 1e6}
            if time.monotonic() > deadline_s:
                raise ClockError("not_reached", "clocks could not be locked: " + _named("gpu", current_hz, mhz * 1e6))
            time.sleep(_POLL_S)

    def _hold_gpu(self, uuid: str) -> None:
        """Stay a client of the GPU until its lock is reset.

        Without persistence mode the driver forgets a lock when its last client exits, and the helper exits at once.
        """
        try:
            self._gpu_client = self._paths.nvml()
            self._gpu_client.clocks_hz(uuid)  # asking for the GPU makes this process its client
        except clock_helper.ToolError as error:
            raise ClockError("unsupported", "clocks could not be locked: {}".format(error)) from error

    def _let_gpu_go(self) -> None:
        client, self._gpu_client = self._gpu_client, None
        if client is not None:
            with contextlib.suppress(clock_helper.ToolError):  # every change is undone, and the client ends with us
                client.close()

    def _wait_for_targets(self) -> Dict[str, float]:
        """Return the targets once every clock has reached its own.

        These are the clocks of the GPU, the CPUs, and the memory where it can be read. Raises
        ClockError("not_reached").
        """
        deadline_s = time.monotonic() + self._settle_s
        while True:
            targets = _targets(self._call("status")["domains"])
            if "gpu" not in targets:
                raise ClockError("not_reached", "the GPU's clock cannot be read, so a lock cannot be verified")
            unreached = [
                _named(name, current_hz, target_hz)
                for name, (current_hz, target_hz) in sorted(self.verify(targets).items())
                if current_hz is None or not _is_at(current_hz, target_hz)
            ]
            if not unreached:
                return targets
            if time.monotonic() > deadline_s:
                raise ClockError("not_reached", "clocks could not be locked: " + ", ".join(unreached))
            time.sleep(_POLL_S)

    def verify(self, targets_hz: Mapping[str, float]) -> Dict[str, Tuple[Optional[float], float]]:
        """Return {domain: (clock now or None if unreadable, target)} in Hz."""
        now = self._call("status")["domains"]
        return {name: (now[name]["current_hz"] if name in now else None, target) for name, target in targets_hz.items()}

    def restore(self, journal_path: str) -> List[str]:
        """Undo the changes in the journal, the last one first.

        Return what was done, which is nothing without a journal. Waits for another thread's `apply` or `restore` to
        end. Raises ClockError when a change cannot be undone, and the journal then still lists it.
        """
        with self._turn:
            return self._undo(Journal(journal_path))

    def _undo(self, journal: Journal) -> List[str]:
        done = []
        for verb, arguments in reversed(journal.entries()):
            try:
                answer = self._call(verb, *arguments)
            except ClockError as error:
                raise ClockError(
                    "not_restored",
                    "clocks are still changed: `efficientquant-clocks {}` is to be done by root ({}); remove {} "
                    "after doing it by hand".format(_line(verb, arguments), error, journal.path),
                ) from error
            done.append(_line(verb, arguments))
            done.extend(answer.get("complaints", []))
            journal.drop(verb, *arguments)
        self._let_gpu_go()
        return done

    def _change(self, journal: Journal, undo: Sequence[Any], request: Sequence[Any]) -> None:
        """Journal how to undo a change, then make it.

        Raises ClockError, without journalling, once this is closed.
        """
        if self._is_closed:
            raise ClockError("closed", "the agent ends, so clocks and power mode are not changed any more")
        journal.add(*undo)
        self._call(*request)

    def _helper_answers(self) -> bool:
        try:
            self._answer(self._command(via_sudo=True) + ["status"])
        except ClockError:
            return False
        return True

    def _command(self, via_sudo: bool) -> List[str]:
        if self._given_helper is not None:
            return list(self._given_helper)
        return list(HELPER) if via_sudo else [sys.executable, "-I", clock_helper.__file__]

    def _call(self, verb: str, *arguments: Argument) -> Dict[str, Any]:
        return self._answer(self._command(via_sudo=os.geteuid() != 0) + [verb, *map(str, arguments)])

    @staticmethod
    def _answer(command: List[str]) -> Dict[str, Any]:
        """Run the helper and return its answer.

        The helper's standard input closes when this process dies, and it then changes nothing any more. Raises
        ClockError("helper_failed").
        """
        reader, writer = os.pipe()
        try:
            done = subprocess.run(
                command,
                stdin=reader,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=_HELPER_TIMEOUT_S,
                start_new_session=True,  # Ctrl-C is for the agent, which then restores
            )
            answer = json.loads(done.stdout.decode())  # type: Dict[str, Any]
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ClockError("helper_failed", "efficientquant-clocks cannot be run: {}".format(error)) from error
        except ValueError as error:
            line = (done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"])[-1]
            raise ClockError("helper_failed", "efficientquant-clocks said instead of answering: " + line) from error
        finally:
            os.close(reader)
            os.close(writer)
        if done.returncode or not answer.get("ok"):
            raise ClockError("helper_failed", str(answer.get("error")))
        return answer


def journal_path(state_dir: str) -> str:
    """Return the path of an agent's journal."""
    return os.path.join(os.path.abspath(state_dir), "clocks.json")


def recover(state_dir: str, control: Optional[ClockControl] = None) -> List[str]:
    """Undo the changes of an agent that died.

    Return sentences for the log, none when there was nothing to do.
    """
    try:
        done = (control or ClockControl()).restore(journal_path(state_dir))
    except ClockError as error:
        return [str(error)]
    return ["an earlier agent left clocks changed; they are restored ({})".format(", ".join(done))] if done else []


def _find_mode(wanted: str, modes: Mapping[str, str]) -> int:
    for mode, name in modes.items():
        if wanted in (mode, name):
            return int(mode)
    raise ClockError(
        "unknown_power_mode",
        "there is no power mode {} (there is: {})".format(
            wanted, ", ".join("{} {}".format(*item) for item in sorted(modes.items())) or "none"
        ),
    )


def _line(verb: str, arguments: Sequence[Argument]) -> str:
    """Return a request as a person types it."""
    return " ".join([verb, *map(str, arguments)])


def _mode_name(mode: Optional[Sequence[Any]]) -> str:
    """Return the power mode's name, else its number, else nothing."""
    return "" if mode is None else str(mode[1] or mode[0])


def _state(domains: Mapping[str, Mapping[str, int]]) -> str:
    """Return "locked", "free", or "unverifiable" where a needed clock is unreadable."""
    fixed = [_is_at(clocks["min_hz"], clocks["max_hz"]) for name, clocks in domains.items() if name != "emc"]
    if not fixed:
        return "unverifiable"
    if not all(fixed) or ("emc" in domains and not _is_at(domains["emc"]["current_hz"], domains["emc"]["max_hz"])):
        return "free"
    return "locked" if "gpu" in domains and "emc" in domains else "unverifiable"


def _targets(domains: Mapping[str, Mapping[str, int]]) -> Dict[str, float]:
    return {name: float(clocks["max_hz"]) for name, clocks in domains.items()}


def _is_at(current_hz: float, target_hz: float) -> bool:
    return abs(current_hz - target_hz) <= TOLERANCE * target_hz


def _named(name: str, current_hz: Optional[float], target_hz: float) -> str:
    now = "cannot be read" if current_hz is None else "runs at {:.0f} MHz".format(current_hz / 1e6)
    return "{} {} instead of {:.0f} MHz".format(name, now, target_hz / 1e6)
