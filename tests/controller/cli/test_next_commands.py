"""Printed commands run as printed."""

import shlex
from pathlib import Path

import pytest
from efficientquant_controller.cli.convert import campaign_from_wire
from efficientquant_controller.cli.fleet import bench
from efficientquant_controller.cli.fleet.watching import next_step
from efficientquant_controller.cli.next_commands import campaign_words, command_line

WORDS = """bench m n --recipes fp32,int8:scope=conv+linear --tier smoke --devices a,b --weights {folder}/my\\ net.pth
    --data {folder}/images.npz --repeats 5 --paper --backend trt --lock-clocks --power-mode "MAXN 10W" --cuda-graph
    --sync block --buffers mapped --layers --idle 0.5 --start-below 45 --seed 7 --threads 2
    --label 'driver 535'"""


@pytest.fixture
def asked(monkeypatch):
    """Return a list that collects what bench would submit: (request, weights, data)."""
    requests = []
    monkeypatch.setattr(bench, "submit_and_watch", lambda _, *what, **__: requests.append(what))
    return requests


def test_the_hint_asks_for_the_same_again(command, asked, tmp_path, messages):
    """The suggested command repeats every option that was passed to bench."""
    (tmp_path / "my net.pth").write_bytes(b"x")
    (tmp_path / "images.npz").write_bytes(b"x")
    command(*shlex.split(WORDS.format(folder=tmp_path)))
    again = bench.bench_words(*asked[0], "smoke")
    campaign = campaign_from_wire(messages.campaign("succeeded", tier="smoke"))

    line = next_step(campaign, "nano-9:50051", again).partition("next: numbers that hold longer, ")[2]
    command(*shlex.split(line)[1:])

    assert asked[1] == asked[0]
    assert line.endswith(" --controller nano-9:50051")
    assert f"'{tmp_path}/my net.pth'" in line


@pytest.mark.parametrize("words", [["m"], ["m", "--no-twin", "--recipes", "int8"], ["m", "--weights", "random"]])
def test_defaults_are_left_out_of_the_hint(command, asked, words):
    """The suggested command repeats only the options that were passed."""
    command("bench", *words)

    again = bench.bench_words(*asked[0], "standard")

    assert not {"--devices", "--repeats", "--seed", "--data", "--idle", "--start-below"} & set(again)
    command(*again)
    assert asked[1] == (asked[0][0].__class__(**{**vars(asked[0][0]), "tier": "standard"}), *asked[0][1:])


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_a_watched_campaign_keeps_devices_and_weights(messages, weights):
    """A command for a watched campaign has its devices and weights."""
    message = messages.campaign("succeeded", devices=["bench 1", "bench-2"], weights=weights)

    words = campaign_words(campaign_from_wire(message), "standard")

    assert words[words.index("--devices") + 1] == "bench 1,bench-2"
    assert ("--weights" in words) == (weights == "random")


def test_a_cancelled_campaign_can_be_measured_after_all(messages):
    """After a cancellation, the same campaign is suggested with its repeats."""
    campaign = campaign_from_wire(messages.campaign("cancelled", repeats=2))

    assert next_step(campaign, "nano-9:1") == (
        "next: to measure it after all, efficientquant bench mobilevit_xxs --recipes fp32,efficientquant --tier smoke "
        "--devices bench-1 --repeats 2 --weights random --controller nano-9:1"
    )


def test_a_checkpoint_that_is_not_at_hand_gives_no_command(messages, tmp_path, monkeypatch):
    """A command is suggested only if its checkpoint file exists here."""
    monkeypatch.chdir(tmp_path)
    campaign = campaign_from_wire(messages.campaign("succeeded", weights="checkpoint:mine.pth"))

    assert next_step(campaign, "HOST:1") == (
        "next: numbers that hold longer, by the same bench command with --tier standard"
    )
    Path("mine.pth").touch()
    assert "--weights mine.pth" in next_step(campaign, "HOST:1")


def test_the_usual_controller_needs_no_option(monkeypatch):
    """--controller is printed only if the command would otherwise use another controller."""
    monkeypatch.setenv("EFFICIENTQUANT_CONTROLLER", "nano-9:1")

    assert command_line(["watch", "c1"], "nano-9:1") == "efficientquant watch c1"
    assert command_line(["watch", "c1"], "[::1]:1") == "efficientquant watch c1 --controller '[::1]:1'"


@pytest.mark.parametrize("words", [["campaigns"], ["results"]])
def test_an_empty_answer_says_what_to_type(command, control, monkeypatch, words):
    """An empty list suggests a complete first command for the same controller."""
    monkeypatch.delenv("EFFICIENTQUANT_CONTROLLER")

    out = command(*words, "--controller", control.address).out

    first = "efficientquant bench mobilevit_xxs --recipes fp32,efficientquant"
    assert out.endswith(f": {first} --controller {control.address}\n")
