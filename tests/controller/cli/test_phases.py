"""The progress of the library's work."""

import io

import pytest
from efficientquant_controller.cli import phases
from rich.console import Console


@pytest.fixture
def terminal(monkeypatch):
    """Replace stderr by a terminal and return its screen as text."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(phases, "stderr_console", lambda: console)
    return console.file


def test_a_terminal_shows_step_phase_share_and_time(terminal):
    """A terminal shows the step with its phase, share and duration, also after a phase has ended."""
    with phases.PhaseProgress() as progress:
        report = progress.step("int8 for rtx-3080")
        report("capture", 1.0)
        report("calibrate", 0.25)

    shown = terminal.getvalue()
    assert "int8 for rtx-3080 · calibrate" in shown
    assert "25% 0 s" in " ".join(shown.split())


def test_a_log_gets_a_line_for_each_step(capsys, monkeypatch):
    """A log gets a line when a step begins, and one with its phase when it takes long."""
    said = []

    class Spy(phases.Waiting):
        def __init__(self, what, silent_s):
            super().__init__(what, silent_s)
            said.append(what)

    monkeypatch.setattr(phases, "Waiting", Spy)
    with phases.PhaseProgress() as progress:
        progress.step("one")("weights", 0.5)
        progress.step("two")("export", 0.0)

    assert capsys.readouterr().err.splitlines() == ["one …", "two …"]
    assert [what() for what in said] == ["one · weights 50%", "two · export"]
