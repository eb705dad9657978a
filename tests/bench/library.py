"""Time, memory and size of making an artifact from a model.

The product's way starts with an eager timm model and ends with a checked artifact. It is compared with the ordinary
way in the same run: torch.onnx.export, then onnxruntime.quantization.quantize_static on the same 32 images. Each
measurement has its own child process. Imports and the creation of model and images are not measured on either side.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from goal import Goal

V1 = [f"mobilevit_{size}" for size in ("xxs", "xs", "s")]
V2 = [f"mobilevitv2_{width}" for width in ("050", "075", "100", "125", "150", "175", "200")]
MAX_RATIO = 1.1
MAX_PEAK_BYTES = 3 << 30
SMALLER = {**dict.fromkeys(V1, 1.3), **dict.fromkeys(V2, 2.4)}
SMALLER_WITH_LINEAR = 3.7

PRODUCT, ORDINARY = Path(__file__).parent / "way_product.py", Path(__file__).parent / "way_ordinary.py"


class Way(NamedTuple):
    """Wall time, peak resident memory and file size of one process."""

    wall_s: float
    peak_bytes: int
    size_bytes: int


def measure(folder: Path) -> Iterator[Goal]:
    """Yield the goals for time, memory and size of ten models."""
    for turn, model in enumerate(SMALLER):
        order = (PRODUCT, ORDINARY) if turn % 2 else (ORDINARY, PRODUCT)
        ways = {script: run(script, model, folder, "efficientquant") for script in order}
        yield from judge_way(model, ways[PRODUCT], ways[ORDINARY])
        fp32 = run(PRODUCT, model, folder, "fp32")
        linear = run(PRODUCT, model, folder, "efficientquant:scope=conv+linear")
        yield judge_size(model, "efficientquant", fp32, ways[PRODUCT], SMALLER[model])
        yield judge_size(model, "efficientquant:scope=conv+linear", fp32, linear, SMALLER_WITH_LINEAR)


def run(script: Path, model: str, folder: Path, recipe: str) -> Way:
    """Measure one way in its own process."""
    command = [sys.executable, "-W", "ignore", str(script), model, str(folder / "way.onnx"), recipe]
    lines = subprocess.check_output(command, text=True, cwd=folder).splitlines()
    return Way(**json.loads(lines[-1]))


def judge_way(model: str, ours: Way, theirs: Way) -> Iterator[Goal]:
    """Yield the goals for the time ratio and the peak memory."""
    ratio = ours.wall_s / theirs.wall_s
    yield Goal(
        ratio <= MAX_RATIO,
        f"{model} to a checked artifact: {ours.wall_s:.1f} s, exporter and quantize_static {theirs.wall_s:.1f} s, "
        f"ratio {ratio:.2f} (goal: at most {MAX_RATIO})",
    )
    yield Goal(
        ours.peak_bytes <= MAX_PEAK_BYTES,
        f"{model} to a checked artifact: peak {ours.peak_bytes / 2**30:.2f} GiB resident, exporter and "
        f"quantize_static {theirs.peak_bytes / 2**30:.2f} (goal: at most {MAX_PEAK_BYTES >> 30})",
    )


def judge_size(model: str, recipe: str, fp32: Way, quantized: Way, wanted: float) -> Goal:
    """Return the goal for the ratio of file sizes, fp32 over quantized."""
    ratio = fp32.size_bytes / quantized.size_bytes
    sizes = f"{fp32.size_bytes / 2**20:.2f} → {quantized.size_bytes / 2**20:.2f} MiB"
    return Goal(ratio >= wanted, f"{model} as {recipe}: {sizes}, {ratio:.2f} × smaller (goal: at least {wanted})")
