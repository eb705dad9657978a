"""A verdict next to that of another file."""

import json

import pytest
from efficientquant import checking
from efficientquant.targets import get_target
from efficientquant.verdicts.build_verdict import Basis, BuildVerdict, Outcome
from efficientquant.verdicts.comparison import Other, compare, comparison_rows
from onnx_graphs import GraphWriter, convolution

TWIN = Other("its fp16 twin", "the same model by fp16", "use fp16 instead")
INTEGER = "integer arithmetic in 90 of 90 convolutions and matrix products"
# mobilevit_xxs for SM 8.6, as the builder of TensorRT-RTX 1.7.1 gave it.
FP16 = {"kernels": 149, "weights_bytes": 2_664_704, "modelled_s": 424e-6}
INT8 = {"kernels": 178, "weights_bytes": 3_970_000, "modelled_s": 554e-6}


def verdict(measures, outcome=Outcome.BUILDS, gain=INTEGER):
    return BuildVerdict(
        target="rtx-3080", runtime="builder", basis=Basis.BUILT, outcome=outcome, gain=gain, measures=measures
    )


def test_a_file_that_is_worse_in_everything_buys_nothing():
    """With more kernels, weights and modelled time, integer arithmetic is no gain, and the twin is the advice."""
    compared = compare(verdict(INT8), TWIN, verdict(FP16))

    assert compared.gain == (
        "nothing there: it has more kernels (178 against 149), larger weights (3.79 MiB against 2.54 MiB) and a longer "
        "modelled time (554 µs against 424 µs; a model, no measurement) than its fp16 twin; use fp16 instead"
    )


@pytest.mark.parametrize("key", FP16)
def test_a_file_that_is_better_in_something_keeps_its_gain(key):
    """Each of the three numbers saves the gain, and all of them are in it."""
    compared = compare(verdict(INT8 | {key: FP16[key]}), TWIN, verdict(FP16))

    assert compared.gain.startswith(f"{INTEGER}; against its fp16 twin: kernels ")
    assert compared.gain.endswith("(a model, no measurement)")


def test_without_a_model_kernels_and_weights_decide():
    """A target without published peaks has no modelled time, and the two others decide."""
    here, there = ({key: own[key] for key in ("kernels", "weights_bytes")} for own in (INT8, FP16))

    assert compare(verdict(here), TWIN, verdict(there)).gain.startswith("nothing there: it has more kernels (178")
    assert compare(verdict({"nodes": 9}), TWIN, verdict({"nodes": 5})).gain.endswith("twin: nodes 9 instead of 5")


def test_a_twin_that_does_not_build_is_named():
    """A twin without a build leaves the gain as it is, and is named."""
    compared = compare(verdict(INT8), TWIN, verdict({}, Outcome.FAILS))

    assert (compared.comparison, compared.gain) == (
        None,
        f"{INTEGER}; its fp16 twin is not built there to compare with",
    )


def test_json_has_both_sides():
    """A stored verdict has the numbers of both files with their units, and the rows that a person reads."""
    stored = json.loads(json.dumps(compare(verdict(INT8), TWIN, verdict(FP16)).to_dict()))["comparison"]

    assert stored == {"with": TWIN.name, "origin": TWIN.origin, "artifact": INT8, "other": FP16}
    assert comparison_rows(stored)[0] == ("kernels", "178", "149")
    assert comparison_rows(stored)[-1] == ("modelled time (a model, no measurement)", "554 µs", "424 µs")
    assert verdict(INT8).to_dict()["comparison"] is None


def test_a_float_file_is_judged_alone(save):
    """Only a file with quantizers has a twin, and only where something is built."""
    plain, quantized = (
        save(convolution(quantize_input=False, quantize_weight=False)),
        save(convolution(quantize_input=True)),
    )

    assert checking.check_against(plain, "onnxruntime").comparison is None
    assert checking.check_against(quantized, "jetson-nano").comparison is None
    assert checking.check_against(quantized, "onnxruntime").comparison.name == "its float twin"


@pytest.fixture
def save(tmp_path):
    """Return a function that saves a model under a new name."""
    import onnx

    def write(model):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
        onnx.save(model, path)
        return path

    return write


@pytest.mark.parametrize("target", ["rtx-3080", "onnxruntime"])
def test_a_file_that_fails_has_no_twin(save, target):
    """What does not build is compared with nothing."""
    write = GraphWriter()
    write.add("Marker", write.quantized("x"), domain="custom")

    verdict = checking.check_against(save(write.model()), target)

    assert (verdict.outcome, verdict.comparison) == ("fails", None)
    assert get_target(target).is_predicted is False
