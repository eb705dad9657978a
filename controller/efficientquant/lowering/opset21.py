"""Rewriting of ONNX opset 18 to opset 21.

Opset 21 has 4-bit integers, and blocks with a scale each.
"""

from pathlib import Path

import onnx_ir as ir

from efficientquant.errors import LoweringError

OPSET, IR_VERSION = 21, 10
# What opset 20 calls the modes of a GridSample [ONNX, changelog].
_MODES = {"bilinear": "linear", "bicubic": "cubic"}


def raise_to_opset_21(model: ir.Model, path: Path) -> None:
    """Rewrite a model for opset 21 in place.

    Every operator that an export has means the same in both, except for two. `path` only names the artifact in errors.
    Raises LoweringError for a GroupNormalization of opset 18, which has a scale for each group.
    """
    for node in model.graph:
        if node.op_type == "GridSample" and "mode" in node.attributes:
            mode = node.attributes.get_string("mode")
            node.attributes.add(ir.AttrString("mode", _MODES.get(mode, mode)))
        if node.op_type == "GroupNormalization" and not _has_scale_per_channel(node):
            raise LoweringError(path, str(node.name), node.op_type, "means something else in opset 21")
    model.opset_imports[""], model.ir_version = OPSET, IR_VERSION


def _has_scale_per_channel(node: ir.Node) -> bool:
    """Tell whether a group norm is that of opset 21.

    In opset 18 it has a scale for each group.
    """
    x, scale = node.inputs[:2]
    groups = node.attributes.get_int("num_groups")
    assert x is not None
    assert scale is not None
    return scale.shape != ir.Shape([groups]) or (x.shape is not None and x.shape[1] == groups)
