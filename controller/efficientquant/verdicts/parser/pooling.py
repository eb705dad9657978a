"""Rules for poolings and convolutions."""

from collections.abc import Iterator

from efficientquant.verdicts.parser.node import ParsedNode, Parser, Refusal


def pool(node: ParsedNode, _parser: Parser) -> Iterator[Refusal]:
    """Yield the forms of a pooling that no release takes.

    Source: poolingHelper of 8.2 and 8.5 asserts that dilations are 1, the static checker from 9.1 on does.
    """
    dilations = list(node.attribute("dilations", []))
    if any(dilation != 1 for dilation in dilations):
        yield Refusal(f"dilations={dilations}", "its poolings have dilations of 1")
    kernel = node.attribute("kernel_shape", [])
    if len(kernel) > 3:
        yield Refusal(f"kernel_shape={list(kernel)}", "it pools over up to 3 dimensions")


def max_pool(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
    """Yield the forms of a MaxPool that no release takes.

    operators.md of every release: "`Indices` output tensor unsupported".
    """
    yield from pool(node, parser)
    if node.has_output(1):
        yield Refusal("a second output, the indices", "its MaxPool gives the values only")


def lp_pool(node: ParsedNode, parser: Parser) -> Iterator[Refusal]:
    """Yield the forms of an LpPool that no release takes."""
    yield from pool(node, parser)
    norm = node.attribute("p", 2)
    if norm not in (1, 2):
        yield Refusal(f"p={norm}", "it knows p=1 and p=2")


def lp_normalization(node: ParsedNode, _parser: Parser) -> Iterator[Refusal]:
    """Yield the norms that no release takes."""
    norm = node.attribute("p", 2)
    if norm not in (1, 2):
        yield Refusal(f"p={norm}", "it knows p=1 and p=2")


def convolution(node: ParsedNode, _parser: Parser) -> Iterator[Refusal]:
    """Yield convolutions over more dimensions than TensorRT has.

    One spatial dimension is imported as two. addConvolutionNd takes two and three.
    """
    shape = node.shape(1) or node.shape(0)
    if shape is not None and len(shape) > 5:
        yield Refusal(f"{len(shape) - 2} spatial dimensions", "it convolves over up to 3")


def deformable(node: ParsedNode, _parser: Parser) -> Iterator[Refusal]:
    """Yield the pads of a DeformConv that its plugin does not take.

    operators.md of 10.15: "`pads` for the beginning and end along each spatial axis must be the same".
    """
    pads = list(node.attribute("pads", []))
    half = len(pads) // 2
    if pads[:half] != pads[half:]:
        yield Refusal(f"pads={pads}", "it pads the beginning and the end of an axis alike")
