"""The installation of a missing extra."""

import json
import sys
from types import SimpleNamespace

import pytest
from efficientquant import installation
from efficientquant.errors import MissingExtraError
from efficientquant.targets import get_target


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        ({"url": "file://{here}", "dir_info": {"editable": True}}, "-e '.[rtx]'"),
        ({"url": "file://{here}/source", "dir_info": {}}, "'source[rtx]'"),
        ({"url": "file:///a.whl", "archive_info": {}}, "'efficientquant[rtx] @ file:///a.whl'"),
        ({"url": "https://x/y.git", "vcs_info": {"vcs": "git"}}, "'efficientquant[rtx] @ git+https://x/y.git'"),
        (None, "'efficientquant[rtx]'"),
    ],
)
def test_the_command_fits_where_the_product_came_from(tmp_path, monkeypatch, origin, requirement):
    """The command installs from the product's own source, with the running Python's pip."""
    pip = tmp_path / ".venv" / "bin" / "pip"
    pip.parent.mkdir(parents=True)
    pip.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(pip.with_name("python")))
    text = origin and json.dumps(origin).replace("{here}", str(tmp_path))

    distributions = [SimpleNamespace(read_text=lambda _name: None), SimpleNamespace(read_text=lambda _name: text)]
    monkeypatch.setattr(installation, "distributions", lambda **_: distributions)

    assert installation.install_command("rtx") == f".venv/bin/pip install {requirement}"


def refuse(name):
    """Raise ModuleNotFoundError, as an import hook that blocks a module does."""
    raise ModuleNotFoundError(f"No module named {name!r}")


def test_openvino_is_an_extra_of_its_target(monkeypatch):
    """Without OpenVINO its target is refused with the command that adds it, and no other target is."""
    monkeypatch.setitem(sys.modules, "openvino", None)

    with pytest.raises(MissingExtraError, match=r"OpenVINO is not installed; .*pip install .*\[openvino\]' adds it"):
        installation.require_builder(get_target("openvino"))
    installation.require_builder(get_target("onnxruntime"))


def test_a_missing_builder_is_named_for_its_targets_only(monkeypatch):
    """TensorRT-RTX is an extra, and no command is given where it is not published for the machine."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)

    with pytest.raises(MissingExtraError, match=r"TensorRT-RTX is not installed; .*pip install .*\[rtx\]' adds it"):
        installation.require_builder(get_target("rtx-3080"))
    for target in ("jetson-nano", "tensorrt-11", "onnxruntime"):
        installation.require_builder(get_target(target))
    monkeypatch.delitem(sys.modules, "tensorrt_rtx_bindings")
    monkeypatch.setattr("importlib.util.find_spec", refuse)
    with pytest.raises(MissingExtraError, match="TensorRT-RTX is not installed"):
        installation.require_rtx()
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(MissingExtraError, match="published for Linux on x86_64 only, and this is linux on aarch64"):
        installation.require_rtx()
