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
def audited(small):
    """Return the audit of that model, with its own answers as labels."""
    model, images = small
    with torch.no_grad():
        return audit(model, images, model(images).argmax(1))


def test_weights_are_compared_one_by_one(audited):
    """Each of the 64 convolutions is noise as printed and passes the 38 dB gate per channel."""
    assert len(audited.weights) == 64
    # A random network starts with one convolution silenced by its batch norm: zeros are exact in every form.
    noisy = [weight for weight in audited.weights if math.isfinite(weight.sqnr_db[CHANNEL])]
    assert len(noisy) == 63
    assert all(weight.sqnr_db[PRINTED] < 0 < 38 < weight.sqnr_db[CHANNEL] for weight in noisy)


def test_flooring_costs_six_decibels(audited):
    """Rounding beats flooring by about 6 dB, and one scale per channel beats one per tensor."""
    total = audited.total_sqnr_db
    assert total["symmetric per tensor"] - total["floor per tensor"] == pytest.approx(6.0, abs=0.7)
    assert total[CHANNEL] > total["affine per tensor"] >= total["symmetric per tensor"] - 0.5


def test_each_attention_is_compared_alone(audited):
    """At all nine sites the printed quantizer leaves noise, and both corrected forms more than 30 dB."""
    assert audited.softmax[0].module == "stages.2.1.transformer.0.attn"
    assert len(audited.softmax) == 9
    for site in (site for site in audited.softmax if site.module.startswith(("stages.2", "stages.3"))):
        assert site.sqnr_db[PRINTED] < 0
        assert min(site.sqnr_db[CALIBRATED], site.sqnr_db[DATA_FREE]) > 30
        assert site.output_sqnr_db[CALIBRATED] > 30 > 0 > site.output_sqnr_db[PRINTED]
    # At 64 × 64 the last stage attends to a single token, whose probability is always 1.
    assert all(site.sqnr_db[CALIBRATED] > 60 for site in audited.softmax if site.module.startswith("stages.4"))


def test_logits_end_with_the_float_model(audited):
    """The float model agrees with itself, log2 A keeps every class, and top-1 is reported with labels."""
    rows = {(row.weights, row.softmax): row for row in audited.logits}
    assert (rows["float", "float"].agreement, rows["float", "float"].top1) == (1.0, 1.0)
    assert rows["float", CALIBRATED].agreement == 1.0
    assert rows[PRINTED, PRINTED].agreement < 1.0
    assert all(row.sqnr_db is None or math.isfinite(row.sqnr_db) for row in audited.logits)
    json.dumps(audited.to_dict(), allow_nan=False)


def test_the_conclusion_is_made_of_the_numbers(audited):
    """The conclusion has the printed and the corrected figure of weights and attention."""
    assert f"the weights keep {audited.total_sqnr_db[PRINTED]:.1f} dB" in audited.conclusion
    assert f"{audited.total_sqnr_db[CHANNEL]:.1f} dB with one scale per channel" in audited.conclusion
    worst = min(site.output_sqnr_db[CALIBRATED] for site in audited.softmax)
    assert f"{worst:.1f} dB with log2 A" in audited.conclusion


def test_the_model_is_left_as_it_was(small, audited):  # noqa: ARG001 - the audit has run
    """The eager model still has its own float weights."""
    model, _ = small
    again = eq.create_model("mobilevitv2_050", "random", input_size=64).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_images_of_another_size_are_refused(small):
    """The error for images of a wrong size has both shapes."""
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
