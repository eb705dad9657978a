"""The accuracy of a model on labelled images, and its fidelity.

The model is eager or an exported file. Fidelity is the distance of its logits from those of an FP32 reference.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efficientquant.artifact.export import Artifact
from efficientquant.artifact.runners import ArtifactRunner, EagerRunner, Runner
from efficientquant.errors import EvaluationError
from efficientquant.images.calibration import Progress
from efficientquant.images.data import BATCH, ImageData
from efficientquant.quantization import QuantizedModel
from efficientquant.targets import Int8Products, get_target

Subject = QuantizedModel | nn.Module | Artifact | str | Path
Reference = QuantizedModel | nn.Module

LIMIT_SEED = 0
# With one class every image is right, whatever the model computes.
MIN_CLASSES = 2


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The results of a model on the images of `data`.

    The accuracies were reached with the bits in `bit_table`. `top1` and `top5` are fractions of the labelled images
    (None without labels, `top5` also below six classes). `top1_error` is the binomial standard error of `top1`.

    Against the reference: `top1_change` is the difference of the accuracies. Its standard error comes from the images
    that only one of the two classifies correctly. `agreement` is the fraction of images with the same top-1 class.
    `sqnr_db` and `max_abs` cover all logits.

    `subject` is eager or artifact. `runtime` is the software that computed the logits, with its version.
    """

    subject: str
    runtime: str
    images: int
    top1: float | None
    top1_error: float | None
    top5: float | None
    reference_top1: float | None
    top1_change: float | None
    top1_change_error: float | None
    agreement: float | None
    sqnr_db: float | None
    max_abs: float | None
    bit_table: dict[str, str]
    data: dict[str, Any]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values.

        An infinite SQNR becomes None. Where no logit differs, `max_abs` is 0.
        """
        values = dataclasses.asdict(self)
        infinite = self.sqnr_db is not None and math.isinf(self.sqnr_db)
        return values | {"notes": list(self.notes), "sqnr_db": None if infinite else self.sqnr_db}

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> "Evaluation":
        """Return the evaluation that `to_dict` stored."""
        sqnr_db = math.inf if stored["max_abs"] == 0 else stored["sqnr_db"]
        return Evaluation(**{**stored, "notes": tuple(stored["notes"]), "sqnr_db": sqnr_db})


def evaluate(
    subject: Subject,
    data: ImageData,
    *,
    reference: Reference | None = None,
    batch: int = BATCH,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a model on the images, with or without an FP32 reference.

    The subject is a quantized model, a torch classifier, an Artifact or the path of an ONNX file that takes one image.
    At most `limit` images are used, spread over the classes. Reports the phase "evaluate" to `progress`. Raises
    DataError, EvaluationError, and ArtifactFileError for a file that cannot be run.
    """
    return evaluate_all([subject], data, reference=reference, batch=batch, limit=limit, progress=progress)[0]


def evaluate_all(
    subjects: Sequence[Subject],
    data: ImageData,
    *,
    reference: Reference | None = None,
    batch: int = BATCH,
    limit: int | None = None,
    progress: Progress | None = None,
) -> list[Evaluation]:
    """Evaluate several models in one pass over the images.

    Every image is decoded once and runs through the reference once. The rest is as in `evaluate`.
    """
    runners = [_runner(subject) for subject in subjects]
    reference_runner = None if reference is None else _runner(reference)
    if limit is not None:
        data = data.sample(limit, LIMIT_SEED)
    if len(data) == 0:
        raise EvaluationError(f"data {data.path}: there are no images to evaluate on")
    tallies = [Tally() for _ in runners]
    done, fitted = 0, data
    for images, _ in data.batches(batch):
        expected = None if reference_runner is None else reference_runner.run(images)
        outputs = [_require_classes(runner, runner.run(images)) for runner in runners]
        if done == 0 and data.labels is not None:
            fitted = data.for_classes(outputs[0].shape[1])
        labels = fitted.labels_at(done, done + len(images))
        for tally, logits in zip(tallies, outputs, strict=True):
            tally.add(logits, labels, expected)
        done += len(images)
        if progress is not None:
            progress("evaluate", done / len(data))
    provenance, notes = data.provenance(), tuple(data.notes())
    return [
        dataclasses.replace(tally.result(runner, provenance), notes=notes)
        for tally, runner in zip(tallies, runners, strict=True)
    ]


def require_fit(model: nn.Module, data: ImageData) -> None:
    """Raise DataError or EvaluationError unless the data fit a timm model.

    The model is not run.
    """
    classes = getattr(model, "num_classes", None)
    if isinstance(classes, int) and classes < MIN_CLASSES:
        raise EvaluationError(_few_classes(classes))
    if data.labels is not None and isinstance(classes, int):
        data.for_classes(classes)


def _require_classes(runner: Runner, logits: Tensor) -> Tensor:
    if logits.dim() != 2:
        raise EvaluationError(
            f"the {runner.kind} answers with {'×'.join(map(str, logits.shape))} numbers; evaluate takes classifiers, "
            "which answer with images × classes"
        )
    if logits.shape[1] < MIN_CLASSES:
        raise EvaluationError(_few_classes(logits.shape[1]))
    return logits


def _few_classes(classes: int) -> str:
    outputs = "one output" if classes == 1 else "no classifier"
    return f"the model has {outputs}, so every answer is the same; evaluate takes classifiers of 2 classes or more"


@dataclasses.dataclass
class Tally:
    """Sums over the images seen so far, without their logits."""

    images: int = 0
    classes: int = 0
    labelled: int = 0
    top1: int = 0
    top5: int = 0
    compared: int = 0
    reference_top1: int = 0
    won: int = 0  # right where the reference is wrong
    lost: int = 0
    agreed: int = 0
    signal: float = 0.0
    noise: float = 0.0
    max_abs: float = 0.0

    def add(self, logits: Tensor, labels: Tensor | None, expected: Tensor | None) -> None:
        """Count a batch of logits against labels and the reference's logits.

        Shapes: logits and `expected` (n, classes), labels (n,). Raises EvaluationError when logits are not finite or
        the reference has another number of outputs.
        """
        if not bool(torch.isfinite(logits).all()):
            raise EvaluationError(f"the logits of image {self.images} or soon after are not finite")
        self.images += len(logits)
        self.classes = logits.shape[1]
        first = logits.argmax(1)
        if labels is not None:
            right = first == labels
            self.labelled += len(labels)
            self.top1 += int(right.sum())
            best = logits.topk(min(5, self.classes), dim=1).indices
            self.top5 += int((best == labels[:, None]).any(1).sum())
        if expected is not None:
            if expected.shape != logits.shape:
                raise EvaluationError(f"the reference has {expected.shape[1]} outputs, the model {logits.shape[1]}")
            self._compare(logits, first, labels, expected)

    def _compare(self, logits: Tensor, first: Tensor, labels: Tensor | None, expected: Tensor) -> None:
        self.compared += len(logits)
        reference_first = expected.argmax(1)
        self.agreed += int((first == reference_first).sum())
        difference = logits.double() - expected.double()
        self.signal += float(expected.double().square().sum())
        self.noise += float(difference.square().sum())
        self.max_abs = max(self.max_abs, float(difference.abs().max()))
        if labels is not None:
            right, reference_right = first == labels, reference_first == labels
            self.reference_top1 += int(reference_right.sum())
            self.won += int((right & ~reference_right).sum())
            self.lost += int((~right & reference_right).sum())

    def result(self, runner: Runner, data: dict[str, Any]) -> Evaluation:
        """Return the evaluation computed from the sums."""
        top1 = self.top1 / self.labelled if self.labelled else None
        paired = self.labelled if self.compared else 0
        return Evaluation(
            subject=runner.kind,
            runtime=runner.runtime,
            images=self.images,
            top1=top1,
            top1_error=None if top1 is None else binomial_error(top1, self.labelled),
            top5=self.top5 / self.labelled if self.labelled and self.classes > 5 else None,
            reference_top1=self.reference_top1 / paired if paired else None,
            top1_change=(self.won - self.lost) / paired if paired else None,
            top1_change_error=paired_error(self.won, self.lost, paired) if paired else None,
            agreement=self.agreed / self.compared if self.compared else None,
            sqnr_db=self._sqnr_db() if self.compared else None,
            max_abs=self.max_abs if self.compared else None,
            bit_table=dict(runner.bit_table),
            data=data,
        )

    def _sqnr_db(self) -> float:
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf


def binomial_error(fraction: float, images: int) -> float:
    """Return the standard error of a fraction of independent images.

    It is sqrt(p (1 - p) / n) for a fraction p of n images.
    """
    return math.sqrt(fraction * (1 - fraction) / images)


def paired_error(won: int, lost: int, images: int) -> float:
    """Return the standard error of (won - lost) / n.

    Both models were judged on the same n images.
    """
    mean = (won - lost) / images
    return math.sqrt(max(0.0, (won + lost) / images - mean * mean) / images)


def _runner(subject: Subject) -> Runner:
    if isinstance(subject, QuantizedModel):
        return EagerRunner(subject, subject.bit_table())
    if isinstance(subject, nn.Module):
        return EagerRunner(subject.eval(), {"rest": _float_bits(subject)})
    if isinstance(subject, Artifact):
        is_exact = get_target(subject.target).int8_products is Int8Products.EXACT
        return ArtifactRunner(subject.path, subject.bit_table, exact_products=is_exact)
    return ArtifactRunner(Path(subject))


def _float_bits(module: nn.Module) -> str:
    widths = sorted({parameter.element_size() * 8 for parameter in module.parameters()}, reverse=True)
    return ", ".join(map(str, widths)) or "32"
