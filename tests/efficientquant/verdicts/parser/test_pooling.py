"""Poolings and convolutions by release."""

import numpy as np
import pytest

EVERY = "8.2 8.5 10 11 rtx"


@pytest.mark.parametrize(
    ("refused", "operator", "attributes"),
    [
        ("", "MaxPool", {"kernel_shape": [3, 3]}),
        ("", "MaxPool", {"kernel_shape": [3, 3], "dilations": [1, 1]}),
        (EVERY, "MaxPool", {"kernel_shape": [3, 3], "dilations": [2, 2]}),
        (EVERY, "MaxPool", {"kernel_shape": [3, 3], "dilations": [1, 2]}),
        ("", "MaxPool", {"kernel_shape": [2, 2], "ceil_mode": 1}),
        (EVERY, "MaxPool", {"kernel_shape": [2, 2], "outputs": 2}),
        ("", "MaxPool", {"kernel_shape": [3], "shape": (1, 8, 16)}),
        ("", "AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1, "ceil_mode": 1}),
        (EVERY, "AveragePool", {"kernel_shape": [3, 3], "dilations": [2, 2]}),
        (EVERY, "AveragePool", {"kernel_shape": [3], "dilations": [3], "shape": (1, 8, 16)}),
        ("", "LpPool", {"kernel_shape": [3, 3], "p": 1}),
        (EVERY, "LpPool", {"kernel_shape": [3, 3], "p": 3}),
        (EVERY, "LpPool", {"kernel_shape": [3, 3], "dilations": [2, 2]}),
        (EVERY, "LpNormalization", {"p": 3}),
        ("", "LpNormalization", {"p": 2}),
    ],
)
def test_a_pooling(one_node, refusing, refused, operator, attributes):
    """No release dilates a pooling, gives indices, or pools by another norm than 1 and 2."""
    assert refusing(one_node(operator, **attributes))[0] == refused


@pytest.mark.parametrize(
    ("refused", "operator", "weight", "shape"),
    [
        ("", "Conv", (8, 8, 3), (1, 8, 16)),
        ("", "Conv", (8, 8, 3, 3), (1, 8, 16, 16)),
        ("", "Conv", (8, 8, 1, 3, 3), (1, 8, 4, 16, 16)),
        (EVERY, "Conv", (8, 8, 1, 1, 1, 1), (1, 8, 4, 4, 4, 4)),
        ("", "ConvTranspose", (8, 4, 3, 3), (1, 8, 16, 16)),
        (EVERY, "ConvTranspose", (8, 4, 1, 1, 1, 1), (1, 8, 4, 4, 4, 4)),
    ],
)
def test_a_convolution_has_up_to_three_dimensions(one_node, refusing, refused, operator, weight, shape):
    """One dimension is imported as two, and four are too many."""
    assert refusing(one_node(operator, np.ones(weight, np.float32), shape=shape))[0] == refused


@pytest.mark.parametrize(("refused", "pads"), [("8.2 8.5 10 rtx", [1, 1, 1, 1]), (EVERY, [1, 1, 0, 0])])
def test_a_deformable_convolution(one_node, refusing, refused, pads):
    """DeformConv is a plugin since 10.1, which pads both ends alike."""
    weight, offsets = np.ones((8, 8, 3, 3), np.float32), np.zeros((1, 18, 16, 16), np.float32)

    assert refusing(one_node("DeformConv", weight, offsets, pads=pads))[0] == refused
