"""The checks of a command's options before its work begins."""

import subprocess
import sys

import pytest

# Importing torch takes seconds. Without it, a message must come before the command's work.
BLOCKED = """
import sys
for name in ("torch", "onnx", "onnxruntime"):
    sys.modules[name] = None
from efficientquant_controller.cli import main
main()
"""
EMPTY_NPZ = b"PK\x05\x06" + bytes(18)


@pytest.fixture
def early(tmp_path):
    """Return a runner without torch, in a folder with a file, an empty folder and an .npz."""
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "good.npz").write_bytes(EMPTY_NPZ)

    def call(*arguments):
        shown = subprocess.run(
            [sys.executable, "-c", BLOCKED, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "good.npz"]
        return shown

    return call


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "quantize mobilevit_xxs.cvnets_in22k",
            "mobilevit_xxs has the tags cvnets_in1k; did you mean mobilevit_xxs.cvnets",
        ),
        ("evaluate MobileViT_XXS --data good.npz", "did you mean mobilevit_xxs"),
        ("plot sqnr mobilevit_xxz --out x.png", "did you mean mobilevit_xxs"),
        ("audit mobilevit_xxz", "did you mean mobilevit_xxs"),
        ("inspect mobilevit_xxz", "did you mean mobilevit_xxs"),
        ("table1 --data good.npz --models mobilevit_xxz", "did you mean mobilevit_xxs"),
        ("quantize mobilevit_xxs --weights file", "checkpoint file: is empty"),
        ("quantize resnet18 --data nowhere", "data nowhere: there is no such file or folder"),
        ("quantize resnet18 --weights nowhere.pth", "checkpoint nowhere.pth: there is no such file"),
        ("quantize resnet18 --weights empty", "checkpoint empty: is a folder"),
        ("quantize resnet18 --out file", "output file: is a file where a folder is needed"),
        ("quantize resnet18 --out file/deep/er", "output file: is a file where a folder is needed"),
        ("quantize resnet18 --images 4", "--images 4 says how many images of --data to take; pass --data PATH"),
        ("quantize resnet18 --for rtx-380", "did you mean rtx-3080?"),
        ("quantize resnet18 --recipe it8", "did you mean int8?"),
        (
            "quantize resnet18 --recipe efficientquant-w4:group_size=32 --for rtx-3080",
            "each group of 32 columns, and rtx-3080 has kernels for 64 and 128; use group_size=64",
        ),
        ("evaluate resnet18 --data nowhere", "data nowhere: there is no such file or folder"),
        ("evaluate resnet18 --data file", "data file: is neither a folder of images nor an .npz file"),
        ("evaluate resnet18 --data good.npz --calibration empty", "data empty: is an empty folder"),
        ("evaluate resnet18 --data good.npz --weights empty", "checkpoint empty: is a folder"),
        ("table1 --data nowhere", "data nowhere: there is no such file or folder"),
        ("table1 --data good.npz --calibration nowhere", "data nowhere: there is no such file or folder"),
        ("table1 --data good.npz --out file", "output file: is a file where a folder is needed"),
        ("table1 --data good.npz --weights file", "checkpoint file: there is no such folder"),
        ("table1 --data good.npz --weights empty", "mobilevit_xxs.safetensors: there is no such file"),
        ("plot sqnr resnet18 --out file", "output file: is a file where a folder is needed"),
        ("plot softmax resnet18 --out x.png --data nowhere", "data nowhere: there is no such file or folder"),
        ("plot sqnr resnet18 --out x.png --weights nowhere", "checkpoint nowhere: there is no such file"),
        (
            "plot weights resnet18 --out x.png --images 4",
            "weights is drawn from the weights alone; leave --data and --images",
        ),
        ("plot sqnr resnet18 --out x.png --recipe it8", "did you mean int8?"),
        ("audit resnet18 --data nowhere", "data nowhere: there is no such file or folder"),
        ("audit resnet18 --weights nowhere", "checkpoint nowhere: there is no such file"),
        ("check file --target rtx-380", "did you mean rtx-3080?"),
        ("check file --target onnxruntime", "artifact file: is not an ONNX file: it is empty"),
        ("check good.npz --target onnxruntime", "artifact good.npz: is not an ONNX file but a zip file"),
        ("check empty --target onnxruntime", "artifact empty: is a directory; give an .onnx file"),
        ("check nowhere.onnx --target onnxruntime", "artifact nowhere.onnx: there is no such file"),
        ("check file --target onnxruntime --predict", "--predict is for TensorRT; onnxruntime loads the file here"),
    ],
)
def test_a_wrong_input_is_refused_before_torch_is_imported(early, arguments, sentence):
    """A wrong input is one sentence and exit code 2, and nothing goes to stdout or disk."""
    shown = early(*arguments.split())

    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith("error: ")
    assert sentence in shown.stderr
    assert shown.stderr.count("\n") == 1
