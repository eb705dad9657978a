"""Einsum by release."""

import numpy as np
import pytest

OLD, EVERY = "8.2 8.5", "8.2 8.5 10 11 rtx"
SQUARE = np.eye(16, dtype=np.float32)
ONE_COLUMN = np.ones((16, 1), np.float32)


@pytest.mark.parametrize(
    ("refused", "equation", "operands"),
    [
        ("", "nchw,wv->nchv", [SQUARE]),
        ("", "nchw , wv -> nchv", [SQUARE]),
        ("", "nchw,wv", [SQUARE]),
        ("", "nchw->nwhc", []),
        (OLD, "...w,wv->...v", [SQUARE]),
        (OLD, "n...w->n...", []),
        (OLD, "nchw,...->nchw", [np.float32(2)]),
        (OLD, "nchw,wv,vu->nchu", [SQUARE, SQUARE]),
        (OLD, "nchw,wv,vu,ut->ncht", [SQUARE, SQUARE, SQUARE]),
        ("8.2 8.5 10", "nchh->nch", []),
        ("8.2 8.5 10", "nchw,vv->nchw", [SQUARE]),
        ("8.2 8.5 10", "nchh->nc", []),
        (EVERY, "NCHW,WV->NCHV", [SQUARE]),
        (EVERY, "nchW,Wv->nchv", [SQUARE]),
        (OLD, "nchw,wh->nchw", [ONE_COLUMN]),
    ],
)
def test_the_equations(one_node, refusing, refused, equation, operands):
    """8.x takes two operands, each letter once, without ellipsis and broadcast, and no release capitals."""
    releases, sentences = refusing(one_node("Einsum", *operands, equation=equation))

    assert releases == refused
    assert all(f"'n' (Einsum) has equation='{equation}', which TensorRT" in sentence for sentence in sentences)


def test_a_refusal_names_the_node_the_attribute_and_the_release(one_node, refusing):
    """A sentence says what the node has, which release refuses it, and why."""
    _, sentences = refusing(one_node("Einsum", SQUARE, equation="...w,wv->...v"))

    assert sentences[0] == (
        "node 'n' (Einsum) has equation='...w,wv->...v', which TensorRT 8.2 refuses: it reads no ellipsis"
    )
