"""Verdicts and failures of runs that were disturbed.

The disturbances are other processes on the GPU, throttling, kills and crashes. Builds that hang, or that the kernel
kills for their memory, are in test_engines.py. A comparison is here, too.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fleet import ROOT, Fleet, Process, broken_rules

TINY = "test_efficientnet"
_CLOCK_TESTS = str(ROOT / "tests/agent/host/clocks")


def test_another_process_on_the_gpu(fleet: Fleet) -> None:
    """A run during which another process uses the GPU is INVALID, and the reason names the process."""
    fleet.connect_gpu(processes=[[4242, 734003200]])

    row = fleet.bench_once(TINY)

    assert (row["state"], row["verdict"]) == ("succeeded", "INVALID")
    assert "other processes on the GPU before measuring: 4242" in row["verdict_reasons"]
    assert "other processes on the GPU before measuring: 4242" in fleet.run("results", "--why").stdout


def test_throttling(fleet: Fleet) -> None:
    """A run is INVALID when the GPU reports thermal throttling, but not when it idled or obeyed a setting."""
    fleet.connect_gpu()
    slowdowns = {0x20: "software thermal slowdown", 0x40: "hardware thermal slowdown", 0xFF13: ""}

    for bits, slowdown in slowdowns.items():
        fleet.tell_gpu(throttle_bits=bits)
        row = fleet.bench_once(TINY)

        assert broken_rules(row) == ([f"throttled: {slowdown}"] if slowdown else []), row
        assert row["verdict"] == "INVALID" or not slowdown, row

    assert sorted(fleet.query("select throttled from runs")) == [(0,), (1,), (1,)]


def test_nvml_that_breaks_does_not_break_a_run(fleet: Fleet) -> None:
    """Without permission to list processes a run succeeds, and the row says what was not checked."""
    fleet.connect_gpu(errors={"nvmlDeviceGetComputeRunningProcesses": 4})

    row = fleet.bench_once(TINY)

    assert (row["state"], row["rail_set"]) == ("succeeded", "GPU")
    [(findings,)] = fleet.query("select findings from runs")
    messages = {finding["check"]: finding["message"] for finding in json.loads(findings)}
    assert "nvmlDeviceGetComputeRunningProcesses" in messages["gpu_processes"]
    assert any(reason.startswith("not checked: other processes on the GPU") for reason in row["verdict_reasons"])
    assert broken_rules(row) == []


@contextlib.contextmanager
def busy_process(cpu: int) -> Iterator[None]:
    """Keep a process busy on one CPU."""
    loop = f"import os; os.sched_setaffinity(0, {{{cpu}}}); print('busy', flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", loop], stdout=subprocess.PIPE) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        try:
            yield
        finally:
            busy.kill()


def test_a_busy_neighbour(fleet: Fleet) -> None:
    """A run that shares its CPU with a busy process is INVALID and says how long it waited."""
    cpu = min(os.sched_getaffinity(0))
    fleet.connect_agent("desk", code=f"import os; os.sched_setaffinity(0, {{{cpu}}})")

    with busy_process(cpu):
        row = fleet.bench_once(TINY)

    assert (row["state"], row["verdict"]) == ("succeeded", "INVALID")
    assert row["cpu_wait_share"] > 0.25
    assert any(
        re.fullmatch(r"a measuring thread waited for a CPU in [\d.]+ % of the window \(at most 25 %\)", reason)
        for reason in row["verdict_reasons"]
    )


def test_a_run_killed_for_memory(fleet: Fleet) -> None:
    """A measuring process that the kernel kills is runtime_oom, and its message has the peak memory.

    The test sends SIGKILL itself, which looks the same and needs no shortage of memory.
    """
    agent = fleet.connect_agent("desk")
    campaign = fleet.submit(TINY, tier="standard")
    fleet.wait_until_measuring(campaign, "desk")

    os.kill(measuring_process(agent), signal.SIGKILL)

    assert fleet.watch_to_end(campaign).campaign.state == "failed"
    [row] = fleet.json("results")
    assert row["failure_type"] == "runtime_oom"
    assert "its own memory peaked at " in row["failure_message"]
    assert "unknown" not in row["failure_message"]
    assert fleet.watch_to_end(fleet.submit(TINY)).campaign.state == "succeeded"


def test_clocks_are_restored_after_a_crash(fleet: Fleet) -> None:
    """An agent that was killed with locked clocks restores them at its start and repeats the run."""
    root = build_nano(fleet)
    agent = connect_nano(fleet, root)
    campaign = fleet.submit(TINY, tier="smoke", idle_s=1.0, lock_clocks=True, power_mode="5W")
    fleet.wait_until_measuring(campaign, "nano")
    assert clocks(root) == {"mode": 1, "gpu": 640000000, "cpu": 918000, "emc": 1600000000}

    agent.kill(signal.SIGKILL)
    agent = start_nano(fleet, root)

    line = agent.wait_for("an earlier agent left clocks changed; they are restored")
    assert "restore, set-power-mode 0" in line
    assert clocks(root) == {"mode": 0, "gpu": 76800000, "cpu": 102000, "emc": 204000000}
    assert fleet.watch_to_end(campaign).campaign.state == "succeeded"
    [row] = fleet.json("results")
    conditions = row["conditions"]
    assert (conditions["clocks"], conditions["power_mode"]) == ("locked", "5W")
    assert row["clock_gpu_target_hz"] == 640e6
    assert row["gpu_clock_min_hz"] == row["gpu_clock_max_hz"] == 640000000
    assert broken_rules(row) == []
    assert fleet.query("select attempt from runs") == [(2,)]
    assert clocks(root) == {"mode": 0, "gpu": 76800000, "cpu": 102000, "emc": 204000000}


def test_clocks_that_cannot_be_locked(fleet: Fleet) -> None:
    """A run whose clocks cannot be locked fails with the reason, and the clocks are restored."""
    root = build_nano(fleet)
    (root / "slow-memory").touch()
    connect_nano(fleet, root)

    row = fleet.bench_once(TINY, "--lock-clocks")

    assert (row["state"], row["failure_type"]) == ("failed", "clocks_failed")
    assert "clocks could not be locked: " in row["failure_message"]
    assert clocks(root) == {"mode": 0, "gpu": 76800000, "cpu": 102000, "emc": 204000000}


def test_compare_gives_one_answer(fleet: Fleet) -> None:
    """A comparison by the controller and one by its database are equal, in words and in JSON."""
    fleet.connect_agent("desk")
    fleet.json(
        *("bench", TINY, "--recipes", "fp32,int8", "--weights", "random", "--tier", "demo", "--repeats", "2"),
        *("--idle", "0"),
    )
    sides = ("latest/desk/fp32", "latest/desk/int8")

    for metric in ("latency", "memory", "energy"):
        command = ("compare", *sides, "--metric", metric)
        by_controller, by_database = (fleet.run(*command, *more) for more in ((), ("--db", str(fleet.db))))
        assert by_controller.returncode == by_database.returncode
        assert by_controller.stdout == by_database.stdout
        assert by_controller.stderr == by_database.stderr
    numbers = [fleet.json("compare", *sides, "--force", *more) for more in ((), ("--db", str(fleet.db)))]
    assert numbers[0] == numbers[1]
    assert numbers[0]["first_repeats"] == numbers[0]["second_repeats"] == 2
    assert numbers[0]["refusals"] == []


def test_jobs_of_two_campaigns_are_measured_again_in_one(fleet: Fleet) -> None:
    """Two campaigns answer nothing alone, and the campaign of --rerun has both jobs interleaved."""
    fleet.connect_agent("desk")
    options = ("--no-twin", "--weights", "random", "--tier", "demo", "--repeats", "1", "--idle", "0")
    apart = [
        f"{fleet.json('bench', TINY, '--recipes', recipe, *options)['campaign']['campaign_id']}/desk/{TINY}/{recipe}"
        for recipe in ("fp32", "int8")
    ]

    answer = fleet.json("compare", *apart, "--force")
    again = fleet.json("compare", *apart, "--rerun")
    fleet.watch_to_end(again["campaign"]["campaign_id"])

    assert answer["answer"] == "not enough data"
    assert answer["footnotes"][0].startswith("measured in different campaigns, and the first is not steady: ")
    together = fleet.json("compare", again["first"], again["second"], "--force")
    assert (together["first_repeats"], together["second_repeats"]) == (3, 3)
    assert not any("different campaigns" in note for note in together["footnotes"])
    order = [recipe for (recipe,) in fleet.query("select recipe from run_results order by campaign_id, position")]
    assert order[2:] not in (["fp32"] * 3 + ["int8"] * 3, ["int8"] * 3 + ["fp32"] * 3)


def measuring_process(agent: Process) -> int:
    """Return the pid of an agent's measuring process."""
    tasks = Path(f"/proc/{agent.popen.pid}/task").iterdir()
    children = [child for task in tasks for child in (task / "children").read_text().split()]
    [worker] = [child for child in children if b"child.measure" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return int(worker)


def build_nano(fleet: Fleet) -> Path:
    """Copy a Nano's files and add working nvpmodel and jetson_clocks.

    See tests/agent/host/clocks.
    """
    root = fleet.copy_board("nano-r32.7.4", "sys/devices/system/cpu", "sys/class/devfreq")
    code = (
        f"import sys; sys.path.insert(0, {_CLOCK_TESTS!r}); import nano_board; nano_board.Board({str(root)!r}).build()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    # The paths where the agent looks for them to describe the board.
    for path, name in (
        ("usr/sbin/nvpmodel", "nvpmodel"),
        ("etc/nvpmodel.conf", "nvpmodel.conf"),
        ("var/lib/nvpmodel/status", "status"),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(root / name)
    return root


def start_nano(fleet: Fleet, root: Path) -> Process:
    """Start an agent whose root helper uses that board's tools."""
    code = f"""
sys.path.insert(0, {_CLOCK_TESTS!r})
import nano_board
from efficientquant_agent.host import clocks
clocks.ClockControl = lambda *_: nano_board.Board({str(root)!r}).control()
"""
    return fleet.start_agent("nano", code=code, options=["--board-root", str(root)])


def connect_nano(fleet: Fleet, root: Path) -> Process:
    """Start an agent on that board and wait until its session is open."""
    agent = start_nano(fleet, root)
    agent.wait_for("ready: connected")
    return agent


def clocks(root: Path) -> dict[str, int]:
    """Return the current power mode and clocks of the board."""
    files = {
        "mode": "mode",
        "gpu": "sys/class/devfreq/57000000.gpu/cur_freq",
        "cpu": "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq",
        "emc": "sys/kernel/debug/clk/override.emc/clk_rate",
    }
    return {name: int((root / path).read_text()) for name, path in files.items()}
