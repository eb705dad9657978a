"""ONNX Runtime's providers for GPUs, loaded as the agent loads them."""

from efficientquant_agent.backends.base import LoadOptions

from gpu_check import tiny_model
from gpu_check.rows import Absent, Seen


def check(backend) -> Seen:
    """The provider starts, falls back to no other one, and gives the expected outputs."""
    info = backend.probe()
    if info is None:
        raise Absent("no onnxruntime with {} here".format(backend._providers[0]))
    yield "version", info.version
    model = backend.load(tiny_model.content(), LoadOptions(), tiny_model.no_stage)
    yield "outputs", tiny_model.compared(model, "fp32")
    yield "session", dict(model.session_options, providers=list(model.providers))
