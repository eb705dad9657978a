"""The small model for all runtimes, and its expected outputs."""

import contextlib
import itertools
import os
import statistics
import time

from efficientquant_agent.child import reference

MODELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "fixtures", "models")
MODEL = os.path.join(MODELS, "tiny.onnx")
REFERENCE = os.path.join(MODELS, "tiny_reference.npz")
QUERIES = 200
# FP32 without TF32 sums in another order on another device. FP16 has 11 bits.
MAX_ABS = {"fp32": 1e-4, "fp16": 2e-2}


def content():
    """Return the model's bytes."""
    with open(MODEL, "rb") as stream:
        return stream.read()


def expected():
    """Return the inputs and expected outputs.

    The outputs are those of ONNX Runtime on a CPU.
    """
    with open(REFERENCE, "rb") as stream:
        return reference.read(stream.read())


def compared(model, precision):
    """Return the difference between a loaded model's and the expected outputs.

    It is text. Raises AssertionError for a difference beyond MAX_ABS.
    """
    right = expected()
    given = [model.outputs(staged) for staged in model.stage(right.feeds)]
    agreement = reference.compare(right.outputs, given)
    seen = "max abs difference {:.2e} on {} inputs".format(agreement.max_abs, agreement.count)
    if not agreement.max_abs <= MAX_ABS[precision]:
        raise AssertionError("{}, which is over {:.0e}".format(seen, MAX_ABS[precision]))
    return seen


def timed(model):
    """Return the medians of host and device time as text.

    They are those of QUERIES queries after as many warm-up queries. Raises AssertionError when the device's is not
    within the host's.
    """
    staged = model.stage(expected().feeds)
    host_s, device_s = [], []
    for feed in itertools.islice(itertools.cycle(staged), 2 * QUERIES):
        started_s = time.perf_counter()
        model.run_once(feed)
        host_s.append(time.perf_counter() - started_s)
        device_s.append(model.device_s())
    host, device = (statistics.median(values[QUERIES:]) for values in (host_s, device_s))
    seen = "p50 host {:.0f} µs, device {:.0f} µs".format(host * 1e6, device * 1e6)
    if not 0 < device <= host * 1.05:
        raise AssertionError(seen)
    return seen


@contextlib.contextmanager
def no_stage(_name):
    """Do nothing, in place of the timing of a stage."""
    yield
