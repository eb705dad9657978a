import re

import efficientquant as eq
import pytest
import timm
import torch
from efficientquant.errors import CheckpointError, PretrainedUnavailableError, UnknownModelError
from safetensors.torch import save_file


@pytest.fixture
def state(models):
    return models["mobilevit_xxs"].state_dict()


def test_an_unknown_model_suggests_near_matches():
    """An unknown model's error suggests models with similar names."""
    with pytest.raises(UnknownModelError, match="did you mean") as caught:
        eq.create_model("mobilevit_xsx", "random")
    assert "mobilevit_xxs" in caught.value.suggestions


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_a_checkpoint_gives_back_its_model(models, state, real_images, tmp_path, suffix):
    """A state dict saved in any of the formats loads into an equal model in eval mode."""
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    model = eq.create_model("mobilevit_xxs", path)
    assert not model.training
    with torch.no_grad():
        assert torch.equal(model(real_images[:1]), models["mobilevit_xxs"](real_images[:1]))


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_state_dict_may_be_nested(state, tmp_path, key):
    """Training scripts put the state dict under 'state_dict' or 'model'."""
    torch.save({key: state, "epoch": 3}, tmp_path / "run.pth")
    model = eq.create_model("mobilevit_xxs", tmp_path / "run.pth")
    assert torch.equal(model.state_dict()["head.fc.weight"], state["head.fc.weight"])


def test_the_checkpoint_decides_the_number_of_classes(tmp_path):
    """A checkpoint with ten classes loads into a model with ten classes."""
    donor = timm.create_model("mobilevit_xxs", num_classes=10)
    save_file(donor.state_dict(), tmp_path / "ten.safetensors")
    assert eq.create_model("mobilevit_xxs", tmp_path / "ten.safetensors").num_classes == 10


def test_a_checkpoint_of_another_model_names_the_first_tensor(tmp_path, models):
    """The sentence names the file, the tensor, both shapes and what to do."""
    path = tmp_path / "wrong.safetensors"
    save_file({**models["mobilevit_xxs"].state_dict(), "stem.conv.weight": torch.zeros(8, 3, 3, 3)}, path)
    sentence = (
        r"wrong\.safetensors: 'stem\.conv\.weight' has shape \[8, 3, 3, 3\] where .* \[16, 3, 3, 3\]; pass weights"
    )
    with pytest.raises(CheckpointError, match=sentence) as caught:
        eq.create_model("mobilevit_xxs", path)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.pop("stem.conv.weight"), r"lacks 'stem\.conv\.weight' \[16, 3, 3, 3\]"),
        (lambda s: s.update(extra=torch.zeros(2)), r"has 'extra' \[2\]"),
    ],
)
def test_a_missing_or_surplus_tensor_is_named(state, tmp_path, change, sentence):
    """A tensor without counterpart is refused by name."""
    state = dict(state)
    change(state)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=sentence):
        eq.create_model("mobilevit_xxs", tmp_path / "odd.pth")


@pytest.mark.parametrize("name", ["noise.pth", "noise.safetensors"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, name):
    """A file that is no checkpoint is refused with one sentence that names it."""
    (tmp_path / name).write_bytes(b"not a checkpoint at all")
    with pytest.raises(CheckpointError, match=re.escape(name) + ": cannot be read"):
        eq.create_model("mobilevit_xxs", tmp_path / name)


def test_a_missing_file_is_refused(tmp_path):
    """A missing weights file is refused."""
    with pytest.raises(CheckpointError, match="no such file"):
        eq.create_model("mobilevit_xxs", tmp_path / "nowhere.pth")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    """A checkpoint with anything but tensors is refused, so that no code runs."""
    torch.save({"state_dict": CheckpointError}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        eq.create_model("mobilevit_xxs", tmp_path / "code.pth")


def test_an_unreachable_hub_is_said_at_once_with_what_to_pass(monkeypatch, tmp_path):
    """Without network and cache, pretrained weights fail before any retry, and the error names the alternatives."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("the hub's client was asked"))
    with pytest.raises(PretrainedUnavailableError, match=r"cannot be reached.*--weights FILE or --weights random"):
        eq.create_model("mobilevit_xxs")


def test_cached_weights_need_no_network(monkeypatch, models, tmp_path, real_images):
    """Weights of an earlier download are loaded without asking the hub."""
    path = tmp_path / "model.safetensors"
    save_file(models["mobilevit_xxs"].state_dict(), path)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    model = eq.create_model("mobilevit_xxs")
    with torch.no_grad():
        assert torch.equal(model(real_images[:1]), models["mobilevit_xxs"](real_images[:1]))


def test_random_weights_come_from_the_seed_and_are_sane(models, real_images):
    """The seed decides the logits, which are finite and differ between images."""
    again, other = eq.create_model("mobilevit_xxs", "random"), eq.create_model("mobilevit_xxs", "random", seed=1)
    with torch.no_grad():
        logits = models["mobilevit_xxs"](real_images)
        assert torch.equal(again(real_images), logits)
        assert not torch.equal(other(real_images), logits)
    assert bool(torch.isfinite(logits).all())
    assert float(logits.std(0).mean()) > 1e-3


@pytest.mark.parametrize(("name", "crop_pct"), [("mobilevit_xxs", 0.9), ("mobilevitv2_050", 0.888)])
def test_the_input_is_the_models_own(models, name, crop_pct):
    """MobileViTs take 256 × 256 pixels / 255, resized bicubically."""
    expected = eq.InputSpec((3, 256, 256), "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), crop_pct)
    assert eq.input_spec(models[name]) == expected


def test_synthetic_images_are_seeded_and_in_range(models):
    """The same seed gives the same images, within the model's input range."""
    spec = eq.input_spec(models["mobilevit_xxs"])
    images = eq.synthetic_images(spec, 4, seed=3)
    assert torch.equal(images, eq.synthetic_images(spec, 4, seed=3))
    assert images.shape == (4, 3, 256, 256)
    assert float(images.min()) >= 0.0
    assert float(images.max()) <= 1.0
    assert float(images.std()) > 0.1
