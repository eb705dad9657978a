"""`efficientquant quantize`: one checked artifact for one target."""

import hashlib
import json
import sys

import pytest
from efficientquant.artifact import exact_products

MODEL = "test_convnext"


def test_one_artifact_with_its_report(command, tmp_path):
    """The artifact and its report are written to --out, and the table has the target's verdict."""
    shown = command("quantize", MODEL, "--weights", "random", "--for", "rtx-3080", "--out", str(tmp_path / "new"))

    artifact = tmp_path / "new" / f"{MODEL}-efficientquant-rtx-3080.onnx"
    report = json.loads(artifact.with_suffix(".json").read_text())
    assert shown.exit_code == 0
    assert report["sha256"] == hashlib.sha256(artifact.read_bytes()).hexdigest()
    assert report["verdict"]["outcome"] in ("builds", "builds_with_fallback")
    assert report["provenance"]["recipe"]["method"] == "efficientquant"
    assert report["manifest"]["parameters"]
    assert "what it buys there" in shown.out
    assert f"loading {MODEL}" in shown.err
    assert f"made the folder {tmp_path / 'new'}" in shown.err
    assert sorted(path.name for path in artifact.parent.iterdir()) == [
        artifact.with_suffix(".json").name,
        artifact.name,
    ]


def test_without_the_builder_the_verdict_is_predicted(command, tmp_path, monkeypatch):
    """Without the builder the file is written, and stderr and the report say that nothing was built."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    shown = command(
        "quantize", MODEL, "--recipe", "fp16", "--weights", "random", "--for", "rtx-3080", "--out", str(tmp_path)
    )

    report = json.loads((tmp_path / f"{MODEL}-fp16-rtx-3080.json").read_text())
    sentence = "what rtx-3080 makes of the file is predicted from rules, not built"
    assert shown.exit_code == 0
    assert shown.err.splitlines()[0].startswith(f"note: {sentence}: TensorRT-RTX is not installed; ")
    assert "[rtx]' adds it" in shown.err.splitlines()[0]
    assert (report["verdict"]["basis"], report["verdict"]["outcome"]) == ("predicted", "builds")
    assert sentence in report["notes"]
    assert "(predicted, TensorRT-RTX 1.7)" in shown.out


@pytest.mark.parametrize(
    ("saturates", "target", "recipe", "is_advised"),
    [
        (False, "onnxruntime", "int8", True),
        (True, "onnxruntime", "int8", False),
        (False, "onnxruntime-vnni", "int8", False),
        (False, "onnxruntime-1.17", "int8", False),
        (False, "onnxruntime", "fp32", False),
    ],
)
def test_a_cpu_with_vnni_is_told_the_faster_target(
    command, tmp_path, monkeypatch, saturates, target, recipe, is_advised
):
    """A line names the target with signed weights where they are faster here and right."""
    monkeypatch.setattr(exact_products, "products_saturate", lambda: saturates)
    monkeypatch.setattr(exact_products, "is_x86", lambda: True)
    options = ("--weights", "random", "--recipe", recipe, "--for", target, "--out", str(tmp_path))
    shown = command("quantize", MODEL, *options)

    assert shown.exit_code == 0
    assert ("note: this CPU has VNNI, where --for onnxruntime-vnni is faster\n" in shown.err) == is_advised


def test_json(command, tmp_path):
    """--json prints the same facts, and the file name is safe for a recipe with options."""
    options = ("--recipe", "efficientquant:weight_bits=4", "--for", "jetson-nano", "--out", str(tmp_path), "--json")
    shown = command("quantize", MODEL, "--weights", "random", *options)

    facts = json.loads(shown.out)
    assert facts["path"].endswith(f"{MODEL}-efficientquant_weight_bits-4-jetson-nano.onnx")
    assert facts["bit_table"]["conv weights"] == "4 per-channel"
    assert facts["verdict"]["basis"] == "predicted"
    assert any("stored in float: jetson-nano" in note for note in facts["notes"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mobilevit_xxx"], "error: model 'mobilevit_xxx' is not known to timm; did you mean mobilevit_xxs"),
        ([MODEL + ".in22k"], f"{MODEL} has the tags r160_in1k"),
        ([MODEL, "--recipe", "int3"], "error: recipe 'int3' is not known (available: easyquant"),
        ([MODEL, "--recipe", "int8:bits=4"], "error: recipe field 'bits': is no option of 'int8'"),
        ([MODEL, "--for", "toaster"], "error: target 'toaster' is not known (available: jetson-nano"),
        ([MODEL, "--weights", "no.pth"], "error: checkpoint no.pth: there is no such file"),
        ([MODEL, "--data", "nowhere"], "there is no such file or folder"),
        (["test_vit", "--input-size", "17"], "test_vit does not run on 17 × 17 images"),
    ],
)
def test_a_wrong_input_is_one_sentence(command, tmp_path, monkeypatch, arguments, sentence):
    """A wrong input is exit code 2 and one sentence at the end, and leaves no files."""
    monkeypatch.chdir(tmp_path)
    weights = () if "--weights" in arguments else ("--weights", "random")
    shown = command("quantize", *arguments, *weights, "--out", "out")

    assert shown.exit_code == 2
    assert sentence in shown.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_pass_can_be_left_out(command, tmp_path):
    """The file lacks what the pass writes, and the report names it."""
    options = ("--weights", "random", "--recipe", "fp16", "--for", "rtx-3080", "--out", str(tmp_path), "--json")
    whole = json.loads(command("quantize", "test_vit", *options).out)
    shown = command("quantize", "test_vit", *options, "--without-pass", "flat-linears", "--without-pass", "gemms")
    less = json.loads(shown.out)

    assert any("flat-linears at 24 places" in note for note in whole["notes"])
    assert not any("flat-linears" in note for note in less["notes"])
    assert (whole["without_passes"], less["without_passes"]) == ([], ["flat-linears", "gemms"])
    assert "note: --without-pass gemms is not used: rtx-3080 has no such pass" in shown.err


def test_an_unknown_pass_is_refused_before_the_work(command, tmp_path):
    """The sentence names the passes that exist, and nothing is written."""
    shown = command("quantize", MODEL, "--weights", "random", "--without-pass", "pow", "--out", str(tmp_path))

    assert shown.exit_code == 2
    assert (
        "pass 'pow' is not known (available: flat-linears, joint-projections, group-norms, gemms, powers)" in shown.err
    )
    assert not list(tmp_path.iterdir())
