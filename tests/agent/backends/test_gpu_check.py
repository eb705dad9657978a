"""The tests of `make gpu-check`'s checks, on fake GPUs and the CPU."""

import itertools
import json
import sys
import types

import fake_pycuda
import numpy as np
import pytest
from efficientquant_agent.backends.base import LoadError
from efficientquant_agent.backends.ort import OrtCpu, OrtCuda
from efficientquant_agent.backends.trt import TensorrtRtx
from efficientquant_agent.child.reference import Reference
from gpu_check import checks, cuda_runtime, engines, onnx_runtime, report, tiny_model, whole_run
from gpu_check.machine import Machine
from gpu_check.rows import ABSENT, FAILED, OK, UNSUPPORTED, Absent, Row, decode, encode, rows_of


def outcomes(rows):
    return {row.check: row.outcome for row in rows}


def test_cuda_on_a_pretended_gpu(cuda):
    """Memory, events and graphs are checked for both kinds of host memory, and everything is released."""
    rows = list(rows_of("CUDA", cuda_runtime.check))

    assert {row.outcome for row in rows if "round trip" not in row.check} == {OK}
    assert [row.check for row in rows if "graph" in row.check] == [
        "CUDA: pinned by a CUDA graph",
        "CUDA: mapped by a CUDA graph",
    ]
    assert not cuda.memory


def test_events_are_held_against_the_hosts_clock(cuda, monkeypatch):
    """Events that take a millisecond where the host measured microseconds are a failure."""
    host = types.SimpleNamespace(perf_counter=itertools.count(0.0, 1e-5).__next__)
    monkeypatch.setattr(cuda_runtime, "time", host)
    rows = list(rows_of("CUDA", cuda_runtime.check))

    (row,) = [row for row in rows if row.check == "CUDA: pinned round trip of 1 MiB"]
    assert row.outcome == FAILED
    assert "1000.0 µs by events" in row.seen
    assert cuda.calls


def test_memory_that_cannot_be_mapped_fails_alone(cuda):
    """A GPU that cannot map memory fails that check only."""
    cuda.failures["cudaHostGetDevicePointer"] = 2

    rows = outcomes(rows_of("CUDA", cuda_runtime.check))

    assert (rows["CUDA: mapped"], rows["CUDA: pinned by a CUDA graph"]) == (FAILED, OK)


def test_pycuda_on_a_pretended_gpu(cuda, monkeypatch):
    """The check compares pycuda with libcudart, and everything is released."""
    driver = fake_pycuda.install(monkeypatch, cuda)
    rows = {row.check: row for row in rows_of("pycuda", cuda_runtime.check_pycuda)}

    compared = rows["pycuda: median of 2000 round trips of 4 KiB"]
    assert [words.partition(" by ")[2] for words in compared.seen.split(", ")] == ["libcudart", "pycuda 2022.1"]
    assert (compared.outcome, "pycuda: round trip of 1 MiB" in rows) == (OK, True)
    assert (cuda.memory, driver.stack, driver.retained) == ({}, [], 0)


def test_without_pycuda(monkeypatch):
    """Without pycuda its check is absent, which is no failure."""
    monkeypatch.setitem(sys.modules, "pycuda", None)

    (row,) = rows_of("pycuda", cuda_runtime.check_pycuda)

    assert (row.outcome, row.seen) == (ABSENT, "pycuda is not installed")


def test_an_exception_is_a_row():
    """A check that raises keeps its earlier rows, and its error is the last row."""

    def broken():
        yield "first", 1
        yield "second", Absent("not here")
        raise ValueError("a | b\nc")

    rows = list(rows_of("broken", broken))

    assert [row.outcome for row in rows] == [OK, ABSENT, FAILED]
    assert rows[-1] == Row("broken", FAILED, "ValueError: a | b\nc")


def test_an_unsupported_gpu_is_no_failure(install, cuda):
    """TensorRT-RTX on an H100 is reported as unsupported and not as a failure."""
    cuda.attributes.update({75: 9, 76: 0})
    install("rtx-1.7.1")

    (row,) = rows_of("TensorRT-RTX", lambda: engines.check(TensorrtRtx))

    assert row.outcome == UNSUPPORTED
    assert "has no SM 9.0" in row.seen


def test_what_is_not_installed_is_absent(cuda, monkeypatch):  # noqa: ARG001
    """Each missing runtime or binding is a row, and each check runs to its end."""
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "pynvml"):
        monkeypatch.setitem(sys.modules, name, None)

    for name, check in checks.CHECKS.items():
        if name not in ("Packages", "CUDA runtime"):
            assert [row.outcome for row in rows_of(name, check.check)] == [ABSENT], name


def test_a_runtime_on_the_cpu():
    """ONNX Runtime's CPU provider gives the outputs that were checked in."""
    rows = list(rows_of("ONNX Runtime", lambda: onnx_runtime.check(OrtCpu)))

    assert [row.outcome for row in rows] == [OK, OK, OK]
    assert rows[1].seen.startswith("max abs difference 0")


def test_wrong_outputs_are_a_failure(monkeypatch):
    """Outputs beyond the limit fail with their difference."""
    monkeypatch.setitem(tiny_model.MAX_ABS, "fp32", -1.0)

    rows = list(rows_of("ONNX Runtime", lambda: onnx_runtime.check(OrtCpu)))

    assert (rows[-1].outcome, "max abs difference" in rows[-1].seen) == (FAILED, True)


@pytest.mark.parametrize(
    ("provider", "library", "kind"),
    [
        ("TensorrtExecutionProvider", "libnvinfer.so.10", Absent),
        ("TensorrtExecutionProvider", "libcublas.so.13", LoadError),
        ("CUDAExecutionProvider", "libcudnn.so.9", LoadError),
    ],
)
def test_the_library_that_a_provider_misses(monkeypatch, provider, library, kind):
    """A fallback names the missing library, and without TensorRT its provider is absent."""
    problem = "{}: cannot open shared object file: No such file or directory".format(library)
    monkeypatch.setattr(onnx_runtime, "loading_problem", lambda _folder, _provider: problem)

    error = onnx_runtime.explained(LoadError("it fell back"), provider, "/package")

    assert type(error) is kind
    assert problem in str(error)


def test_a_library_of_a_provider_that_does_not_load(tmp_path):
    """The loader's own sentence is reported, and nothing without such a library."""
    assert onnx_runtime.loading_problem(str(tmp_path), "CUDAExecutionProvider") == ""
    for name in ("shared", "cuda"):
        (tmp_path / "libonnxruntime_providers_{}.so".format(name)).write_text("no library")

    assert "libonnxruntime_providers_shared.so" in onnx_runtime.loading_problem(str(tmp_path), "CUDAExecutionProvider")


@pytest.fixture
def in_children(monkeypatch):
    """Let the child processes of a run import what this process imports."""
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
    monkeypatch.setattr(
        whole_run, "MEASUREMENT", whole_run.MEASUREMENT._replace(min_time_s=0.05, sampling_interval_s=0.02)
    )


def test_a_whole_run_on_the_cpu(in_children):  # noqa: ARG001
    """Runner, child and result work without a controller: latencies, outputs, series and the wire's form."""
    rows = {row.check: row for row in rows_of("run", lambda: whole_run.check(OrtCpu))}

    assert {row.outcome for row in rows.values()} == {OK}
    assert "CPUExecutionProvider" in rows["run: provider"].seen
    assert rows["run: outputs"].seen.startswith("max abs difference 0")
    assert "child_pss_bytes" in rows["run: series"].seen
    assert "bytes; nothing was sent" in rows["run: for the wire"].seen


def test_a_whole_run_without_protobuf(in_children, monkeypatch):  # noqa: ARG001
    """Without protobuf the run works, and the wire's row names what is missing."""
    monkeypatch.delitem(sys.modules, "efficientquant_agent.link.messages", raising=False)
    monkeypatch.setitem(sys.modules, "google.protobuf.message", None)

    rows = outcomes(rows_of("run", lambda: whole_run.check(OrtCpu)))

    assert rows.pop("run: for the wire") == ABSENT
    assert set(rows.values()) == {OK}


def test_a_whole_run_that_fails(in_children, monkeypatch, tmp_path):  # noqa: ARG001
    """A run that fails is a row with the agent's failure type and sentence."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    monkeypatch.setattr(tiny_model, "MODEL", str(broken))

    (row,) = rows_of("run", lambda: whole_run.check(OrtCpu))

    assert row.outcome == FAILED
    assert "load_failed" in row.seen


def test_a_backend_that_the_agent_does_not_offer(in_children, cuda, monkeypatch):  # noqa: ARG001
    """A backend that only this process finds is a failure with the sentences of the agent's probe."""
    monkeypatch.setattr(OrtCuda, "probe", lambda: object())

    (row,) = rows_of("run", lambda: whole_run.check(OrtCuda))

    assert (row.outcome, "the agent does not offer it" in row.seen) == (FAILED, True)


@pytest.mark.parametrize("release", ["10.3.0", "rtx-1.7.1"])
def test_tensorrt_in_every_mode(install, monkeypatch, tmp_path, release):
    """With a stub of TensorRT its whole check runs in all modes."""
    backend = install(release)
    pretend_model(monkeypatch, tmp_path)

    rows = list(rows_of("TensorRT", lambda: engines.check(backend)))

    assert [row for row in rows if row.outcome != OK] == []
    assert sum(", graph o" in row.check for row in rows) == (12 if backend.name == "trt-rtx" else 24)
    assert rows[-1].check == "TensorRT: half a plan is refused"


def test_a_mode_that_fails_is_a_row(install, cuda, monkeypatch, tmp_path):
    """A GPU that cannot map memory fails in the mapped modes only."""
    cuda.attributes[19] = 0
    backend = install("10.3.0")
    pretend_model(monkeypatch, tmp_path)

    failed = [row for row in rows_of("TensorRT", lambda: engines.check(backend)) if row.outcome == FAILED]

    assert {"mapped" in row.check for row in failed} == {True}
    assert len(failed) == 8


def pretend_model(monkeypatch, folder):
    """Give the stub of TensorRT a model that it understands, with arbitrary numbers."""
    (folder / "model.onnx").write_text("{}")
    monkeypatch.setattr(tiny_model, "MODEL", str(folder / "model.onnx"))
    monkeypatch.setattr(tiny_model, "compared", lambda _model, _precision: "not compared")
    monkeypatch.setattr(tiny_model, "timed", lambda _model: "not timed")
    feeds = [{"x": np.zeros((1, 4), np.float32)}]
    monkeypatch.setattr(tiny_model, "expected", lambda: Reference(feeds, [[]]))


def test_a_row_is_a_line_of_the_report():
    """Bars and line ends in a cell do not break the table, and the head counts the outcomes."""
    rows = [Row("a", OK, "x | y\nz"), Row("b", FAILED, "")]

    text = report.markdown(Machine("GPU", sm="8.6"), rows, ["/opt/lib/python3/site-packages/nvidia/cudnn/lib"], 12.4)

    assert "| a | ok | x \\| y z |\n| b | FAILED |  |\n" in text
    assert "SM 8.6, Python" in text
    assert "in 12 s: 2 checks (1 ok, 1 FAILED)." in text
    assert "searched in nvidia/cudnn/lib." in text
    assert decode(json.loads(encode(rows[0]))) == rows[0]


def test_a_report_is_whole_or_not_there(tmp_path):
    """A report is named for day and GPU, and is not written to a folder that cannot be made."""
    path = report.write(str(tmp_path / "new" / "folder"), Machine("NVIDIA GeForce RTX 3080"), "text")
    (tmp_path / "file").write_text("")

    assert path.endswith("-nvidia-geforce-rtx-3080.md")
    assert [entry.name for entry in (tmp_path / "new" / "folder").iterdir()] == [path.rpartition("/")[2]]
    with pytest.raises(OSError, match="file"):
        report.write(str(tmp_path / "file" / "below"), Machine("GPU"), "text")
