"""Short unique names of layers."""

import pytest
from efficientquant.graph.layer_names import short_layer_names
from hypothesis import given
from hypothesis import strategies as st

PART = st.sampled_from(["stages", "stem", "conv", "0", "1", "weight"])
NAMES = st.lists(st.lists(PART, min_size=1, max_size=5).map(".".join), unique=True, max_size=12)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["stem.conv.weight", "stages.0.c1.conv.weight", "stages.1.c1.conv.weight"], ["stem.conv", "0.c1", "1.c1"]),
        (["stages.2.1.block.0.attn", "stages.2.1.block.1.attn"], ["2.1.block.0", "2.1.block.1"]),
        (["stages.3.1.transformer.0.attn"], ["stages.3.1.transformer"]),
        (["a.b", "a.b.c"], ["b", "b.c"]),
        (["b.c", "a.b.c", "a.b.d"], ["b.c", "a.b.c", "a.b.d"]),
        (["head"], ["head"]),
    ],
)  # fmt: skip
def test_the_end_and_the_shared_first_part_are_left_out(names, short):
    """A short name has a word, and keeps what tells it from the others."""
    assert list(short_layer_names(names).values()) == short


@given(NAMES)
def test_short_names_are_unique(names):
    """No two names of a list get the same short name, and none becomes longer."""
    short = short_layer_names(names)
    assert len({*short.values()}) == len(names)
    assert all(len(short[name]) <= len(name) for name in names)
