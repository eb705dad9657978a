"""What is known of a command's options before its work begins."""

import subprocess
import sys

import pytest

# torch and timm take seconds to import; without them, what a command says is said before its work.
BLOCKED = """
import sys
for name in ("torch", "timm", "onnx", "onnxruntime"):
    sys.modules[name] = None
from efficientquant_controller.cli import main
main()
"""
EMPTY_NPZ = b"PK\x05\x06" + bytes(18)


@pytest.fixture
def early(tmp_path):
    """Runs a command without torch in a folder with a file, an empty folder and an .npz."""
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
        ("quantize m --data nowhere", "data nowhere: there is no such file or folder"),
        ("quantize m --weights nowhere.pth", "checkpoint nowhere.pth: there is no such file"),
        ("quantize m --weights empty", "checkpoint empty: is a folder"),
        ("quantize m --out file", "output file: is a file where a folder is needed"),
        ("quantize m --out file/deep/er", "output file: is a file where a folder is needed"),
        ("quantize m --images 4", "--images 4 says how many images of --data to take; pass --data PATH"),
        ("quantize m --for rtx-380", "did you mean rtx-3080?"),
        ("quantize m --recipe it8", "did you mean int8?"),
        ("evaluate m --data nowhere", "data nowhere: there is no such file or folder"),
        ("evaluate m --data file", "data file: is neither a folder of images nor an .npz file"),
        ("evaluate m --data good.npz --calibration empty", "data empty: is an empty folder"),
        ("evaluate m --data good.npz --weights empty", "checkpoint empty: is a folder"),
        ("table1 --data nowhere", "data nowhere: there is no such file or folder"),
        ("table1 --data good.npz --calibration nowhere", "data nowhere: there is no such file or folder"),
        ("table1 --data good.npz --out file", "output file: is a file where a folder is needed"),
        ("table1 --data good.npz --weights file", "checkpoint file: there is no such folder"),
        ("table1 --data good.npz --weights empty", "mobilevit_xxs.safetensors: there is no such file"),
        ("plot sqnr m --out file", "output file: is a file where a folder is needed"),
        ("plot softmax m --out x.png --data nowhere", "data nowhere: there is no such file or folder"),
        ("plot sqnr m --out x.png --weights nowhere", "checkpoint nowhere: there is no such file"),
        ("plot weights m --out x.png --images 4", "weights is drawn from the weights alone; leave --data and --images"),
        ("plot sqnr m --out x.png --recipe it8", "did you mean int8?"),
        ("audit m --data nowhere", "data nowhere: there is no such file or folder"),
        ("audit m --weights nowhere", "checkpoint nowhere: there is no such file"),
        ("check file --target rtx-380", "did you mean rtx-3080?"),
        ("check file --target onnxruntime", "artifact file: is not an ONNX file: it is empty"),
        ("check good.npz --target onnxruntime", "artifact good.npz: is not an ONNX file but a zip file"),
        ("check empty --target onnxruntime", "artifact empty: is a directory; give an .onnx file"),
        ("check nowhere.onnx --target onnxruntime", "artifact nowhere.onnx: there is no such file"),
        ("check file --target onnxruntime --predict", "--predict is for TensorRT; onnxruntime loads the file here"),
    ],
)
def test_a_wrong_input_is_told_before_torch_is_imported(early, arguments, sentence):
    """One sentence and exit code 2, nothing on stdout and nothing written."""
    shown = early(*arguments.split())

    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith("error: ")
    assert sentence in shown.stderr
    assert shown.stderr.count("\n") == 1
