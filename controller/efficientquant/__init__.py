"""EfficientQuant: structure-aware post-training quantization for CNN-transformer hybrids."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from efficientquant.options import (
    FloatType,
    Granularity,
    IdentificationRule,
    Log2Emulation,
    Log2Form,
    Network,
    RangeRule,
    Scope,
)
from efficientquant.recipe import Recipe, get_recipe, list_recipes, recipe_classes, register
from efficientquant.targets import Target, get_target, list_targets

if TYPE_CHECKING:
    from efficientquant.blocks import Block, Layer, Operator, Tap, Window
    from efficientquant.checking import check
    from efficientquant.data import ImageData, open_images
    from efficientquant.evaluation import Evaluation, evaluate
    from efficientquant.inspection import inspect
    from efficientquant.methods.efficientquant import EfficientQuant
    from efficientquant.methods.fp16 import Fp16
    from efficientquant.methods.fp32 import Fp32
    from efficientquant.methods.int8 import Int8
    from efficientquant.models import InputSpec, create_model, input_spec, synthetic_images
    from efficientquant.networks import BlockStep
    from efficientquant.observers import MagnitudeObserver, RangeObserver
    from efficientquant.onnx_export import Artifact, export_onnx
    from efficientquant.primitives import CalibratedLog2, DataFreeLog2
    from efficientquant.quantization import QuantizedModel, quantize
    from efficientquant.quantizers import (
        ActivationQuantizer,
        AffineQuantizer,
        CodeQuantizer,
        Log2Quantizer,
        LogitQuantizer,
    )
    from efficientquant.recording import Feed, LayerRows, Loss, Sample
    from efficientquant.verdicts.verdict import BuildVerdict
    from efficientquant.weights import QuantizedWeight
    from efficientquant.workbench import Workbench

__version__ = "0.1.0"

# The classes of methods that are added later are found by __getattr__ and listed by dir() without standing here.
__all__ = [
    "ActivationQuantizer",
    "AffineQuantizer",
    "Artifact",
    "Block",
    "BlockStep",
    "BuildVerdict",
    "CalibratedLog2",
    "CodeQuantizer",
    "DataFreeLog2",
    "EfficientQuant",
    "Evaluation",
    "Feed",
    "FloatType",
    "Fp16",
    "Fp32",
    "Granularity",
    "IdentificationRule",
    "ImageData",
    "InputSpec",
    "Int8",
    "Layer",
    "LayerRows",
    "Log2Emulation",
    "Log2Form",
    "Log2Quantizer",
    "LogitQuantizer",
    "Loss",
    "MagnitudeObserver",
    "Network",
    "Operator",
    "QuantizedModel",
    "QuantizedWeight",
    "RangeObserver",
    "RangeRule",
    "Recipe",
    "Sample",
    "Scope",
    "Tap",
    "Target",
    "Window",
    "Workbench",
    "check",
    "create_model",
    "evaluate",
    "export_onnx",
    "get_recipe",
    "get_target",
    "input_spec",
    "inspect",
    "list_recipes",
    "list_targets",
    "open_images",
    "quantize",
    "register",
    "synthetic_images",
]

# What needs torch is imported when it is first asked for, so that a command line can show its help at once.
_LAZY = {
    "ActivationQuantizer": "quantizers",
    "AffineQuantizer": "quantizers",
    "Artifact": "onnx_export",
    "Block": "blocks",
    "BlockStep": "networks",
    "BuildVerdict": "verdicts.verdict",
    "CalibratedLog2": "primitives",
    "CodeQuantizer": "quantizers",
    "DataFreeLog2": "primitives",
    "Evaluation": "evaluation",
    "Feed": "recording",
    "ImageData": "data",
    "InputSpec": "models",
    "Layer": "blocks",
    "LayerRows": "recording",
    "Log2Quantizer": "quantizers",
    "LogitQuantizer": "quantizers",
    "Loss": "recording",
    "MagnitudeObserver": "observers",
    "Operator": "blocks",
    "QuantizedModel": "quantization",
    "QuantizedWeight": "weights",
    "RangeObserver": "observers",
    "Sample": "recording",
    "Tap": "blocks",
    "Window": "blocks",
    "Workbench": "workbench",
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
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    # Only the class of a method starts with a capital, and finding it imports every method.
    classes = recipe_classes() if name[:1].isupper() else {}
    if name not in classes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return classes[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *recipe_classes()})
