"""What both ways share: the model and images that they start from, and the measuring of what they take."""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from efficientquant import create_model, input_spec, synthetic_images
from torch import Tensor, nn

IMAGES = 32


def main(way: Callable[[nn.Module, Tensor, Path, str], None]) -> None:
    """Run a way on MODEL, FILE and RECIPE of the command line, and print what it took as JSON."""
    name, file, recipe = sys.argv[1:]
    path = Path(file)
    model = create_model(name, "random")
    images = synthetic_images(input_spec(model), IMAGES)
    started_s = time.perf_counter()
    with torch.no_grad():
        way(model, images, path, recipe)
    wall_s = time.perf_counter() - started_s
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"wall_s": wall_s, "peak_bytes": peak_bytes, "size_bytes": path.stat().st_size}))
