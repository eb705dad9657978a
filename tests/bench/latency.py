"""The product's timed loop compared with a bare `session.run` loop.

Both use the same session and the same inputs, in turns.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from efficientquant_agent.backends.base import LoadOptions
from efficientquant_agent.backends.ort import OrtCpu
from efficientquant_agent.child.timed_loop import measure as measure_with_product
from efficientquant_agent.records import Measurement
from goal import Goal

MODEL = "mobilevit_xxs"
ROUNDS = 30
PER_ROUND = 60
MAX_RATIO = 1.01


def measure(folder: Path) -> Iterator[Goal]:
    """Yield the goal for the ratio of the median latencies.

    Each round runs both loops, in alternating order. The medians are over all rounds.
    """
    loaded = OrtCpu.load(export(folder / "model.onnx"), LoadOptions(), lambda _stage: contextlib.nullcontext())
    inputs = loaded.stage(random_feeds(loaded.input_shapes(), 8))
    bare_loop(loaded._session, inputs)  # warm-up
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(ROUNDS):
        loops = [
            lambda: ours.extend(product_loop(loaded, inputs)),
            lambda: theirs.extend(bare_loop(loaded._session, inputs)),
        ]
        for run_loop in loops if turn % 2 else reversed(loops):
            run_loop()
    product_s, bare_s = statistics.median(ours), statistics.median(theirs)
    ratio = product_s / bare_s
    yield Goal(
        abs(ratio - 1) <= MAX_RATIO - 1,
        f"p50 of {MODEL} on ONNX Runtime: product {product_s * 1e3:.3f} ms, bare loop {bare_s * 1e3:.3f} ms, "
        f"ratio {ratio:.4f} (goal: within 1 %; {len(ours)} and {len(theirs)} inferences, in turns)",
    )


def export(path: Path) -> bytes:
    """Write a real model's artifact and return its bytes."""
    from efficientquant import create_model, export_onnx, get_recipe, quantize

    export_onnx(quantize(create_model(MODEL, "random"), get_recipe("fp32")), path)
    return path.read_bytes()


def random_feeds(shapes: dict[str, tuple[int, ...]], count: int) -> list[dict[str, object]]:
    """Return `count` feeds, float32 in [0, 1)."""
    import numpy as np

    random = np.random.default_rng(0)
    return [{name: random.random(shape, np.float32) for name, shape in shapes.items()} for _ in range(count)]


def product_loop(loaded: object, inputs: list[dict[str, object]]) -> list[float]:
    """Run the agent's timed loop and return its latencies."""
    tier = Measurement("bench", 0.0, PER_ROUND, 0.0, 0, 0.0, len(inputs), 0, 0, 0.1)
    return list(measure_with_product(loaded.run_once, inputs, tier).latency_s)


def bare_loop(session: object, inputs: list[dict[str, object]]) -> list[float]:
    """Run a plain timing loop and return its latencies."""
    latency_s = []
    for i in range(PER_ROUND):
        feed = inputs[i % len(inputs)]
        started_s = time.perf_counter()
        session.run(None, feed)
        latency_s.append(time.perf_counter() - started_s)
    return latency_s
