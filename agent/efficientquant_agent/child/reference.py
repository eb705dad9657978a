"""The reference inputs and outputs that travel with an artifact.

A device's own outputs are compared with them.
"""

import io
import zipfile
import zlib
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from efficientquant_agent.records import Agreement

# Below this the device does not compute the same function: rounding of FP16 and INT8 stays above 0.99.
MIN_COSINE = 0.95
_INPUT = "input:"
_OUTPUT = "output:"


class WrongReferenceError(Exception):
    """A reference that cannot be used with the model."""


class Reference(NamedTuple):
    """Reference inputs and the outputs that they must give.

    `feeds` has a mapping for each input (name → float32 array). `outputs` has the model's outputs for it, in order.
    """

    feeds: Sequence[Mapping[str, Any]]
    outputs: Sequence[Sequence[Any]]


def read(content: bytes) -> Reference:
    """Parse an .npz of reference inputs and outputs.

    Its arrays are "input:NAME" (n, 1, …) and "output:K" (n, 1, …), K counting the model's outputs from 0. Inputs may be
    stored as float16 if that loses nothing. Raises WrongReferenceError for any other content.
    """
    import numpy as np

    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            inputs = {name[len(_INPUT) :]: arrays[name] for name in arrays.files if name.startswith(_INPUT)}
            outputs = [arrays[_OUTPUT + str(k)] for k in range(sum(name.startswith(_OUTPUT) for name in arrays.files))]
    # zipfile raises RuntimeError for encrypted archives and for kinds that it does not read.
    except (ValueError, KeyError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise WrongReferenceError("not a file of reference outputs: {}".format(error)) from error
    except (AttributeError, TypeError) as error:  # a single array, as .npy, is no context manager
        raise WrongReferenceError("not a file of reference outputs, but an array alone") from error
    arrays = list(inputs.values()) + outputs
    if not inputs or not outputs or not all(_is_plain(array) for array in arrays):
        raise WrongReferenceError(
            "not a file of reference outputs: inputs and outputs must be arrays of finite numbers"
        )
    counts = {len(array) for array in arrays}
    if len(counts) != 1:
        raise WrongReferenceError("not a file of reference outputs: its arrays do not belong together")
    count = counts.pop()
    return Reference(
        [
            {name: np.ascontiguousarray(array[i], dtype=np.float32) for name, array in inputs.items()}
            for i in range(count)
        ],
        [[array[i] for array in outputs] for i in range(count)],
    )


def _is_plain(array: Any) -> bool:
    """Tell whether an array is not empty and has only finite numbers.

    A scalar does not count, because the first dimension counts the inputs.
    """
    import numpy as np

    return bool(array.ndim and array.size and array.dtype.kind in "fiu" and np.isfinite(array).all())


def check_shapes(reference: Reference, shapes: Mapping[str, Tuple[int, ...]]) -> None:
    """Raise WrongReferenceError when the inputs are not the model's own."""
    fed = {name: tuple(array.shape) for name, array in reference.feeds[0].items()}
    if fed != dict(shapes):
        raise WrongReferenceError("the reference has inputs {}, the model takes {}".format(fed, dict(shapes)))


def seeded_feeds(shapes: Mapping[str, Tuple[int, ...]], count: int, seed: int) -> List[Dict[str, Any]]:
    """Return `count` float32 feeds that are uniform in [0, 1).

    They are the same for the same seed. They serve artifacts without a reference.
    """
    import numpy as np

    random = np.random.RandomState(seed % 2**32)
    return [
        {name: random.random_sample(shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(count)
    ]


def compare(expected: Sequence[Sequence[Any]], got: Sequence[Sequence[Any]]) -> Agreement:
    """Compare a device's outputs with the expected ones, input by input.

    Returns the largest |Δ|, the smallest cosine, and how often the first output's argmax agrees. An output that is
    missing, not finite or of another shape counts as infinitely far: max_abs inf, cosine −1.
    """
    import numpy as np

    max_abs, cosine, matches = 0.0, 1.0, 0
    for ours, theirs in zip(got, expected):
        if len(ours) != len(theirs):
            max_abs, cosine = float("inf"), -1.0
        for place, (a, b) in enumerate(zip(ours, theirs)):
            a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
            if a.shape != b.shape or not np.isfinite(a).all():
                max_abs, cosine = float("inf"), -1.0
                continue
            max_abs = max(max_abs, float(np.abs(a - b).max()))
            cosine = min(cosine, _cosine(a.ravel(), b.ravel()))
            matches += int(place == 0 and a.argmax() == b.argmax())
    return Agreement(max_abs, cosine, matches, len(expected))


def _cosine(a: Any, b: Any) -> float:
    import numpy as np

    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a.dot(b)) / norm if norm else float((a == b).all())
