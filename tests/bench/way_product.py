"""The product's way, checks included.

Usage: `way_product.py MODEL FILE RECIPE`.
"""

from pathlib import Path

import efficientquant as eq
from torch import Tensor, nn
from way import main


def quantize(model: nn.Module, images: Tensor, path: Path, recipe: str) -> None:
    """Quantize, export and check the artifact."""
    eq.export_onnx(eq.quantize(model, eq.get_recipe(recipe), images), path)


main(quantize)
