"""EfficientQuant: structure-aware post-training quantization for CNN-transformer hybrids."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from efficientquant.recipe import Recipe, get_recipe, list_recipes

if TYPE_CHECKING:
    from efficientquant.checking import check
    from efficientquant.data import ImageData, open_images
    from efficientquant.evaluation import Evaluation, evaluate
    from efficientquant.inspection import inspect
    from efficientquant.models import InputSpec, create_model, input_spec, synthetic_images
    from efficientquant.onnx_export import Artifact, export_onnx
    from efficientquant.quantization import QuantizedModel, quantize
    from efficientquant.verdicts.verdict import BuildVerdict

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "BuildVerdict",
    "Evaluation",
    "ImageData",
    "InputSpec",
    "QuantizedModel",
    "Recipe",
    "check",
    "create_model",
    "evaluate",
    "export_onnx",
    "get_recipe",
    "input_spec",
    "inspect",
    "list_recipes",
    "open_images",
    "quantize",
    "synthetic_images",
]

# What needs torch is imported when it is first asked for, so that a command line can show its help at once.
_LAZY = {
    "Artifact": "onnx_export",
    "BuildVerdict": "verdicts.verdict",
    "Evaluation": "evaluation",
    "ImageData": "data",
    "InputSpec": "models",
    "QuantizedModel": "quantization",
    "check": "checking",
    "create_model": "models",
    "evaluate": "evaluation",
    "export_onnx": "onnx_export",
    "input_spec": "models",
    "inspect": "inspection",
    "open_images": "data",
    "quantize": "quantization",
    "synthetic_images": "models",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
