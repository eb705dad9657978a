"""Our int8 files in OpenVINO, compared with NNCF's.

NNCF quantizes our float file in one line. Its variants differ in the preset and the kind of model. The fastest one is
chosen in other rounds than those that judge. Both sides have one thread, float32 for the rest, and the same images for
calibration.
"""

import functools
import importlib
import logging
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import CALIBRATION_IMAGES, load
from efficientquant.artifact.export import export_onnx
from efficientquant.errors import MissingExtraError
from efficientquant.images.data import ImageData
from efficientquant.installation import require_openvino
from efficientquant.models import create_model, input_spec, synthetic_images
from efficientquant.quantization import quantize
from efficientquant.recipe import get_recipe
from goal import Goal
from torch import Tensor, nn
from turns import in_turns, ratio_of

MODELS = ("mobilevit_xxs", "mobilevitv2_050")
OURS, FLOAT = "int8", "fp32"
MOST_RATIO = 1.02
MOST_LOSS = 0.005
CHOOSING_ROUNDS, JUDGING_ROUNDS = 10, 40
SETTINGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "INFERENCE_PRECISION_HINT": "f32",
    "INFERENCE_NUM_THREADS": "1",
    "ENABLE_CPU_PINNING": "NO",  # a pinned thread waits for its neighbour on a shared machine
}


def measure(folder: Path) -> Iterator[Goal]:
    """Yield the ratios of latencies, then the accuracy."""
    try:
        require_openvino()
        nncf = importlib.import_module("nncf")
    except (MissingExtraError, ModuleNotFoundError) as error:
        yield Goal(None, f"OpenVINO and NNCF are not compared: {error}")
        return
    nncf.set_log_level(logging.ERROR)
    core = importlib.import_module("openvino").Core()
    for model in MODELS:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            eager = create_model(model, "random")
            images = synthetic_images(input_spec(eager), CALIBRATION_IMAGES, 0)
            yield judge_latency(model, compile_all(core, nncf, eager, images, Path(place)))
    yield from judge_accuracy(core, nncf, folder)


def compile_all(core: Any, nncf: Any, eager: nn.Module, images: Tensor, folder: Path) -> dict[str, Any]:
    """Return our compiled models, and NNCF's variants of the float one."""
    files = {}
    for recipe in (FLOAT, OURS):
        parsed = get_recipe(recipe)
        quantized = quantize(eager, parsed, images if parsed.needs_calibration else None)
        files[recipe] = export_onnx(quantized, folder / f"{recipe}.onnx", target="openvino").path
    dataset = nncf.Dataset([image[None].numpy() for image in images])
    variants = {
        "default": {},
        "mixed": {"preset": nncf.QuantizationPreset.MIXED},
        "transformer": {"model_type": nncf.ModelType.TRANSFORMER},
    }
    networks = {name: core.read_model(str(path)) for name, path in files.items()}
    for name, options in variants.items():
        networks[f"NNCF {name}"] = nncf.quantize(
            core.read_model(str(files[FLOAT])), dataset, subset_size=len(images), **options
        )
    return {name: core.compile_model(network, "CPU", SETTINGS) for name, network in networks.items()}


def judge_latency(model: str, compiled: Mapping[str, Any]) -> Goal:
    """Return the goal for our int8 over NNCF's fastest variant."""
    theirs = [name for name in compiled if name.startswith("NNCF")]
    first = in_turns(callers({name: compiled[name] for name in theirs}), CHOOSING_ROUNDS)
    fastest = min(theirs, key=lambda name: statistics.median(first[name]))
    p50_s = in_turns(callers({name: compiled[name] for name in (OURS, fastest, FLOAT)}), JUDGING_ROUNDS)
    ratio, low, high = ratio_of(p50_s[OURS], p50_s[fastest])
    to_float, *_ = ratio_of(p50_s[OURS], p50_s[FLOAT])
    shown = ", ".join(f"{name} {statistics.median(times) * 1e3:.2f} ms" for name, times in p50_s.items())
    return Goal(
        high <= MOST_RATIO,
        f"p50 of {model} in OpenVINO, one thread: {shown}; int8 / {fastest} {ratio:.3f} ({low:.3f}–{high:.3f}), "
        f"int8 / fp32 {to_float:.2f} (goal: the interval ends at most at {MOST_RATIO})",
    )


def callers(compiled: Mapping[str, Any]) -> dict[str, Callable[[], object]]:
    """Return functions that run each compiled model once."""
    port = next(iter(compiled.values())).inputs[0]
    image = np.random.default_rng(0).random(tuple(port.shape), dtype=np.float32)
    return {
        name: functools.partial(model.create_infer_request().infer, [image], share_inputs=True, share_outputs=True)
        for name, model in compiled.items()
    }


def judge_accuracy(core: Any, nncf: Any, folder: Path) -> Iterator[Goal]:
    """Yield the loss of our int8 against float, both in OpenVINO."""
    trained = load(folder)
    [images] = [batch for batch, _ in trained.calibration.sample(CALIBRATION_IMAGES).batches(CALIBRATION_IMAGES)]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        compiled = compile_all(core, nncf, trained.model, images, Path(place))
        top1 = {name: accuracy_of(model, trained.test) for name, model in compiled.items()}
    loss = top1[FLOAT] - top1[OURS]
    shown = ", ".join(f"{name} {share:.2%}" for name, share in top1.items())
    yield Goal(
        loss <= MOST_LOSS, f"top-1 in OpenVINO of {trained.title}: {shown} (goal: int8 loses at most {MOST_LOSS:.2%})"
    )


def accuracy_of(compiled: Any, test: ImageData) -> float:
    """Return the share of images whose label has the largest logit."""
    right = total = 0
    for images, labels in test.batches():
        for image, label in zip(images, labels, strict=True):
            right += int(compiled([image[None].numpy()])[0].argmax()) == int(label)
            total += 1
    return right / total
