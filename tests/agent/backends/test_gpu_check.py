"""The script behind `make gpu-check`, where there is no GPU and where one is pretended."""

import importlib.util
import sys
from pathlib import Path

import pytest
from efficientquant_agent.backends import cudart
from efficientquant_agent.samplers import nvml

SCRIPT = Path(__file__).parent.parent.parent / "gpu" / "check.py"


@pytest.fixture
def check():
    spec = importlib.util.spec_from_file_location("gpu_check", str(SCRIPT))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu(check, monkeypatch, tmp_path, capsys):
    """Without a GPU it says so in one sentence, writes nothing and ends with 2."""

    def no_gpus():
        raise cudart.CudaError("cudaErrorNoDevice", 100, "no CUDA-capable device is detected")

    monkeypatch.setattr(cudart, "gpus", no_gpus)

    assert check.main(tmp_path / "reports") == 2
    assert capsys.readouterr().err.startswith("gpu-check needs an NVIDIA GPU: cudaErrorNoDevice")
    assert not (tmp_path / "reports").exists()


@pytest.fixture
def reported(check, cuda, monkeypatch, tmp_path):  # noqa: ARG001
    """Run the checks on a pretended GPU with nothing installed but CUDA; return exit code and report."""

    def run(*checks):
        for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setattr(nvml, "open_gpu", lambda: None)
        if checks:
            monkeypatch.setattr(check, "CHECKS", checks)
        code = check.main(tmp_path)
        (path,) = tmp_path.glob("????-??-??-nvidia-geforce-rtx-3080.md")
        return code, path.read_text(encoding="utf-8")

    return run


def test_with_a_gpu(reported):
    """What is there is checked, what is not there is a row, and the report is named for day and GPU."""
    code, report = reported()

    assert code == 0
    assert "SM 86, driver" in report
    assert "| CUDA runtime: mapped by a CUDA graph | ok | the same bytes |" in report
    assert "| NVML | absent |" in report
    assert "| TensorRT | absent | TensorRT is not installed |" in report
    assert "| ONNX Runtime CUDA | absent | onnxruntime without CUDAExecutionProvider |" in report


def test_a_failure_is_a_row(reported):
    """A check that raises is a row with its error, the others go on, and the exit code is 1."""

    def broken():
        yield "first", 1
        raise ValueError("a | b\nc")

    code, report = reported(("broken", broken), ("fine", lambda: [("", 2)]))

    assert code == 1
    assert "| broken: first | ok | 1 |\n| broken | FAILED | ValueError: a \\| b c |\n| fine | ok | 2 |" in report


@pytest.mark.parametrize("release", ["10.3.0", "rtx-1.7.1"])
def test_tensorrt_in_every_mode(check, install, monkeypatch, tmp_path, release):
    """With a stub of TensorRT the whole of its check runs, in all its modes."""
    backend = install(release)
    (tmp_path / "model.onnx").write_text("{}")
    monkeypatch.setattr(check, "MODEL", tmp_path / "model.onnx")
    monkeypatch.setattr(check, "compared", lambda _model, _limit: "not compared")
    monkeypatch.setattr(check, "timed", lambda _model: "not timed")

    rows = list(check.run("TensorRT", lambda: check.check_tensorrt(backend)))

    modes = 12 if backend.name == "trt-rtx" else 24
    assert [row for row in rows if row[1] != "ok"] == []
    assert sum("graph on" in row[0] or "graph off" in row[0] for row in rows) == modes
    assert rows[-1][0] == "TensorRT: half a plan is refused"


def test_a_mode_that_fails_is_a_row(check, install, cuda, monkeypatch, tmp_path):
    """A GPU that cannot map memory fails in those modes alone."""
    cuda.attributes[19] = 0
    backend = install("10.3.0")
    (tmp_path / "model.onnx").write_text("{}")
    monkeypatch.setattr(check, "MODEL", tmp_path / "model.onnx")
    monkeypatch.setattr(check, "compared", lambda _model, _limit: "not compared")
    monkeypatch.setattr(check, "timed", lambda _model: "not timed")

    rows = list(check.run("TensorRT", lambda: check.check_tensorrt(backend)))

    assert {"mapped" in what for what, outcome, _ in rows if outcome == "FAILED"} == {True}
    assert sum(outcome == "FAILED" for _, outcome, _ in rows) == 8
