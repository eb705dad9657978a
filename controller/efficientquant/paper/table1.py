"""The paper's Table 1, measured.

Every model × recipe is a cell, stored in its own file as soon as it is measured.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from efficientquant.artifact.export import export_onnx
from efficientquant.checkpoints.model_names import require_models
from efficientquant.errors import DataError
from efficientquant.evaluation import LIMIT_SEED, Evaluation, evaluate, require_fit
from efficientquant.files.given_paths import checkpoint_of
from efficientquant.files.whole_files import scratch_folder, write_together
from efficientquant.images.calibration import Progress
from efficientquant.images.data import has_split, open_images
from efficientquant.models import checkpoint_notes, create_model, input_spec
from efficientquant.quantization import QuantizedModel, quantize
from efficientquant.recipe import Recipe

TARGET = "onnxruntime"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model under one recipe, evaluated in ONNX Runtime.

    `evaluation` is that of the artifact. `key` holds everything that it depends on.
    """

    model: str
    recipe: str
    key: dict[str, Any]
    evaluation: Evaluation
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return dataclasses.asdict(self) | {"notes": list(self.notes), "evaluation": self.evaluation.to_dict()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableRequest:
    """The models, recipes and data of a table to measure.

    `weights` is pretrained, random, or a folder with one checkpoint per model. `calibration` is a data source for the
    recipes that calibrate. Without it, the train split of `data` is used. Without that, synthetic images are used, and
    every cell notes it. Evaluation images are used for calibration only where `calibration` names them.
    """

    models: Sequence[str]
    recipes: Sequence[Recipe]
    data: Path
    calibration: Path | None
    weights: str
    limit: int | None = None
    seed: int = 0
    input_size: int | None = None


def measure_table(request: TableRequest, folder: Path, progress: Callable[[str, str], Progress]) -> Iterator[Cell]:
    """Yield every cell in order, measuring those that are missing.

    Each cell is stored in `folder` before the next is begun. `progress(model, recipe)` gives the callback for a cell. A
    run that was stopped loses no finished cell, and continues when called again with the same request. Raises what
    loading, quantizing, exporting or evaluating raises.
    """
    # Missing weights raise an error now instead of hours later.
    require_models(request.models, request.weights)
    sources = {name: checkpoint_of(request.weights, name) for name in request.models}
    for name in request.models:
        model = create_model(name, sources[name], seed=request.seed, input_size=request.input_size)
        spec = input_spec(model)
        data = open_images(request.data, spec, split="val")
        if request.limit is not None:
            data = data.sample(request.limit, LIMIT_SEED)
        require_fit(model, data)
        if data.labels is None:
            raise DataError(data.path, "has no labels: a table of accuracies needs one folder per class, or val.txt")
        calibration = calibration_source(request.data, request.calibration)
        source = open_images(calibration, spec, split="train") if calibration else None
        shared = {
            "format": FORMAT,
            "library": version("efficientquant"),
            "model": name,
            "weights": weights_sha256(model),
            "input": dataclasses.asdict(spec) | {"shape": list(spec.shape)},
            "data": data.provenance()["sha256"],
        }
        for recipe in request.recipes:
            images = source.sample(recipe.calibration_images) if source is not None else None
            drawn = images.provenance()["sha256"] if images is not None else "synthetic"
            key = json.loads(json.dumps(shared | {"calibration": drawn, "recipe": recipe.to_dict()}))
            path = folder / _file_name(name, recipe, key)
            cell = read_cell(path, key)
            if cell is None:
                report = progress(name, recipe.name)
                quantized = quantize(model, recipe, images if recipe.needs_calibration else None, progress=report)
                cell = Cell(name, recipe.name, key, _evaluate(model, quantized, data, report), tuple(quantized.notes))
                notes = (*checkpoint_notes(model), *(images.notes() if images else ()), *cell.evaluation.notes)
                cell = dataclasses.replace(cell, evaluation=dataclasses.replace(cell.evaluation, notes=notes))
                write_cell(path, cell)
            yield cell


def calibration_source(data: Path, calibration: Path | None) -> Path | None:
    """Return the source of calibration images.

    It is `calibration`, else `data` if that has a train split, else None.
    """
    if calibration is not None:
        return calibration
    return data if has_split(data, "train") else None


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of a model's state: names, types and values."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_cell(path: Path, key: dict[str, Any]) -> Cell | None:
    """Return the stored cell of a key, or None.

    Returns None for a missing, outdated or damaged file too.
    """
    try:
        stored = json.loads(path.read_text())
        if stored["key"] != key:
            return None
        evaluation = Evaluation.from_dict(stored["evaluation"])
        return Cell(stored["model"], stored["recipe"], key, evaluation, tuple(stored["notes"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None


def write_cell(path: Path, cell: Cell) -> None:
    """Write a cell atomically.

    Even a power failure leaves no half-written cell. Raises OutputError.
    """
    write_together({path: json.dumps(cell.to_dict(), indent=2, ensure_ascii=False).encode()})


def _evaluate(model: nn.Module, quantized: QuantizedModel, data: Any, report: Progress) -> Evaluation:
    with scratch_folder("table1") as scratch:
        artifact = export_onnx(quantized, scratch / "cell.onnx", target=TARGET, progress=report)
        return evaluate(artifact, data, reference=model, progress=report)


def _file_name(model: str, recipe: Recipe, key: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return f"{model}--{re.sub(r'[^a-z0-9.]+', '-', recipe.name.lower())}--{digest[:12]}.json"
