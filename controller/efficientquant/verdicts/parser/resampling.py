"""Rules for Resize, Upsample and GridSample."""

from collections.abc import Iterator

import numpy as np

from efficientquant.verdicts.parser.node import ParsedNode, Parser, Refusal

# operators.md of every release lists these modes and no others.
_RESIZE_MODES = ("nearest", "linear", "cubic")
_COORDINATES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
_NEAREST_MODES = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
_FOR_NEAREST = "tf_half_pixel_for_nn"
# 8.5-GA is the first whose importer sets ResizeMode::kCUBIC; before, it asserts that the mode is not cubic.
_CUBIC_SINCE = (8, 5)
# How many of the last dimensions an interpolation covers: canUseNDResize(…, 3) and (…, 2) in the importer.
_DIMENSIONS = {"linear": 3, "cubic": 2}


def resize(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
    """Yield the modes of a Resize that a release does not take."""
    mode = node.attribute("mode", "nearest")
    if mode not in _RESIZE_MODES or (mode == "cubic" and parser.release < _CUBIC_SINCE):
        known = _RESIZE_MODES if parser.release >= _CUBIC_SINCE else _RESIZE_MODES[:2]
        yield Refusal(f"mode={mode!r}", f"it interpolates by {' or '.join(known)}")
    if node.opset >= 11:
        yield from _coordinates(node, parser)
    yield from _opset_18(node, parser)
    scales = node.array(2 if node.opset >= 11 else 1)
    yield from _resized_dimensions(mode, scales)


def _coordinates(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
    coordinates = node.attribute("coordinate_transformation_mode", "half_pixel")
    nearest = node.attribute("nearest_mode", "round_prefer_floor")
    if coordinates not in _COORDINATES:
        why = f"it knows {', '.join(_COORDINATES)}"
        yield Refusal(f"coordinate_transformation_mode={coordinates!r}", why)
    if nearest not in _NEAREST_MODES:
        yield Refusal(f"nearest_mode={nearest!r}", f"it knows {', '.join(_NEAREST_MODES)}")
    elif coordinates == _FOR_NEAREST and nearest != "round_prefer_floor":
        why = f"with {_FOR_NEAREST} it takes round_prefer_floor only"
        yield Refusal(f"nearest_mode={nearest!r}", why)
    # The importers from 8.5 on read `sizes` in the branch of the other modes only.
    if coordinates == _FOR_NEAREST and node.has_input(3) and parser.release >= _CUBIC_SINCE:
        yield Refusal(f"sizes together with {_FOR_NEAREST}", "with that mode it takes scales only")


def _opset_18(node: ParsedNode, _parser: Parser) -> Iterator[Refusal]:
    # operators.md: "Antialiasing is not supported", "Supported aspect ratio policy: stretch". Releases before the
    # static check of it ignore both attributes and compute something else.
    if node.attribute("antialias", 0):
        yield Refusal("antialias=1", "it has no antialiasing")
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        yield Refusal(f"keep_aspect_ratio_policy={policy!r}", "it knows stretch")
    if node.has_attribute("axes") and node.is_computed(2):
        yield Refusal("axes with computed scales", "with axes it takes constant scales")


def _resized_dimensions(mode: str, scales: np.ndarray | None) -> Iterator[Refusal]:
    dimensions = _DIMENSIONS.get(mode)
    if scales is None or dimensions is None or scales.ndim != 1:
        return
    if np.any(scales[:-dimensions] != 1):
        shown = [round(float(scale), 4) for scale in scales]
        yield Refusal(f"scales={shown}", f"its {mode} interpolation covers the last {dimensions} dimensions")


def upsample(node: ParsedNode, _parser: Parser) -> Iterator[Refusal]:
    """Yield the modes of an Upsample that a release does not take."""
    mode = node.attribute("mode", "nearest")
    if mode not in ("nearest", "linear", "bilinear"):
        yield Refusal(f"mode={mode!r}", "it knows nearest, linear and bilinear")
    given = node.attribute("scales", None)
    scales = node.array(1) if given is None else np.asarray(given)
    yield from _resized_dimensions("linear" if mode == "bilinear" else mode, scales)


def grid_sample(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
    """Yield the forms of a GridSample that a release does not take."""
    shape = node.shape(0)
    # operators.md of 10.15: "Input must be 4D input". TensorRT-RTX 1.7 takes five dimensions.
    if shape is not None and len(shape) != 4 and parser.release < (11,):
        yield Refusal(f"an input of {len(shape)} dimensions", "it samples inputs of 4 dimensions")
    mode = node.attribute("mode", "bilinear")
    # The importer of 8.5 compares with the names of opset 16 and takes every other one for nearest.
    if parser.release < (10,) and mode not in ("bilinear", "nearest", "bicubic"):
        yield Refusal(f"mode={mode!r}", "it knows bilinear, nearest and bicubic, and samples the nearest", "ignores")
