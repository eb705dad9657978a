"""A Jetson Nano made of files, with its own nvpmodel and jetson_clocks.

The tools work on the files as the real ones do.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from efficientquant_agent.host import clock_helper
from efficientquant_agent.host.clocks import ClockControl, ClockRequest

GPU = "GPU-1b2c3d4e-0001-0002-0003-0123456789ab"
LOCK_5W = ClockRequest(power_mode="5W", lock=True)
LOCK_GPU = ClockRequest(lock=True, gpu_uuid=GPU)

# What the real tools do to a Nano's files: nvpmodel moves the limits, jetson_clocks pulls each clock up to its limit.
# A clock that nothing holds runs at its minimum. `kill` names a tool's call that kills the agent half-way through,
# `hold` a call that writes to `held` half-way through. Both then wait for a line in `gate`.
_TOOLS = """#!/bin/sh
board={board}
gpu=$board/sys/class/devfreq/57000000.gpu
cpus="$board/sys/devices/system/cpu/cpu0/cpufreq $board/sys/devices/system/cpu/cpu1/cpufreq"
emc=$board/sys/kernel/debug/clk/override.emc
emc_max=$board/sys/kernel/debug/tegra_bwmgr/emc_max_rate

copy() {{ cat "$1" > "$2"; }}
idle() {{
    copy $gpu/min_freq $gpu/cur_freq
    for cpu in $cpus; do copy $cpu/scaling_min_freq $cpu/scaling_cur_freq; done
    if [ "$(cat $emc/clk_state)" = 0 ]; then echo 204000000 > $emc/clk_rate; fi
}}
halfway() {{
    if [ -e $board/kill ] && [ "$(cat $board/kill)" = "$*" ]; then
        rm $board/kill
        kill -9 $PPID "$(cat $board/agent.pid)"
        read -r line < $board/gate
    fi
    if [ -e $board/hold ] && [ "$(cat $board/hold)" = "$*" ]; then
        rm $board/hold
        echo held > $board/held
        read -r line < $board/gate
    fi
}}
"""
_NVPMODEL = """
case "$1" in
-q) [ ! -e $board/deny-query ] || {{ echo "NVPM ERROR: Error opening the status file: 13"; exit 1; }}
    echo "NV Fan Mode:quiet"
    grep -o "NAME=[A-Z0-9]*" $board/nvpmodel.conf |
        sed -n "s/NAME=/NV Power Mode: /;$(($(cat $board/mode) + 1))p"
    cat $board/mode ;;
-m) echo "nvpmodel $*" >> $board/calls
    if [ -e $board/needs-reboot ]; then
        echo "NVPM WARN: Reboot required for changing to this power mode: $2"
        echo "NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:"
        read -r answer || {{ echo "NVPM ERROR: bad input!"; exit 255; }}
    fi
    [ ! -e $board/stuck-mode ] || exit 0
    echo "$2" > $board/mode
    printf "pmode:%04d fmode:quiet\\n" "$2" > $board/status
    halfway nvpmodel "$@"
    if [ "$2" = 0 ]; then gpu_max=921600000 cpu_max=1479000; else gpu_max=640000000 cpu_max=918000; fi
    echo $gpu_max > $gpu/max_freq
    for cpu in $cpus; do echo $cpu_max > $cpu/scaling_max_freq; done
    idle ;;
esac
"""
_JETSON_CLOCKS = """
echo "jetson_clocks" ${{1:+"$1"}} >> $board/calls
case "$1" in
--store)
    [ ! -e "$2" ] || {{ echo "File $2 already exists. Can I overwrite it? Y/N:"; read -r answer; exit 1; }}
    for file in $gpu/min_freq $emc/clk_state; do echo "$file:$(cat $file)" >> "$2"; done
    halfway jetson_clocks "$1"
    for cpu in $cpus; do echo "$cpu/scaling_min_freq:$(cat $cpu/scaling_min_freq)" >> "$2"; done ;;
--restore)
    while IFS=: read -r file value; do echo "$value" > "$file"; halfway jetson_clocks "$1"; done < "$2"
    idle ;;
"")
    copy $gpu/max_freq $gpu/min_freq; copy $gpu/max_freq $gpu/cur_freq
    halfway jetson_clocks
    for cpu in $cpus; do
        copy $cpu/scaling_max_freq $cpu/scaling_min_freq
        copy $cpu/scaling_max_freq $cpu/scaling_cur_freq
    done
    [ ! -e $board/slow-memory ] || exit 0
    echo 1 > $emc/clk_state; copy $emc_max $emc/clk_rate ;;
esac
"""
_FILES = {
    "sys/class/devfreq/57000000.gpu/min_freq": 76800000,
    "sys/class/devfreq/57000000.gpu/max_freq": 921600000,
    "sys/class/devfreq/57000000.gpu/cur_freq": 76800000,
    "sys/class/devfreq/54340000.vic/min_freq": 38400000,
    "sys/class/devfreq/54340000.vic/max_freq": 627200000,
    "sys/class/devfreq/54340000.vic/cur_freq": 38400000,
    "sys/kernel/debug/clk/override.emc/clk_state": 0,
    "sys/kernel/debug/clk/override.emc/clk_rate": 204000000,
    "sys/kernel/debug/tegra_bwmgr/emc_min_rate": 40800000,
    "sys/kernel/debug/tegra_bwmgr/emc_max_rate": 1600000000,
    "mode": 0,
    "status": "pmode:0000 fmode:quiet",
    "nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=5W >\nCPU_ONLINE CORE_0 1",
    "gpu.json": json.dumps({"current_hz": 210000000, "max_hz": 2100000000, "lock": None}),
}  # type: dict
for _cpu in (0, 1):
    for _name, _value in (("min", 102000), ("max", 1479000), ("cur", 102000)):
        _FILES["sys/devices/system/cpu/cpu{}/cpufreq/scaling_{}_freq".format(_cpu, _name)] = _value

# The helper as a process of its own, as sudo would start it. "before 2" kills the agent at its second call,
# before the helper acts.
_HELPER = """
import sys
sys.path[:0] = {paths!r}
import nano_board
board = nano_board.Board({board!r})
step = board.next_step()
board.kill_caller_at("before", step)
code = nano_board.clock_helper.main(sys.argv[1:], board.paths)
board.kill_caller_at("after", step)
sys.exit(code)
"""


# Processes start without site-packages, which is ten times as fast. These are the folders they need.
_PATHS = [str(Path(__file__).parent), str(Path(clock_helper.__file__).parent.parent.parent)]


class FakeNvml:
    """A client of NVML, with a discrete GPU in a file.

    The GPU's clock rests below a lock until there is work. Without "persistence" in the file, the driver forgets the
    lock with its last client, as NVIDIA documents it. A client is a process that asked for the GPU, until it closes
    NVML as often as it opened it, or exits.
    """

    def __init__(self, path):
        self._path = path
        self._is_client = False

    def lock(self, _, min_mhz, max_mhz):
        """Set the lock, unless this GPU ignores locks."""
        self._attach()
        if not self.state.get("ignores_locks"):
            self._update(lock=[min_mhz, max_mhz])

    def reset(self, _):
        """Remove the lock."""
        self._attach()
        self._update(lock=None)

    def clocks_hz(self, _):
        """Return the two clocks."""
        self._attach()
        return {key: self.state[key] for key in ("current_hz", "max_hz")}

    def close(self):
        """Stop to be a client."""
        clients = self.state["clients"]
        if self._is_client:
            clients.remove(os.getpid())
        self._is_client = False
        self._update(clients=clients)

    @property
    def state(self):
        """The content of the file without exited clients."""
        state = json.loads(Path(self._path).read_text())
        state["clients"] = [pid for pid in state.get("clients", ()) if is_running(pid)]
        if not state["clients"] and not state.get("persistence"):
            state["lock"] = None
        return state

    def _attach(self):
        if not self._is_client:
            self._is_client = True
            state = self.state
            self._update(**dict(state, clients=state["clients"] + [os.getpid()]))

    def _update(self, **changes):
        Path(self._path).write_text(json.dumps(dict(self.state, **changes)))


def is_running(pid):
    """Tell whether a process runs, so that a zombie does not count."""
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Board:
    """A Nano in a directory."""

    def __init__(self, root):
        self.root = Path(root)
        self.paths = clock_helper.ClockPaths(
            nvpmodel=str(self.root / "nvpmodel"),
            jetson_clocks=str(self.root / "jetson_clocks"),
            state_dir=str(self.root / "root-state"),
            sys=str(self.root / "sys"),
            nvpmodel_conf=str(self.root / "nvpmodel.conf"),
            nvpmodel_status=str(self.root / "status"),
            nvml=lambda: FakeNvml(str(self.root / "gpu.json")),
            needs_root=False,
        )
        self.helper = [sys.executable, "-I", "-S", str(self.root / "helper.py")]
        self.journal = str(self.root / "state" / "clocks.json")

    def build(self):
        """Write the files and return the board."""
        for name, value in _FILES.items():
            self.write(name, value)
        for name, script in (("nvpmodel", _NVPMODEL), ("jetson_clocks", _JETSON_CLOCKS)):
            self.write(name, (_TOOLS + script).format(board=self.root))
            (self.root / name).chmod(0o755)
        self.write("helper.py", _HELPER.format(paths=_PATHS, board=str(self.root)))
        (self.root / "state").mkdir()
        for name in ("gate", "held"):
            os.mkfifo(str(self.root / name))
        return self

    def write(self, name, value=""):
        """Write one file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n".format(value))

    def remove(self, name):
        """Remove one file."""
        (self.root / name).unlink()

    def read(self, name):
        """Return the number in one file."""
        return int((self.root / name).read_text())

    def calls(self):
        """Return what changed something, in order."""
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def condition(self):
        """Return everything that a run may change and must restore."""
        files = [path for path in sorted(self.root.glob("sys/**/*")) if path.is_file()]
        state = {str(path.relative_to(self.root)): path.read_text() for path in files}
        state["mode"] = self.read("mode")
        state["lock"] = FakeNvml(str(self.root / "gpu.json")).state["lock"]
        state["kept"] = sorted(path.name for path in self.root.glob("root-state/*") if path.name != "lock")
        state["journal"] = os.path.exists(self.journal)
        return state

    def gpu_clients(self):
        """Return the processes that are clients of the GPU."""
        return FakeNvml(str(self.root / "gpu.json")).state["clients"]

    def control(self, **options):
        """Return a control that acts through a helper process."""
        return ClockControl(paths=self.paths, helper=self.helper, **options)

    def next_step(self):
        """Count a call of the helper and return its number."""
        path = self.root / "steps"
        step = int(path.read_text()) + 1 if path.exists() else 1
        path.write_text(str(step))
        return step

    def kill_caller_at(self, moment, step):
        """Kill the agent where the test wants it."""
        path = self.root / "kill-at"
        if path.exists() and path.read_text().strip() == "{} {}".format(moment, step):
            path.unlink()
            os.kill(self.read("agent.pid"), 9)

    def start(self, code):
        """Start a process that runs code with `board`, as an agent does."""
        prelude = "import os, sys; sys.path[:0] = {!r}; import nano_board; board = nano_board.Board({!r})\n".format(
            _PATHS, str(self.root)
        )
        command = [sys.executable, "-I", "-S", "-W", "error", "-c", prelude + code]
        return subprocess.Popen(command, stdout=subprocess.PIPE, universal_newlines=True)
