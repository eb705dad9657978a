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
    from efficientquant.artifact.export import Artifact, export_onnx
    from efficientquant.checking import check
    from efficientquant.evaluation import Evaluation, evaluate
    from efficientquant.graph.blocks import Block, Layer, Operator, Tap, Window
    from efficientquant.graph.inspection import inspect
    from efficientquant.images.data import ImageData, open_images
    from efficientquant.methods.easyquant import EasyQuant
    from efficientquant.methods.efficientquant import EfficientQuant
    from efficientquant.methods.fp16 import Fp16
    from efficientquant.methods.fp32 import Fp32
    from efficientquant.methods.hyq import HyQ
    from efficientquant.methods.int8 import Int8
    from efficientquant.methods.ptq4vit import PTQ4ViT
    from efficientquant.methods.q_hyvit import QHyViT
    from efficientquant.methods.repq_vit import RepQViT
    from efficientquant.models import InputSpec, create_model, input_spec, synthetic_images
    from efficientquant.observers import MagnitudeObserver, RangeObserver
    from efficientquant.primitives import CalibratedLog2, DataFreeLog2
    from efficientquant.quantization import QuantizedModel, quantize
    from efficientquant.quantizers import (
        ActivationQuantizer,
        AffineQuantizer,
        CodeQuantizer,
        EmulatedQuantizer,
        Log2Quantizer,
        LogitQuantizer,
    )
    from efficientquant.verdicts.build_verdict import BuildVerdict
    from efficientquant.workbench import Workbench
    from efficientquant.workbench.networks import BlockStep
    from efficientquant.workbench.recording import Feed, LayerRows, Loss, Sample
    from efficientquant.workbench.weights import QuantizedWeight

__version__ = "0.1.0"

# Methods that are added later need no entry here: __getattr__ finds their classes and dir() lists them.
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
    "EasyQuant",
    "EfficientQuant",
    "EmulatedQuantizer",
    "Evaluation",
    "Feed",
    "FloatType",
    "Fp16",
    "Fp32",
    "Granularity",
    "HyQ",
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
    "PTQ4ViT",
    "QHyViT",
    "QuantizedModel",
    "QuantizedWeight",
    "RangeObserver",
    "RangeRule",
    "Recipe",
    "RepQViT",
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

# Names whose modules need torch are imported on first use, so that the command line shows its help at once.
_LAZY = {
    "ActivationQuantizer": "quantizers",
    "AffineQuantizer": "quantizers",
    "Artifact": "artifact.export",
    "Block": "graph.blocks",
    "BlockStep": "workbench.networks",
    "BuildVerdict": "verdicts.build_verdict",
    "CalibratedLog2": "primitives",
    "CodeQuantizer": "quantizers",
    "DataFreeLog2": "primitives",
    "EmulatedQuantizer": "quantizers",
    "Evaluation": "evaluation",
    "Feed": "workbench.recording",
    "ImageData": "images.data",
    "InputSpec": "models",
    "Layer": "graph.blocks",
    "LayerRows": "workbench.recording",
    "Log2Quantizer": "quantizers",
    "LogitQuantizer": "quantizers",
    "Loss": "workbench.recording",
    "MagnitudeObserver": "observers",
    "Operator": "graph.blocks",
    "QuantizedModel": "quantization",
    "QuantizedWeight": "workbench.weights",
    "RangeObserver": "observers",
    "Sample": "workbench.recording",
    "Tap": "graph.blocks",
    "Window": "graph.blocks",
    "Workbench": "workbench",
    "check": "checking",
    "create_model": "models",
    "evaluate": "evaluation",
    "export_onnx": "artifact.export",
    "input_spec": "models",
    "inspect": "graph.inspection",
    "open_images": "images.data",
    "quantize": "quantization",
    "synthetic_images": "models",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    # Finding a method's class imports every method, so only names that start with a capital are tried.
    classes = recipe_classes() if name[:1].isupper() else {}
    if name not in classes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return classes[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *recipe_classes()})
