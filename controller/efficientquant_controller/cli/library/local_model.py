"""What the verbs that work on this machine load: a model with its weights, and images to run through it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efficientquant_controller.cli import output

if TYPE_CHECKING:
    from efficientquant.models import InputSpec
    from torch import Tensor, nn

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A timm model, e.g. mobilevit_xxs.")]
WeightsSource = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="pretrained|random|FILE",
        help="timm's pretrained weights, seeded random ones, or your checkpoint.",
    ),
]
DataSource = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Images: a folder, an ImageNet directory or an .npz; synthetic ones where none are given.",
    ),
]


def open_model(name: str, weights: str, input_size: int | None) -> "nn.Module":
    """Load a model; raises the library's errors for a name, weights or checkpoint that cannot be had."""
    from efficientquant.models import checkpoint_notes, create_model

    model = create_model(name, weights, input_size=input_size)
    for note in checkpoint_notes(model):
        output.print_message(f"note: {note}")
    return model


def open_batch(data: Path | None, spec: "InputSpec", count: int) -> "tuple[Tensor, Tensor | None]":
    """Return (images (N, C, H, W), labels (N,) or None), N at most `count`; labels only where the data have them."""
    import torch
    from efficientquant.images.data import open_images
    from efficientquant.models import synthetic_images

    if data is None:
        return synthetic_images(spec, count), None
    sample = open_images(data, spec).sample(count)
    batches = list(sample.batches())
    for note in sample.notes():
        output.print_message(f"note: {note}")
    labels = [found for _, found in batches if found is not None]
    return torch.cat([images for images, _ in batches]), torch.cat(labels) if labels else None
