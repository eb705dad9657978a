"""A cost model of kernels, by launches, bytes and arithmetic.

It ranks kernels and files. It measures nothing: caches, occupancy and overlapping kernels are left out. A kernel takes
max(bytes / bandwidth, 2 · MACs / peak) and a launch.
"""

import dataclasses
import enum
from collections.abc import Iterable, Mapping

from efficientquant.targets import Runtime, Target
from efficientquant.verdicts.build_verdict import Precision

# What every print of a modelled time says.
NO_MEASUREMENT = "a model, no measurement"
FORMULA = "a launch and the longer of bytes / bandwidth and 2 · MACs / peak for each kernel"
# One kernel after another on one stream, from a queue that never runs empty.
LAUNCH_S = 2.5e-6


class Bound(enum.StrEnum):
    """The part of a kernel's cost that is the largest."""

    LAUNCH = "launch"
    BYTES = "bytes"
    ARITHMETIC = "arithmetic"


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """The peaks of one device.

    `operations_per_s` counts a multiplication and an addition as two.
    """

    device: str
    bytes_per_s: float
    operations_per_s: Mapping[Precision, float]

    def peak(self, precision: Precision) -> float:
        """Return the peak of an arithmetic.

        That of FP32 counts where the arithmetic is not known.
        """
        return self.operations_per_s.get(precision, self.operations_per_s[Precision.FP32])


def _ceilings(device: str, gigabytes_per_s: float, fp32: float, fp16: float, int8: float) -> Ceilings:
    peaks = {Precision.FP32: fp32 * 1e12, Precision.FP16: fp16 * 1e12, Precision.INT8: int8 * 1e12}
    return Ceilings(device, gigabytes_per_s * 1e9, peaks)


# One board for each compute capability, from NVIDIA's whitepapers: dense, at the boost clock. FP16 is that of tensor
# cores with FP16 sums. With FP32 sums GeForce boards reach half of it, so a real kernel may be further below.
_BY_CAPABILITY = {
    # Turing architecture whitepaper, RTX 2080 Ti Founders Edition.
    75: _ceilings("RTX 2080 Ti", 616, 14.2, 113.8, 227.7),
    # A100 architecture whitepaper, 40 GB.
    80: _ceilings("A100 40 GB", 1555, 19.5, 312, 624),
    # Ampere GA102 architecture whitepaper, RTX 3080 10 GB. TF32 reaches what FP32 does.
    86: _ceilings("RTX 3080", 760, 29.8, 119, 238),
    # Ada architecture whitepaper, RTX 4090.
    89: _ceilings("RTX 4090", 1008, 82.6, 330.3, 660.6),
    # RTX Blackwell architecture whitepaper, RTX 5090.
    120: _ceilings("RTX 5090", 1792, 104.8, 419, 838),
    # SM 12.1 (GB10): NVIDIA publishes the peak of sparse FP4 alone.
}


def ceilings_of(target: Target) -> Ceilings | None:
    """Return the peaks of a target, or None if not known.

    The model describes TensorRT-RTX, whose kernels are known from its builds.
    """
    if target.runtime is not Runtime.TENSORRT_RTX or target.compute_capability is None:
        return None
    return _BY_CAPABILITY.get(target.compute_capability)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """The work of one kernel.

    `size_bytes` are read and written, weights included. `nodes` are the ONNX nodes in it.
    """

    name: str
    kind: str
    precision: Precision
    size_bytes: int
    macs: int = 0
    nodes: tuple[str, ...] = ()

    @property
    def intensity(self) -> float:
        """The operations for each byte."""
        return 2 * self.macs / self.size_bytes if self.size_bytes else 0.0


@dataclasses.dataclass(frozen=True)
class Cost:
    """The modelled time of one kernel's work."""

    work: Work
    bytes_s: float
    arithmetic_s: float

    @property
    def time_s(self) -> float:
        """The launch, and the longer of the two others."""
        return LAUNCH_S + max(self.bytes_s, self.arithmetic_s)

    @property
    def bound(self) -> Bound:
        """The largest of the three parts."""
        if max(self.bytes_s, self.arithmetic_s) <= LAUNCH_S:
            return Bound.LAUNCH
        return Bound.BYTES if self.bytes_s >= self.arithmetic_s else Bound.ARITHMETIC

    def to_dict(self) -> dict[str, object]:
        """Return the cost as JSON-ready values."""
        return {"modelled_s": self.time_s, "bound": str(self.bound)}


def model_cost(work: Work, ceilings: Ceilings) -> Cost:
    """Return the cost of a kernel's work on a device."""
    peak = ceilings.peak(work.precision)
    return Cost(work, work.size_bytes / ceilings.bytes_per_s, 2 * work.macs / peak)


def total_s(costs: Iterable[Cost]) -> float:
    """Return the modelled time of kernels that run one after another."""
    return sum(cost.time_s for cost in costs)
