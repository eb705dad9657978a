"""The tests of the known backends and their descriptions."""

import pytest
from efficientquant_agent import backends
from efficientquant_agent.backends.__main__ import find_runtimes
from efficientquant_agent.backends.base import BackendBrokenError, UnknownBackendError
from efficientquant_agent.backends.ort import OrtCpu, OrtCuda, OrtTensorrt
from efficientquant_agent.backends.ov_cpu import OpenvinoCpu
from efficientquant_agent.backends.trt import Tensorrt, TensorrtRtx
from efficientquant_agent.records import Measurement

KNOWN = ["trt", "trt-rtx", "ort-cuda", "ort-trt", "ort-cpu", "openvino-cpu"]
ONE_MORE = """
from efficientquant_agent.backends.ort import OrtCpu


class Toy(OrtCpu):
    name = "toy"
    preference = 45


BACKENDS = (Toy,)
"""


def test_the_preferred_comes_first():
    """Known backends are in order of their preference, which no two share."""
    assert [backend.name for backend in backends.known()] == KNOWN
    assert len({backend.preference for backend in backends.known()}) == len(KNOWN)


def test_a_file_is_a_backend(tmp_path, monkeypatch):
    """A module with BACKENDS is a backend, and a module without it changes nothing."""
    (tmp_path / "toy.py").write_text(ONE_MORE)
    (tmp_path / "toy_building.py").write_text("LIMIT = 3\n")
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])

    names = [backend.name for backend in backends.known()]

    assert names == [*KNOWN[:4], "toy", *KNOWN[4:]]
    assert backends.find("toy").form_of("1.17").opset == 18


@pytest.mark.parametrize("text", ["import no_such_runtime\n", "BACKENDS = (\n", "BACKENDS = missing\n"])
def test_a_file_that_fails_takes_no_other_with_it(tmp_path, monkeypatch, text):
    """A module that cannot be imported is named, and all other backends still work."""
    (tmp_path / "toy_broken.py").write_text(text)
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])

    assert [backend.name for backend in backends.known()] == KNOWN
    [sentence] = [sentence for sentence in find_runtimes()["broken"] if "toy_broken" in sentence]
    assert sentence.startswith("the agent's file backends/toy_broken.py cannot be used: ")


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"forms": ()}, "no forms that it builds from"),
        ({"name": ""}, "no name"),
        ({"preference": -1}, "its preference is -1, not a whole number from 0 to 99"),
        ({"preference": 10.5}, "its preference is 10.5, not a whole number"),
    ],
)
def test_facts_that_cannot_travel_break_the_backend_alone(facts, problem):
    """A backend class with invalid facts is broken, with a sentence."""
    toy = type("Toy", (OrtCpu,), facts)

    with pytest.raises(BackendBrokenError, match=problem):
        toy.describe("1.23.2", [])


def test_an_unknown_backend_is_named():
    """A backend name that this agent does not know is an error with the known names."""
    with pytest.raises(UnknownBackendError, match=r"no backend 'ov-cpu' \(it knows: trt, .*ort-cpu, openvino-cpu\)"):
        backends.find("ov-cpu")


@pytest.mark.parametrize("backend", backends.known(), ids=lambda backend: backend.name)
def test_every_backend_describes_itself(backend):
    """A backend lists its forms with the oldest release first, and only options of a measurement."""
    releases = [form.since for form in backend.forms]
    assert releases == sorted(set(releases))
    assert len(releases) >= 1
    assert all(form.name and form.opset >= 13 for form in backend.forms)
    assert set(backend.options) <= set(Measurement._fields)
    assert backend.packages


@pytest.mark.parametrize(
    ("backend", "version", "form"),
    [
        (Tensorrt, "8.2.1.8+cuda10", ("tensorrt", 13, ["fp16", "int8"])),
        (Tensorrt, "8.6.1", ("tensorrt", 13, ["fp16", "int8"])),
        (Tensorrt, "10.0.1", ("tensorrt", 18, ["fp16", "int8"])),
        (Tensorrt, "11.4", ("tensorrt", 18, [])),
        (Tensorrt, "12", ("tensorrt", 18, [])),
        (TensorrtRtx, "1.7.1", ("tensorrt-rtx", 18, [])),
        (OrtCpu, "1.10.0", ("onnxruntime", 13, [])),
        (OrtCpu, "1.16.3", ("onnxruntime", 13, [])),
        (OrtCpu, "1.17.0", ("onnxruntime", 18, [])),
        (OrtCpu, "1.22.1", ("onnxruntime", 21, [])),
        (OrtCpu, "1.23.0", ("onnxruntime", 23, [])),
        (OrtCuda, "1.17.0", ("onnxruntime", 18, [])),
        (OrtCuda, "1.32.0", ("onnxruntime", 18, [])),
        (OrtTensorrt, "1.32.0", ("onnxruntime", 18, [])),
        (OrtTensorrt, "1.9.0", ("onnxruntime", 13, [])),  # older than every form
        (OrtCpu, "nightly", ("onnxruntime", 13, [])),
        (OpenvinoCpu, "2024.4.0", ("openvino", 18, [])),
    ],
)
def test_the_installed_release_decides_the_form(backend, version, form):
    """The installed release decides the form, and a release without a number gets the oldest form."""
    described = backend.describe(version, ["P"])

    assert (described.form, described.opset, described.precision_flags) == form
    assert (described.name, described.version, described.providers) == (backend.name, version, ["P"])


def test_who_builds_an_engine():
    """Three backends build engines, two leave the GPU alone, and three have options."""
    described = {backend.name: backend.describe("99", []) for backend in backends.known()}

    assert {name for name, info in described.items() if info.builds_engines} == {"trt", "trt-rtx", "ort-trt"}
    assert {name for name, info in described.items() if not info.uses_gpu} == {"ort-cpu", "openvino-cpu"}
    assert {name for name, info in described.items() if info.options} == {"trt", "trt-rtx", "openvino-cpu"}
