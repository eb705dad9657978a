import json
from pathlib import Path

import digits
import efficientquant as eq
import numpy as np
import pytest
from efficientquant.errors import CheckpointError, DataError
from efficientquant.evaluation import Evaluation
from efficientquant.paper import published, table1
from efficientquant.paper.table1 import (
    Cell,
    TableRequest,
    calibration_source,
    measure_table,
    read_cell,
    weights_sha256,
    write_cell,
)

KEY = {"model": "m", "recipe": {"name": "fp32"}}


@pytest.fixture
def cell():
    """Return a cell with made-up numbers."""
    bits = {"rest": "32"}
    evaluation = Evaluation("artifact", "onnxruntime 1", 4, 0.5, 0.25, None, 0.5, 0.0, 0.0, 1.0, 60.0, 1e-3, bits, {})
    return Cell("m", "fp32", KEY, evaluation, ("a note",))


def test_a_cell_survives_its_file(cell, tmp_path):
    """A stored cell is read back whole, and no other file is left in the folder."""
    write_cell(tmp_path / "cell.json", cell)
    assert read_cell(tmp_path / "cell.json", KEY) == cell
    assert [path.name for path in tmp_path.iterdir()] == ["cell.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": 1}'])
def test_a_broken_cell_is_measured_again(tmp_path, content):
    """A file that is no cell counts as not measured."""
    (tmp_path / "cell.json").write_text(content)
    assert read_cell(tmp_path / "cell.json", KEY) is None


def test_a_cell_of_other_circumstances_is_not_taken(cell, tmp_path):
    """A cell of other weights, data, recipe or library version is not taken."""
    write_cell(tmp_path / "cell.json", cell)
    assert read_cell(tmp_path / "cell.json", {**KEY, "weights": "other"}) is None


def test_the_table_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """After a stop in the middle of a cell, the finished ones are kept and not measured again."""
    folder = digits.save_npz(tmp_path)
    recipes = [eq.get_recipe(name) for name in ("fp32", "efficientquant:softmax_bits=none")]
    request = TableRequest(
        models=[digits.MODEL],
        recipes=recipes,
        data=folder / "test.npz",
        calibration=None,
        weights=str(Path(digits.WEIGHTS).parent),
        limit=20,
    )
    begun = []

    def begin(_model, recipe):
        begun.append(recipe)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return lambda _phase, _fraction: None

    with pytest.raises(KeyboardInterrupt):
        list(measure_table(request, tmp_path / "cells", begin))
    cells = list(measure_table(request, tmp_path / "cells", begin))
    names = [recipe.name for recipe in recipes]
    assert begun == [names[0], names[1], names[1]]
    assert [cell.recipe for cell in cells] == names
    assert all(cell.evaluation.images == 20 and cell.evaluation.subject == "artifact" for cell in cells)
    monkeypatch.setattr(table1, "create_model", lambda *_a, **_k: eq.create_model(digits.MODEL, "random"))
    assert next(measure_table(request, tmp_path / "cells", begin)).key["weights"] != cells[0].key["weights"]


def test_a_missing_checkpoint_is_refused_before_anything_is_measured(tmp_path):
    """A folder that lacks a model's checkpoint is refused before anything is measured."""
    (tmp_path / f"{digits.MODEL}.pth").write_bytes(b"never read")
    request = TableRequest(
        models=[digits.MODEL, "mobilevit_s"], recipes=[], data=tmp_path, calibration=None, weights=str(tmp_path)
    )
    with pytest.raises(CheckpointError, match=r"mobilevit_s\.safetensors: there is no such file, nor \.pth or \.pt"):
        next(measure_table(request, tmp_path / "cells", lambda _model, _recipe: None))
    assert not (tmp_path / "cells").exists()


def test_calibration_never_comes_from_the_evaluated_images(tmp_path):
    """The given source is taken, else a train split of the data, else nothing."""
    assert calibration_source(tmp_path, tmp_path / "x") == tmp_path / "x"
    assert calibration_source(tmp_path, None) is None
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    assert calibration_source(tmp_path, None) == tmp_path


def test_weights_have_an_identity():
    """The same seed gives the same hash, another seed another."""
    first, same, other = (weights_sha256(eq.create_model(digits.MODEL, "random", seed=seed)) for seed in (0, 0, 1))
    assert first == same != other


def test_what_is_published_is_complete():
    """The published tables have ten models, six methods and an FP32 figure for each, all JSON-ready."""
    assert tuple(published.TABLE_1) == tuple(published.FP32) == published.MODELS
    assert {len(row) for row in published.TABLE_1.values()} == {len(published.METHODS)}
    json.dumps(published.TABLE_1)


def test_images_without_labels_are_refused_before_anything_is_quantized(tmp_path):
    """Images without labels are refused, since a table of accuracies needs labels."""
    np.savez(tmp_path / "a.npz", images=np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8))
    request = TableRequest(
        models=[digits.MODEL], recipes=[], data=tmp_path / "a.npz", calibration=None, weights="random"
    )
    with pytest.raises(DataError, match=r"a\.npz: has no labels: a table of accuracies needs"):
        list(measure_table(request, tmp_path / "cells", lambda *_: None))
