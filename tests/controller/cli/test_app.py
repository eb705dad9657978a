"""The help, imports and exit codes of the command."""

import resource
import subprocess
import sys

import grpc
import pytest
from efficientquant_controller.cli import app as application
from efficientquant_controller.cli.connection import ControllerUnreachableError
from efficientquant_controller.cli.fleet import devices

VERBS = (
    *("serve", "devices", "bench", "campaigns", "watch", "cancel", "results", "models", "recipes"),
    *("inspect", "quantize", "check", "evaluate", "table1", "plot", "audit", "demo"),
)
HEAVY = ("torch", "timm", "onnx", "onnxruntime", "numpy", "grpc", "google.protobuf", "sqlalchemy", "alembic")
HELP_WITHOUT = f"""
import sys
for name in {(*HEAVY, "rich.progress", "rich.live")!r}:
    sys.modules[name] = None
from efficientquant_controller.cli import main
main()
"""


def run_help(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HELP_WITHOUT, *arguments, "--help"], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_needs_nothing_heavy(verb):
    """The help of the command and of every verb needs neither torch nor grpc nor a database."""
    shown = run_help(*([verb] if verb else []))

    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Usage:" in shown.stdout


def test_help_is_instant():
    """Help takes less than half a second of processor time."""
    run_help()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)

    run_help()

    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_each_summary_is_a_whole_sentence(command):
    """The help shows each verb's first sentence in full."""
    lines = command("--help").out.partition("Commands:")[2].partition("Exit codes:")[0].splitlines()

    assert [line for line in lines if line.strip() and not (line.endswith(".") and not line.endswith(".."))] == []


def test_help_names_verbs_and_exit_codes(command):
    """The help lists every verb and what the exit codes mean."""
    shown = command("--help").out

    assert all(f"\n  {verb} " in shown for verb in VERBS)
    assert all(f"{code} " in shown.partition("Exit codes:")[2] for code in application.EXIT_CODES)


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_help(verb):
    """Every verb and each of its options has a help text."""
    import typer

    command = typer.main.get_command(application.app).commands[verb]

    assert command.help
    assert [parameter.name for parameter in command.params if not getattr(parameter, "help", None)] == []


def test_version(command):
    """--version prints name and version, whatever verb follows."""
    outcome = command("--version")

    assert (outcome.exit_code, outcome.out) == (0, "efficientquant 0.1.0\n")


def test_user_error_is_one_line(command):
    """A user's error is one line on stderr and exit code 2."""
    outcome = command("devices", "--controller", "nonsense")

    assert outcome.exit_code == 2
    assert outcome.err == ("error: 'nonsense' is not an address; give HOST:PORT, for example 127.0.0.1:50051\n")
    assert outcome.out == ""


@pytest.mark.usefixtures("control")
def test_bug_shows_its_traceback(command, monkeypatch):
    """Any other error shows its traceback and exits with code 70."""
    monkeypatch.setattr(devices, "_show", None)

    outcome = command("devices")

    assert outcome.exit_code == 70
    assert "Traceback" in outcome.err
    assert "this is a bug in EfficientQuant" in outcome.err


def test_controllers_bug_is_reported(command, control):
    """A failure inside the controller is reported as a bug, with the controller's message."""
    control.refusal = (grpc.StatusCode.INTERNAL, "the store is upside down")

    outcome = command("campaigns")

    assert outcome.exit_code == 70
    assert f"the controller at {control.address} failed (INTERNAL): the store is upside down" in outcome.err


@pytest.mark.parametrize(
    "status", ["INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "UNAVAILABLE"]
)
def test_controllers_refusal_is_the_sentence(command, control, status):
    """Every command prints a controller's refusal as its own sentence."""
    control.refusal = (grpc.StatusCode[status], "there is no campaign 'c9'; see 'efficientquant campaigns'")

    outcomes = [command(*words) for words in (["results"], ["cancel", "c9"], ["watch", "c9"], ["bench", "m"])]

    expected = "error: there is no campaign 'c9'; see 'efficientquant campaigns'\n"
    assert [(outcome.exit_code, outcome.out, outcome.err) for outcome in outcomes] == [(2, "", expected)] * 4


@pytest.mark.parametrize(
    "words",
    [["devices"], ["campaigns"], ["results"], ["cancel", "x"], ["watch"], ["bench", "m"], ["results", "--json"]],
)
def test_nobody_answers(command, words):
    """Without a controller, one line says so and how to start one."""
    with grpc_free_port() as port:
        outcome = command(*words, "--controller", f"127.0.0.1:{port}")

    assert outcome.exit_code == 2
    assert outcome.err == (
        f"error: no controller answers at 127.0.0.1:{port} (connection refused); start one with "
        f"'efficientquant serve --listen 127.0.0.1:{port}' or pass --controller\n"
    )


def grpc_free_port():
    """Yield a port that is bound but does not listen."""
    import contextlib
    import socket

    @contextlib.contextmanager
    def bound():
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            yield holder.getsockname()[1]

    return bound()


@pytest.mark.parametrize("address", ["192.0.2.123:50051", "nosuch.invalid:50051"])
def test_a_controller_elsewhere_is_not_started_here(address):
    """The advice to start a controller is not given for another machine's address."""
    sentence = str(ControllerUnreachableError(address, "no answer"))

    assert sentence == (
        f"no controller answers at {address} (no answer); look whether it runs there and its port can be reached from "
        "here, or pass another --controller"
    )


def test_unknown_name_is_refused(command):
    """An unknown host name is reported as unknown."""
    outcome = command("devices", "--controller", "nosuch.invalid:50051")

    assert outcome.exit_code == 2
    assert "no controller answers at nosuch.invalid:50051 (the name is unknown)" in outcome.err
