"""The insertion of quantizers and observers into a captured graph."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeGuard, TypeVar

from torch import fx, nn

from efficientquant.graph.capture import CONVOLUTION, aten, call_nodes, parameter_name
from efficientquant.graph.insertions import operand_place, result_place
from efficientquant.graph.logits import find_logits
from efficientquant.graph.structure import LINEAR, PRODUCTS
from efficientquant.options import Scope

Observer = TypeVar("Observer", bound=nn.Module)


@dataclasses.dataclass
class Site:
    """An activation to be quantized.

    `consumers` are its readers in scope. `is_output` says whether an operator in scope computes it. An output's
    quantizer goes before all of its readers. `entries` are the nodes that read the activation directly: the consumers,
    or modules in front of them.
    """

    source: fx.Node
    consumers: list[fx.Node] = dataclasses.field(default_factory=list)
    is_output: bool = False
    entries: list[fx.Node] = dataclasses.field(default_factory=list)

    @property
    def readers(self) -> list[fx.Node]:
        """The nodes that read the quantized value."""
        return list(self.source.users) if self.is_output else self.entries


def find_sites(graph: fx.GraphModule, scope: Scope, weights: Sequence[str], *, outputs: bool) -> list[Site]:
    """Return the activations that the operators in scope read, in order.

    With `outputs`, their results are included. `weights` names the weights whose convolutions and linears are in scope.
    A product counts only where both of its operands are computed: a product with a parameter is no attention. Logits
    stay in float, also where the output averages those of several heads. An activation that is already quantized is
    returned from before its quantizer.
    """
    names = set(weights)
    logits = find_logits(graph)
    sites: dict[fx.Node, Site] = {}
    targets = (CONVOLUTION, LINEAR, *(PRODUCTS if scope is Scope.ALL else ()))
    for node in call_nodes(graph, *targets):
        operands = node.args[:1] if node.target in (CONVOLUTION, LINEAR) else node.args[-2:]
        in_scope = parameter_name(node.args[1]) in names or node.target in PRODUCTS
        sources = [operand_place(graph, operand) for operand in operands if _is_computed(operand)]
        if not in_scope or len(sources) < len(operands):
            continue
        for source in dict.fromkeys(sources):
            sites.setdefault(source, Site(source)).consumers.append(node)
        if outputs and node.target not in PRODUCTS and node not in logits:
            place = result_place(graph, node)
            sites.setdefault(place, Site(place)).is_output = True
    return list(sites.values())


def _is_computed(operand: object) -> TypeGuard[fx.Node]:
    """Tell whether an operand is neither a parameter nor a quantized parameter."""
    return isinstance(operand, fx.Node) and bool(operand.all_input_nodes or operand.op == "placeholder")


def insert_behind(
    graph: fx.GraphModule, source: fx.Node, name: str, module: nn.Module, consumers: Sequence[fx.Node] | None = None
) -> fx.Node:
    """Insert a module between a node and its consumers.

    `consumers` is None for all of them. Returns the module's node.
    """
    graph.add_submodule(name, module)
    with graph.graph.inserting_after(source):
        node = graph.graph.call_module(name, (source,))
    readers = set(source.users if consumers is None else consumers) - {node}
    source.replace_all_uses_with(node, delete_user_cb=lambda user: user in readers)
    return node


def insert_at_operand(graph: fx.GraphModule, consumer: fx.Node, operand: int, name: str, module: nn.Module) -> fx.Node:
    """Insert a module in front of one operand of a node.

    Returns the module's node.
    """
    source = consumer.args[operand]
    assert isinstance(source, fx.Node)
    graph.add_submodule(name, module)
    with graph.graph.inserting_before(consumer):
        node = graph.graph.call_module(name, (source,))
    consumer.update_arg(operand, node)
    return node


def split_silu(graph: fx.GraphModule, silu: fx.Node) -> fx.Node:
    """Write a SiLU as x · sigmoid(x), and return the sigmoid.

    The product takes over the SiLU's readers.
    """
    (x,) = silu.all_input_nodes
    with graph.graph.inserting_before(silu):
        sigmoid = graph.graph.call_function(aten.sigmoid.default, (x,))
        product = graph.graph.call_function(aten.mul.Tensor, (x, sigmoid))
    for node in (sigmoid, product):
        node.meta = dict(silu.meta)
    silu.replace_all_uses_with(product)
    graph.graph.erase_node(silu)
    return sigmoid


def copy_graph(graph: fx.GraphModule) -> fx.GraphModule:
    """Return a copy with the same node names and shared tensors."""
    nodes = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        copies[node] = nodes.node_copy(node, copies.__getitem__)
    nodes.set_codegen(graph.graph._codegen)  # it packs and unpacks the model's inputs and results
    return fx.GraphModule(graph, nodes)


def replace_parameter(graph: fx.GraphModule, parameter: str, name: str, module: nn.Module) -> None:
    """Replace every use of a parameter by a module's result.

    The parameter is deleted.
    """
    readers = [node for node in graph.graph.nodes if node.op == "get_attr" and node.target == parameter]
    graph.add_submodule(name, module)
    with graph.graph.inserting_before(readers[0]):
        result = graph.graph.call_module(name, ())
    for reader in readers:
        reader.replace_all_uses_with(result)
        graph.graph.erase_node(reader)
    owner, _, leaf = parameter.rpartition(".")
    delattr(graph.get_submodule(owner), leaf)


@contextmanager
def observing(
    graph: fx.GraphModule, sites: Sequence[fx.Node], make_observer: Callable[[], Observer]
) -> Iterator[list[Observer]]:
    """Put an observer behind each node, and remove them at the end.

    `make_observer` is a class, or a functools.partial of one. It is called once for each node.
    """
    observers = [make_observer() for _ in sites]
    nodes = [
        insert_behind(graph, site, f"observer_{index}", observer)
        for index, (site, observer) in enumerate(zip(sites, observers, strict=True))
    ]
    graph.recompile()
    try:
        yield observers
    finally:
        for index, (site, node) in enumerate(zip(sites, nodes, strict=True)):
            node.replace_all_uses_with(site)
            graph.graph.erase_node(node)
            delattr(graph, f"observer_{index}")
        graph.recompile()
