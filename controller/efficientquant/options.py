"""The enumerations of a recipe's options.

Imports no torch.
"""

import enum


class Granularity(enum.StrEnum):
    """The number of scales of a weight."""

    PER_TENSOR = "per-tensor"
    PER_CHANNEL = "per-channel"


class Log2Form(enum.StrEnum):
    """The form of the corrected log2 quantizer behind a softmax."""

    CALIBRATED = "A"
    DATA_FREE = "G"


class Log2Emulation(enum.StrEnum):
    """The way in which an artifact computes the log2 quantizer.

    No runtime has an operator for it, so it costs time.
    """

    KEEP = "keep"
    DROP = "drop"  # the artifact computes plain softmax: a deployment variant
    MOVE = "move"  # before the softmax, in the log domain, so that softmax and product stay together


class Scope(enum.StrEnum):
    """The operators that a recipe quantizes."""

    CONV = "conv"
    LINEAR = "linear"
    CONV_OUTSIDE_TRANSFORMERS = "conv-outside-transformers"
    CONV_LINEAR = "conv+linear"
    ALL = "conv+linear+attention"  # the attention's matrix products too, in integer recipes only


class Placement(enum.StrEnum):
    """The quantizers that a target's file has."""

    RUNTIME = "runtime"  # those with which its runtime is faster
    ALL = "all"  # all that it can compute with


class RangeRule(enum.StrEnum):
    """The rule that chooses an activation's range from calibration."""

    MINMAX = "minmax"  # the largest magnitude
    PERCENTILE = "percentile"  # the magnitude that 99.99 % of all values do not exceed
    MSE = "mse"  # the range with the smallest mean squared error


class FloatType(enum.StrEnum):
    """The type of everything that stays in float."""

    FP32 = "fp32"
    FP16 = "fp16"


class IdentificationRule(enum.StrEnum):
    """The rule that separates convolutional from transformer blocks."""

    GRAPH = "graph"
    PAPER = "paper"


class Network(enum.StrEnum):
    """The network that calibration runs."""

    FLOAT = "float"
    QUANTIZED = "quantized"  # as quantized so far
