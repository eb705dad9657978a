"""The capability sets that artifacts are lowered for.

Imports no torch.
"""

import dataclasses
import enum
import re

from efficientquant.errors import UnknownTargetError


class Runtime(enum.StrEnum):
    """The software that builds and runs the file."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"
    ONNX_RUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Half(enum.StrEnum):
    """The way to make a target compute in 16 bits."""

    BUILDER_FLAG = "builder-flag"  # the file stays FP32, the builder chooses
    TYPED = "typed"  # the file's own types decide


class Int8(enum.StrEnum):
    """The Q/DQ nodes that a target accepts."""

    NONE = "none"  # a Q/DQ graph aborts the build: weights are dequantized in the file
    BOTH_INPUTS = "both-inputs"  # Q/DQ only where weight and activation are both quantized
    ANY = "any"  # weights alone too


class Int4(enum.StrEnum):
    """How a target reads 4-bit weights, which need opset 21."""

    NONE = "none"  # they are stored in 8 bits
    FLOAT = "float"  # weights of float products: per channel, or in blocks
    CAST = "cast"  # weights of integer products too, cast to 8 bits


class Int8Products(enum.StrEnum):
    """How a target sums products of unsigned with signed codes."""

    EXACT = "exact"
    SATURATING = "saturating"  # in 16 bits on x86 CPUs without VNNI: both codes must be unsigned


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """The capabilities of one runtime version on one kind of device.

    `runtime_version` is the oldest that the variant is made for. `compute_capability` is 53 for SM 5.3, and None where
    the target names no particular GPU.
    """

    name: str
    summary: str
    runtime: Runtime
    runtime_version: tuple[int, ...]
    opset: int
    ir_version: int
    half: Half
    int8: Int8
    int4: Int4 = Int4.NONE
    int8_products: Int8Products = Int8Products.EXACT
    compute_capability: int | None = None

    @property
    def is_tensorrt(self) -> bool:
        """Whether TensorRT's rules for Q/DQ and types apply, classic or RTX."""
        return self.runtime in (Runtime.TENSORRT, Runtime.TENSORRT_RTX)

    @property
    def is_predicted(self) -> bool:
        """Whether verdicts follow rules, since the builder needs the GPU."""
        return self.runtime is Runtime.TENSORRT

    @property
    def is_tensorrt_8(self) -> bool:
        """Whether the narrow operator set of TensorRT 8.x applies."""
        return self.runtime is Runtime.TENSORRT and self.runtime_version < (10,)

    def find_group_problem(self, size: int, bits: int, *, is_integer_conv: bool) -> str:
        """Return why groups of a weight's columns are not read, or "".

        `is_integer_conv` says that a convolution has quantized inputs too. Source: TensorRT 10, "Working with Quantized
        Types". The convolution was tried with TensorRT-RTX 1.7.
        """
        if self.int4 is Int4.NONE:
            return f"which needs opset 21; {self.name} reads {self.opset}, use one scale per channel"
        if not self.is_tensorrt:
            return ""
        if size not in TENSORRT_BLOCKS:
            return f"and {self.name} has kernels for 64 and 128; use group_size=64, or one scale per channel"
        if bits > 4:
            return f"and {self.name} takes groups of 4-bit weights only; use weight_bits=4, or one scale per channel"
        if is_integer_conv:
            return f"and {self.name} has no kernel for them with quantized inputs; use one scale per channel"
        return ""


# The sizes of 4-bit blocks that TensorRT has kernels for [TensorRT 10, quantized types].
TENSORRT_BLOCKS = (64, 128)
# The enum ComputeCapability of TensorRT-RTX 1.7, compared by a test. SM 9.0 is missing there too.
RTX_COMPUTE_CAPABILITIES = (75, 80, 86, 89, 120, 121)


def sm_text(capability: int) -> str:
    """Return a compute capability as NVIDIA writes it: 86 → "8.6"."""
    return f"{capability // 10}.{capability % 10}"


def _rtx(name: str, summary: str, capability: int) -> Target:
    return Target(
        name=name,
        summary=summary,
        runtime=Runtime.TENSORRT_RTX,
        runtime_version=(1, 7),
        opset=18,
        ir_version=8,
        half=Half.TYPED,
        int8=Int8.ANY,
        int4=Int4.FLOAT,
        compute_capability=capability,
    )


def _tensorrt(name: str, summary: str, version: tuple[int, ...], **changes: object) -> Target:
    modern = version >= (10,)
    values: dict[str, object] = {
        "name": name,
        "summary": summary,
        "runtime": Runtime.TENSORRT,
        "runtime_version": version,
        "opset": 18 if modern else 13,
        "ir_version": 8,
        "half": Half.BUILDER_FLAG,
        "int8": Int8.ANY if modern else Int8.BOTH_INPUTS,
        "int4": Int4.FLOAT if modern else Int4.NONE,
        **changes,
    }
    return Target(**values)  # type: ignore[arg-type]


def _onnx_runtime(
    name: str,
    summary: str,
    version: tuple[int, ...],
    opset: int,
    int4: Int4 = Int4.NONE,
    int8_products: Int8Products = Int8Products.SATURATING,
) -> Target:
    return Target(
        name=name,
        summary=summary,
        runtime=Runtime.ONNX_RUNTIME,
        runtime_version=version,
        opset=opset,
        ir_version=8,
        half=Half.TYPED,
        int8=Int8.ANY,
        int4=int4,
        int8_products=int8_products,
    )


_TARGETS = {
    target.name: target
    for target in (
        _tensorrt(
            "jetson-nano",
            "Jetson Nano: TensorRT 8.2, SM 5.3, no INT8",
            (8, 2),
            int8=Int8.NONE,
            compute_capability=53,
        ),
        _tensorrt("agx-xavier", "AGX Xavier: TensorRT 8.5, SM 7.2", (8, 5), compute_capability=72),
        _rtx("rtx-3080", "RTX 3080: TensorRT-RTX, SM 8.6", 86),
        _tensorrt("tensorrt-10", "TensorRT 10, precision by builder flags", (10,)),
        _tensorrt("tensorrt-10-typed", "TensorRT 10, strongly typed", (10,), half=Half.TYPED),
        _tensorrt("tensorrt-11", "TensorRT 11, always strongly typed", (11,), half=Half.TYPED),
        *(
            _rtx(f"tensorrt-rtx-sm{capability}", f"TensorRT-RTX, SM {sm_text(capability)}", capability)
            for capability in RTX_COMPUTE_CAPABILITIES
        ),
        # Since 1.23 ONNX Runtime casts 4-bit integers to 8 bits.
        _onnx_runtime("onnxruntime", "ONNX Runtime 1.23 or newer", (1, 23), 18, Int4.CAST),
        _onnx_runtime(
            "onnxruntime-vnni",
            "ONNX Runtime 1.23 or newer on a CPU with VNNI, dotprod or i8mm",
            (1, 23),
            18,
            Int4.CAST,
            Int8Products.EXACT,
        ),
        _onnx_runtime("onnxruntime-1.20", "ONNX Runtime 1.20 or newer", (1, 20), 18, Int4.FLOAT),
        _onnx_runtime("onnxruntime-1.17", "ONNX Runtime 1.17 or newer", (1, 17), 18),
        _onnx_runtime("onnxruntime-1.10", "ONNX Runtime 1.10 or newer: the widest form", (1, 10), 13),
        Target(
            name="openvino",
            summary="OpenVINO 2023.1 or newer, on a CPU",
            runtime=Runtime.OPENVINO,
            runtime_version=(2023, 1),
            opset=18,
            ir_version=8,
            half=Half.TYPED,
            int8=Int8.ANY,
        ),
    )
}


def get_target(name: str) -> Target:
    """Return the target of that name.

    Raises UnknownTargetError, which lists the available targets.
    """
    try:
        return _TARGETS[name]
    except KeyError:
        raise UnknownTargetError(name, list_targets(), _rtx_problem(name)) from None


def find_exact_twin(target: Target) -> Target | None:
    """Return the target that differs only in exact products, None without one."""
    if target.int8_products is Int8Products.EXACT:
        return None
    same = {"runtime": target.runtime, "runtime_version": target.runtime_version}
    exact = (twin for twin in _TARGETS.values() if twin.int8_products is Int8Products.EXACT)
    return next((twin for twin in exact if {name: getattr(twin, name) for name in same} == same), None)


def _rtx_problem(name: str) -> str:
    """Return why TensorRT-RTX lacks an SM, or "" for other names."""
    sm = re.fullmatch(r"tensorrt-rtx-sm([1-9]\d{1,2})", name)
    if sm is None:
        return ""
    supported = ", ".join(sm_text(capability) for capability in RTX_COMPUTE_CAPABILITIES)
    return f"TensorRT-RTX has no SM {sm_text(int(sm.group(1)))}, it builds for SM {supported} only"


def list_targets() -> list[str]:
    """Return the names of all targets, the devices first."""
    return list(_TARGETS)
