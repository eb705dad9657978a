"""The model, weights and images that verbs load on this machine."""

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
    """Load a model and print the notes on its checkpoint.

    Raises the library's errors for an unknown name, or weights that cannot be loaded.
    """
    from efficientquant.models import checkpoint_notes, create_model

    model = create_model(name, weights, input_size=input_size)
    for note in checkpoint_notes(model):
        output.print_message(f"note: {note}")
    return model


def open_batch(data: Path | None, spec: "InputSpec", count: int) -> "tuple[Tensor, Tensor | None]":
    """Return at most `count` images and their labels.

    The images are (N, C, H, W). The labels are (N,), or None when the data have none.
    """
    import torch
    from efficientquant.images.data import open_images
    from efficientquant.models import synthetic_images

    if data is None:
        return synthetic_images(spec, count), None
    sample = open_images(data, spec).sample(count)
    batches = list(sample.batches())
    for note in sample.notes():
        output.print_message(f"note: {note}")
    labels = [part for _, part in batches if part is not None]
    return torch.cat([images for images, _ in batches]), torch.cat(labels) if labels else None
