"""Every command of README.md, run as a newcomer types it.

Only three things differ from a person's machine: the controller listens on a free port instead of 50051, the tier
`smoke` is short, and the hub's files of the pretrained models are in a local cache with random weights.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import documents
import numpy as np
import pytest
import timm
from fleet import FIXTURES, Process
from PIL import Image
from safetensors.torch import save_file

PRINTED_ADDRESS = "127.0.0.1:50051"
# Commands that CI runs, see .ci/run.
RUN_BY_CI = ("make demo", "make test")
WNIDS = ("n01440764", "n01443537")


class Newcomer:
    """A person with a shell in a new folder, and the product's commands on PATH."""

    def __init__(self, folder: Path, hub: Path) -> None:
        self.folder = folder
        self._address = PRINTED_ADDRESS
        self._started: list[Process] = []
        scripts = str(Path(sys.executable).parent)
        self.environment = {
            **os.environ,
            "PATH": f"{scripts}:{os.environ['PATH']}",
            "PYTHONPATH": f"{FIXTURES / 'short_tiers'}:{os.environ.get('PYTHONPATH', '')}",
            "XDG_STATE_HOME": str(folder / "state"),
            "HF_HOME": str(hub),
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, line: str, *expected_codes: int) -> str:
        """Run a printed line and return both of its outputs."""
        done = subprocess.run(
            ["bash", "-c", self._here(line)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode in (expected_codes or (0,)), f"{line}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    def start(self, line: str, ready: str) -> Process:
        """Start a line that keeps running, and wait for its ready line."""
        program = ["bash", "-c", f"cd '{self.folder}'; exec {self._here(line)}"]
        process = Process(program, self.folder / f"{len(self._started)}.log", **self.environment)
        self._started.append(process)
        answer = process.wait_for(ready)
        if "listening on" in answer:
            self._address = answer.rsplit(" ", 1)[1]
            self.environment["EFFICIENTQUANT_CONTROLLER"] = self._address
        return process

    def close(self) -> None:
        """Kill the started processes."""
        for process in self._started:
            process.kill()

    def _here(self, line: str) -> str:
        free = "127.0.0.1:0" if self._address == PRINTED_ADDRESS else self._address
        return line.replace(PRINTED_ADDRESS, free)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a cache of the hub with random weights for the README's models."""
    folder = tmp_path_factory.mktemp("hub")
    for name in ("mobilevit_xxs", "mobilevitv2_050"):
        model = timm.create_model(name)
        place = folder / "hub" / f"models--{model.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
        tag = model.pretrained_cfg["tag"]
        place = place.with_name(place.name if place.name.endswith(tag) else f"{place.name}{name}.{tag}")
        (place / "refs").mkdir(parents=True)
        (place / "refs/main").write_text("0" * 40)
        (place / "snapshots" / ("0" * 40)).mkdir(parents=True)
        save_file(model.state_dict(), place / "snapshots" / ("0" * 40) / "model.safetensors")
    return folder


@pytest.fixture
def newcomer(tmp_path: Path, hub: Path) -> Iterator[Newcomer]:
    """Return a newcomer whose processes are killed after the test."""
    newcomer = Newcomer(tmp_path, hub)
    yield newcomer
    newcomer.close()


def printed(start: str) -> str:
    """Return the only line of README.md that begins with `start`."""
    lines = [line.text for line in documents.command_lines("README.md") if line.text.startswith(start)]
    assert len(lines) == 1, f"{start}: {lines}"
    return lines[0]


def test_the_walk_on_your_own_devices(newcomer: Newcomer) -> None:
    """Controller, doctor, agent, benchmark, results, comparison and SQL work as printed, in the page's order."""
    newcomer.start(printed("efficientquant serve"), "ready: ")
    assert "ort-cpu" in newcomer.run(printed("efficientquant-agent doctor"))
    newcomer.start(printed("efficientquant-agent --controller"), "ready: ")

    assert "bench-1" in newcomer.run(printed("efficientquant devices"))
    assert "times better than fp32" in newcomer.run(printed("efficientquant bench"))
    assert "mobilevitv2_050" in newcomer.run(printed("efficientquant results"))
    assert "median latency" in newcomer.run(printed("efficientquant compare"))
    assert "mobilevit_xxs|efficientquant" in newcomer.run(printed("sqlite3 results.db"))


def test_quantizing_without_a_fleet(newcomer: Newcomer) -> None:
    """Every line of "Quantize without a fleet" works as printed, except table1, which has its own test."""
    make_imagenet(newcomer.folder / "IMAGENET")

    newcomer.run(printed("efficientquant inspect"))
    newcomer.run(printed("efficientquant quantize"))
    assert "agx-xavier" in newcomer.run(printed("efficientquant check"), 0, 1)
    newcomer.run(printed("efficientquant evaluate"))
    newcomer.run(printed("efficientquant plot"))
    newcomer.run(printed("efficientquant audit"))

    assert [path.suffix for path in sorted((newcomer.folder / "artifacts").iterdir())] == [".json", ".onnx"]
    assert {path.suffix for path in (newcomer.folder / "pictures").iterdir()} == {".png", ".svg"}


def test_table1_goes_on_where_it_was_stopped(newcomer: Newcomer) -> None:
    """The paper's table starts as printed, and after a stop it keeps its first cell and says so."""
    make_imagenet(newcomer.folder / "IMAGENET")
    (newcomer.folder / "IMAGENET/val").rename(newcomer.folder / "IMAGENET_VAL")
    (newcomer.folder / "IMAGENET/train").rename(newcomer.folder / "train")

    table = newcomer.start(printed("efficientquant table1"), "2/")
    code = table.kill(signal.SIGINT)

    assert (code, len(list((newcomer.folder / "table1").iterdir()))) == (130, 1)
    assert "1 of" in table.log.read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/quantization.md"])
def test_the_library_as_printed(newcomer: Newcomer, page: str) -> None:
    """The Python program that a page prints runs, with the checkpoint and ImageNet that it uses.

    The page's file of a recipe is run by tests/efficientquant/test_adding_a_recipe.py.
    """
    make_imagenet(newcomer.folder / "imagenet")
    save_file(timm.create_model("mobilevit_xxs").state_dict(), newcomer.folder / "weights.safetensors")
    programs = [block.text for block in documents.blocks(page) if block.language == "python"]
    [program] = [text for text in programs if "\nregister(" not in text]
    (newcomer.folder / "program.py").write_text(program)

    assert "conv weights" in newcomer.run("python program.py")


def test_no_printed_line_is_left_out() -> None:
    """Every command of README.md is run by a test here or by CI."""
    source = Path(__file__).read_text()
    tried = [*re.findall(r'printed\("([^"]+)"\)', source), *RUN_BY_CI, "export PATH"]
    lines = [line.text for line in documents.command_lines("README.md")]
    assert [line for line in lines if not line.startswith(tuple(tried))] == []


def make_imagenet(folder: Path) -> None:
    """Write pictures of two ImageNet classes into train/ and val/, like ImageNet's archives."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for wnid in WNIDS:
            (folder / split / wnid).mkdir(parents=True)
            for index in range(4):
                pixels = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
                picture = Image.fromarray(pixels).resize((320, 240))
                picture.save(folder / split / wnid / f"{index}.JPEG")
