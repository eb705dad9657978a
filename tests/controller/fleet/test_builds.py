"""Tests of artifact requests: recipe names, build keys, and unusable images."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from efficientquant.recipe import get_recipe
from efficientquant_controller.errors import NotFoundError, UserError
from efficientquant_controller.fleet.artifacts import ContentStore
from efficientquant_controller.fleet.builds import (
    Builder,
    Source,
    _by_users_name,
    _Files,
    _images,
    build_key,
    canonical_recipe,
)
from efficientquant_controller.fleet.variants import Variant
from efficientquant_controller.model import Calibration, Device, DeviceSnapshot, Weights
from offers import offered
from PIL import Image

RANDOM = Weights("random")
TARGET = "onnxruntime"
PHOTOS = Calibration("ab" * 32, "photos.zip")
RTX = Device("d", "rtx", "0.1.0", 1, 0.0, DeviceSnapshot(backends=(offered("trt-rtx", "1.7.1"),)))


def test_notes_name_the_users_files(tmp_path: Path) -> None:
    """Notes about uploaded images name the archive, not a path of the controller."""
    model = torch.nn.Identity()
    model.pretrained_cfg = {"input_size": (3, 8, 8), "mean": (0, 0, 0), "std": (1, 1, 1), "crop_pct": 1.0}
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    with zipfile.ZipFile(tmp_path / "upload", "w") as archive:
        archive.writestr("cat/flat.png", content.getvalue())
    files = _Files(tmp_path / "ab12", "run.pth", tmp_path / "upload", "photos.zip")
    with _images(model, get_recipe("int8"), files) as (_, _, notes):
        assert notes == ["data photos.zip: flat.png: all pixels are equal"]
    assert _by_users_name("checkpoint ab12: averaged", files) == "checkpoint run.pth: averaged"


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(ContentStore(tmp_path / "artifacts"), ContentStore(tmp_path / "uploads"))


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("fp32", "fp32"),
        ("efficientquant:weight_bits=8", "efficientquant"),
        (
            "efficientquant:weight-bits=04:scope=conv+linear:softmax_bits=8",
            "efficientquant:scope=conv+linear:weight_bits=4",
        ),
        ("efficientquant-weights:softmax_bits=none", "efficientquant-weights"),
        ("efficientquant:softmax_bits=None", "efficientquant:softmax_bits=none"),
    ],
)
def test_a_recipe_has_one_name(asked: str, name: str) -> None:
    """A canonical name omits default options, sorts the others, and is its own canonical name."""
    assert canonical_recipe(asked) == name == canonical_recipe(name)


def test_spellings_of_one_recipe_are_one(builder: Builder) -> None:
    """A recipe that is requested in two spellings is measured once."""
    assert builder.canonical_recipes(("efficientquant:weight_bits=8", "fp32", "efficientquant")) == (
        "efficientquant",
        "fp32",
    )
    with pytest.raises(UserError, match="12 bits; 2 to 8 are possible"):
        builder.canonical_recipes(("fp32", "efficientquant:weight_bits=12"))


@pytest.mark.parametrize("recipe", ["fp32", "efficientquant:log2_form=G", "int8"])
def test_other_images_are_another_build(recipe: str) -> None:
    """Other images make another build of every recipe, because the reference inputs are among them."""
    keys = {build_key("m", recipe, TARGET, Source(RANDOM, images)) for images in (None, PHOTOS)}
    assert len(keys) == 2


def test_what_an_artifact_is_made_of_names_it() -> None:
    """Model, recipe, target and weights each change the build key, and file names do not."""
    photos = replace(PHOTOS, filename="others.zip")
    mine, yours = (Weights("checkpoint", "cd" * 32, name) for name in ("mine.pth", "yours.pth"))
    base = build_key("m", "fp32", TARGET, Source(mine, PHOTOS))

    others = {
        build_key("n", "fp32", TARGET, Source(mine, PHOTOS)),
        build_key("m", "int8", TARGET, Source(mine, PHOTOS)),
        build_key("m", "fp32", "jetson-nano", Source(mine, PHOTOS)),
        build_key("m", "fp32", TARGET, Source(RANDOM, PHOTOS)),
    }

    assert len(others | {base}) == 5
    assert build_key("m", "fp32", TARGET, Source(yours, photos)) == base


def test_a_target_that_nothing_is_lowered_for_is_refused(builder: Builder) -> None:
    """A device with an unknown target is refused before anything is built."""
    builder.check_targets([(RTX, Variant("trt-rtx", "jetson-nano")), (RTX, Variant("ort-cpu", "onnxruntime"))])
    with pytest.raises(UserError, match=r"device 'rtx' would run 'trt-rtx', .* form 'tensorrt-rtx', .*-sm0.*--backend"):
        builder.check_targets([(RTX, Variant("trt-rtx", "tensorrt-rtx-sm0"))])


def test_an_sm_that_tensorrt_rtx_lacks_is_named(builder: Builder) -> None:
    """A device that offers TensorRT-RTX on SM 9.0 is refused with the SMs that it builds for."""
    with pytest.raises(UserError, match=r"TensorRT-RTX has no SM 9\.0, it builds for SM 7\.5, 8\.0, .* only"):
        builder.check_targets([(RTX, Variant("trt-rtx", "tensorrt-rtx-sm90"))])


@pytest.mark.parametrize(
    ("name", "error", "sentence"), [("photos.zip", NotFoundError, "no artifact"), ("photos.tar", UserError, "neither")]
)
def test_images_that_are_not_there_are_refused(
    builder: Builder, tmp_path: Path, name: str, error: type[Exception], sentence: str
) -> None:
    """An upload that is not stored, or whose format is not read, is refused before anything is built."""
    if name.endswith(".tar"):
        (tmp_path / "uploads/ab").mkdir()
        (tmp_path / "uploads/ab" / PHOTOS.sha256).write_bytes(b"")
    with pytest.raises(error, match=sentence):
        builder.check_calibration(Calibration(PHOTOS.sha256, name))


@pytest.mark.parametrize("kind", ["no archive", "no image", "too large"])
def test_uploaded_images_that_cannot_be_used_are_one_sentence(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mobilevit: object
) -> None:
    """The error names the user's file, not the controller's path."""
    path = tmp_path / PHOTOS.sha256
    path.write_bytes(b"PK")
    if kind != "no archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("cat.png", b"no image")
    if kind == "too large":
        monkeypatch.setattr("efficientquant_controller.fleet.builds.MAX_UNPACKED_BYTES", 4)
    with (
        pytest.raises(UserError) as caught,
        _images(mobilevit, get_recipe("int8"), _Files("random", "", path, "photos.zip")),
    ):
        pass
    assert str(caught.value).startswith(
        {"no archive": "photos.zip is no archive", "no image": "data photos.zip/cat.png: is no image"}.get(
            kind, "the images unpack to"
        )
    )
    assert str(tmp_path) not in str(caught.value)


@pytest.fixture(scope="module")
def mobilevit() -> object:
    from efficientquant import create_model

    return create_model("test_efficientnet", "random")
