"""The tests of the choice of OpenBLAS kernels on ARM."""

import os
import subprocess
import sys

import pytest
from efficientquant_agent import protocol
from efficientquant_agent.openblas import choose_core_type
from efficientquant_agent.protocol import BuildOptions
from efficientquant_agent.records import Measurement

# Python loads it at every start. It makes the machine look like a Jetson.
JETSON = """
import os
_uname = os.uname()
os.uname = lambda: type(_uname)((_uname[0], _uname[1], _uname[2], _uname[3], "aarch64"))
"""
# Notes what numpy's OpenBLAS would read, then fails to import as a missing numpy does.
NUMPY = """
import os
with open(os.environ["NOTES"], "a") as notes:
    notes.write(os.environ.get("OPENBLAS_CORETYPE", "unset") + "\\n")
raise ImportError("a double of numpy")
"""
MEASUREMENT = Measurement("smoke", *[1] * 9)
SPECS = {
    "child.measure": protocol.RunSpec(os.getpid(), ".", "ort-cpu", "nano", "", "", MEASUREMENT),
    "child.build": protocol.BuildSpec(os.getpid(), ".", "trt", "nano", "", BuildOptions()),
}


@pytest.mark.parametrize("module", ["__main__", "backends", "child.measure", "child.build"])
@pytest.mark.parametrize(("selected", "expected"), [(None, "ARMV8"), ("", "ARMV8"), ("CORTEXA57", "CORTEXA57")])
def test_every_process_chooses_before_numpy(module, selected, expected, tmp_path):
    """Each process that loads numpy has a core type by then, the user's or the generic one."""
    for name, text in {"sitecustomize": JETSON, "numpy": NUMPY, "onnxruntime": "import numpy"}.items():
        (tmp_path / (name + ".py")).write_text(text)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = dict(os.environ, PYTHONPATH=path, NOTES=str(tmp_path / "notes"), HOME=str(tmp_path))
    environment.pop("OPENBLAS_CORETYPE", None)
    if selected is not None:
        environment["OPENBLAS_CORETYPE"] = selected

    spec = SPECS.get(module, {})
    command = [sys.executable, "-m", "efficientquant_agent." + module, *(["doctor"] if module == "__main__" else [])]
    subprocess.run(command, input=protocol.encode(spec), env=environment, cwd=str(tmp_path))

    assert set((tmp_path / "notes").read_text().split()) == {expected}


def test_other_processors_are_left_alone():
    """On x86-64 no core type is set, because OpenBLAS knows that processor and rejects ARM's name."""
    environment = {}

    choose_core_type(environment, "x86_64")

    assert environment == {}
