import dataclasses

import efficientquant as eq
import pytest
import torch
from efficientquant.bits import bit_table
from efficientquant.errors import CalibrationError, CaptureError, NonFiniteError
from efficientquant.graph.manifest import ActivationSite, SoftmaxSite
from efficientquant.options import FloatType, Log2Form
from efficientquant.primitives import sqnr_db
from efficientquant.quantizers import code_quantizers
from torch import nn


@pytest.fixture(scope="module")
def softmax_free():
    """Return a seeded CNN without any softmax."""
    return eq.create_model("resnet18", "random")


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050"])
def test_fp32_computes_what_the_eager_model_does(quantized, models, real_images, name):
    """Batch norm folding is the only change that fp32 makes."""
    with torch.no_grad():
        assert torch.allclose(quantized[name, "fp32"](real_images), models[name](real_images), atol=1e-4)


def test_the_eager_model_is_left_as_it_was(images_for):
    """quantize() does not change the eager model."""
    model = eq.create_model("test_coatnet", "random")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    eq.quantize(model, eq.get_recipe("efficientquant"), images_for("test_coatnet"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_every_convolution_weight_has_at_most_255_values_per_channel(quantized):
    """The fake-quantized weights are exactly codes × scale, codes within ±127."""
    model = quantized["mobilevit_xxs", "efficientquant"]
    assert len(model.weights) == 35
    for name, weight in model.weights.items():
        assert weight.codes.dtype is torch.int8
        assert int(weight.codes.min()) >= -127
        dequantizer = model.module.get_submodule(f"{name}_dequantizer")
        assert torch.equal(dequantizer(), weight.codes.float() * weight.scale)


def test_the_weights_of_a_mobilevit_pass_the_gates(quantized):
    """8 bits per channel keep at least 38 dB in every weight, and 35 dB in its worst channel."""
    for name in ("mobilevit_xxs", "mobilevitv2_050"):
        for entry in quantized[name, "efficientquant"].manifest.entries.values():
            if entry.bits == 8:
                assert entry.sqnr_db >= 38
                assert entry.worst_channel_db >= 35


def test_a_weight_below_the_gate_is_reported_by_name():
    """A channel with one outlier falls below the gate, and the notes name the weight and the channel."""
    model = eq.create_model("resnet18", "random")
    with torch.no_grad():
        weight = model.layer1[0].conv1.weight
        weight[5, 0, 0, 0] = 30 * weight.std()
    notes = eq.quantize(model, eq.get_recipe("efficientquant")).notes
    assert any(note.startswith("layer1.0.conv1.weight: channel 5 has SQNR") for note in notes)


def test_a_model_without_softmax_is_a_reported_no_op(softmax_free):
    """Convolutions are quantized, nothing is calibrated, and a note says that log2 did nothing."""
    model = eq.quantize(softmax_free, eq.get_recipe("efficientquant"))
    assert any("no softmax" in note for note in model.notes)
    assert model.manifest.softmax_sites == []
    assert len(model.weights) == 20


def test_without_data_the_provenance_says_synthetic(models):
    """Synthetic calibration is recorded in the provenance and in the notes."""
    model = eq.quantize(models["test_vit"], eq.get_recipe("efficientquant"))
    assert model.provenance["calibration"]["source"] == "synthetic"
    assert model.provenance["calibration"]["images"] == 32
    assert any("synthetic" in note for note in model.notes)


def test_batches_and_one_tensor_calibrate_alike(models, quantized, real_images):
    """An iterable of batches calibrates like their concatenation."""
    recipe = eq.get_recipe("efficientquant")
    batched = eq.quantize(models["mobilevit_xxs"], recipe, iter(real_images.split(4)))
    whole = quantized["mobilevit_xxs", "efficientquant"]
    assert batched.provenance["calibration"]["sha256"] == whole.provenance["calibration"]["sha256"]
    assert batched.manifest == whole.manifest


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([], "hold no images"),
        (torch.zeros(2, 3, 64, 64), r"batch 0 has shape \(2, 3, 64, 64\); the model takes \(N, 3, 160, 160\)"),
        (torch.full((1, 3, 160, 160), torch.nan), "not made of finite floats"),
        (torch.zeros(1, 3, 160, 160, dtype=torch.uint8), "not made of finite floats"),
    ],
)
def test_data_that_do_not_fit_are_refused(models, data, sentence):
    """Empty, misshapen, non-finite and integer images are refused with one sentence each."""
    with pytest.raises(CalibrationError, match=sentence):
        eq.quantize(models["test_vit"], eq.get_recipe("efficientquant"), data)


def test_a_model_that_branches_on_data_is_refused():
    """A model that torch.export cannot capture is refused with a sentence that names it."""

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(CaptureError, match="Branching cannot be captured"):
        eq.quantize(Branching(), eq.get_recipe("fp32"))


def test_the_data_free_form_needs_no_images(models):
    """Form G runs nothing through the model, and its softmax sites say so."""
    recipe = dataclasses.replace(eq.get_recipe("efficientquant"), log2_form=Log2Form.DATA_FREE)
    model = eq.quantize(models["test_vit"], recipe)
    assert "calibration" not in model.provenance
    assert {site.form for site in model.manifest.softmax_sites} == {"G"}


def test_softmax_alone_costs_little(quantized, real_images):
    """Log2 codes after softmax change the logits, and keep them at more than 25 dB."""
    noise = sqnr_db(
        quantized["mobilevit_xxs", "fp32"](real_images), quantized["mobilevit_xxs", "efficientquant-log2"](real_images)
    )
    assert 25 < noise < 90


def test_progress_names_phases_and_ends_at_one(models, images_for):
    """Capture and calibration both report, rising to 1."""
    seen = []
    eq.quantize(
        models["test_vit"],
        eq.get_recipe("efficientquant"),
        images_for("test_vit"),
        progress=lambda phase, fraction: seen.append((phase, fraction)),
    )
    assert list(dict.fromkeys(phase for phase, _ in seen)) == ["capture", "calibrate"]
    assert dict(seen) == {"capture": 1.0, "calibrate": 1.0}


@pytest.mark.parametrize("emulation", ["keep", "drop", "move"])
def test_the_manifest_names_the_quantizer_of_each_softmax(models, images_for, emulation):
    """A softmax site has its quantizer's name in the graph, and the bit table uses the name."""
    recipe = eq.get_recipe(f"efficientquant-log2:log2_emulation={emulation}")
    model = eq.quantize(models["test_vit"], recipe, images_for("test_vit"))
    names = [site.quantizer_name for site in model.manifest.softmax_sites]
    assert names == list(code_quantizers(model.module))
    table = bit_table(model.manifest, FloatType.FP32, dropped=names[:1])
    assert table["softmax"] == f"8 log2-A ({len(names) - 1} of {len(names)}), 32 (1 of {len(names)})"


def test_a_site_of_an_earlier_release_reads_back():
    """Sites that were stored before they had a name, a zero-point or an axis can still be read."""
    softmax = {"node": "softmax", "module": "attn", "tokens": 4, "bits": 8, "form": "A", "emulation": "keep"}
    activation = {"node": "x", "quantizer": "q", "consumers": ("conv2d",), "producer": "", "bits": 8, "scale": 0.5}
    assert SoftmaxSite(**softmax, quantizer={"step": 0.1}).quantizer_name == ""
    assert (ActivationSite(**activation).zero_point, ActivationSite(**activation).axis) == (None, None)


@pytest.mark.parametrize("recipe", ["fp32", "int8", "easyquant", "ptq4vit", "repq-vit", "q-hyvit", "hyq"])
def test_a_weight_that_is_not_finite_is_named(recipe):
    """Every recipe refuses it before any work."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)).eval()
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    model[2].weight.data[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"2\.weight"):
        eq.quantize(model, eq.get_recipe(recipe), torch.zeros(2, 3, 8, 8))


def test_a_buffer_that_is_not_finite_is_named():
    """A running variance reaches the weights when batch norm is folded."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten()).eval()
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    model[1].running_var[2] = float("inf")
    with pytest.raises(NonFiniteError, match=r"1\.running_var holds NaN or infinity"):
        eq.quantize(model, eq.get_recipe("int8"), torch.zeros(2, 3, 8, 8))


class OtherConvolutions(torch.nn.Module):
    """Every kind of convolution that torch has, in one model."""

    pretrained_cfg = {"input_size": (3, 8, 8)}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.conv, self.same = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, padding="same")
        self.up, self.line = torch.nn.ConvTranspose2d(4, 4, 2), torch.nn.Conv1d(4, 4, 3)
        self.volume, self.head = torch.nn.Conv3d(1, 1, 3, padding=1), torch.nn.Linear(4, 5)

    def forward(self, x):
        """Return the logits (N, 5)."""
        x = self.up(self.same(self.conv(x)))
        x = self.line(self.volume(x[:, None])[:, 0].flatten(2))
        return self.head(x.mean(-1))


@pytest.mark.parametrize("recipe", ["int8", "efficientquant"])
def test_other_convolutions_stay_in_float_with_a_note(recipe, tmp_path):
    """Each kind is named with a module, and the file is written."""
    model = eq.quantize(OtherConvolutions().eval(), eq.get_recipe(recipe), torch.rand(4, 3, 8, 8))
    artifact = eq.export_onnx(model, tmp_path / "model.onnx", target="onnxruntime")
    notes = [note for note in artifact.notes if "stays in float" in note]
    named = [(note.split()[0], note.partition("(")[2].split()[0]) for note in notes]
    assert named == [("conv2d", "same"), ("conv_transpose2d", "up"), ("conv3d", "volume"), ("conv1d", "line")]
    floats = {name for name, entry in model.manifest.entries.items() if entry.bits == 32}
    assert {"same.weight", "up.weight", "volume.weight", "line.weight"} <= floats


def test_a_float_recipe_has_no_note_on_convolutions():
    """Where nothing is quantized, nothing is left out."""
    assert eq.quantize(OtherConvolutions().eval(), eq.get_recipe("fp32")).notes == []
