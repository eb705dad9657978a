"""Wheels packed into parts, and the errors of pack.sh."""

import shutil

import pytest
from airgap_wheels import TAG, contents, noise


def test_tensorrt_for_one_gpu(pack, make_wheel, call, tmp_path):
    """A kit has the builder resource of one SM only, with the bindings of the same version."""
    names = ["__init__.py", "libnvinfer.so.10", "libnvonnxparser.so.10", "libnvinfer_plugin.so.10"]
    names += [f"libnvinfer_builder_resource_sm{sm}.so.10.16.1" for sm in (75, 86, 90)]
    members = {f"tensorrt_libs/{name}": noise(1000) for name in names}
    libs = make_wheel("tensorrt_cu13_libs-10.16.1.11-py2.py3-none-manylinux_2_28_x86_64", members)
    bindings = {"tensorrt_bindings/__init__.py": b"__version__ = '10.16.1.11'\n"}
    make_wheel(f"tensorrt_cu13_bindings-10.16.1.11-{TAG}-none-manylinux_2_28_x86_64", bindings)

    code, _, err = pack("tensorrt", "--libs", str(libs), "--sm", "8.6")
    unpacked = call("unpack.sh", "out", "store", "target")

    assert (code, err, unpacked[0]) == (0, "", 0)
    assert {path.name for path in (tmp_path / "target/tensorrt_libs").iterdir() if "resource" in path.name} == {
        "libnvinfer_builder_resource_sm86.so.10.16.1"
    }
    assert "tensorrt_libs" in unpacked[1]
    assert (tmp_path / f"target/.tensorrt-10.16.1.11-sm86-{TAG}.done").exists()


def test_tensorrt_that_does_not_fit(pack, make_wheel, tmp_path):
    """An SM that the libraries lack and a version that differs from theirs are refused and leave no files."""
    names = ["__init__.py", "libnvinfer.so.10", "libnvonnxparser.so.10", "libnvinfer_plugin.so.10"]
    members = {f"tensorrt_libs/{name}": b"" for name in [*names, "libnvinfer_builder_resource_sm90.so.10"]}
    libs = make_wheel("tensorrt_cu13_libs-10.16.1.11-py2.py3-none-manylinux_2_28_x86_64", members)

    no_sm = pack("tensorrt", "--libs", str(libs), "--sm", "53")
    no_version = pack("tensorrt", "--libs", str(libs), "--version", "10.15.0")

    assert (no_sm[0], "no member tensorrt_libs/libnvinfer_builder_resource_sm53" in no_sm[2]) == (1, True)
    assert (no_version[0], no_version[2]) == (2, "pack: --version 10.15.0 is not that of --libs, 10.16.1.11\n")
    assert not contents(tmp_path / "out")


def test_parts_of_before_stay_until_new_ones_are_whole(kit, pack, make_wheel, tmp_path):
    """A packing that fails leaves the parts of the last one unchanged."""
    shutil.copytree(kit, tmp_path / "out")
    wheel = f"onnxruntime_gpu-1.31.1-{TAG}-{TAG}-manylinux_2_28_x86_64"
    make_wheel(wheel, {"onnxruntime/a.py": b"a"}, {"onnxruntime/a.py": "x"})

    code, _, err = pack("onnxruntime-gpu")

    assert (code, "not what the wheel's RECORD says" in err) == (1, True)
    assert contents(tmp_path / "out") == contents(kit)


def test_any_wheels(pack, make_wheel, call, tmp_path):
    """Pure Python wheels make a kit for any Python, and two kits share a target."""
    make_wheel("nvidia_ml_py-13.580.0-py3-none-any", {"pynvml.py": b"a = 1\n"})
    make_wheel("six-1.17.0-py2.py3-none-any", {"six.py": b"b = 2\n"})

    codes = [pack("wheels", "nvidia-ml-py==13.580.0")[0], pack("wheels", "six==1.17.0")[0]]
    code, _, err = call("unpack.sh", "out", "store", "target")

    assert (codes, code, err.count(" is in target")) == ([0, 0], 0, 2)
    assert {"pynvml.py", "six.py"} <= {path.name for path in (tmp_path / "target").iterdir()}
    assert " for any, " in next((tmp_path / "out").glob("*.parts.sha256")).read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["cuda", "out"], "'cuda' is nothing to pack; name onnxruntime-gpu"),
        (["onnxruntime-gpu", "out", "--version"], "--version needs a value"),
        (["onnxruntime-gpu", "out", "--version", ""], "--version needs a value"),
        (["onnxruntime-gpu", "out", "--python", "3"], "--python 3 is no version such as 3.12"),
        (["onnxruntime-gpu", "out", "--part-mib", "0"], "--part-mib 0 is no number from 1"),
        (["onnxruntime-gpu", "out", "--part-mib", "many"], "--part-mib many is no number"),
        (["onnxruntime-gpu", "out", "--level", "10"], "--level 10 is no number from 0 to 9"),
        (["onnxruntime-gpu", "out", "--sm", "90"], "--sm is for tensorrt, not for onnxruntime-gpu"),
        (["onnxruntime-gpu", "out", "--fast"], "there is no option --fast"),
        (["onnxruntime-gpu", "out", "more"], "'more' is one argument too many"),
        (["onnxruntime-gpu", "out", "--wheels", "nowhere"], "--wheels nowhere is no folder"),
        (["onnxruntime-gpu", "house/a/b"], "the folder house/a/b cannot be made"),
        (["tensorrt", "out"], "tensorrt needs --libs WHEEL"),
        (["tensorrt", "out", "--libs", "nowhere.whl"], "--libs nowhere.whl is not there"),
        (["tensorrt", "out", "--libs", "house/a", "--sm", "x"], "--sm x is no compute capability"),
        (["wheels", "out"], "name the wheels: NAME==VERSION"),
        (["wheels", "out", "numpy"], "'numpy' is not NAME==VERSION"),
    ],
)
def test_a_wrong_argument_of_pack(call, tmp_path, arguments, sentence):
    """A wrong argument gives one sentence and exit code 2, before a folder is made."""
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "a").write_text("")

    code, out, err = call("pack.sh", *arguments)

    assert (code, out, err.count("\n"), sentence in err) == (2, "", 1, True)
    assert not (tmp_path / "out").exists()


def test_a_wheel_that_is_not_there(pack, make_wheel, tmp_path):
    """A version that pip does not find gives one line with the existing versions."""
    make_wheel("six-1.17.0-py2.py3-none-any", {"six.py": b"b = 2\n"})

    code, out, err = pack("wheels", "six==9")

    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("pack: pip found no wheel of six==9 for Python ")
    assert "(from versions: 1.17.0)" in err
    assert not contents(tmp_path / "out")


@pytest.mark.parametrize("script", ["pack.sh", "unpack.sh"])
def test_help(call, script):
    """--help prints the usage and exits with 0, and no argument exits with 2."""
    assert call(script, "--help")[0] == 0
    assert script in call(script, "--help")[1]
    assert call(script)[0] == 2
    assert "unbound" not in call(script, "a")[2]
