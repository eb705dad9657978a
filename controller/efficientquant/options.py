"""The enumerations that a recipe's options take. Imports no torch."""

import enum


class Granularity(enum.StrEnum):
    """How many scales a weight has."""

    PER_TENSOR = "per-tensor"
    PER_CHANNEL = "per-channel"


class Log2Form(enum.StrEnum):
    """Which corrected log2 quantizer follows a softmax."""

    CALIBRATED = "A"
    DATA_FREE = "G"


class Log2Emulation(enum.StrEnum):
    """What becomes of the log2 quantizer in an artifact: no runtime has an operator for it, so it is extra work."""

    KEEP = "keep"
    DROP = "drop"  # the artifact computes plain softmax: a deployment variant
    MOVE = "move"  # before the softmax, in the log domain, so that softmax and product stay together


class Scope(enum.StrEnum):
    """Which operators a recipe quantizes."""

    CONV = "conv"
    CONV_OUTSIDE_TRANSFORMERS = "conv-outside-transformers"
    CONV_LINEAR = "conv+linear"
    ALL = "conv+linear+attention"  # the attention's matrix products too; integer recipes only


class RangeRule(enum.StrEnum):
    """How an activation's range is chosen from what calibration saw."""

    MINMAX = "minmax"  # the largest magnitude
    PERCENTILE = "percentile"  # that of 99.99 % of all values
    MSE = "mse"  # the one with the smallest mean squared error


class FloatType(enum.StrEnum):
    """The type of everything that stays in float."""

    FP32 = "fp32"
    FP16 = "fp16"


class IdentificationRule(enum.StrEnum):
    """How structure-aware block identification tells convolutional from transformer blocks."""

    GRAPH = "graph"
    PAPER = "paper"


class Network(enum.StrEnum):
    """Which network calibration runs."""

    FLOAT = "float"
    QUANTIZED = "quantized"  # as quantized so far
