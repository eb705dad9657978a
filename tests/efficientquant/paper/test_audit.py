import json
import math

import efficientquant as eq
import pytest
import torch
from efficientquant.errors import CalibrationError
from efficientquant.paper.audit import CALIBRATED, CHANNEL, DATA_FREE, PRINTED, affine, audit


@pytest.fixture(scope="module")
def small():
    """Return a hybrid at 64 × 64 with random weights, and four images."""
    model = eq.create_model("mobilevitv2_050", "random", input_size=64)
    return model, eq.synthetic_images(eq.input_spec(model), 4)


@pytest.fixture(scope="module")
def found(small):
    """Return the audit of that model, its labels being what it answers."""
    model, images = small
    with torch.no_grad():
        return audit(model, images, model(images).argmax(1))


def test_weights_are_compared_one_by_one(found):
    """Each of the 64 convolutions is noise as printed and passes the 38 dB gate per channel."""
    assert len(found.weights) == 64
    # A random network starts with one convolution silenced by its batch norm: zeros are exact in every form.
    noisy = [one for one in found.weights if math.isfinite(one.sqnr_db[CHANNEL])]
    assert len(noisy) == 63
    assert all(one.sqnr_db[PRINTED] < 0 < 38 < one.sqnr_db[CHANNEL] for one in noisy)


def test_flooring_costs_six_decibels(found):
    """Rounding beats flooring by about 6 dB, and one scale per channel beats one per tensor."""
    total = found.total_sqnr_db
    assert total["symmetric per tensor"] - total["floor per tensor"] == pytest.approx(6.0, abs=0.7)
    assert total[CHANNEL] > total["affine per tensor"] >= total["symmetric per tensor"] - 0.5


def test_each_attention_is_compared_alone(found):
    """At all nine sites the printed quantizer leaves noise, and both corrected forms more than 30 dB."""
    assert found.softmax[0].module == "stages.2.1.transformer.0.attn"
    assert len(found.softmax) == 9
    for one in (one for one in found.softmax if one.module.startswith(("stages.2", "stages.3"))):
        assert one.sqnr_db[PRINTED] < 0
        assert min(one.sqnr_db[CALIBRATED], one.sqnr_db[DATA_FREE]) > 30
        assert one.output_sqnr_db[CALIBRATED] > 30 > 0 > one.output_sqnr_db[PRINTED]
    # At 64 × 64 the last stage attends to a single token, whose probability is always 1.
    assert all(one.sqnr_db[CALIBRATED] > 60 for one in found.softmax if one.module.startswith("stages.4"))


def test_logits_end_with_the_float_model(found):
    """The float model agrees with itself; log2 A keeps every class, and top-1 is reported with labels."""
    rows = {(one.weights, one.softmax): one for one in found.logits}
    assert (rows["float", "float"].agreement, rows["float", "float"].top1) == (1.0, 1.0)
    assert rows["float", CALIBRATED].agreement == 1.0
    assert rows[PRINTED, PRINTED].agreement < 1.0
    assert all(one.sqnr_db is None or math.isfinite(one.sqnr_db) for one in found.logits)
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_conclusion_is_made_of_the_numbers(found):
    """One sentence has the printed and the corrected figure of weights and attention."""
    assert f"the weights keep {found.total_sqnr_db[PRINTED]:.1f} dB" in found.conclusion
    assert f"{found.total_sqnr_db[CHANNEL]:.1f} dB with one scale per channel" in found.conclusion
    worst = min(one.output_sqnr_db[CALIBRATED] for one in found.softmax)
    assert f"{worst:.1f} dB with log2 A" in found.conclusion


def test_the_model_is_left_as_it_was(small, found):  # noqa: ARG001 - the audit has run
    """The eager model still has its own float weights."""
    model, _ = small
    again = eq.create_model("mobilevitv2_050", "random", input_size=64).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_images_of_another_size_are_refused(small):
    """What the model cannot take is said with both shapes."""
    model, images = small
    with pytest.raises(CalibrationError, match=r"\(4, 3, 32, 32\); the model takes \(N, 3, 64, 64\)"):
        audit(model, images[..., :32, :32])


def test_affine_keeps_zero():
    """The corrected affine form has zero as a code and stays within half a step."""
    weight = torch.tensor([[0.0, 0.3, 1.0, -0.2]])
    result = affine(weight)
    assert result[0, 0] == 0
    assert float((result - weight).abs().max()) <= 1.2 / 255
    assert torch.equal(affine(torch.zeros(2, 2)), torch.zeros(2, 2))
