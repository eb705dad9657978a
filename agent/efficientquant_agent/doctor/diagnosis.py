"""The problems of a device, each with severity, sentence and fix.

They follow from the facts alone.
"""

from typing import Iterator, List

from efficientquant_agent.doctor import controller_check, runtimes
from efficientquant_agent.doctor.facts import (
    ABSENT,
    ERROR,
    INFO,
    NEEDS_ROOT,
    READABLE,
    WARNING,
    Facts,
    Problem,
    in_environment,
    pip_install,
)
from efficientquant_agent.host.device import discrete_gpu
from efficientquant_agent.versions import version_of

__all__ = ["ABSENT", "ERROR", "INFO", "NEEDS_ROOT", "READABLE", "WARNING", "Facts", "Problem", "can_run", "diagnose"]

_GIB = 1024**3


def can_run(facts: Facts) -> bool:
    """Tell whether this device can run any model at all."""
    return bool(facts.backends)


def can_connect(facts: Facts) -> bool:
    """Tell whether the named controller would accept this agent.

    True when no controller is named.
    """
    if facts.controller is None:
        return True
    return not facts.missing_modules and all(problem.severity != ERROR for problem in controller_check.problems(facts))


def diagnose(facts: Facts) -> List[Problem]:
    """Return every problem, the worst first.

    Problems of the same severity are in the order of installation.
    """
    problems = [problem for check in _CHECKS for problem in check(facts)]
    return sorted(problems, key=lambda problem: (ERROR, WARNING, INFO).index(problem.severity))


def _python(facts: Facts) -> Iterator[Problem]:
    pip = facts.installed.get("pip", "")
    on_arm = facts.architecture == "aarch64"
    # pip knows manylinux_2_17, the tag of grpcio's wheels for aarch64, from 20.3 on, and manylinux2014 from 19.3 on.
    if pip and version_of(pip) < ((20, 3) if on_arm else (19, 3)):
        yield Problem(
            "pip_too_old",
            WARNING,
            "pip {} does not know the tags of grpcio's wheels and compiles it instead, {}".format(
                pip, "which takes hours on a board" if on_arm else "which needs a compiler"
            ),
            pip_install(facts, "'pip==21.3.1'" if facts.python_version.startswith("3.6") else "--upgrade pip"),
        )
    numpy = facts.installed.get("numpy", "")
    # The agent itself sets ARMV8 when the variable is not set.
    unsafe = facts.openblas_coretype not in ("", "ARMV8", "CORTEXA53", "CORTEXA57")
    if facts.architecture == "aarch64" and numpy and version_of(numpy) < (1, 19, 6) and unsafe:
        yield Problem(
            "openblas_coretype",
            WARNING,
            'numpy {} can end with "Illegal instruction" here: OPENBLAS_CORETYPE is {}'.format(
                numpy, facts.openblas_coretype
            ),
            "unset OPENBLAS_CORETYPE: the agent then sets ARMV8 by itself",
        )


def _board(facts: Facts) -> Iterator[Problem]:
    if facts.board_id.startswith("host:"):
        yield Problem(
            "identity_unsure",
            WARNING,
            "this machine has neither a serial number nor a machine id, so only its host name tells it from others",
            "sudo systemd-machine-id-setup; in a container, mount the board's: "
            "--volume /etc/machine-id:/etc/machine-id:ro",
        )
    if facts.soc and not facts.l4t:
        yield Problem(
            "l4t_unknown",
            WARNING,
            "this is a Jetson, and its release of Linux for Tegra cannot be read",
            "sudo apt install --reinstall nvidia-l4t-core; in a container, mount the board's: "
            "--volume /etc/nv_tegra_release:/etc/nv_tegra_release:ro",
        )
    if facts.soc and not facts.tools.get("tegrastats"):
        yield Problem(
            "tegrastats_missing",
            WARNING,
            "tegrastats is missing: where the board's rails are no files, its power stays unknown",
            "sudo apt install --reinstall nvidia-l4t-tools; in a container, mount the board's: "
            "--volume /usr/bin/tegrastats:/usr/bin/tegrastats:ro",
        )
    memory_bytes = facts.memory_total_bytes
    if facts.soc and memory_bytes is not None and memory_bytes < 4.5 * _GIB and facts.swap_total_bytes == 0:
        yield Problem(
            "swap_missing",
            WARNING,
            "{:.1f} GiB of memory and no swap: building an engine may be killed".format(memory_bytes / _GIB),
            "sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
            "sudo swapon /swapfile, and in /etc/fstab: /swapfile none swap sw 0 0",
        )


def _rights(facts: Facts) -> Iterator[Problem]:
    hidden = [name for name, state in sorted(facts.root_only.items()) if state == NEEDS_ROOT]
    if hidden:
        yield Problem(
            "root_only",
            INFO,
            "only root can read: {}; what is not read stays unknown{}".format(
                ", ".join(hidden),
                ", and locked clocks cannot be fully verified" if "emc_clock" in hidden else "",
            ),
            "run the agent as root, as its unit file does",
        )
    can_lock = bool(facts.tools.get("jetson_clocks")) or discrete_gpu(facts.gpus) is not None
    if can_lock and facts.clock_control == "none":
        yield Problem(
            "clocks_not_settable",
            INFO,
            "clocks and power modes cannot be set by this user",
            "install the helper as deploy/agent/sudoers says, or run the agent as root",
        )
    if facts.soc and facts.clocks == "free":
        yield Problem(
            "clocks_free",
            INFO,
            "clocks follow the load: short runs measure the governor",
            _locked(facts),
        )


def _locked(facts: Facts) -> str:
    """Return how to lock this board's clocks.

    --lock-clocks is refused where they cannot be set.
    """
    if not facts.tools.get("jetson_clocks"):
        return "run `sudo jetson_clocks` on the board itself before measuring: there is no jetson_clocks here"
    if facts.clock_control == "none":
        return "make clocks settable, as the problem about that says, then submit with --lock-clocks"
    return "submit with --lock-clocks"


def _nvml(facts: Facts) -> Iterator[Problem]:
    if discrete_gpu(facts.gpus) is None:
        return
    other = facts.installed.get("pynvml", "")
    if "nvidia-ml-py" not in facts.installed:
        yield Problem(
            "nvml_missing",
            WARNING,
            "without nvidia-ml-py the GPU's power, memory, clocks and temperature stay unknown",
            pip_install(facts, "nvidia-ml-py"),
        )
    # From 12 on pynvml is only a dependency on nvidia-ml-py.
    if other and version_of(other) < (12,):
        yield Problem(
            "pynvml_shadows",
            WARNING,
            "the package pynvml {} has a module of the same name as nvidia-ml-py and can hide it".format(other),
            "{} && {}".format(
                in_environment(facts, "-m pip uninstall -y pynvml"),
                pip_install(facts, "--force-reinstall nvidia-ml-py"),
            ),
        )


def _disk(facts: Facts) -> Iterator[Problem]:
    if not facts.state_dir_writable:
        yield Problem(
            "state_dir_unusable",
            ERROR,
            "the state directory {} cannot be written to".format(facts.state_dir),
            "pass --state-dir, or give this user that directory",
        )
    if facts.free_disk_bytes is not None and facts.free_disk_bytes < 2 * _GIB:
        yield Problem(
            "disk_low",
            WARNING,
            "{:.1f} GiB are free for models and engines in {}".format(facts.free_disk_bytes / _GIB, facts.state_dir),
            "free some space, or pass --state-dir on another disk",
        )


_CHECKS = (_python, *runtimes.CHECKS, controller_check.problems, _board, _rights, _nvml, _disk)
