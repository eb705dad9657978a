"""Our files in ONNX Runtime on the CPU, compared with others.

The others take a user one line: torch.onnx.export, and onnxruntime.quantization.quantize_static of its file with
unsigned activations and signed weights. All have one thread. The best variant of quantize_static is chosen in other
rounds than those that judge.
"""

import functools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from efficientquant import create_model, export_onnx, get_recipe, input_spec, quantize
from efficientquant.artifact.exact_products import products_saturate
from efficientquant.models import synthetic_images
from goal import Goal
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn
from turns import in_blocks, ratio_of

MODELS = ("mobilevit_xxs", "mobilevitv2_050")
TARGET = "onnxruntime-vnni"
DROPPED, KEPT, MOVED = (f"efficientquant:log2_emulation={way}" for way in ("drop", "keep", "move"))
OURS = ("fp32", "int8", DROPPED, KEPT, MOVED)
EXPORTED = "torch.onnx.export"
# What the variants of quantize_static quantize.
VARIANTS = ("everything", "convolutions", "dense convolutions", "matrix products")
CALIBRATION_IMAGES = 8
MOST_RATIO = 1.02
CHOOSING_ROUNDS, JUDGING_ROUNDS = 12, 60


def measure(folder: Path) -> Iterator[Goal]:
    """Yield the ratios of latencies for each model."""
    if products_saturate():
        yield Goal(None, "ONNX Runtime's files are not compared with others: this CPU has no VNNI")
        return
    for model in MODELS:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            yield from judge(model, make_files(model, Path(place)))


def make_files(model: str, folder: Path) -> dict[str, Path]:
    """Write our files and the others, and return {name: path}."""
    eager = create_model(model, "random")
    images = synthetic_images(input_spec(eager), CALIBRATION_IMAGES, 0)
    files = {name: folder / f"{number}.onnx" for number, name in enumerate((*OURS, EXPORTED, *VARIANTS))}
    for recipe in OURS:
        export_onnx(quantize(eager, get_recipe(recipe)), files[recipe], target=TARGET)
    export_plainly(eager, images, files[EXPORTED])
    quantize_plainly(files[EXPORTED], images, {name: files[name] for name in VARIANTS})
    return files


def export_plainly(eager: nn.Module, images: Tensor, path: Path) -> None:
    """Write a model with PyTorch's own exporter."""
    torch.onnx.export(eager.eval(), (images[:1],), path, dynamo=True, external_data=False, verbose=False)


def quantize_plainly(source: Path, images: Tensor, files: Mapping[str, Path]) -> None:
    """Write the variants of ONNX Runtime's own quantizer."""
    prepared = source.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared)
    graph = onnx.load(prepared).graph
    for name, path in files.items():
        quantization.quantize_static(
            prepared,
            path,
            _Images(graph.input[0].name, images),
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            nodes_to_quantize=[node.name for node in graph.node if is_in(node, name)],
        )


def is_in(node: onnx.NodeProto, variant: str) -> bool:
    """Tell whether a variant quantizes a node."""
    is_conv = node.op_type == "Conv"
    is_grouped = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
    return {
        "everything": True,
        "convolutions": is_conv,
        "dense convolutions": is_conv and not is_grouped,
        "matrix products": node.op_type in ("MatMul", "Gemm"),
    }[variant]


class _Images(quantization.CalibrationDataReader):
    """The calibration images, one at a time."""

    def __init__(self, name: str, images: Tensor) -> None:
        self._feeds = iter([{name: image[None].numpy()} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def judge(model: str, files: Mapping[str, Path]) -> Iterator[Goal]:
    """Yield the goals of one model and further ratios."""
    makers = {name: functools.partial(caller, path) for name, path in files.items()}
    first_s = in_blocks({name: makers[name] for name in VARIANTS}, CHOOSING_ROUNDS)
    fastest = min(VARIANTS, key=lambda name: statistics.median(first_s[name]))
    p50_s = in_blocks({name: makers[name] for name in (*OURS, EXPORTED, fastest)}, JUDGING_ROUNDS)
    shown = f"p50 of {model} on ONNX Runtime {onnxruntime.__version__}, one thread"
    for ours, theirs, called in (
        ("fp32", EXPORTED, EXPORTED),
        ("int8", fastest, f"the best of quantize_static ({fastest})"),
        (DROPPED, "fp32", "fp32"),
    ):
        ratio, low, high = ratio_of(p50_s[ours], p50_s[theirs])
        times = [f"{statistics.median(p50_s[name]) * 1e3:.2f} ms" for name in (ours, theirs)]
        pair = f"{ours} {times[0]}, {called} {times[1]}"
        yield Goal(
            high <= MOST_RATIO,
            f"{shown}: {pair}, ratio {ratio:.3f} ({low:.3f}–{high:.3f}; goal: the interval ends at most at "
            f"{MOST_RATIO})",
        )
    for name in ("int8", KEPT, MOVED):
        ratio, low, high = ratio_of(p50_s[name], p50_s["fp32"])
        yield Goal(None, f"{shown}: {name} over fp32 {ratio:.3f} ({low:.3f}–{high:.3f})")


def caller(path: Path) -> Callable[[], object]:
    """Return a function that runs a file once."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    port = session.get_inputs()[0]
    image = np.random.default_rng(0).random(port.shape, dtype=np.float32)
    return functools.partial(session.run, None, {port.name: image})
