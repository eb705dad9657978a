"""Fixtures for made-up wheels and the scripts of deploy/airgap."""

import functools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from airgap_wheels import KIT, LIBRARY, MIB, TAG, call_script, noise, pack_wheels, part, write_wheel


@pytest.fixture
def make_wheel(tmp_path):
    """Write a wheel into the test's folder `house`."""
    (tmp_path / "house").mkdir()
    return functools.partial(write_wheel, tmp_path / "house")


@pytest.fixture
def call(tmp_path):
    """Run a script in the test's folder, like `call_script`."""
    return functools.partial(call_script, tmp_path)


@pytest.fixture
def pack(tmp_path):
    """Pack wheels of the test's folder `house`, without an index."""
    return functools.partial(pack_wheels, tmp_path)


@pytest.fixture(scope="session")
def kit(tmp_path_factory):
    """Pack an onnxruntime-gpu of five parts, and return the parts' folder."""
    folder = tmp_path_factory.mktemp("kit")
    (folder / "house").mkdir()
    members = {"onnxruntime/__init__.py": b"__version__ = '1.31.1'\n", LIBRARY: noise(9 * MIB // 2)}
    write_wheel(folder / "house", f"onnxruntime_gpu-1.31.1-{TAG}-{TAG}-manylinux_2_28_x86_64", members)
    code, out, err = pack_wheels(folder, "onnxruntime-gpu")
    assert (code, err, "5 parts" in out) == (0, "", True)
    return folder / "out"


@pytest.fixture
def arrive(tmp_path, kit):
    """Copy the list and some of the parts into the folder `arrived`."""
    (tmp_path / "arrived").mkdir()

    def take(*numbers, source=kit):
        for path in (tmp_path / "arrived").iterdir():
            path.unlink()
        for path in [source / f"{KIT}.parts.sha256", *(part(source, number) for number in numbers)]:
            (tmp_path / "arrived" / path.name).write_bytes(path.read_bytes())
        return tmp_path / "arrived"

    return take


@pytest.fixture
def unpack(call):
    """Run unpack.sh on the folder `arrived`."""
    return functools.partial(call, "unpack.sh", "arrived", "store", "target")
