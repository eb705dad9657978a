import argparse
import collections
import datetime
import os
import pathlib
import pickle
import types
import zipfile

import numpy as np
import onnx
import pytest
import torch
from efficientquant.checkpoints.files import read_checkpoint
from efficientquant.errors import CheckpointError
from safetensors.torch import save_file

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3)}


class Hostile:
    """An object whose unpickling would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def settings():
    """Return what training scripts save along with their weights."""
    parameters = [torch.nn.Parameter(torch.ones(2))]
    optimizer = torch.optim.AdamW(parameters)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    return {
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs"), started=datetime.datetime(2026, 1, 1)),
        "config": types.SimpleNamespace(sizes=range(3), layers=frozenset([1]), crop=slice(1, 2)),
        "best": np.float64(76.9),
        "history": np.arange(3),
        "counts": collections.defaultdict(list, {"a": [1]}),
        "last": collections.deque([1, 2]),
        "random": np.random.RandomState(0).get_state(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule,
        "version": torch.__version__,
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_of_a_training_run_are_taken_and_not_run(tmp_path, zipped):
    """A checkpoint loads although it holds arguments, metrics, optimizers and random states too."""
    path = tmp_path / "run.pth.tar"
    torch.save({"state_dict": STATE, "epoch": 3, **settings()}, path, _use_new_zipfile_serialization=zipped)
    stored = read_checkpoint(path)
    assert torch.equal(stored["state_dict"]["conv.weight"], STATE["conv.weight"])
    assert stored["epoch"] == 3
    assert not isinstance(stored["args"], argparse.Namespace)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, zipped):
    """The error names the function, does not advise allowing it, and nothing of the file is run."""
    path = tmp_path / "hostile.pth"
    torch.save({"state_dict": STATE, "x": Hostile(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"hostile\.pth: cannot be read safely: it asks to run") as caught:
        read_checkpoint(path)
    assert f"{os.system.__module__}.system" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_model_is_refused(tmp_path, zipped):
    """A pickled module is refused as code, and the error says how to save its weights."""
    path = tmp_path / "model.pth"
    torch.save({"model": torch.nn.Linear(2, 2)}, path, _use_new_zipfile_serialization=zipped)
    sentence = r"it is a whole pickled model .*torch\.save\(model\.state_dict\(\), FILE\)"
    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(path)


def test_a_program_is_refused(tmp_path):
    """A file that torch.export writes is refused as a program."""
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "program.pt2")
    with pytest.raises(CheckpointError, match=r"it is a program of torch\.export"):
        read_checkpoint(tmp_path / "program.pt2")


def test_torchscript_is_refused(tmp_path):
    """A zip archive with code in it is refused as a TorchScript program."""
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("script/data.pkl", "script/constants.pkl", "script/code/__torch__.py"):
            archive.writestr(name, "")
    with pytest.raises(CheckpointError, match="it is a TorchScript program"):
        read_checkpoint(tmp_path / "script.pt")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n",
            "it is a Git LFS pointer.*git lfs pull",
        ),
        (b"\n<!DOCTYPE html><html></html>", "it is a web page"),
        (b"hello", "it is a text file"),
        (b'{"weight_map": {"a": "b"}}', "it is a text file that lists the parts of a checkpoint"),
        (b"\x1f\x8b\x08" + bytes(range(200)), "it is compressed with gzip"),
        (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
        (b"PK\x03\x04" + bytes(range(200)), "it is a zip archive that is cut off"),
        (pickle.dumps({"a": 1}), r"it is a Python pickle that torch\.save did not write"),
        (bytes(range(128, 256)) * 9, "it is a Python pickle that"),
        (bytes(range(200, 256)) * 9, "its format is not known, or it is damaged"),
    ],
)
def test_any_other_file_is_called_what_it_is(tmp_path, content, sentence):
    """The error for a pointer, a page, a text or an archive names its kind and the file."""
    (tmp_path / "other.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"other\.pth: cannot be read as weights: {sentence}"):
        read_checkpoint(tmp_path / "other.pth")


def test_an_onnx_file_is_recognized(tmp_path, pytestconfig):
    """An exported model is recognized by its content."""
    model = onnx.load(pytestconfig.rootpath / "tests/fixtures/models/tiny.onnx")
    onnx.save(model, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="it is an ONNX model, which 'efficientquant check' takes"):
        read_checkpoint(tmp_path / "model.pth")


def test_a_later_pickle_protocol_is_named(tmp_path):
    """Torch's safe loading takes only the protocol that torch.save uses by itself."""
    torch.save(STATE, tmp_path / "new.pth", pickle_protocol=4)
    with pytest.raises(CheckpointError, match="it was saved with pickle protocol 4; save it with"):
        read_checkpoint(tmp_path / "new.pth")


@pytest.mark.parametrize("name", ["a.pth", "legacy.pth", "a.safetensors"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_is_cut_off_says_so(tmp_path, name, share):
    """The error for half a download says that it is cut off or damaged."""
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file({"a": torch.ones(1000)}, path)
    else:
        torch.save({"a": torch.ones(1000)}, path, _use_new_zipfile_serialization=name == "a.pth")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError, match=r"cannot be read.*(cut off|not fully covered)") as caught:
        read_checkpoint(path)
    assert "weights_only" not in str(caught.value)


def test_the_content_decides_and_not_the_name(tmp_path):
    """Safetensors and torch's files under other names, and arrays by torch's names, are weights too."""
    save_file(STATE, tmp_path / "pytorch_model.bin")
    torch.save(STATE, tmp_path / "zip.safetensors")
    np.savez(tmp_path / "arrays.npz", **{name: tensor.numpy() for name, tensor in STATE.items()})
    for name in ("pytorch_model.bin", "zip.safetensors", "arrays.npz"):
        assert torch.equal(read_checkpoint(tmp_path / name)["conv.weight"], STATE["conv.weight"])


def test_a_path_without_a_file_is_named(tmp_path):
    """A folder, a missing file and an impossible name are three different errors."""
    with pytest.raises(CheckpointError, match="is a folder; pass the file with the weights in it"):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        read_checkpoint(tmp_path / ("x" * 300))
