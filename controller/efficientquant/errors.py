"""The tree of the library's errors.

EfficientQuantError
├── UserError                      a request that cannot be met, and what to do instead
│   ├── UnknownModelError          .name .suggestions
│   ├── UnknownRecipeError         .name .available
│   ├── RecipeFormatError          .field
│   ├── UnknownTargetError         .name .available
│   ├── InputSizeError             .model .size
│   ├── CheckpointError            .path
│   ├── PretrainedUnavailableError .model
│   ├── CalibrationError
│   ├── DataError                  .path: images or labels that cannot be used
│   ├── EvaluationError            a model that cannot be evaluated
│   ├── ArtifactFileError          .path: an artifact that is missing or is not an ONNX file
│   ├── MissingExtraError          .extra: an optional part that is not installed
│   ├── UnknownBlockError          .name .suggestions
│   ├── ProfileError               .target: a target whose kernels are not known here
│   ├── PictureError               .path: a picture file of an unsupported type
│   ├── OutputError                .path .problem: a file or folder that cannot be written
│   └── CaptureError               .model
├── RecipeOrderError               a recipe's steps in an order that changes their meaning
├── NonFiniteError                 .what: a tensor with NaN or infinity
└── ArtifactError                  .path: a file that failed its checks and was not kept
    └── LoweringError              .node .operator: an operator that the target does not support
"""

import difflib
from collections.abc import Sequence
from pathlib import Path


class EfficientQuantError(Exception):
    """The root of every error that the library raises on purpose."""


class UserError(EfficientQuantError):
    """A request that cannot be met.

    The text says what to do instead.
    """


class UnknownModelError(UserError):
    """A model name that timm does not know."""

    def __init__(self, name: str, suggestions: Sequence[str], problem: str = "") -> None:
        self.name = name
        self.suggestions = tuple(suggestions)
        listing = "'efficientquant models' lists them all"
        hint = f"did you mean {', '.join(self.suggestions)}?" if suggestions else listing
        super().__init__(f"model {name!r} is not known to timm{problem and ': ' + problem}; {hint}")


class UnknownRecipeError(UserError):
    """A recipe name that no method registered."""

    def __init__(self, name: str, available: Sequence[str], problem: str = "") -> None:
        self.name = name
        self.available = tuple(available)
        listed = f"(available: {', '.join(self.available)}){_suggest(name, self.available)}"
        super().__init__(f"recipe {name!r} is not {'offered: ' + problem if problem else 'known'} {listed}")


class RecipeFormatError(UserError):
    """A stored recipe that cannot be read, or an impossible option value."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        super().__init__(f"recipe field {field!r}: {problem}")


class UnknownTargetError(UserError):
    """A target name that does not exist.

    `problem` says why, where the reason is known.
    """

    def __init__(self, name: str, available: Sequence[str], problem: str = "") -> None:
        self.name = name
        self.available = tuple(available)
        why = f": {problem}" if problem else ""
        listed = f"(available: {', '.join(self.available)}){_suggest(name, self.available)}"
        super().__init__(f"target {name!r} is not known{why} {listed}")


class UnknownPassError(UserError):
    """A lowering pass that does not exist."""

    def __init__(self, name: str, available: Sequence[str]) -> None:
        self.name = name
        self.available = tuple(available)
        listed = f"(available: {', '.join(self.available)}){_suggest(name, self.available)}"
        super().__init__(f"pass {name!r} is not known {listed}")


class InputSizeError(UserError):
    """An image size that a model does not run on."""

    def __init__(self, model: str, size: tuple[int, int], problem: str) -> None:
        self.model = model
        self.size = size
        height, width = size
        super().__init__(f"{model} does not run on {height} × {width} images ({problem}); choose another input size")


class CheckpointError(UserError):
    """A weights file that is missing, unreadable or made for another model."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"checkpoint {path}: {problem}")


class PretrainedUnavailableError(UserError):
    """Pretrained weights that are not available now."""

    def __init__(self, model: str, problem: str) -> None:
        self.model = model
        super().__init__(
            f"pretrained weights for {model} are not available ({problem}); pass --weights FILE or --weights random"
        )


class CalibrationError(UserError):
    """Calibration data that are empty or do not fit the model."""


class DataError(UserError):
    """A file or folder of images or labels that cannot be used."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"data {path}: {problem}")


class EvaluationError(UserError):
    """A model that cannot be evaluated.

    For example, the images or the reference do not fit it, or its logits are not finite.
    """


class ArtifactFileError(UserError):
    """An artifact that is missing or is not an ONNX file."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"artifact {path}: {problem}")


class MissingExtraError(UserError):
    """A request that needs an optional part that is not installed."""

    def __init__(self, what: str, extra: str, advice: str) -> None:
        self.extra = extra
        super().__init__(f"{what} is not installed; {advice}")


class UnknownBlockError(UserError):
    """A block that the model lacks, or that holds nothing to draw."""

    def __init__(self, name: str, what: str, suggestions: Sequence[str]) -> None:
        self.name = name
        self.suggestions = tuple(suggestions)
        super().__init__(f"block {name!r} holds no {what}; there is for example {', '.join(self.suggestions)}")


class ProfileError(UserError):
    """A target whose kernels are not known here."""

    def __init__(self, target: str, problem: str) -> None:
        self.target = target
        super().__init__(f"there is no profile for {target}: {problem}")


class PictureError(UserError):
    """A picture file of an unsupported type."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"picture {path}: {problem}")


class OutputError(UserError):
    """A file or folder that cannot be written at its path."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"output {path}: {problem}")


class CaptureError(UserError):
    """A model that torch.export cannot capture as one graph."""

    def __init__(self, model: str, problem: str) -> None:
        self.model = model
        super().__init__(f"{model} cannot be captured with torch.export: {problem}")


class RecipeOrderError(EfficientQuantError):
    """A recipe's steps in an order that changes their meaning."""


class NonFiniteError(EfficientQuantError):
    """A tensor to be quantized that holds NaN or infinity."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what} holds NaN or infinity and cannot be quantized")


class ArtifactError(EfficientQuantError):
    """An exported file that failed a check and was not kept."""

    def __init__(self, path: Path, problem: str) -> None:
        self.path = path
        super().__init__(f"{path.name} was not written: {problem}")


class LoweringError(ArtifactError):
    """An operator or quantizer that the target does not support."""

    def __init__(self, path: Path, node: str, operator: str, problem: str) -> None:
        self.node = node
        self.operator = operator
        super().__init__(path, f"node {node!r} ({operator}) {problem}")


def _suggest(name: str, available: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.lower(), available, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""
