"""A user's mistakes, each refused with one sentence and an exit code.

The exit code is 2 (or the agent's own). A refused command leaves nothing half-done.
"""

import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from efficientquant_controller.store.sql import open_store
from fleet import Fleet

TINY = "test_efficientnet"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Start one controller with one agent for all refusals.

    Each refusal checks that it left no campaign.
    """
    fleet = Fleet(tmp_path_factory.mktemp("refusals"))
    fleet.start_controller()
    fleet.connect_agent("desk")
    yield fleet
    fleet.close()


def refused(fleet: Fleet, *arguments: str) -> str:
    """Run a command that must be refused without a campaign, and return its sentence."""
    done = fleet.run(*arguments)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith(("uploaded ", "waiting for "))]
    assert len(lines) == 1, done.stderr
    assert fleet.query("select count(*) from campaigns") == [(0,)]
    return lines[0]


def test_an_unknown_model_is_refused_with_near_matches(desk: Fleet) -> None:
    """The sentence lists models with names similar to the misspelled one."""
    sentence = refused(desk, "bench", "mobilevit_xxx", "--weights", "random")
    assert "mobilevit_xxx" in sentence
    assert "mobilevit_xxs" in sentence


def test_an_unknown_recipe_is_refused_with_those_there_are(desk: Fleet) -> None:
    """The sentence lists the recipes."""
    sentence = refused(desk, "bench", TINY, "--recipes", "fp32,int3", "--weights", "random")
    assert "int3" in sentence
    assert "efficientquant" in sentence


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("efficientquant:weight_bits=12", ("12 bits", "2 to 8")),
        ("efficientquant:bits=4", ("'bits'", "weight_bits")),
        ("efficientquant:scope=everything", ("everything", "conv+linear")),
        ("fp32:weight_bits=4", ("weight_bits", "no options")),
    ],
)
def test_an_option_that_a_recipe_lacks_is_refused(desk: Fleet, recipe: str, words: tuple[str, ...]) -> None:
    """The sentence names the option and the possible values or options."""
    sentence = refused(desk, "bench", TINY, "--recipes", f"fp32,{recipe}", "--weights", "random")
    assert all(word in sentence for word in words), sentence


def test_a_checkpoint_of_another_shape_is_refused(desk: Fleet, tmp_path: Path) -> None:
    """The sentence names the user's file and the tensor that does not fit."""
    checkpoint = tmp_path / "mine.pth"
    torch.save({"conv_stem.weight": torch.zeros(3, 3, 1, 1)}, checkpoint)
    sentence = refused(desk, "bench", TINY, "--weights", str(checkpoint))
    assert "mine.pth" in sentence
    assert "artifacts" not in sentence  # no path of the controller's copy


def test_pretrained_weights_out_of_reach_are_refused_with_the_way_out(desk: Fleet) -> None:
    """Without access to the hub, the sentence says which option to pass."""
    sentence = refused(desk, "bench", "mobilevit_xxs")
    assert "--weights" in sentence


def test_without_a_device_nothing_starts(fleet: Fleet) -> None:
    """The sentence says how to start an agent."""
    assert "efficientquant-agent" in refused(fleet, "bench", TINY, "--weights", "random")


def test_an_unknown_device_is_refused_with_those_connected(desk: Fleet) -> None:
    """The sentence lists the connected devices."""
    sentence = refused(desk, "bench", TINY, "--weights", "random", "--devices", "nano-3")
    assert "nano-3" in sentence
    assert "desk" in sentence


def test_an_unreachable_controller_is_one_sentence(fleet: Fleet) -> None:
    """The sentence names the address and how to start a controller."""
    assert fleet.controller is not None
    fleet.controller.kill()
    done = fleet.run("devices")
    assert done.returncode == 2
    assert fleet.address in done.stderr
    assert "efficientquant serve" in done.stderr


def serve_refused(*options: str) -> str:
    """Start a controller that must refuse, and return its last line."""
    import subprocess

    command = [sys.executable, "-m", "efficientquant_controller.cli", "serve", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_a_port_in_use_is_refused(desk: Fleet, tmp_path: Path) -> None:
    """A second controller cannot listen on the first controller's port."""
    sentence = serve_refused("--db", str(tmp_path / "other.db"), "--listen", desk.address)
    assert desk.address in sentence


def test_two_controllers_on_one_database_are_refused(desk: Fleet) -> None:
    """Two controllers cannot use one database, because they would lease the same runs."""
    incoming = desk.db.with_name("results-artifacts") / "incoming" / "half.onnx"
    incoming.write_bytes(b"half")
    listen = ("--db", str(desk.db), "--listen", "127.0.0.1:0")
    assert desk.controller is not None
    for options in ((), ("--artifacts", str(desk.folder / "other"))):
        refusal = serve_refused(*listen, *options)
        assert f"another controller (process {desk.controller.popen.pid}" in refusal
    assert incoming.exists()  # the refused controllers cleaned nothing up
    assert not (desk.folder / "other").exists()


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """A database of a newer version is refused and stays unchanged."""
    path = tmp_path / "future.db"
    open_store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("update alembic_version set version_num = '9999'")
    connection.close()
    before = path.read_bytes()
    assert "schema 9999) and this is" in serve_refused("--db", str(path), "--listen", "127.0.0.1:0")
    assert path.read_bytes() == before


@pytest.mark.parametrize("db", ["missing-folder/results.db", "."])
def test_a_database_that_cannot_be_written_is_refused(tmp_path: Path, db: str) -> None:
    """The sentence names the path."""
    path = tmp_path / db
    assert str(path) in serve_refused("--db", str(path), "--listen", "127.0.0.1:0")


def test_listening_to_the_world_needs_consent(tmp_path: Path) -> None:
    """Listening beyond loopback needs --insecure, which the sentence names, because the wire is not encrypted."""
    sentence = serve_refused("--db", str(tmp_path / "results.db"), "--listen", "0.0.0.0:0")
    assert "--insecure" in sentence
    assert not (tmp_path / "results.db").exists()


def test_an_agent_with_a_newer_protocol_learns_what_to_upgrade(desk: Fleet) -> None:
    """An agent with a newer protocol exits with code 3, because a retry cannot help."""
    newer = "import efficientquant_protos; efficientquant_protos.PROTOCOL_VERSION = 99"
    agent = desk.start_agent("future", code=newer)
    assert agent.popen.wait(30) == 3
    assert "upgrade the controller" in agent.log.read_text()


def test_a_second_agent_of_the_same_name_is_refused(desk: Fleet) -> None:
    """A second agent with the name of a connected device exits with code 2 and a sentence."""
    second = desk.start_agent("desk", state="other-board")
    assert second.popen.wait(30) == 2
    assert "desk" in second.log.read_text()
    assert len(desk.json("devices")) == 1
