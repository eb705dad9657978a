import subprocess
import sys

import efficientquant as eq
import numpy as np
import pytest
from efficientquant.errors import OutputError, PictureError, RecipeFormatError, UnknownBlockError
from efficientquant.files.given_paths import picture_paths
from efficientquant.plots import plot_softmax, plot_sqnr, plot_weights, save_figure
from efficientquant.plots.drawing import choose_block

BLOCK = "stages.2.1"


@pytest.fixture(scope="module")
def model():
    """Return a hybrid at 64 × 64 with random weights."""
    return eq.create_model("mobilevitv2_050", "random", input_size=64)


@pytest.fixture(scope="module")
def figures(model):
    """Return one figure of each kind."""
    return {
        "weights": plot_weights(model, block=f"{BLOCK}.transformer.0", name="net"),
        "softmax": plot_softmax(model, block=BLOCK, name="net"),
        "sqnr": plot_sqnr(model, name="net"),
    }


def test_weights_have_two_panels_a_layer(figures):
    """Each convolution of the block has a histogram and its channels' ranges, labelled, with the SQNR in the title."""
    axes = figures["weights"].axes
    names = [a.get_title(loc="left") for a in axes[::2]]
    assert [name.split(":")[0] for name in names] == [
        f"{BLOCK.removeprefix('stages.')}.transformer.0.{leaf}"
        for leaf in ("attn.qkv_proj", "attn.out_proj", "mlp.fc1", "mlp.fc2")
    ]
    assert all(name.endswith(" dB") for name in names)
    assert all(a.get_xlabel() and a.get_ylabel() for a in axes)


def test_softmax_shows_each_quantizers_levels(figures):
    """Below the values stand the levels of log2 A, log2 G and uniform int8, each with its SQNR."""
    values, levels = figures["softmax"].axes[:2]
    assert values.get_xscale() == levels.get_xscale() == "log"
    labels = [label.get_text() for label in levels.get_yticklabels()]
    assert [label.split(",")[0] for label in labels] == ["log2 A", "log2 G", "uniform int8"]
    assert all(label.endswith(" dB") for label in labels)
    strokes = [len(collection.get_segments()) for collection in levels.collections]
    assert strokes[1:] == [255, 127]  # the top code of G and the lowest of int8 are zero


def test_sqnr_has_a_bar_for_every_layer(figures):
    """All 64 convolutions have a bar and a worst channel, and the gates stand at 38 and 35 dB."""
    (axes,) = figures["sqnr"].axes
    assert len(axes.patches) == len(axes.get_yticklabels()) == 64
    worst, *gates = axes.lines
    assert [float(line.get_xdata()[0]) for line in gates] == [38.0, 35.0]
    bars = np.array([bar.get_width() for bar in axes.patches])
    known = ~np.isnan(np.asarray(worst.get_xdata()))
    # A random network starts with one convolution silenced by its batch norm: zeros are exact and have no bar.
    assert known.sum() == (bars > 0).sum() == 63
    assert bool((np.asarray(worst.get_xdata())[known] <= bars[known]).all())
    assert sum(label.get_text().endswith("(exact)") for label in axes.get_yticklabels()) == 1


@pytest.mark.parametrize("kind", ["weights", "softmax", "sqnr"])
def test_the_same_figure_gives_the_same_files(figures, kind, tmp_path):
    """The same figure gives the same PNG and SVG, without a date, and no other file."""
    paths = [picture_paths(tmp_path / folder, kind) for folder in ("a", "b")]
    for files in paths:
        save_figure(figures[kind], files)
    assert [path.name for path in paths[0]] == [f"{kind}.png", f"{kind}.svg"]
    first, second = ([path.read_bytes() for path in files] for files in paths)
    assert first == second
    assert first[0].startswith(b"\x89PNG")
    assert b"dc:date" not in first[1]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [f"{kind}.png", f"{kind}.svg"]


def test_a_wrong_block_names_near_ones(model):
    """The error for a misspelt block lists blocks that exist."""
    with pytest.raises(UnknownBlockError, match=r"'stages\.2\.9' holds no softmax; there is for example stages\.2\.1"):
        plot_softmax(model, block="stages.2.9")
    with pytest.raises(UnknownBlockError, match=r"'stm' holds no weight; there is for example stem"):
        choose_block(["stem.conv", "stages.0.conv"], "stm", "weight")


def test_what_cannot_be_drawn_is_refused(model, figures, tmp_path):
    """A recipe without quantized weights, an unknown file type and an unwritable place raise an error each."""
    with pytest.raises(RecipeFormatError, match="'fp32' leaves the weights in float"):
        plot_weights(model, "fp32")
    with pytest.raises(PictureError, match=r"can end in \.png or \.svg"):
        picture_paths(tmp_path / "figure.jpg", "figure")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file where a folder is needed"):
        save_figure(figures["softmax"], [tmp_path / "file" / "figure.png"])


def test_importing_needs_no_matplotlib():
    """The pictures' module is imported without matplotlib, which is only loaded to draw."""
    code = "import sys; sys.modules['matplotlib'] = None; import efficientquant.plots"
    subprocess.run([sys.executable, "-c", code], check=True)
