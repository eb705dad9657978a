"""The display of progress on a terminal and in a log."""

import io

import pytest
from efficientquant_controller.cli.convert import status_from_wire
from efficientquant_controller.cli.fleet.progress import LineDisplay, LiveDisplay, render
from efficientquant_protos.v1 import fleet_pb2 as pb
from rich.console import Console

ADDRESS = "HOST:1"


def lines_of(renderable) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def device(**values) -> pb.DeviceStatus:
    return pb.DeviceStatus(**{"name": "bench-1", "state": "idle", "runs_total": 8, "runs_done": 3, **values})


def build(recipe, state, message="", size_bytes=0) -> pb.BuildStatus:
    artifact = pb.ArtifactRef(sha256="ab", size_bytes=size_bytes) if size_bytes else None
    return pb.BuildStatus(model="m", recipe=recipe, state=state, message=message, artifact=artifact)


@pytest.mark.parametrize(
    ("values", "campaign_state", "text"),
    [
        ({"state": "busy", "current_model": "m", "current_recipe": "fp32", "phase": "measure", "fraction": 0.5},
         "running", "3/8 runs m · fp32 · measure 50%"),
        ({"runs_failed": 2}, "running", "3/8 runs (2 failed) waits for its turn"),
        ({"runs_done": 0}, "building", "0/8 runs waits for the artifacts"),
        ({"runs_done": 8}, "running", "8/8 runs done"),
        ({}, "cancelled", "3/8 runs cancelled"),
        ({"runs_done": 8}, "cancelled", "8/8 runs ended"),
        ({"state": "offline"}, "running",
         "3/8 runs offline, its runs wait: start 'efficientquant-agent --controller HOST:1 --name bench-1' there"),
    ],
)  # fmt: skip
def test_device_line(messages, values, campaign_state, text):
    """Each device has one line with a bar, its count and its activity."""
    status = status_from_wire(messages.status(campaign_state, devices=[device(**values)]))

    (line,) = lines_of(render(status, ADDRESS))

    assert line.startswith("bench-1 ")
    assert line.endswith(text)
    assert ("━" in line) == (values.get("runs_done") != 0)


def test_bar_grows_within_a_run(messages):
    """A bar includes the fraction of the current run."""
    halves = [device(runs_total=2, runs_done=0, current_model="m", fraction=fraction) for fraction in (0.0, 1.0)]
    statuses = [status_from_wire(messages.status(devices=[half])) for half in halves]

    bars = [render(status, ADDRESS).renderables[-1].columns[1]._cells[0] for status in statuses]

    assert [(bar.completed, bar.total) for bar in bars] == [(0.0, 2), (1.0, 2)]


def test_builds_show_while_building(messages):
    """While building each build has a line, and later only failed builds have one."""
    builds = [build("fp32", "ready", size_bytes=5 << 20), build("efficientquant", "failed", "no such weights")]

    during = lines_of(render(status_from_wire(messages.status("building", builds=builds)), ADDRESS))
    after = lines_of(render(status_from_wire(messages.status("running", builds=builds)), ADDRESS))

    failed = "m · efficientquant: could not be built: no such weights"
    assert during == ["m · fp32: built, 5.00 MiB", failed]
    assert after == [failed]


def test_builds_of_two_targets_are_distinguished(messages):
    """Builds of one model and recipe for two targets are two lines."""
    builds = [build("fp32", "building"), build("fp32", "ready", size_bytes=5 << 20)]
    builds[0].target, builds[1].target = "jetson-nano", "agx-xavier"
    status = status_from_wire(messages.status("building", builds=builds))
    display = LineDisplay(Console(file=io.StringIO(), width=200), ADDRESS)

    display.show(status)
    display.show(status)

    expected = ["m · fp32 · for jetson-nano: building", "m · fp32 · for agx-xavier: built, 5.00 MiB"]
    assert lines_of(render(status, ADDRESS)) == display._console.file.getvalue().splitlines() == expected


def test_lines_only_for_changes(messages):
    """A log gets a line for each change, but not for each percent."""
    display = LineDisplay(Console(file=io.StringIO(), width=200), ADDRESS)
    busy = {"state": "busy", "current_model": "m", "current_recipe": "fp32", "phase": "measure"}
    steps = [device(**busy, fraction=0.1), device(**busy, fraction=0.9), device(runs_done=4)]

    for step in steps:
        display.show(status_from_wire(messages.status(devices=[step])))

    lines = display._console.file.getvalue().splitlines()
    assert [line.partition(" · about")[0] for line in lines] == [
        "bench-1: 3/8 runs m · fp32",
        "bench-1: 4/8 runs waits for its turn",
    ]


@pytest.mark.parametrize(("seconds", "lines"), [(59.0, 0), (60.0, 2)])
def test_a_log_says_now_and_then_how_long_it_takes(messages, seconds, lines):
    """A log gets the phase and the remaining time once a minute."""
    now_s = [0.0]
    display = LineDisplay(Console(file=io.StringIO(), width=200), ADDRESS, clock=lambda: now_s[0])
    busy = device(state="busy", current_model="m", current_recipe="fp32", phase="measure", fraction=0.25)
    display.show(status_from_wire(messages.status(devices=[busy])))
    now_s[0] = seconds

    display.tick()
    display.tick()

    said = display._console.file.getvalue().splitlines()[1:]
    expected = [
        "bench-1: 3/8 runs · measure 25%",
        "watched for 1:00 min · about 1 min left (an estimate from the tier)",
    ]
    assert said == expected[:lines]


def test_a_terminal_counts_the_time(messages):
    """A terminal redraws the time each second without other changes."""
    now_s = [0.0]
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    display = LiveDisplay(console, ADDRESS, clock=lambda: now_s[0])
    display.show(status_from_wire(messages.status(devices=[device()])))
    now_s[0] = 61.0

    display.tick()
    display.pause()

    assert "watched for 0 s · about" in console.file.getvalue()
    assert "watched for 1:01 min · about" in console.file.getvalue()


def test_long_lines_are_not_folded_in_a_log(messages):
    """A long line in a log is not folded."""
    display = LineDisplay(Console(file=io.StringIO(), width=40), ADDRESS)

    display.show(status_from_wire(messages.status(notices=[pb.Notice(message="word " * 40)])))

    assert display._console.file.getvalue().count("\n") == 1


def test_notice_is_said_once(messages):
    """A notice is printed once, even if a restarted controller repeats it."""
    display = LineDisplay(Console(file=io.StringIO(), width=200), ADDRESS)
    first, second = (pb.Notice(time_unix_s=time_s, message=f"notice {time_s}") for time_s in (1, 2))

    for notices in ([first], [first, second], [first, second]):
        display.show(status_from_wire(messages.status(notices=notices)))

    assert display._console.file.getvalue().splitlines() == ["notice 1", "notice 2"]


def test_live_view_prints_above_the_bars(messages):
    """On a terminal notices are printed above the bars, and pausing restores the cursor."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    display = LiveDisplay(console, ADDRESS)
    display.show(status_from_wire(messages.status(devices=[device()])))

    display.show(status_from_wire(messages.status(devices=[device(runs_done=5)], notices=[pb.Notice(message="look")])))
    display.pause()

    written = console.file.getvalue()
    assert written.index("look") < written.rindex("5/8 runs")
    assert written.endswith("\x1b[?25h")
