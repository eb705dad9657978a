"""TensorRT from 8.2 to 11, and TensorRT-RTX.

Building is in trt_building.py and running in trt_running.py. All differences between releases are detected with
`hasattr`, never by version.
"""

import importlib
from typing import Any, Dict, Optional, Sequence

from efficientquant_agent.backends import cudart, trt_building, trt_running
from efficientquant_agent.backends.base import (
    Backend,
    BackendBrokenError,
    BuildError,
    Form,
    LoadedModel,
    LoadError,
    LoadOptions,
    Log,
    RuntimeTooOldError,
    Stage,
    UnsupportedGpuError,
    is_installed,
)
from efficientquant_agent.backends.trt_log import PYTHON_ERRORS, open_log, start_error
from efficientquant_agent.host.device import DeviceFiles
from efficientquant_agent.protocol import BuildOptions, BuildReport
from efficientquant_agent.records import BackendInfo
from efficientquant_agent.versions import version_of


class Tensorrt(Backend):
    """Classic TensorRT, whose engines run on this GPU only."""

    name = "trt"
    preference = 10
    uses_gpu = True
    builds = True
    # From 11 on networks are strongly typed, and the builder flags are gone.
    forms: Sequence[Form] = (
        Form((8, 2), "tensorrt", 13, ("fp16", "int8")),
        Form((10,), "tensorrt", 18, ("fp16", "int8")),
        Form((11,), "tensorrt", 18),
    )
    options = ("cuda_graph", "sync_mode", "memory_kind", "profile_layers")
    packages: Sequence[str] = ("tensorrt",)
    is_in_jetpack = True
    _product = "TensorRT"
    _modules: Sequence[str] = ("tensorrt",)
    # Older releases cannot parse Round, and have no engine inspector.
    _oldest = (8, 2)
    _smallest_sm = 53

    @classmethod
    def probe(cls) -> Optional[BackendInfo]:
        """Return the installed version, or None without TensorRT.

        Raises BackendBrokenError when it does not load, is too old, or no GPU that it supports answers.
        """
        trt = cls._find()
        if trt is None:
            return None
        version = str(getattr(trt, "__version__", ""))
        if not version:  # Python imports a folder that an uninstall left as a package
            raise BackendBrokenError(
                "{} is installed in parts: its module has no version; install it again".format(cls._product)
            )
        if version_of(version) < cls._oldest:
            raise RuntimeTooOldError(
                "{} {} is installed, {}.{} or newer is needed; on a Jetson, upgrade to JetPack 4.6.1 or newer".format(
                    cls._product, version, *cls._oldest
                )
            )
        try:
            sm = cudart.open_library().compute_capability()
        except cudart.CudaError as error:
            raise BackendBrokenError(
                "{} {} is installed, but {}{}".format(cls._product, version, error, cls._own_reason(trt))
            ) from error
        cls._require_sm(trt, sm)
        return cls.describe(version, [cls._product])

    @classmethod
    def _own_reason(cls, trt: Any) -> str:
        """Return what TensorRT itself says when it cannot start, to be appended.

        Empty where it says nothing, or starts: TensorRT-RTX builds without a GPU.
        """
        logger = open_log(trt, lambda _line: None)
        try:
            trt.Builder(logger)
        except PYTHON_ERRORS:
            reason = start_error(logger, "")
            return "; {} itself says: {}".format(cls._product, reason) if reason else ""
        return ""

    @classmethod
    def _require_sm(cls, trt: Any, sm: int) -> None:
        """Raise UnsupportedGpuError for a GPU without kernels in this release."""
        del trt
        if sm < cls._smallest_sm:
            raise UnsupportedGpuError(
                "{} needs a GPU of SM {} or newer, this GPU has SM {}; use another backend".format(
                    cls._product, sm_text(cls._smallest_sm), sm_text(sm)
                )
            )

    @classmethod
    def _find(cls) -> Any:
        """Return the module, or None when it is not installed.

        Raises BackendBrokenError when it is installed and does not load.
        """
        for name in cls._modules:
            if not is_installed(name):
                continue
            try:
                importlib.import_module("numpy")
                return importlib.import_module(name)
            except ModuleNotFoundError as error:
                raise BackendBrokenError(
                    "{} is installed and needs the module {}, which is not; install it".format(cls._product, error.name)
                ) from error
            except (ImportError, OSError) as error:
                raise BackendBrokenError(
                    "{} is installed and does not load: {}; install the libraries of the same release".format(
                        cls._product, error
                    )
                ) from error
        return None

    @classmethod
    def _module(cls) -> Any:
        trt = cls._find()
        if trt is None:
            raise LoadError("{} is not installed".format(cls._product))
        return trt

    @classmethod
    def library_versions(cls) -> Dict[str, str]:
        """Return the versions of TensorRT, CUDA and numpy."""
        import numpy

        versions = {cls._modules[0]: str(cls._module().__version__), "numpy": numpy.__version__}
        return dict(versions, cuda=cudart.open_library().runtime_version())

    @classmethod
    def _settings(cls, options: BuildOptions, sm: int) -> Dict[str, str]:
        """Return the settings of a build, for its report.

        They are the release, the GPU, the system and every option. Raises CudaError when no GPU answers, unless the
        options name an SM.
        """
        types = "+".join(sorted(flag for flag in options.builder_flags if flag != "tf32"))
        return {
            cls._modules[0]: str(cls._module().__version__),
            "sm": str(sm),
            "gpu": "" if options.compute_capability else cudart.open_library().properties()[0],
            "l4t": DeviceFiles().l4t(),
            "precision": types or "of the file",
            "tf32": "on" if "tf32" in options.builder_flags else "off",
            "workspace_ladder_bytes": ",".join(str(size) for size in options.workspace_ladder_bytes),
            "timing_iterations": str(options.timing_iterations),
        }

    @classmethod
    def build(cls, onnx_path: str, plan_path: str, options: BuildOptions, log: Log) -> BuildReport:
        """Write a plan for this GPU.

        Raises BuildError when it cannot be built here.
        """
        try:
            sm = options.compute_capability or cudart.open_library().compute_capability()
            settings = cls._settings(options, sm)
            cls._check_device(sm)
            options = options._replace(compute_capability=sm)
            return trt_building.build(cls._module(), onnx_path, plan_path, options, settings, log)
        except UnsupportedGpuError as error:
            raise BuildError("build_failed", str(error)) from error
        except (cudart.CudaError, BackendBrokenError) as error:
            raise BuildError("build_failed", "{} cannot build here: {}".format(cls._product, error)) from error

    @classmethod
    def _check_device(cls, sm: int) -> None:
        """Raise BuildError for an SM that is not this GPU's.

        Classic TensorRT times its kernels on the GPU that it builds for.
        """
        own_sm = cudart.open_library().compute_capability()
        if sm != own_sm:
            raise BuildError(
                "build_failed", "TensorRT builds for the GPU it runs on, which is SM {}, not SM {}".format(own_sm, sm)
            )

    @classmethod
    def load(cls, content: bytes, options: LoadOptions, stage: Stage) -> LoadedModel:
        """Load a plan in three stages.

        The stages are "cuda_init", "deserialize" and "create_context". Raises LoadError when the plan cannot be loaded,
        OutOfMemoryError when memory ran out.
        """
        try:
            cuda = cudart.open_library()
            cuda.device_count()
            trt = cls._module()
        except (cudart.CudaError, BackendBrokenError) as error:
            raise LoadError("{} cannot load a plan here: {}".format(cls._product, error)) from error
        model = trt_running.load(trt, cuda, content, options, stage)
        model.providers = [cls._product]
        return model


class TensorrtRtx(Tensorrt):
    """TensorRT-RTX, which builds from typed files only.

    It builds for a named SM without a GPU, and compiles its kernels when it loads.
    """

    name = "trt-rtx"
    preference = 20
    forms = (Form((1, 0), "tensorrt-rtx", 18),)
    packages = ("tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs",)
    is_in_jetpack = False
    _product = "TensorRT-RTX"
    # The packages of bindings and libraries have only the second name.
    _modules = ("tensorrt_rtx", "tensorrt_rtx_bindings")
    _oldest = (1, 0)
    _smallest_sm = 75

    @classmethod
    def _check_device(cls, sm: int) -> None:
        """Raise UnsupportedGpuError for an SM that the bindings do not name.

        The GPU need not be present, because nothing is timed.
        """
        cls._require_sm(cls._module(), sm)

    @classmethod
    def _require_sm(cls, trt: Any, sm: int) -> None:
        supported = trt_building.compute_capabilities(trt)
        if not supported:  # bindings that do not say
            super()._require_sm(trt, sm)
        elif sm not in supported:
            raise UnsupportedGpuError(
                "{} {} has no SM {}: it builds for SM {} only; use TensorRT or ONNX Runtime on this GPU".format(
                    cls._product, trt.__version__, sm_text(sm), ", ".join(map(sm_text, supported))
                )
            )


def sm_text(sm: int) -> str:
    """Return a compute capability as NVIDIA writes it.

    86 → "8.6", 120 → "12.0".
    """
    return "{}.{}".format(*divmod(sm, 10))


BACKENDS = (Tensorrt, TensorrtRtx)
