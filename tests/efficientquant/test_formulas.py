"""The codes of every quantizer against formulas written again in NumPy."""

from functools import partial

import efficientquant as eq
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from efficientquant.emulated.log2_map import Log2Map
from efficientquant.emulated.log_sqrt2 import LogSqrt2
from efficientquant.emulated.twin import TwinUniformActivation, TwinUniformSoftmax
from efficientquant.options import Granularity
from efficientquant.primitives import CalibratedLog2, DataFreeLog2, choose_scale, quantize
from efficientquant.quantizers import ActivationQuantizer, AffineQuantizer
from efficientquant.search import choose_uniform
from efficientquant.search.rounding import round_nearest
from efficientquant.softmax_quantizers import ExponentLog2, TwinUniform, UniformUnit

BITS = range(2, 9)
COUNT = 100_000
SCALES = [2.0**-149, 2.0**-126, 1e-30, 0.0371, 0.25, 1.0, 12345.678, 2.0**120, 3e38]
F32 = np.float32
LIMITS = np.finfo(F32)
# Two logarithms may differ in the last bits, which matters to values this close to the middle between two codes.
TIE = 1e-4


def floats(seed=0):
    """Return float32 of every size: any bits, ordinary numbers, zeros and the ends."""
    random = np.random.default_rng(seed)
    any_bits = random.integers(0, 1 << 32, COUNT, dtype=np.uint32).view(F32)
    subnormal = random.integers(0, 1 << 23, COUNT // 10, dtype=np.uint32).view(F32)
    ends = np.array([0.0, -0.0, LIMITS.max, -LIMITS.max, LIMITS.tiny, LIMITS.smallest_subnormal], F32)
    x = np.concatenate([any_bits, subnormal, -subnormal, random.normal(size=COUNT).astype(F32), ends])
    return x[np.isfinite(x)]


def ties(scale):
    """Return the middles between two codes and their neighbours on both sides."""
    with np.errstate(over="ignore"):
        middles = (np.arange(-300, 300, dtype=F32) + F32(0.5)) * F32(scale)
    middles = middles[np.isfinite(middles)]
    return np.concatenate(
        [middles, np.nextafter(middles, F32(0)), np.nextafter(middles, np.copysign(F32(np.inf), middles))]
    )


def probabilities(seed=0):
    """Return numbers from 0 to 1: even, in octaves, subnormal, and the ends."""
    random = np.random.default_rng(seed)
    octaves = np.exp2(random.uniform(-150, 0, COUNT)).astype(F32)
    powers = np.exp2(-np.arange(150) / 2).astype(F32)
    return np.concatenate(
        [random.random(COUNT, F32), octaves, powers, np.array([0, 1, LIMITS.smallest_subnormal], F32)]
    )


def uniform(x, scale, low, high, zero_point=0):
    """Return clip(round(x / s) + z, low, high), with ties to the even code."""
    with np.errstate(over="ignore"):
        return np.clip(np.rint(x / scale) + zero_point, low, high)


def symmetric_scale(largest, bits):
    """Return max|W| / (2^(b-1) - 1) in float32, a normal number, and 1 for zeros."""
    top = 2 ** (bits - 1) - 1
    scale = np.clip(largest / F32(top), LIMITS.tiny, F32(float(LIMITS.max) / top * (1 - float(LIMITS.eps))))
    return np.where(largest == 0, F32(1), scale)


def weights():
    """Return a weight (O, I, 3, 3) whose channels have every size, one of them 0."""
    random = np.random.default_rng(1)
    sizes = np.exp2(random.integers(-148, 125, (256, 1, 1, 1))).astype(F32)
    sizes[7] = 0
    return (random.normal(size=(256, 48, 3, 3)) * sizes).astype(F32)


def same(codes, expected):
    assert codes.shape == expected.shape
    assert codes.dtype.is_floating_point or codes.dtype is torch.int8
    np.testing.assert_array_equal(codes.numpy().astype(np.float64), expected.astype(np.float64))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bits", BITS)
def test_symmetric_codes_of_activations(bits, scale):
    """The code is clip(round(x / s)), from -128 with 8 bits and from -top with fewer."""
    x = np.concatenate([floats(bits), ties(scale)])
    top = 2 ** (bits - 1) - 1
    quantizer = ActivationQuantizer("", float(F32(scale)), bits)
    codes = quantizer.codes(torch.from_numpy(x))
    same(codes, uniform(x, F32(scale), -128 if bits == 8 else -top, top))
    with np.errstate(over="ignore"):
        same(quantizer.decode(codes), codes.numpy() * F32(scale))


@pytest.mark.parametrize("bits", BITS)
def test_asymmetric_codes_of_activations(bits):
    """The code is clip(round(x / s) + z), from -2^(b-1) to 2^(b-1) - 1, per tensor and channel."""
    half = 2 ** (bits - 1)
    for scale in SCALES:
        x = np.concatenate([floats(bits), ties(scale)])
        for zero_point in (-half, -1, half - 1):
            quantizer = AffineQuantizer("", torch.tensor([F32(scale)]), bits, zero_point)
            same(quantizer.codes(torch.from_numpy(x)), uniform(x, F32(scale), -half, half - 1, zero_point))
    x, scales = floats(bits)[: 9 * 20_000].reshape(20_000, 9), np.array(SCALES, F32)
    quantizer = AffineQuantizer("", torch.from_numpy(scales), bits, 1, axis=1)
    same(quantizer.codes(torch.from_numpy(x)), uniform(x, scales, -half, half - 1, 1))


@pytest.mark.parametrize("granularity", Granularity)
@pytest.mark.parametrize("bits", BITS)
def test_symmetric_codes_of_weights(bits, granularity):
    """The scale is max|W| / top, per channel or per tensor."""
    weight, top = weights(), 2 ** (bits - 1) - 1
    axes = (1, 2, 3) if granularity is Granularity.PER_CHANNEL else None
    expected = symmetric_scale(np.abs(weight).max(axes, keepdims=True), bits)
    scale = choose_scale(torch.from_numpy(weight), bits, granularity)
    same(scale, expected)
    same(quantize(torch.from_numpy(weight), scale, bits), uniform(weight, expected, -top, top))


@pytest.mark.parametrize("size", [16, 100])
@pytest.mark.parametrize("bits", BITS)
def test_symmetric_codes_of_weights_in_groups(bits, size):
    """Consecutive columns share a scale, and the last group may be shorter."""
    weight, top = weights()[np.abs(weights()).max((1, 2, 3)) > 1e-30], 2 ** (bits - 1) - 1
    rows = weight.reshape(len(weight), -1)
    starts = range(0, rows.shape[1], size)
    expected = np.stack([symmetric_scale(np.abs(rows[:, start : start + size]).max(1), bits) for start in starts], 1)
    codes, scale = round_nearest(torch.from_numpy(weight), bits, size)
    np.testing.assert_allclose(scale.numpy(), expected, rtol=2 * float(LIMITS.eps))
    steps = np.repeat(scale.numpy().astype(np.float64), size, 1)[:, : rows.shape[1]]
    same(codes, uniform(rows.astype(np.float64), steps, -top, top).reshape(weight.shape))


@pytest.mark.parametrize("bits", BITS)
def test_asymmetric_codes_of_weights(bits):
    """The range holds 0 and the smallest and largest weight of the channel."""
    rows = weights().reshape(256, -1) + np.linspace(-1, 1, 256, dtype=F32)[:, None]
    half = 2 ** (bits - 1)
    low, high = np.minimum(rows.min(1), 0).astype(np.float64), np.maximum(rows.max(1), 0).astype(np.float64)
    scale = ((high - low) / (2**bits - 1)).astype(F32)
    zero_point = np.rint(-low / scale) - half
    ranges = choose_uniform(torch.from_numpy(rows), bits, "affine", percentiles=False)
    same(ranges.scale, scale)
    same(ranges.zero_point, zero_point)
    same(ranges.codes(torch.from_numpy(rows)), uniform(rows, scale[:, None], -half, half - 1, zero_point[:, None]))


def logarithmic(codes, position, low, high):
    """Compare codes with clip(round(position)), and allow a neighbour next to a tie."""
    expected = np.clip(np.rint(position), low, high)
    near = np.abs(position - np.floor(position) - 0.5) < TIE
    assert near.mean() < 0.01
    difference = np.abs(codes.numpy() - expected)
    assert difference[~near].max() == 0
    assert difference.max() <= 1


@pytest.mark.parametrize("bits", BITS)
def test_calibrated_log2_codes(bits):
    """Form A is clip(round(log2(a + ε) / Δ) + Z)."""
    a, step, epsilon = probabilities(bits), 17.0 / (2**bits - 1), 1e-5
    zero_point = round(16.6 / step)
    codes = CalibratedLog2(bits, step, zero_point, epsilon).quantize(torch.from_numpy(a))
    logarithm = np.log2(a.astype(np.float64) + epsilon)
    logarithmic(codes, logarithm / step + zero_point, 0, 2**bits - 1)


@pytest.mark.parametrize("octaves", [8, 20, 64])
@pytest.mark.parametrize("bits", BITS)
def test_data_free_log2_codes(bits, octaves):
    """Form G is round(-log2(a) / Δ), and the top code below 2^-K."""
    a, top = probabilities(bits), 2**bits - 1
    a = a[np.abs(np.log2(np.maximum(a, LIMITS.tiny)) + octaves) > TIE]
    codes = DataFreeLog2(bits, octaves).quantize(torch.from_numpy(a))
    is_zero = a < 2.0**-octaves
    assert (codes.numpy()[is_zero] == top).all()
    position = -np.log2(a[~is_zero].astype(np.float64)) / (octaves / (2**bits - 2))
    logarithmic(codes[torch.from_numpy(~is_zero)], position, 0, top - 1)


@pytest.mark.parametrize("bits", BITS)
def test_octave_codes(bits):
    """Classic log2, HyQ's map and both forms of log-√2 count octaves or halves of them."""
    a, top = probabilities(bits), 2**bits - 1
    with np.errstate(divide="ignore"):
        octaves = -np.log2(a.astype(np.float64))
    octaves[a == 0] = 1000.25  # beyond every code
    x = torch.from_numpy(a)
    logarithmic(ExponentLog2(bits).quantize(x), octaves, 0, top)
    logarithmic(Log2Map("", bits).codes(x), octaves, 0, top)
    logarithmic(ExponentLog2(bits, 2).quantize(x), 2 * octaves, 0, top)
    is_normal = a >= LIMITS.tiny
    scaled = 2 * octaves + 2 * np.log2(0.71)
    logarithmic(LogSqrt2("", 0.71, bits).codes(x)[torch.from_numpy(is_normal)], scaled[is_normal], 0, top)


@pytest.mark.parametrize("split", [2.0**-1, 2.0**-7, 2.0**-19])
@pytest.mark.parametrize("bits", BITS)
def test_twin_uniform_codes_of_probabilities(bits, split):
    """Each side of the split has its own step, and one bit says which."""
    top = 2 ** (bits - 1) - 1
    middles = ((np.arange(top) + F32(0.5)) * F32(split / top)).astype(F32)
    a = np.concatenate([probabilities(bits), middles, np.array([split], F32)])
    fine, coarse = (uniform(a * F32(factor), F32(1), 0, top) for factor in (top / split, top))
    x = torch.from_numpy(a)
    same(TwinUniformSoftmax("", bits, split).codes(x), np.where(a < F32(split), fine, coarse + top + 1))
    same(TwinUniform(bits, split).quantize(x), np.where(a <= F32(split), fine, coarse + top + 1))
    same(UniformUnit(bits).quantize(x), uniform(a * F32(2**bits - 1), F32(1), 0, 2**bits - 1))


@pytest.mark.parametrize("bits", BITS)
def test_twin_uniform_codes_behind_an_activation(bits):
    """Negative values have |minimum| / 2^(b-1) as step, the others their own."""
    half, minimum = 2 ** (bits - 1), -0.278465
    for step in (1e-30, 0.0371, 0.25, 1e30):
        x = np.concatenate([floats(bits), ties(step), ties(-minimum / half)])
        negative = uniform(np.minimum(x, 0), F32(-minimum / half), -half, 0)
        expected = uniform(np.maximum(x, 0), F32(step), 0, half - 1) + negative
        same(TwinUniformActivation("", bits, step, minimum).codes(torch.from_numpy(x)), expected)


@pytest.mark.parametrize(
    ("recipe", "bits", "is_symmetric"),
    [("int8", 8, True), ("int8:activation_bits=5", 5, True), ("repq-vit", 8, False)],
)
def test_the_codes_of_a_file(recipe, bits, is_symmetric, tmp_path):
    """ONNX Runtime gives an input these codes, whatever its size."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4096, 2))
    model.pretrained_cfg = {"input_size": (3, 32, 32)}
    quantized = eq.quantize(model.eval(), eq.get_recipe(recipe), torch.rand(4, 3, 32, 32) - 0.3)
    path = eq.export_onnx(quantized, tmp_path / "model.onnx", target="onnxruntime").path
    site = quantized.manifest.activation_sites[0]
    x = np.concatenate([ties(site.scale), floats()])[: 30 * 3072].reshape(30, 1, 3, 32, 32)
    half, zero_point = 2 ** (bits - 1), site.zero_point or 0
    lowest = -128 if bits == 8 else 1 - half
    expected = uniform(x, F32(site.scale), lowest if is_symmetric else -half, half - 1, zero_point)
    proto = onnx.load(path)
    first = next(node for node in proto.graph.node if node.op_type == "QuantizeLinear")
    proto.graph.output.append(onnx.ValueInfoProto(name=first.output[0]))
    run = partial(onnxruntime.InferenceSession(proto.SerializeToString()).run, first.output[:1])
    codes = np.stack([run({"input": picture})[0] for picture in x])
    np.testing.assert_array_equal(codes.astype(int) - 128, expected)
