"""Everything that can go wrong in the library, as one tree.

EfficientQuantError
├── UserError                      one clear sentence: what was asked, what exists, what to do
│   ├── UnknownModelError          .name .suggestions
│   ├── UnknownRecipeError         .name .available
│   ├── RecipeFormatError          .field
│   ├── UnknownTargetError         .name .available
│   ├── InputSizeError             .model .size
│   ├── CheckpointError            .path
│   ├── PretrainedUnavailableError .model
│   ├── CalibrationError
│   ├── DataError                  .path: images or labels that cannot be used
│   ├── EvaluationError            a model and images, or two models, that do not go together
│   ├── ArtifactFileError          .path: a file given to be checked that is missing or no ONNX file
│   ├── MissingExtraError          .extra: an optional part that is not installed
│   ├── UnknownBlockError          .name .suggestions
│   ├── PictureError               .path: a picture of a kind that is not drawn
│   ├── OutputError                .path .problem: a file that cannot be written there
│   └── CaptureError               .model
├── RecipeOrderError               a recipe's steps in an order that would change what they mean
├── NonFiniteError                 .what: NaN or infinity where a number is needed
└── ArtifactError                  .path: a file that failed its checks and was not kept
    └── LoweringError              .node .operator: an operator the target cannot have
"""

import difflib
from collections.abc import Sequence
from pathlib import Path


class EfficientQuantError(Exception):
    """Root of every error that the library raises on purpose."""


class UserError(EfficientQuantError):
    """What was asked for cannot be done; the text says what to do instead."""


class UnknownModelError(UserError):
    """timm has no model of that name."""

    def __init__(self, name: str, suggestions: Sequence[str], problem: str = "") -> None:
        self.name = name
        self.suggestions = tuple(suggestions)
        listing = "'efficientquant models' lists them all"
        hint = f"did you mean {', '.join(self.suggestions)}?" if suggestions else listing
        super().__init__(f"model {name!r} is not known to timm{problem and ': ' + problem}; {hint}")


class UnknownRecipeError(UserError):
    """No method registered a recipe of that name."""

    def __init__(self, name: str, available: Sequence[str], problem: str = "") -> None:
        self.name = name
        self.available = tuple(available)
        listed = f"(available: {', '.join(self.available)}){_suggest(name, self.available)}"
        super().__init__(f"recipe {name!r} is not {'offered: ' + problem if problem else 'known'} {listed}")


class RecipeFormatError(UserError):
    """A stored recipe cannot be read back, or an option has a value it cannot have."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        super().__init__(f"recipe field {field!r}: {problem}")


class UnknownTargetError(UserError):
    """No capability set has that name.

    `problem` says why where that is known.
    """

    def __init__(self, name: str, available: Sequence[str], problem: str = "") -> None:
        self.name = name
        self.available = tuple(available)
        why = f": {problem}" if problem else ""
        listed = f"(available: {', '.join(self.available)}){_suggest(name, self.available)}"
        super().__init__(f"target {name!r} is not known{why} {listed}")


class InputSizeError(UserError):
    """A model does not run on images of that size."""

    def __init__(self, model: str, size: tuple[int, int], problem: str) -> None:
        self.model = model
        self.size = size
        height, width = size
        super().__init__(f"{model} does not run on {height} × {width} images ({problem}); choose another input size")


class CheckpointError(UserError):
    """A weights file is missing, unreadable or made for another model."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"checkpoint {path}: {problem}")


class PretrainedUnavailableError(UserError):
    """The pretrained weights of a model cannot be had now."""

    def __init__(self, model: str, problem: str) -> None:
        self.model = model
        super().__init__(
            f"pretrained weights for {model} are not available ({problem}); pass --weights FILE or --weights random"
        )


class CalibrationError(UserError):
    """The calibration data are empty or do not fit the model."""


class DataError(UserError):
    """A file or folder of images or labels cannot be used."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"data {path}: {problem}")


class EvaluationError(UserError):
    """A model and images, or a model and its reference, do not go together, or a model computes no numbers."""


class ArtifactFileError(UserError):
    """A file that was given as an artifact is missing, or no ONNX file."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"artifact {path}: {problem}")


class MissingExtraError(UserError):
    """What was asked needs a part of the product that is not installed."""

    def __init__(self, what: str, extra: str, advice: str) -> None:
        self.extra = extra
        super().__init__(f"{what} is not installed; {advice}")


class UnknownBlockError(UserError):
    """The model has no such block with anything to draw."""

    def __init__(self, name: str, what: str, suggestions: Sequence[str]) -> None:
        self.name = name
        self.suggestions = tuple(suggestions)
        super().__init__(f"block {name!r} holds no {what}; there is for example {', '.join(self.suggestions)}")


class PictureError(UserError):
    """A picture cannot be drawn as asked."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"picture {path}: {problem}")


class OutputError(UserError):
    """A file or folder cannot be written where it was asked for."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"output {path}: {problem}")


class CaptureError(UserError):
    """torch.export cannot capture the model as one graph."""

    def __init__(self, model: str, problem: str) -> None:
        self.model = model
        super().__init__(f"{model} cannot be captured with torch.export: {problem}")


class RecipeOrderError(EfficientQuantError):
    """A recipe takes steps in an order that would change their meaning."""


class NonFiniteError(EfficientQuantError):
    """A tensor that is to be quantized holds NaN or infinity."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what} holds NaN or infinity and cannot be quantized")


class ArtifactError(EfficientQuantError):
    """An exported file failed a check and was not kept."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"{path.name} was not written: {problem}")


class LoweringError(ArtifactError):
    """The graph holds an operator that the target's operator set has no form of."""

    def __init__(self, path: Path, node: str, operator: str, problem: str) -> None:
        self.node = node
        self.operator = operator
        super().__init__(path, f"node {node!r} ({operator}) {problem}")


def _suggest(name: str, available: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.lower(), available, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
