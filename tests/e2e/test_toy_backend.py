"""A backend is one file on the agent and one row on the controller, and nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from additions import Copies
from fleet import Fleet

TINY = "test_efficientnet"
FOLDER = "agent/efficientquant_agent/backends/"
VARIANTS = "controller/efficientquant_controller/fleet/variants.py"
TOY = '''"""A runtime that computes as ONNX Runtime does, from files of its own form."""

from efficientquant_agent.backends.base import Form
from efficientquant_agent.backends.ort import OrtCpu


class Toy(OrtCpu):
    """Preferred to all others."""

    name = "toy"
    preference = 1
    forms = (Form((1, 0), "toy", 13),)


BACKENDS = (Toy,)
'''


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    """Copies of the sources, with the toy in the agent's."""
    copies = Copies(tmp_path / "sources")
    copies.add_file(FOLDER + "toy.py", TOY)
    return copies


@pytest.fixture
def fleet(tmp_path: Path, copies: Copies) -> Iterator[Fleet]:
    """A fleet whose processes run the copies; nothing is started yet."""
    fleet = Fleet(tmp_path, copies.environment)
    yield fleet
    fleet.close()


def test_a_backend_is_one_file_and_one_row(fleet: Fleet, copies: Copies) -> None:
    """A campaign runs on a backend that one file and one row have added, and its results name it."""
    copies.insert_after(VARIANTS, "FORMS = (", '    Form("toy", 13, "onnxruntime-1.10"),')
    fleet.start_controller()
    fleet.connect_agent("desk")

    row = fleet.bench_once(TINY)

    assert (row["state"], row["backend"], row["target"]) == ("succeeded", "toy", "onnxruntime-1.10")
    assert copies.added == {FOLDER + "toy.py": 1, VARIANTS: 1}


def test_a_controller_without_the_row_refuses_it(fleet: Fleet, copies: Copies) -> None:
    """Such an agent is welcome; a campaign on that backend is refused, and one on another of its backends is not.

    A module that helps backends and is none changes nothing.
    """
    copies.add_file(FOLDER + "toy_building.py", "LIMIT = 3\n")
    fleet.start_controller()
    fleet.connect_agent("desk")

    [device] = fleet.json("devices")
    refused = fleet.run("bench", TINY, "--recipes", "fp32", "--weights", "random", "--tier", "demo")

    assert [one["name"] for one in device["snapshot"]["backends"]] == ["toy", "ort-cpu"]
    assert refused.returncode == 2
    assert "device 'desk' would run 'toy', which builds from the form 'toy' (opset 13, no" in refused.stderr
    assert "name another of its backends with --backend (it has: toy, ort-cpu)" in refused.stderr
    assert fleet.submit(TINY, backend="ort-cpu")
