"""The common part of both ways: model, images and measurement."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from efficientquant import create_model, input_spec, synthetic_images
from torch import Tensor, nn

IMAGES = 32


def main(way: Callable[[nn.Module, Tensor, Path, str], None]) -> None:
    """Run a way on MODEL, FILE and RECIPE, and print its cost.

    The three are arguments of the command line. The cost is JSON with wall time, peak memory and file size.
    """
    name, file, recipe = sys.argv[1:]
    path = Path(file)
    model = create_model(name, "random")
    images = synthetic_images(input_spec(model), IMAGES)
    started_s = time.perf_counter()
    with torch.no_grad():
        way(model, images, path, recipe)
    wall_s = time.perf_counter() - started_s
    print(json.dumps({"wall_s": wall_s, "peak_bytes": peak_resident_bytes(), "size_bytes": path.stat().st_size}))


def peak_resident_bytes() -> int:
    """Return VmHWM of this process.

    getrusage's peak survives exec, so a child would start with its parent's.
    """
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
