"""The contract of a backend.

It says how one runtime builds what it needs, loads a model and runs it once.
"""

import abc
import importlib.util
import re
import sys
from types import MappingProxyType
from typing import Any, Callable, ContextManager, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Type

from efficientquant_agent.protocol import BuildOptions, BuildReport
from efficientquant_agent.records import LOWEST_PREFERENCE, BackendInfo
from efficientquant_agent.versions import version_of

# stage(name) is a context manager that times what happens inside it as one stage of loading, e.g. "deserialize".
Stage = Callable[[str], ContextManager[None]]
# log(line) writes to the run's log, whose last lines travel with a failure.
Log = Callable[[str], None]
# How CUDA, TensorRT and ONNX Runtime report a lack of memory. None of them has an error class for it.
_OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|out_of_memory|bad_alloc|(failed to allocate|cannot allocate) memory|memory ?allocation"
    r"|cuda failure:? 2\b",
    re.IGNORECASE,
)


# What importing or probing a backend may raise when its file is wrong. The other backends still work.
FAILURES = (
    ImportError,
    SyntaxError,
    NameError,
    AttributeError,
    TypeError,
    ValueError,
    LookupError,
    OSError,
    RuntimeError,
)


class BackendBrokenError(Exception):
    """A runtime that is installed and does not work.

    The message ends in what to do.
    """


class UnsupportedGpuError(BackendBrokenError):
    """An installed runtime that does not support this GPU."""


class RuntimeTooOldError(BackendBrokenError):
    """An installed runtime that is older than the agent needs."""


class UnknownBackendError(Exception):
    """A backend name that this agent has no code for."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__("this agent knows no backend '{}' (it knows: {})".format(name, ", ".join(known) or "none"))
        self.name = name


class BuildError(Exception):
    """An engine that could not be built.

    `failure_type` is "build_failed", "build_oom" or "unsupported_op".
    """

    def __init__(self, failure_type: str, message: str) -> None:
        super().__init__(message)
        self.failure_type = failure_type


class LoadError(Exception):
    """A model that the runtime does not accept.

    The message is the runtime's own sentence.
    """


class UnknownSizeError(Exception):
    """An input with a symbolic dimension other than the batch.

    Nothing says which size the model is meant for.
    """

    def __init__(self, name: str, dimensions: Sequence[int]) -> None:
        super().__init__(
            "input '{}' has no size in dimension{} {}; only the batch (dimension 0) may be symbolic, export the model "
            "with a fixed image size".format(
                name, "s" if len(dimensions) > 1 else "", " and ".join(map(str, dimensions))
            )
        )


class StalePlanError(LoadError):
    """A plan from the cache that does not load here.

    The driver or a version has changed. The plan is built again, once.
    """


class InferenceError(Exception):
    """A failure of the runtime while it ran the model.

    The message is the runtime's own sentence.
    """


class OutOfMemoryError(Exception):
    """A lack of memory while loading or running.

    It is the GPU's or the host's memory. The message is the runtime's own sentence.
    """


def is_installed(module: str) -> bool:
    """Tell whether a module can be imported, without loading it."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None


def ran_out_of_memory(message: str) -> bool:
    """Tell whether a runtime's message says that memory ran out."""
    return bool(_OUT_OF_MEMORY.search(message))


def error_for(message: str, otherwise: Type[Exception]) -> Exception:
    """Return the error for a runtime's message.

    It is an OutOfMemoryError when memory ran out, and of class `otherwise` for anything else.
    """
    return OutOfMemoryError(message) if ran_out_of_memory(message) else otherwise(message)


def batch_of_one(name: str, sizes: Sequence[Any]) -> Tuple[int, ...]:
    """Return an input's shape, with a symbolic batch as 1.

    A symbolic size is no positive number. Raises UnknownSizeError for one in another dimension than the first.
    """
    missing = [index for index, size in enumerate(sizes) if index > 0 and not _is_size(size)]
    if missing:
        raise UnknownSizeError(name, missing)
    return tuple(size if _is_size(size) else 1 for size in sizes)


def _is_size(size: Any) -> bool:
    return isinstance(size, int) and size > 0


class Form(NamedTuple):
    """The ONNX files that a runtime builds from, since a release."""

    # e.g. (8, 2)
    since: Tuple[int, ...]
    # The family of ONNX files: "tensorrt", "tensorrt-rtx", "onnxruntime".
    name: str
    # The highest opset that all these releases are known to read.
    opset: int
    # Precisions that the builder accepts as flags, "fp16" and "int8". Empty where the types in the file decide.
    precision_flags: Sequence[str] = ()


class LoadOptions(NamedTuple):
    """The options for loading a model."""

    # 0 is the runtime's own default.
    intra_op_threads: int = 0
    cuda_graph: bool = False
    # How the host waits for the GPU: "spin" or "block".
    sync_mode: str = "spin"
    # "auto" (mapped on an integrated GPU, pinned elsewhere), "pinned", "mapped" or "device" (no transfers at all).
    memory_kind: str = "auto"


class EngineReport(NamedTuple):
    """The types and layers that the runtime really uses."""

    # How many layers compute in which type, e.g. {"int8": 35, "fp16": 140}. Empty where the runtime does not say.
    realised_precision: Mapping[str, int]
    # One mapping per layer in execution order: {"name", "type", "precision", …}. Empty where it does not say.
    layers: Sequence[Mapping[str, str]]


class LoadedModel(abc.ABC):
    """A model that is ready to run."""

    # The providers that the runtime really uses, in order. They may differ from the requested ones.
    providers: Sequence[str] = ()
    # Every choice that changes the numbers: threads, sync mode, CUDA graph, memory kind, transfers. No measured value,
    # e.g. bytes, because runs with different options are not compared.
    session_options: Mapping[str, str] = MappingProxyType({})

    @abc.abstractmethod
    def input_shapes(self) -> Dict[str, Tuple[int, ...]]:
        """Return every input's shape by name, a symbolic batch as 1.

        MUST raise LoadError for an input that is not float32, or that lacks another size.
        """

    @abc.abstractmethod
    def stage(self, feeds: Sequence[Mapping[str, Any]]) -> List[Any]:
        """Return one staged input for `run_once` per feed.

        A feed maps each input's name to a float32 numpy array of the input's shape. Inputs MUST be staged completely,
        so that running one allocates nothing on the agent's side.
        """

    @abc.abstractmethod
    def run_once(self, staged: Any) -> Any:
        """Run one inference until its outputs are on the host.

        Without transfers the outputs stay in device memory.

        MUST raise InferenceError with the runtime's sentence when it fails, OutOfMemoryError when memory ran out. MUST
        NOT log, copy or check anything that a bare call of the runtime would not.
        """

    @abc.abstractmethod
    def outputs(self, staged: Any) -> List[Any]:
        """Run one inference and return its outputs as new numpy arrays.

        The outputs are in the model's order.
        """

    def device_s(self) -> float:
        """Return the device's own time of the last `run_once`.

        In seconds, by CUDA events. NaN on a device without them.
        """
        return float("nan")

    def report(self) -> EngineReport:
        """Return the types and layers that the runtime uses.

        Called after the measurement. A failure here does not spoil the measurement. MUST raise InferenceError with the
        runtime's sentence when it fails, as profile_layers() does.
        """
        return EngineReport({}, ())

    def profile_layers(self, staged: Any, repeats: int) -> List[Tuple[str, float]]:
        """Return (layer, mean seconds) from a separate pass.

        Called after the measurement. Empty where the runtime cannot time layers.
        """
        del staged, repeats
        return []

    def device_memory_bytes(self) -> Optional[int]:
        """Return the bytes of device memory that loading took.

        None where that is not known.
        """
        return None

    def close(self) -> None:  # noqa: B027 — most runtimes release what they hold by themselves
        """Release what the model holds.

        The model is not used afterwards.
        """


class Backend(abc.ABC):
    """The interface to one runtime.

    New hardware is one file here, with `BACKENDS` naming its subclasses, and one test file. The module MUST be
    importable where the runtime is missing, so import the runtime inside the methods.
    """

    # Its name in assignments and results: "ort-cpu", "trt".
    name = ""
    # Without another choice, the device's backend with the lowest number runs its jobs. From 0 on.
    preference = LOWEST_PREFERENCE
    # Whether it computes on CUDA's first GPU.
    uses_gpu = False
    # What it builds from, the oldest release first. The entry for the installed release travels in the hello.
    forms: Sequence[Form] = ()
    # Fields of Measurement that it obeys and some other backends do not.
    options: Sequence[str] = ()
    # What pip installs: the entry that is installed already, else the first. An entry may name several packages.
    packages: Sequence[str] = ()
    # Whether it is part of JetPack, so that apt installs it on a Jetson.
    is_in_jetpack = False
    # Whether a plan is built from the artifact first, in a separate process, and kept in the plan cache.
    builds = False
    # Whether loading is short enough to time a second, warm load. A load that builds an engine is not.
    loads_quickly = True

    @classmethod
    @abc.abstractmethod
    def probe(cls) -> Optional[BackendInfo]:
        """Return the installed runtime, or None when there is none.

        MUST raise BackendBrokenError when it is installed and does not work.
        """

    @classmethod
    def describe(cls, version: str, providers: Sequence[str]) -> BackendInfo:
        """Return the BackendInfo of an installed release.

        Raises BackendBrokenError for a class without a name or forms, or with a preference that cannot travel.
        """
        if not cls.name or not cls.forms:
            raise BackendBrokenError("its class has no name, or no forms that it builds from; see backends/base.py")
        if not isinstance(cls.preference, int) or not 0 <= cls.preference <= LOWEST_PREFERENCE:
            raise BackendBrokenError(
                "its preference is {!r}, not a whole number from 0 to {}".format(cls.preference, LOWEST_PREFERENCE)
            )
        form = cls.form_of(version)
        return BackendInfo(
            name=cls.name,
            version=version,
            providers=list(providers),
            preference=cls.preference,
            uses_gpu=cls.uses_gpu,
            builds_engines=cls.builds or not cls.loads_quickly,
            form=form.name,
            opset=form.opset,
            precision_flags=list(form.precision_flags),
            options=list(cls.options),
        )

    @classmethod
    def form_of(cls, version: str) -> Form:
        """Return the form of the files that a release builds from.

        A release that is older than all entries, or whose version has no number, gets the oldest entry.
        """
        installed = version_of(version)
        return [form for form in cls.forms if form.since <= installed or form is cls.forms[0]][-1]

    @classmethod
    @abc.abstractmethod
    def library_versions(cls) -> Dict[str, str]:
        """Return the versions of the libraries that change the numbers.

        Called only where probe() returned a runtime.
        """

    @classmethod
    def build(cls, onnx_path: str, plan_path: str, options: BuildOptions, log: Log) -> BuildReport:
        """Write a plan that is built from an ONNX file.

        Called only if `builds` is true. MUST raise BuildError when it fails, and leave no part of a plan.
        """
        del onnx_path, plan_path, options, log
        raise BuildError("build_failed", "backend '{}' builds no engines".format(cls.name))

    @classmethod
    @abc.abstractmethod
    def load(cls, content: bytes, options: LoadOptions, stage: Stage) -> LoadedModel:
        """Make a model or a plan ready to run.

        If `builds` is true, the content is a plan. Each step runs inside `stage`, with the name "session_create", or
        "deserialize" then "create_context".

        MUST raise LoadError with the runtime's sentence when the content is not accepted, OutOfMemoryError when memory
        ran out.
        """
