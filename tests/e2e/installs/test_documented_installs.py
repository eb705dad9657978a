"""Every install line of the documents, resolved with its device's wheels."""

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from install_lines import PAGES, ROOT, InstallLine, install_lines, read_line

Wheelhouse = Callable[[str], Path]
LINES = [line for page in PAGES for line in install_lines(page)]
# The wheel tags of the boards' systems, glibc 2.27 and 2.31.
NANO = ("36", "cp36m", ["2014", "_2_17"])
XAVIER = ("38", "cp38", ["2014", "_2_17", "_2_27", "_2_28"])
PYTHONS = {"nano": NANO, "xavier": XAVIER}
# The pip that the boards' python3-venv puts into an environment.
FIRST_PIPS = {"nano": "9.0.1", "xavier": "20.0.2"}
# Neither the environment nor a configuration file of this machine adds a source of wheels.
CLEAN = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INPUT": "1"}


def lines_for(*places: str) -> list[object]:
    return [pytest.param(line, id=f"{line.place}: {line.line}") for line in LINES if line.place in places]


def run(command: list[object], environment: Mapping[str, str] = os.environ) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip_of_a_board(python: str, pip: Path, *arguments: object) -> None:
    """Run a pip from its wheel, without this machine's configuration."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    run([python, pip / "pip", *arguments], {**environment, **CLEAN})


@pytest.fixture(scope="session")
def first_pips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Download the wheel of each board's own pip."""
    folder = tmp_path_factory.mktemp("pips")
    for version in FIRST_PIPS.values():
        run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, f"pip=={version}"])
    return {board: next(folder.glob(f"pip-{version}-*.whl")) for board, version in FIRST_PIPS.items()}


@pytest.fixture(scope="session")
def nvidia_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write empty wheels for the two (2 GB) that tensorrt fetches from NVIDIA's own server."""
    folder = tmp_path_factory.mktemp("nvidia")
    report = json.loads(dry_run(["--no-deps", "tensorrt"]))
    [requirement] = report["install"][0]["metadata"]["requires_dist"]
    package, version = re.fullmatch(r"(tensorrt_cu\d+)==([\d.]+)", requirement).groups()
    for name in (f"{package}_libs", f"{package}_bindings"):
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            info = f"{name}-{version}.dist-info"
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    return folder


def dry_run(arguments: list[object]) -> str:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    return run([*command, "--report", "-", *arguments])


def pins(version: str) -> dict[str, str]:
    text = (ROOT / f"tests/constraints-py{version}.txt").read_text()
    return dict(re.findall(r"^(?!pytest)([a-z]+)==(\S+)$", text, re.MULTILINE))


def test_every_install_line_is_tested() -> None:
    """Each place has install lines, and a test here can try every printed line."""
    assert [line for line in LINES if line.place == "unknown"] == []
    assert {line.place for line in LINES} == {"nano", "xavier", "pc", "computer", "system"}


@pytest.mark.parametrize(
    "line",
    [
        "pip3 install onnxruntime",
        "sudo /opt/efficientquant/bin/pip install 'efficientquant-agent[ort]'",
        "~/efficientquant/bin/pip install --no-index --find-links wheels pip",
        "sudo apt update && sudo apt install -y libfoo",
    ],
)
def test_other_install_lines_are_noticed(line: str) -> None:
    """A line of another form counts as unknown."""
    assert [install.place for install in read_line("page", line)] == ["unknown"]


@pytest.mark.parametrize("line", lines_for("computer"))
def test_a_printed_wheelhouse_can_be_made(line: InstallLine, wheelhouse: Wheelhouse) -> None:
    """The script knows the target and collects the versions that the tests use."""
    names = [path.name for path in wheelhouse(line.arguments[0]).iterdir()]

    version = {"nano": "3.6", "xavier": "3.8"}[line.arguments[0]]
    assert [
        pin for pin in pins(version).items() if not any(name.startswith("{}-{}-".format(*pin)) for name in names)
    ] == []


def test_a_house_from_before_is_brought_up_to_date(wheelhouse: Wheelhouse) -> None:
    """Wheels of an older script are removed, so that each package is in the folder once."""
    packages = [path.name.split("-")[0] for path in wheelhouse("nano").iterdir()]

    assert sorted(packages) == sorted(set(packages))


@pytest.mark.parametrize(
    "line", [line for line in lines_for("nano", "xavier") if "--upgrade" in line.values[0].arguments]
)
def test_the_boards_own_pip_can_upgrade_itself(
    line: InstallLine,
    wheelhouse: Wheelhouse,
    first_pips: dict[str, Path],
    board_pythons: dict[str, str],
    tmp_path: Path,
) -> None:
    """The first line works with the pip of a fresh environment, which knows few tags."""
    house = wheelhouse(line.place)
    requirements = [word for word in line.arguments if word != "--upgrade"]
    options = ["--no-index", "--find-links", house, "--no-deps", "--dest", tmp_path]

    pip_of_a_board(board_pythons[line.place], first_pips[line.place], "download", *options, *requirements)

    assert [path.name for path in tmp_path.iterdir()] == [path.name for path in house.glob("pip-*")]


@pytest.mark.parametrize(
    "line", [line for line in lines_for("nano", "xavier") if "--upgrade" not in line.values[0].arguments]
)
def test_a_board_resolves_its_wheels(
    line: InstallLine, wheelhouse: Wheelhouse, board_pythons: dict[str, str], tmp_path: Path
) -> None:
    """With the pip of the house and no index, every requirement of a board's line is met by the house."""
    house = wheelhouse(line.place)
    python, abi, tags = PYTHONS[line.place]
    platforms = [word for tag in tags for word in ("--platform", f"manylinux{tag}_aarch64")]
    options = ["--only-binary", ":all:", "--implementation", "cp", "--abi", abi, "--abi", "none"]
    options += ["--python-version", python, *platforms, "--platform", "any", "--dest", tmp_path]

    pip = next(house.glob("pip-*.whl"))
    pip_of_a_board(
        board_pythons[line.place], pip, "download", "--no-index", "--find-links", house, *options, *line.arguments
    )

    unused = {path.name for path in house.iterdir()} - {path.name for path in tmp_path.iterdir()}
    assert unused == {pip.name}


@pytest.mark.parametrize("line", lines_for("pc"))
def test_a_pc_resolves_its_line(line: InstallLine, wheelhouse: Wheelhouse, nvidia_wheels: Path) -> None:
    """From a checkout and with the index, the extras' requirements exist for the current Python."""
    # The wheels in the house were built from the line's folders, and are for every Python.
    wheels = {name: next(wheelhouse("nano").glob(f"efficientquant_{name}-*.whl")) for name in ("protos", "agent")}
    folders = [re.fullmatch(r"\./(\w+)(.*)", word).groups() for word in line.arguments]

    report = json.loads(
        dry_run(["--find-links", nvidia_wheels, *(f"{wheels[name]}{extras}" for name, extras in folders)])
    )

    resolved = {package["metadata"]["name"].replace("_", "-").lower() for package in report["install"]}
    runtime = "tensorrt-rtx-cu13-libs" if "tensorrt-rtx" in line.line else "tensorrt"
    assert resolved >= {"efficientquant-agent", "grpcio", "numpy", "onnxruntime", "nvidia-ml-py", runtime}
