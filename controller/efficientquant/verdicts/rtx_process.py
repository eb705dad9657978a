"""The child process that runs TensorRT-RTX.

Usage: `python -m efficientquant.verdicts.rtx_process MODEL ANSWER CAPABILITY`. A native
crash, the threads and the memory of the builder stay in this process. It writes the result as JSON into ANSWER. Without
an answer, it crashed. Imports no torch.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import tensorrt_rtx_bindings as trt

from efficientquant.targets import sm_text

LAYERS_HEADING = "Layers:\n"
WEIGHTS_PREFIX = "Total Weights Memory: "


class Log(trt.ILogger):  # type: ignore[misc]
    """A logger that keeps the builder's messages.

    Without a GPU to load the plan, only the verbose log lists the layers of an engine.
    """

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []
        self.text: list[str] = []

    def log(self, severity: Any, msg: str) -> None:
        """Keep one message from the builder."""
        if severity <= trt.ILogger.ERROR:
            self.errors.append(msg)
        self.text.append(msg)


def build(model: bytes, capability: int) -> dict[str, Any]:
    """Build an engine for one compute capability.

    Returns the result or the errors as JSON-ready values.
    """
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    answer: dict[str, Any] = {"version": trt.__version__, "parser_errors": [], "built": False, "build_s": None}
    member = getattr(trt.ComputeCapability, f"SM{capability}", None)
    if member is None:
        answer["errors"] = [f"TensorRT-RTX {trt.__version__} has no SM {sm_text(capability)}"]
        return answer
    if not parser.parse(model):
        answer["parser_errors"] = [_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
        return answer
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        tensor.shape = (1, *tensor.shape[1:]) if len(tensor.shape) and tensor.shape[0] < 0 else tensor.shape
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(member, 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    answer["build_s"] = time.perf_counter() - start
    answer["errors"] = log.errors
    if plan is not None:
        text = "\n".join(log.text)
        answer |= {"built": True, "plan_bytes": plan.nbytes, "weights_bytes": _weights_bytes(log.text)}
        answer["layers"] = text[text.rindex(LAYERS_HEADING) :].split("\n\n", 1)[0]
    return answer


def _parser_error(error: Any) -> dict[str, Any]:
    return {
        "node": error.node_name(),
        "index": error.node(),
        "operator": error.node_operator(),
        "problem": error.desc(),
    }


def _weights_bytes(messages: list[str]) -> int | None:
    totals = [message for message in messages if message.startswith(WEIGHTS_PREFIX)]
    return int(totals[-1].removeprefix(WEIGHTS_PREFIX).split()[0]) if totals else None


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(build(Path(sys.argv[1]).read_bytes(), int(sys.argv[3]))))
