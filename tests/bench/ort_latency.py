"""Latency of the recipes on ONNX Runtime's CPU provider.

There is no goal, only figures.
"""

import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from goal import Goal

MODELS = ("mobilevit_xxs", "mobilevitv2_050")
RECIPES = ("fp32", "efficientquant", "int8")
ROUNDS = 20
PER_ROUND = 20


def measure(folder: Path) -> Iterator[Goal]:
    """Yield the batch-1 medians of each model's recipes.

    The recipes take turns, each round in another order.
    """
    import onnxruntime

    for model in MODELS:
        files = export(model, folder)
        sessions = {
            recipe: onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            for recipe, file in files.items()
        }
        samples = in_turns(sessions)
        p50_s = {recipe: statistics.median(latency_s) for recipe, latency_s in samples.items()}
        figures = ", ".join(f"{r} {p50 * 1e3:.2f} ms ({p50_s['fp32'] / p50:.2f} ×)" for r, p50 in p50_s.items())
        yield Goal(
            None,
            f"p50 of {model} on ONNX Runtime {onnxruntime.__version__}, CPU, all cores: {figures}; "
            f"{ROUNDS * PER_ROUND} inferences each, in turns (× = speed-up over fp32)",
        )


def export(model: str, folder: Path) -> dict[str, Path]:
    """Write the artifacts of one model and return {recipe: file}."""
    from efficientquant import create_model, export_onnx, get_recipe, quantize

    eager = create_model(model, "random")
    files = {recipe: folder / f"{model}-{recipe}.onnx" for recipe in RECIPES}
    for recipe, file in files.items():
        export_onnx(quantize(eager, get_recipe(recipe)), file)
    return files


def in_turns(sessions: dict[str, object]) -> dict[str, list[float]]:
    """Time every session in every round.

    The first round is the warm-up and is dropped.
    """
    import numpy as np

    image = np.random.default_rng(0).random((1, 3, 256, 256), dtype=np.float32)
    orders = itertools.cycle(itertools.permutations(sessions))
    samples: dict[str, list[float]] = {recipe: [] for recipe in sessions}
    for turn in range(ROUNDS + 1):
        for recipe in next(orders):
            kept = samples[recipe] if turn else []
            for _ in range(PER_ROUND):
                started_s = time.perf_counter()
                sessions[recipe].run(None, {"input": image})
                kept.append(time.perf_counter() - started_s)
    return samples
