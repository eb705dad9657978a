"""The decisions and messages of `efficientquant demo`."""
# ruff: noqa: D102, ARG002 – the methods of a test's own stand-in

from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from efficientquant_controller.cli.fleet import demo
from efficientquant_controller.cli.records import BenchRequest
from efficientquant_controller.config import measurement_for
from efficientquant_controller.errors import UserError


@pytest.mark.parametrize(
    ("tier", "repeats", "ending"),
    [("demo", 3, "3 times each: about 2 minutes"), ("demo", 1, "once each: about 1 minute")],
)
def test_plan_says_what_and_how_long(tier, repeats, ending):
    """The demo's first line names its models, its agents and its duration."""
    line = demo.plan(measurement_for(tier), repeats)

    assert line.startswith("this quantizes mobilevit_xxs and mobilevitv2_050 and measures them on two agents")
    assert line.endswith(ending)


@pytest.mark.parametrize(("cores", "threads"), [({0}, 1), ({0, 1}, 1), ({0, 2, 4, 6}, 3)])
def test_a_core_is_left_to_the_rest(monkeypatch, cores, threads):
    """The runs use all cores that the demo may use but one."""
    monkeypatch.setattr(demo.os, "sched_getaffinity", lambda _: cores)

    assert demo.thread_count() == threads


def test_unknown_tier_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    """An unknown tier leaves no folder."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UserError, match="unknown tier 'smok'"):
        demo.command(tier="smok", db=None, repeats=1)

    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def hub(monkeypatch):
    """Start a local hub that answers with `hub.status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(self.server.status)
            self.end_headers()

        def log_message(self, *_):
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.status = 200
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("status", "answers"), [(200, True), (403, False), (500, False)])
def test_hub(hub, status, answers):
    """A hub counts as reachable only if it serves the file."""
    hub.status = status

    assert demo.hub_answers() is answers


@pytest.mark.parametrize(("flag", "answers"), [("1", False), ("true", False), ("0", True), ("", True)])
@pytest.mark.usefixtures("hub")
def test_offline_flag(monkeypatch, flag, answers):
    """HF_HUB_OFFLINE skips the request to the hub, unless it is 0 or empty."""
    monkeypatch.setenv("HF_HUB_OFFLINE", flag)

    assert demo.hub_answers() is answers


def test_every_demo_has_a_new_folder(tmp_path):
    """A second demo gets its own folder."""
    wanted = tmp_path / "demo"
    made = []
    for _ in range(3):
        made.append(demo.fresh_folder(wanted))
        made[-1].mkdir()

    assert [folder.name for folder in made] == ["demo", "demo-2", "demo-3"]


def test_next_commands_can_be_pasted():
    """The suggested commands quote paths and reuse the demo's device."""
    commands = demo.next_commands("efficientquant", Path("my demo"), Path("my demo/results.db"))

    assert commands[:4] == [
        "efficientquant results --db 'my demo/results.db' --csv",
        "sqlite3 'my demo/results.db' 'select * from results'",
        "efficientquant serve --db 'my demo/results.db'",
        "efficientquant-agent --controller 127.0.0.1:50051 --name bench-1 --state-dir 'my demo/bench-1'"
        "    # in a second terminal",
    ]


class ScriptedFleet:
    """A fleet with scripted build failures that records the kinds of weights."""

    folder = Path("demo")
    builds_failed = False

    def __init__(self, *builds_failed: bool) -> None:
        self._builds_failed = list(builds_failed)
        self.kinds: list[str] = []

    def start(self) -> None:
        return

    def run(self, request, weights):
        self.kinds.append(weights.kind)
        self.builds_failed = self._builds_failed.pop(0)
        return f"campaign with {weights.kind} weights"


@pytest.mark.parametrize(
    ("hub_answers", "builds_failed", "kinds"),
    [(True, [False], ["pretrained"]), (False, [False], ["random"]), (True, [True, False], ["pretrained", "random"])],
)
def test_random_weights_only_when_needed(monkeypatch, capsys, hub_answers, builds_failed, kinds):
    """Random weights are used, with a message, if the hub is unreachable or a build fails."""
    monkeypatch.setattr(demo, "hub_answers", lambda: hub_answers)
    fleet = ScriptedFleet(*builds_failed)

    campaign = demo.measure(fleet, BenchRequest(("m",), ("fp32",), (), "demo", intra_op_threads=3))

    assert (fleet.kinds, campaign) == (kinds, f"campaign with {kinds[-1]} weights")
    said = capsys.readouterr().err
    assert "one after the other, on 3 threads: one core is left" in said
    assert ("random weights instead" in said) == (kinds[-1] == "random")
