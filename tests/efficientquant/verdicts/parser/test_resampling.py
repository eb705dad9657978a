"""Resize, Upsample and GridSample by release."""

import numpy as np
import pytest
from efficientquant.targets import get_target
from efficientquant.verdicts.build_rules import predict

EVERY = "8.2 8.5 10 11 rtx"
OLD = "8.2 8.5"
TWICE = np.float32([1, 1, 2, 2])
BATCH_TWICE = np.float32([2, 1, 2, 2])
CHANNELS_TWICE = np.float32([1, 2, 2, 2])
SIZES = np.array([1, 8, 32, 32])
GRID = np.zeros((1, 4, 4, 2), np.float32)


@pytest.mark.parametrize(
    ("refused", "form", "attributes"),
    [
        ("", "", {"mode": "nearest"}),
        ("", "", {"mode": "linear"}),
        ("8.2", "mode='cubic'", {"mode": "cubic"}),
        ("8.2", "mode='cubic'", {"mode": "cubic", "coordinate_transformation_mode": "align_corners"}),
        ("8.2", "mode='cubic'", {"mode": "cubic", "exclude_outside": 1}),
        ("", "", {"mode": "linear", "exclude_outside": 1}),
        ("", "", {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}),
        ("", "", {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
        ("", "", {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
        ("", "", {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "round_prefer_ceil"}),
        ("", "", {"coordinate_transformation_mode": "tf_half_pixel_for_nn"}),
        (
            EVERY,
            "nearest_mode='floor'",
            {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"},
        ),
        (EVERY, "nearest_mode='simple'", {"nearest_mode": "simple"}),
        (EVERY, "'tf_crop_and_resize'", {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}),
        (EVERY, "'half_pixel_symmetric'", {"coordinate_transformation_mode": "half_pixel_symmetric"}),
    ],
)
def test_the_modes_of_a_resize(one_node, refusing, refused, form, attributes):
    """8.2 interpolates no cubics, and no release crops or knows other modes."""
    releases, sentences = refusing(one_node("Resize", None, TWICE, opset=13, **attributes))

    assert releases == refused
    assert all(form in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("refused", "mode", "scales"),
    [
        ("", "nearest", BATCH_TWICE),
        (EVERY, "linear", BATCH_TWICE),
        ("", "linear", CHANNELS_TWICE),
        (EVERY, "cubic", CHANNELS_TWICE),
    ],
)
def test_the_dimensions_of_a_resize(one_node, refusing, refused, mode, scales):
    """Linear interpolation covers three dimensions and cubic two."""
    assert refusing(one_node("Resize", None, scales, mode=mode))[0] == refused


@pytest.mark.parametrize(
    ("form", "attributes"),
    [
        ("", {"antialias": 0}),
        ("antialias=1", {"antialias": 1}),
        ("", {"keep_aspect_ratio_policy": "stretch"}),
        ("keep_aspect_ratio_policy='not_larger'", {"keep_aspect_ratio_policy": "not_larger"}),
        ("keep_aspect_ratio_policy='not_smaller'", {"keep_aspect_ratio_policy": "not_smaller"}),
        ("", {"axes": [2, 3]}),
    ],
)
def test_a_resize_of_opset_18(one_node, form, attributes):
    """No release antialiases or keeps the aspect ratio, and 10 reads opset 18."""
    sizes = SIZES[2:] if "axes" in attributes else SIZES
    model = one_node("Resize", None, None, sizes, mode="linear", opset=18, **attributes)
    for target in ("tensorrt-10", "tensorrt-11", "rtx-3080"):
        sentences = [str(reason) for reason in predict(model, get_target(target)).reasons]

        assert [f"has {form}, which" in sentence for sentence in sentences] == ([True] if form else [])
    assert predict(model, get_target("agx-xavier")).reasons[0].rule == "opset"


def test_sizes_with_the_coordinates_of_tensorflow(one_node, refusing):
    """From 8.5 on the importer reads scales alone in that mode."""
    model = one_node("Resize", None, None, SIZES, coordinate_transformation_mode="tf_half_pixel_for_nn")

    assert refusing(model)[0] == "8.5 10 11 rtx"


@pytest.mark.parametrize(
    ("refused", "mode", "scales"),
    [("", "nearest", TWICE), ("", "linear", TWICE), (EVERY, "linear", BATCH_TWICE), (EVERY, "cubic", TWICE)],
)
def test_an_upsample(one_node, refusing, refused, mode, scales):
    """Upsample knows nearest and linear, the latter over three dimensions."""
    assert refusing(one_node("Upsample", scales, opset=9, mode=mode))[0] == refused


@pytest.mark.parametrize(
    ("refused", "changes"),
    [
        ("8.2", {"mode": "bilinear"}),
        ("8.2", {"mode": "bicubic", "padding_mode": "border"}),
        ("8.2", {"mode": "nearest", "padding_mode": "reflection"}),
        (OLD, {"mode": "linear"}),
        ("8.2 8.5 10", {"mode": "nearest", "shape": (1, 8, 4, 16, 16)}),
    ],
)
def test_a_grid_sample(one_node, refusing, refused, changes):
    """GridSample came with 8.5, for four dimensions and the modes' old names."""
    assert refusing(one_node("GridSample", GRID, opset=13, **changes))[0] == refused
