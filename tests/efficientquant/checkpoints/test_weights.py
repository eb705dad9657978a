import digits
import efficientquant as eq
import numpy as np
import pytest
import timm
import torch
from efficientquant.errors import CheckpointError
from efficientquant.models import checkpoint_notes
from safetensors.torch import load_file, save_file

HEAD = "head.fc.weight"


@pytest.fixture(scope="module")
def trained():
    """Return the weights of the small trained model."""
    return load_file(digits.WEIGHTS)


@pytest.fixture
def noise(trained):
    """Return other weights of the same shapes."""
    return {name: torch.zeros_like(tensor) for name, tensor in trained.items()}


def prefixed(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def require_trained(path, trained):
    """Return the notes about a file, which must give the trained model."""
    model = eq.create_model(digits.MODEL, path)
    loaded = model.state_dict()
    parameters = [name for name in trained if not name.endswith("num_batches_tracked")]
    assert all(torch.allclose(loaded[name], trained[name].float(), rtol=1e-2, atol=1e-2) for name in parameters)
    return checkpoint_notes(model)


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "params_ema", "ema"])
def test_averaged_weights_are_preferred_and_said(tmp_path, trained, noise, key):
    """Of a checkpoint with both, the EMA weights are taken, and a note names them."""
    torch.save(
        {"state_dict": noise, key: prefixed("module.", trained) | {"n_averaged": torch.tensor(3)}}, tmp_path / "a.pth"
    )
    notes = require_trained(tmp_path / "a.pth", trained)
    assert notes == [f"checkpoint a.pth: the averaged (EMA) weights under {key!r} are taken"]


def test_averaged_weights_may_accompany_the_others(tmp_path, trained, noise):
    """Lightning keeps both under prefixes of one dictionary."""
    torch.save({"state_dict": prefixed("model.", noise) | prefixed("ema_model.module.", trained)}, tmp_path / "a.ckpt")
    notes = require_trained(tmp_path / "a.ckpt", trained)
    assert notes == ["checkpoint a.ckpt: the averaged (EMA) weights under 'ema_model.module.' are taken"]


@pytest.mark.parametrize("prefix", ["net_ema.", "ema_net.module.", "swa."])
def test_averaged_weights_have_any_prefix_that_says_so(tmp_path, trained, noise, prefix):
    """A prefix with the word EMA or SWA wins over one without."""
    torch.save({"state_dict": prefixed("net.", noise) | prefixed(prefix, trained)}, tmp_path / "a.ckpt")
    notes = require_trained(tmp_path / "a.ckpt", trained)
    assert notes == [f"checkpoint a.ckpt: the averaged (EMA) weights under {prefix!r} are taken"]


def test_of_two_whole_sets_the_chosen_one_is_said(tmp_path, trained, noise):
    """The note names both a student and a teacher of one file."""
    torch.save({"state_dict": prefixed("teacher.", noise) | prefixed("net.", trained)}, tmp_path / "a.ckpt")
    notes = require_trained(tmp_path / "a.ckpt", trained)
    assert notes == ["checkpoint a.ckpt: the weights under 'net.' are taken, not those under 'teacher.'"]


@pytest.mark.parametrize("averages", [{"shadow_params": [torch.zeros(3)], "decay": 0.99}, [torch.zeros(3)]])
def test_averages_without_names_are_said_to_be_left_out(tmp_path, trained, averages):
    """EMA weights without names are left out, and a note says so."""
    torch.save({"state_dict": trained, "ema": averages}, tmp_path / "a.pth")
    notes = require_trained(tmp_path / "a.pth", trained)
    assert notes == ["checkpoint a.pth: 'ema' is no state dict, so no averaged (EMA) weights are taken"]


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        ({"net_G": {}, "epoch": 3}, r"holds no state dict \(its keys are 'net_G', 'epoch'\); save model.state_dict"),
        (({}, 3), r"holds no state dict \(it is a tuple\)"),
        ({}, r"holds no state dict \(it is empty\)"),
        (dict.fromkeys(range(9), 1), r"\(its keys are 0, 1, 2, 3, 4, 5 and 3 more\)"),
    ],
)
def test_a_file_without_weights_says_what_it_holds(tmp_path, stored, sentence):
    """The error for a file without a state dict names its keys."""
    torch.save(stored, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=sentence):
        eq.create_model(digits.MODEL, tmp_path / "a.pth")


def test_without_averaged_weights_the_others_are_taken(tmp_path, trained):
    """An EMA entry that is None is ignored without a note."""
    torch.save({"state_dict": trained, "state_dict_ema": None}, tmp_path / "a.pth")
    assert require_trained(tmp_path / "a.pth", trained) == []


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod.module.", "net."],
)
def test_prefixes_of_wrappers_are_taken_off(tmp_path, trained, prefix, suffix):
    """DataParallel, torch.compile and Lightning, in any order, leave the model's names."""
    path = tmp_path / f"a{suffix}"
    state = prefixed(prefix, trained)
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    require_trained(path, trained)


def test_lightnings_other_tensors_are_left(tmp_path, trained):
    """The weights of a loss function are left out."""
    state = prefixed("model.", trained) | {"loss.weight": torch.ones(10)}
    torch.save({"state_dict": state, "hyper_parameters": {"lr": 0.1}}, tmp_path / "a.ckpt")
    require_trained(tmp_path / "a.ckpt", trained)


@pytest.mark.parametrize("key", ["model_state", "model_state_dict", "net", "checkpoint"])
def test_other_keys_of_training_scripts_are_known(tmp_path, trained, key):
    """The state dict may lie under any usual key, also inside another one."""
    torch.save({key: {"state_dict": trained}, "epoch": 3}, tmp_path / "a.pth")
    require_trained(tmp_path / "a.pth", trained)


def test_compiled_parts_are_known(tmp_path, trained):
    """Where only a part was compiled, its name has the wrapper in the middle."""
    torch.save(
        {name.replace("stem.", "stem._orig_mod."): tensor for name, tensor in trained.items()}, tmp_path / "a.pth"
    )
    require_trained(tmp_path / "a.pth", trained)


def test_counters_may_be_missing_or_too_many(tmp_path, trained):
    """Batch norm's counters and those of profilers do not matter."""
    state = {name: tensor for name, tensor in trained.items() if not name.endswith("num_batches_tracked")}
    torch.save({**state, "total_ops": torch.zeros(1), "stem.total_params": torch.zeros(1)}, tmp_path / "a.pth")
    require_trained(tmp_path / "a.pth", trained)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_are_loaded(tmp_path, trained, kind):
    """16-bit and 64-bit weights become the model's 32 bits."""
    state = {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in trained.items()}
    save_file(state, tmp_path / "a.safetensors")
    require_trained(tmp_path / "a.safetensors", trained)


def test_weights_of_a_first_publication_are_converted(tmp_path):
    """Names of a model's authors become timm's, as timm's own loader does it."""
    donor = timm.create_model("test_vit")
    state = dict(donor.state_dict())
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].flatten(1)
    torch.save(state, tmp_path / "flat.pth")
    loaded = eq.create_model("test_vit", tmp_path / "flat.pth").state_dict()
    assert torch.equal(loaded["patch_embed.proj.weight"], donor.state_dict()["patch_embed.proj.weight"])


def test_jax_weights_of_another_model_are_refused(tmp_path):
    """An .npz with JAX's names goes through timm's converter, where the model has one."""
    np.savez(tmp_path / "a.npz", **{"head/kernel": np.ones((3, 10), np.float32)})
    with pytest.raises(CheckpointError, match="JAX weights, which timm converts for some models, but not for"):
        eq.create_model(digits.MODEL, tmp_path / "a.npz")
    with pytest.raises(CheckpointError, match="holds JAX weights of another model than test_vit"):
        eq.create_model("test_vit", tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.update({"stem.conv.weight": s["stem.conv.weight"][:, :1]}), "takes 1 against 3 input channels"),
        (lambda s: s.update({"head.fc.bias": torch.zeros(7)}), "only the classifier differs: 7 against 10 classes"),
        (lambda s: s.update({"stem.conv.weight": s["stem.conv.weight"][:4]}), "another width or another model: 1 of"),
        (lambda s: [s.pop(name) for name in list(s) if name.startswith("stem")], r"lacks 'stem.* and \d+ more of \d+"),
        (lambda s: s.update({HEAD: s[HEAD] * torch.nan}), "'head.fc.weight' holds NaN or infinity"),
        (lambda s: s.update({HEAD: s[HEAD].to(torch.int8)}), "'head.fc.weight' holds int8 where .* has floats"),
    ],
)
def test_what_differs_is_said(tmp_path, trained, change, sentence):
    """Each way in which weights can differ from the model has an error of its own."""
    state = dict(trained)
    change(state)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=sentence):
        eq.create_model(digits.MODEL, tmp_path / "a.pth")


def test_the_right_model_is_named(tmp_path):
    """The error for weights of a wider model of the family names the model they fit."""
    torch.save(timm.create_model("mobilevit_xs", num_classes=10).state_dict(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="; the weights look like mobilevit_xs"):
        eq.create_model("mobilevit_xxs", tmp_path / "a.pth")


def test_the_choice_is_in_the_report_of_a_quantized_model(tmp_path, trained, noise):
    """A quantized model says which weights it was made from."""
    torch.save({"state_dict": noise, "state_dict_ema": trained}, tmp_path / "a.pth")
    quantized = eq.quantize(eq.create_model(digits.MODEL, tmp_path / "a.pth"), eq.get_recipe("fp32"))
    assert quantized.notes[0] == "checkpoint a.pth: the averaged (EMA) weights under 'state_dict_ema' are taken"
