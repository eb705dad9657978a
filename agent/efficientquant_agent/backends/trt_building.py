"""TensorRT builds, from an ONNX file to a plan.

They work with TensorRT 8.2 to 11 and TensorRT-RTX, by checking which functions exist.

Every TensorRT object is held in a variable named for its class (builder, config, network, …). The contract test derives
the class of each attribute from that name, and looks the attribute up for every release.
"""

import hashlib
import re
import time
from typing import Any, Dict, List, Mapping, Tuple

from efficientquant_agent.backends.base import BuildError, Log, UnknownSizeError, batch_of_one, ran_out_of_memory
from efficientquant_agent.backends.trt_log import PYTHON_ERRORS, last_error, open_log, start_error
from efficientquant_agent.files import write_whole
from efficientquant_agent.protocol import BuildOptions, BuildReport

# Each dropped pair of Q/DQ costs another build. After this many the build fails.
_MAX_DROPS = 16
_NO_KERNEL = "Could not find any implementation for node"
# Not every release has a code for an operator that it does not know.
_UNSUPPORTED = re.compile(r"no importer registered|plugin not found", re.IGNORECASE)
# How the parser's log names its current node. Before 10 the errors themselves do not name it.
_AT_NODE = re.compile(r"While parsing node number \d+ \[(?P<operator>\w+)(?: -> \"(?P<output>[^\"]*)\")?")


def build(
    trt: Any, onnx_path: str, plan_path: str, options: BuildOptions, settings: Mapping[str, str], log: Log
) -> BuildReport:
    """Build a plan and write it to `plan_path`.

    Raises BuildError when it cannot be built, and leaves no file then.
    """
    work = _Build(trt, options, log)
    started_s = time.perf_counter()
    work.parse(onnx_path)
    parsed_s = time.perf_counter()
    plan, workspace_bytes = work.climb_down(options.compute_capability)
    built_s = time.perf_counter()
    content = memoryview(plan)
    write_whole(plan_path, content)
    return BuildReport(
        engine_sha256=hashlib.sha256(content).hexdigest(),
        engine_bytes=content.nbytes,
        workspace_bytes=workspace_bytes,
        parse_s=parsed_s - started_s,
        build_s=built_s - parsed_s,
        notes=tuple(work.notes),
        settings=dict(settings),
    )


class _Build:
    """One build, which keeps the objects that TensorRT only refers to.

    These are the logger, the parser and the timing cache.
    """

    def __init__(self, trt: Any, options: BuildOptions, log: Log) -> None:
        self._trt = trt
        self._options = options
        self._log = log
        self._types = [flag for flag in options.builder_flags if flag != "tf32"]
        self.notes: List[str] = []
        self._logger = open_log(trt, log)
        self._check_flags()
        try:
            self._builder = trt.Builder(self._logger)
        except PYTHON_ERRORS as error:
            raise BuildError("build_failed", start_error(self._logger, str(error))) from error
        self._network = self._builder.create_network(self._network_flags())
        self._parser = trt.OnnxParser(self._network, self._logger)
        self._cache: Any = None

    def _check_flags(self) -> None:
        trt = self._trt
        for name in self._types:
            if hasattr(trt.BuilderFlag, name.upper()):
                continue
            if name == "int8":  # the file's Q/DQ says the same
                self.notes.append("flag int8 does not exist in this release: the file's own types decide")
                continue
            raise BuildError(
                "build_failed",
                "this release of TensorRT has no builder flag '{}': each layer's type comes from the file; export "
                "the model for a typed target, e.g. rtx-3080".format(name),
            )

    def _network_flags(self) -> int:
        """Return the network's creation flags.

        EXPLICIT_BATCH where the release also has implicit batches. STRONGLY_TYPED where the release has precision flags
        and the build uses none, so that the file's types decide.
        """
        trt, builder = self._trt, self._builder
        if hasattr(builder, "max_batch_size"):
            return 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        if hasattr(trt.BuilderFlag, "FP16") and not self._types:
            return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return 0

    def parse(self, onnx_path: str) -> None:
        """Parse the ONNX file into the network, a symbolic batch as 1.

        Raises BuildError, also for an input without another size. For "unsupported_op" it names what is not supported.
        """
        trt, parser, network = self._trt, self._parser, self._network
        if hasattr(trt, "init_libnvinfer_plugins"):
            trt.init_libnvinfer_plugins(self._logger, "")
        if not parser.parse_from_file(onnx_path):
            raise _refusal([parser.get_error(index) for index in range(parser.num_errors)], self._logger.errors)
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            if tensor.dtype != trt.DataType.FLOAT:
                message = "input '{}' is {}; only FLOAT inputs can be fed".format(tensor.name, tensor.dtype)
                raise BuildError("build_failed", message)
            # Fixed here instead of by a profile, because until 8.6 two contexts cannot share a profile.
            try:
                tensor.shape = batch_of_one(tensor.name, tensor.shape)
            except UnknownSizeError as error:
                raise BuildError("build_failed", str(error)) from error

    def climb_down(self, sm: int) -> Tuple[Any, int]:
        """Return a plan and its workspace in bytes.

        Each limit of the ladder is tried in turn, as long as memory runs out. Raises BuildError when no limit gives a
        plan.
        """
        problem = ""
        for workspace_bytes in self._options.workspace_ladder_bytes:
            plan = self._with_fallback(workspace_bytes, sm)
            if plan is not None:
                return plan, workspace_bytes
            problem = last_error(self._logger, "TensorRT gave no reason")
            if not ran_out_of_memory("\n".join(self._logger.errors)):
                raise BuildError("build_failed", problem)
            self.notes.append("memory ran out with a workspace of {} bytes".format(workspace_bytes))
        raise BuildError(
            "build_oom",
            "memory ran out with every workspace down to {} bytes: {}".format(
                self._options.workspace_ladder_bytes[-1], problem
            ),
        )

    def _with_fallback(self, workspace_bytes: int, sm: int) -> Any:
        """Build, and drop Q/DQ before layers without an INT8 kernel."""
        for _ in range(_MAX_DROPS):
            plan = self._try(workspace_bytes, sm)
            if plan is not None or not self._drop_quantization():
                return plan
        return None

    def _try(self, workspace_bytes: int, sm: int) -> Any:
        builder, config = self._builder, self._config(workspace_bytes, sm)
        del self._logger.errors[:]
        try:
            plan = builder.build_serialized_network(self._network, config)
        except (MemoryError, *PYTHON_ERRORS) as error:
            self._logger.errors.append("out of memory" if isinstance(error, MemoryError) else str(error))
            plan = None
        self._save_timings(config)
        return plan

    def _config(self, workspace_bytes: int, sm: int) -> Any:
        trt, builder = self._trt, self._builder
        config = builder.create_builder_config()
        for name in self._types:
            if hasattr(trt.BuilderFlag, name.upper()):
                config.set_flag(getattr(trt.BuilderFlag, name.upper()))
        if "tf32" in self._options.builder_flags:
            config.set_flag(trt.BuilderFlag.TF32)
        else:  # it is on by default
            config.clear_flag(trt.BuilderFlag.TF32)
        if workspace_bytes:
            _limit_workspace(trt, config, workspace_bytes)
        config.avg_timing_iterations = self._options.timing_iterations
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if hasattr(config, "set_compute_capability"):
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, "SM{}".format(sm)), 0)
        self._load_timings(config)
        return config

    def _load_timings(self, config: Any) -> None:
        """Load the timing cache, so that builds choose the same kernels.

        A cache that does not fit this TensorRT is replaced by a new one.
        """
        if not self._options.timing_cache_path or hasattr(config, "set_compute_capability"):
            return  # TensorRT-RTX times nothing: there these functions are no-ops that warn
        try:
            with open(self._options.timing_cache_path, "rb") as stream:
                kept = stream.read()
        except FileNotFoundError:
            kept = b""
        self._cache = config.create_timing_cache(kept)
        if self._cache is None or not config.set_timing_cache(self._cache, False):
            self._log("the timing cache does not fit this TensorRT: a new one is begun")
            self._cache = config.create_timing_cache(b"")
            config.set_timing_cache(self._cache, False)

    def _save_timings(self, config: Any) -> None:
        if self._cache is not None:
            cache = config.get_timing_cache()
            if cache is not None:
                write_whole(self._options.timing_cache_path, memoryview(cache.serialize()))

    def _drop_quantization(self) -> bool:
        """Drop Q/DQ before layers without an INT8 kernel.

        Returns whether any was dropped.
        """
        refused = [error for error in self._logger.errors if _NO_KERNEL in error and "workspace" not in error]
        network = self._network
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        makers: Dict[str, Any] = {}
        for layer in layers:
            for index in range(layer.num_outputs):
                makers[layer.get_output(index).name] = layer
        dropped = [
            layer.name
            for layer in layers
            if any(_names(error, layer.name) for error in refused) and _bypass(self._trt, layer, makers)
        ]
        self.notes.extend("Q/DQ of {} dropped: no INT8 kernel".format(name) for name in dropped)
        return bool(dropped)


def _names(message: str, layer_name: str) -> bool:
    """Tell whether a message names this layer.

    The layer may be named alone or among those it was fused with. A longer name that contains its name does not count.
    """
    return bool(re.search(r"(?<![\w/])(?<!\w\.){}(?![\w/]|\.\w)".format(re.escape(layer_name)), message))


def _bypass(trt: Any, layer: Any, makers: Mapping[str, Any]) -> bool:
    """Connect a layer to its inputs before their quantization.

    Its weights stay quantized. Returns whether any input was reconnected.
    """
    if layer.type in (trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE):
        return False
    is_bypassed = False
    for index in range(layer.num_inputs):
        dequantize = _maker(trt.LayerType.DEQUANTIZE, layer.get_input(index), makers)
        quantize = dequantize and _maker(trt.LayerType.QUANTIZE, dequantize.get_input(0), makers)
        if quantize and _maker(trt.LayerType.CONSTANT, quantize.get_input(0), makers) is None:
            layer.set_input(index, quantize.get_input(0))
            is_bypassed = True
    return is_bypassed


def _maker(kind: Any, tensor: Any, makers: Mapping[str, Any]) -> Any:
    """Return the layer that makes a tensor.

    None when that layer is of another kind.
    """
    layer = makers.get(tensor.name) if tensor is not None else None
    return layer if layer is not None and layer.type == kind else None


def _limit_workspace(trt: Any, config: Any, size_bytes: int) -> None:
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size_bytes)
    else:
        config.max_workspace_size = size_bytes


def compute_capabilities(trt: Any) -> List[int]:
    """Return the SMs that TensorRT-RTX's bindings build for, e.g. [75, 86].

    Empty where the bindings do not say.
    """
    if not hasattr(trt, "ComputeCapability"):
        return []
    names = [re.match(r"SM(\d+)$", name) for name in dir(trt.ComputeCapability)]
    return sorted(int(name.group(1)) for name in names if name)


def _refusal(errors: List[Any], messages: List[str]) -> BuildError:
    """Return the BuildError for a file that the parser refused.

    It names the operator and the node.
    """
    if not errors:
        return BuildError("build_failed", messages[-1] if messages else "the ONNX parser gave no reason")
    unsupported = [
        error for error in errors if error.code().name.startswith("UNSUPPORTED") or _UNSUPPORTED.search(error.desc())
    ]
    error = (unsupported or errors)[0]
    sentence = _node_of(error, messages) + str(error.desc())
    return BuildError("unsupported_op" if unsupported else "build_failed", sentence)


def _node_of(error: Any, messages: List[str]) -> str:
    """Return "node 'name' (Operator): ", empty when the node is unknown.

    The log may name the node where the error does not.
    """
    if hasattr(error, "node_operator") and error.node_name():
        return "node '{}' ({}): ".format(error.node_name(), error.node_operator())
    at_nodes = list(filter(None, map(_AT_NODE.search, messages)))
    if at_nodes:
        return "node that gives '{}' ({}): ".format(at_nodes[-1].group("output"), at_nodes[-1].group("operator"))
    return ""
