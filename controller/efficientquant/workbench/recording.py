"""Recording of a network's tensors and gradients on calibration images."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, fx
from torch.nn import functional as F  # noqa: N812 — torch's own name for it

from efficientquant.graph.blocks import Layer, Tap, Window
from efficientquant.graph.regions import Region, Visit
from efficientquant.quantizers import CodeQuantizer

# (logits, logits of the float network) of some images, or a block's two outputs → a scalar, the sum over these images
Loss = Callable[[Tensor, Tensor], Tensor]
DEFAULT_POSITIONS = 33_000
# Images per backward pass, which keeps the activations of all layers: few enough for 3 GiB with the largest model.
BACKWARD_CHUNK = 2


@dataclasses.dataclass(frozen=True)
class Sample:
    """The number of a tensor's positions that are kept, and their seed.

    Tensors with the same number of positions over all images keep the same positions, on every network.
    """

    positions: int = DEFAULT_POSITIONS
    seed: int = 0

    def draw(self, total: int) -> Tensor:
        """Return the kept ones of `total` positions, in order."""
        order = torch.randperm(total, generator=torch.Generator().manual_seed(self.seed))
        return order[: self.positions].sort().values


class _Draw:
    """A random sample of the positions of a tensor in chunks."""

    def __init__(self, sample: Sample, total: int) -> None:
        self._sample = sample
        self._total = total  # the length of the feed along dimension 0
        self._drawn: Tensor | None = None
        self._seen = 0

    @property
    def drawn(self) -> int:
        """The number of sampled positions, known after the first chunk."""
        return 0 if self._drawn is None else len(self._drawn)

    def take(self, positions: int, length: int) -> Tensor:
        """Return the sampled positions of the next chunk.

        The chunk has `positions` positions, and `length` is its size along dimension 0.
        """
        if self._drawn is None:
            self._drawn = self._sample.draw(positions * self._total // length)
        start = self._seen
        self._seen += positions
        return self._drawn[(self._drawn >= start) & (self._drawn < self._seen)] - start


@dataclasses.dataclass(frozen=True)
class Feed:
    """Chunks that enter a network at node `source`.

    `length` is their total along dimension 0. `chunks` can be iterated more than once.
    """

    source: str
    chunks: Iterable[Tensor]
    length: int


def record(module: fx.GraphModule, taps: Sequence[Tap], feed: Feed, sample: Sample | None = None) -> list[Tensor]:
    """Return the tensors at the taps, all chunks together, in one pass.

    Without a sample each tensor is whole, with a sample it is (positions, channels). The results and the values of one
    chunk are in memory: in float32, 33,000 positions of 100 channels are 13 MB. Raises ValueError for a tap at a
    weight.
    """
    names = [tap.find_data(module).name for tap in taps]
    region = Region(module, feed.source, names)
    draws = [_Draw(sample, feed.length) for _ in taps] if sample is not None else None
    kept: list[list[Tensor]] = [[] for _ in taps]
    with torch.no_grad():
        for chunk in feed.chunks:
            for index, value in enumerate(_see(region, chunk, names)):
                kept[index].append(value if draws is None else _sampled(value, taps[index], draws[index], chunk))
    return [torch.cat(parts) for parts in kept]


def _sampled(value: Tensor, tap: Tap, draw: _Draw, chunk: Tensor) -> Tensor:
    return _pick_rows(value, tap.channel, draw.take(_count_positions(value, tap.channel), len(chunk)))


def as_rows(x: Tensor, channel: int) -> Tensor:
    """Return a tensor as (positions, channels), from channels in dimension `channel`."""
    return x.movedim(channel, -1).flatten(0, -2)


def _pick_rows(x: Tensor, channel: int, positions: Tensor) -> Tensor:
    """Return as_rows(x, channel)[positions], without a copy of the tensor."""
    moved = x.movedim(channel, -1)
    return moved[torch.unravel_index(positions, moved.shape[:-1])]


def _count_positions(x: Tensor, channel: int) -> int:
    return x.numel() // x.shape[channel]


def record_gradients(
    module: fx.GraphModule,
    reference: fx.GraphModule,
    taps: Sequence[Tap],
    loss: Loss,
    feed: Feed,
    sample: Sample | None = None,
) -> list[Tensor]:
    """Return the gradient of a loss at each tap.

    It has the tap's own shape, or is sampled as in `record`. `loss` gets the logits of a chunk, and those of the float
    network `reference`. Quantizers of activations pass the gradient on unchanged. The results and one backward pass
    over two images are in memory. Raises ValueError for a tap at a weight.
    """
    float_region = Region(reference, feed.source, [_logits(reference)])
    feed = Feed(feed.source, _Split(feed.chunks), feed.length)
    return record_block_gradients(module, _logits(module), taps, loss, feed, _run_each(float_region, feed), sample)


class _Split:
    """Chunks of images in parts for a backward pass."""

    def __init__(self, chunks: Iterable[Tensor]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[Tensor]:
        return (part for chunk in self._chunks for part in torch.split(chunk, BACKWARD_CHUNK))


def _run_each(region: Region, feed: Feed) -> Iterator[Tensor]:
    for chunk in feed.chunks:
        with torch.no_grad():
            yield region.run(chunk)[0]


def record_block_gradients(
    module: fx.GraphModule,
    output: str,
    taps: Sequence[Tap],
    loss: Loss,
    feed: Feed,
    expected: Iterable[Tensor],
    sample: Sample | None = None,
) -> list[Tensor]:
    """Return the gradient of a loss of node `output` at each tap.

    `loss` gets the output of a chunk, and its expected output. The rest is as in `record_gradients`.
    """
    names = [tap.find_data(module).name for tap in taps]
    region = Region(module, feed.source, [output, *names])
    draws = [_Draw(sample, feed.length) for _ in taps] if sample is not None else None
    kept: list[list[Tensor]] = [[] for _ in taps]
    for chunk, reference in zip(feed.chunks, expected, strict=True):
        with _straight_through(module):
            gradients = _gradients(region, names, chunk, reference, loss)
        for index, gradient in enumerate(gradients):
            kept[index].append(gradient if draws is None else _sampled(gradient, taps[index], draws[index], chunk))
    return [_join(parts) for parts in kept]


def _join(parts: list[Tensor]) -> Tensor:
    """Return the parts as one tensor, and free them."""
    joined = torch.cat(parts)
    parts.clear()
    return joined


def _gradients(region: Region, names: Sequence[str], chunk: Tensor, expected: Tensor, loss: Loss) -> list[Tensor]:
    probes: dict[str, Tensor] = {}

    def probe(name: str) -> Visit:
        def add(value: Tensor) -> Tensor:
            probes[name] = torch.zeros_like(value, requires_grad=True)
            return value + probes[name]

        return add

    with torch.enable_grad():
        output, *_ = region.run(chunk, {name: probe(name) for name in set(names)})
        gradients = torch.autograd.grad(loss(output, expected), list(probes.values()), materialize_grads=True)
    by_name = dict(zip(probes, gradients, strict=True))
    return [by_name[name] for name in names]


@contextmanager
def _straight_through(module: fx.GraphModule) -> Iterator[None]:
    """Make activation quantizers pass gradients on unchanged."""

    def pass_on(_module: CodeQuantizer, inputs: tuple[Tensor], y: Tensor) -> Tensor:
        # The added term is exactly zero, so that the values do not change.
        return y.detach() + (inputs[0] - inputs[0].detach())

    quantizers = [child for child in module.modules() if isinstance(child, CodeQuantizer)]
    handles = [quantizer.register_forward_hook(pass_on) for quantizer in quantizers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _logits(module: fx.GraphModule) -> str:
    (result,) = module.graph.output_node().args
    logits = result[0] if isinstance(result, (tuple, list)) else result
    assert isinstance(logits, fx.Node)
    return logits.name


@dataclasses.dataclass(frozen=True)
class LayerRows:
    """A layer's inputs (R, I) and outputs (R, O) at some positions.

    A convolution has I = C·kh·kw im2col columns, the padding's zeros included, in the order of weight.flatten(1). A
    grouped convolution has the columns of all groups, one group after the other. `images` (R,) numbers each row's
    image. `lowest` and `highest` (C,) are the smallest and largest input of each channel at all positions.
    """

    inputs: Tensor
    outputs: Tensor
    images: Tensor
    lowest: Tensor
    highest: Tensor


def record_layer(module: fx.GraphModule, layer: Layer, feed: Feed, sample: Sample) -> LayerRows:
    """Return a layer's inputs, behind their quantizers, and outputs.

    The rows take R · (I + O) · 4 bytes: 33,000 rows of a 3×3 convolution from 64 channels to 64 are 84 MB.
    """
    names = layer.input.find(module).name, layer.node
    region = Region(module, feed.source, names)

    def pairs() -> Iterator[tuple[Tensor, Tensor, int]]:
        for chunk in feed.chunks:
            x, y = _see(region, chunk, names)
            yield x, y, len(chunk)

    with torch.no_grad():
        return join_rows(layer, pairs(), feed.length, sample)


def join_rows(layer: Layer, pairs: Iterable[tuple[Tensor, Tensor, int]], length: int, sample: Sample) -> LayerRows:
    """Return a layer's rows from chunks of its inputs and outputs.

    Each chunk comes with its length, and `length` is that of all chunks.
    """
    draw, window, channel = _Draw(sample, length), layer.window, layer.input.channel
    inputs = outputs = images = torch.empty(0)
    ranges: list[tuple[Tensor, Tensor]] = []
    seen = filled = 0
    for x, y, count in pairs:
        total = _count_positions(y, channel)
        positions = draw.take(total, count)
        x_rows = _pick_rows(x, channel, positions) if window is None else _im2col(x, window, y.shape[2:], positions)
        y_rows = _pick_rows(y, channel, positions)
        if seen == 0:  # at once, since joined parts would be in memory twice
            inputs, outputs = (rows.new_empty(draw.drawn, rows.shape[1]) for rows in (x_rows, y_rows))
            images = positions.new_empty(draw.drawn)
        place = slice(filled, filled + len(positions))
        inputs[place], outputs[place] = x_rows, y_rows
        images[place] = seen + positions * count // total
        others = [dim for dim in range(x.ndim) if dim != channel % x.ndim]
        ranges.append((x.amin(others), x.amax(others)))
        seen += count
        filled += len(positions)
    lowest, highest = (torch.stack(bounds) for bounds in zip(*ranges, strict=True))
    return LayerRows(inputs, outputs, images, lowest.amin(0), highest.amax(0))


def _see(region: Region, chunk: Tensor, names: Sequence[str]) -> list[Tensor]:
    """Run a chunk through a region and copy the named tensors."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Visit:
        def visit(value: Tensor) -> Tensor:
            seen[name] = value.clone()  # the next operator may work in place
            return value

        return visit

    region.run(chunk, {name: keep(name) for name in names})
    return [seen[name] for name in names]


def _im2col(x: Tensor, window: Window, size: Sequence[int], positions: Tensor) -> Tensor:
    """Return the im2col rows (R, C·kh·kw) of some output positions."""
    height, width = size
    rows_around, columns_around = window.padding
    if any(window.padding):
        x = F.pad(x, (columns_around, columns_around, rows_around, rows_around))
    padded = x.movedim(1, -1)
    image, row, column = positions // (height * width), positions // width % height, positions % width
    rows = (row * window.stride[0])[:, None] + torch.arange(window.kernel[0]) * window.dilation[0]
    columns = (column * window.stride[1])[:, None] + torch.arange(window.kernel[1]) * window.dilation[1]
    patches = padded[image[:, None, None], rows[:, :, None], columns[:, None, :]]  # (R, kh, kw, C)
    return patches.movedim(-1, 1).flatten(1)
