"""The manifest of a model: its parameters, softmaxes and MACs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from efficientquant.graph.capture import call_nodes
from efficientquant.graph.macs import count_macs
from efficientquant.graph.roles import SOFTMAX, WEIGHTED, Role, assign_roles


@dataclasses.dataclass(frozen=True)
class ManifestEntry:
    """One parameter of the model: its use, its role and its bits.

    `node` is the graph node that uses it, `operator` that node's kind. `macs` are the multiplications with it per
    image. `bits` is its width after quantization. `sqnr_db` and `worst_channel_db` are measured where the bits are
    below 32. `folded_into` names the convolution that absorbed a batch norm. `is_symmetric` is false for a weight with
    zero-points.
    """

    parameter: str
    node: str
    module: str
    operator: str
    role: Role
    shape: tuple[int, ...]
    parameters: int
    macs: int = 0
    in_transformer: bool = False
    bits: int = 32
    granularity: str = "none"
    sqnr_db: float | None = None
    worst_channel_db: float | None = None
    worst_channel: int | None = None
    is_symmetric: bool = True
    folded_into: str | None = None


@dataclasses.dataclass(frozen=True)
class SoftmaxSite:
    """One softmax: its node, module, number of tokens and quantizer.

    `quantizer` holds the quantizer's parameters, `quantizer_name` is its name in the graph and in the artifact. The
    name is "" without a quantizer and in manifests of earlier releases.
    """

    node: str
    module: str
    tokens: int
    bits: int = 32
    form: str = "none"
    emulation: str = "none"
    quantizer: Mapping[str, float] = dataclasses.field(default_factory=dict)
    quantizer_name: str = ""


@dataclasses.dataclass(frozen=True)
class ActivationSite:
    """One quantized activation: its node, its readers and its scale.

    `node` computes the activation. `consumers` are the kinds of operator in scope that read it (conv2d, linear,
    matmul). `producer` is the kind of operator in scope whose output it is, or "". `quantizer` is the module's name.
    `scale` is one number, or one for each index of dimension `axis`. It is None for a recipe's own kind of quantizer.
    The zero-point is signed, and None for a symmetric quantizer.
    """

    node: str
    quantizer: str
    consumers: tuple[str, ...]
    producer: str
    bits: int
    scale: float | tuple[float, ...] | None
    zero_point: int | None = None
    axis: int | None = None


@dataclasses.dataclass(frozen=True)
class Product:
    """One product of two activations, such as queries with keys.

    It has no parameters. `macs` are per image.
    """

    node: str
    module: str
    operator: str
    macs: int


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a method at one node.

    `default_score` is the score without the step and `best_score` that with it, where the method has scores. `facts`
    are what the step chose.
    """

    name: str
    node: str
    default_score: float | None = None
    best_score: float | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Manifest:
    """The record of a model's parameters, softmaxes, products and quantized activations.

    Every parameter appears exactly once. `steps` are what the method did, in order.
    """

    entries: dict[str, ManifestEntry]
    softmax_sites: list[SoftmaxSite]
    products: list[Product] = dataclasses.field(default_factory=list)
    activation_sites: list[ActivationSite] = dataclasses.field(default_factory=list)
    steps: list[Step] = dataclasses.field(default_factory=list)

    @property
    def parameters(self) -> int:
        """The number of all parameters."""
        return sum(entry.parameters for entry in self.entries.values())

    @property
    def macs(self) -> int:
        """All multiply-accumulates per image.

        They come from convolutions, linears and products of activations.
        """
        return sum(entry.macs for entry in self.entries.values()) + sum(product.macs for product in self.products)

    def copy(self) -> "Manifest":
        """Return another manifest with the same records."""
        sites = (list(self.softmax_sites), list(self.products), list(self.activation_sites), list(self.steps))
        return Manifest(dict(self.entries), *sites)

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON-ready values."""
        return {
            "parameters": [dataclasses.asdict(entry) for entry in self.entries.values()],
            "softmax_sites": [dataclasses.asdict(site) for site in self.softmax_sites],
            "products": [dataclasses.asdict(product) for product in self.products],
            "activation_sites": [dataclasses.asdict(site) for site in self.activation_sites],
            "steps": [dataclasses.asdict(step) for step in self.steps],
        }


def build_manifest(model: nn.Module, graph: fx.GraphModule) -> Manifest:
    """Return the manifest of an eager model and its captured graph.

    Every parameter is listed with its use in the graph. Call this before batch norm is folded.
    """
    roles = assign_roles(graph)
    constants = _constants(graph)
    uses = _parameter_uses(graph, constants)
    macs, products = _work(graph, constants)
    entries = {}
    for name, parameter in _named_once(model, uses):
        node = uses.get(name)
        entries[name] = ManifestEntry(
            parameter=name,
            node=node.name if node is not None else "",
            module=name.rpartition(".")[0],
            operator=operator_of(node),
            role=roles.of(node),
            shape=tuple(parameter.shape),
            parameters=parameter.numel(),
            macs=macs.get(name, 0),
            in_transformer=roles.in_transformer(node),
        )
    sites = [_softmax_site(node) for node in call_nodes(graph, *SOFTMAX)]
    return Manifest(entries=entries, softmax_sites=sites, products=products)


def _named_once(model: nn.Module, uses: Mapping[str, fx.Node]) -> list[tuple[str, nn.Parameter]]:
    """Return every parameter once, with its name.

    A shared parameter has several names. It gets the name that the graph uses.
    """
    named: dict[int, tuple[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in named or (name in uses and named[id(parameter)][0] not in uses):
            named[id(parameter)] = (name, parameter)
    return list(named.values())


def _constants(graph: fx.GraphModule) -> set[fx.Node]:
    """Return the parameters, the buffers, and everything computed from them alone."""
    constants: set[fx.Node] = set()
    for node in graph.graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "get_attr" or (inputs and all(source in constants for source in inputs)):
            constants.add(node)
    return constants


def _parameter_uses(graph: fx.GraphModule, constants: set[fx.Node]) -> dict[str, fx.Node]:
    """Return for each parameter the operator in which it meets data.

    For a standardized weight it is the convolution.
    """
    meets: dict[fx.Node, fx.Node] = {}
    uses: dict[str, fx.Node] = {}
    for node in reversed(graph.graph.nodes):
        users = [user for user in node.users if user.op != "output"] if node in constants else []
        if users:
            meets[node] = meets.get(users[0], users[0])
            if node.op == "get_attr":
                uses[str(node.target)] = meets[node]
    return uses


def _work(graph: fx.GraphModule, constants: set[fx.Node]) -> tuple[dict[str, int], list[Product]]:
    """Return the MACs of each weight, and the products without a weight.

    The MACs of a weight are summed over all of its uses.
    """
    macs: dict[str, int] = {}
    products: list[Product] = []
    for node in graph.graph.nodes:
        count = count_macs(node)
        weight = _weight(node, constants) if count else None
        if weight is not None:
            macs[weight] = macs.get(weight, 0) + count
        elif count:
            products.append(Product(node.name, module_of(node), operator_of(node), count))
    return macs, products


def _weight(node: fx.Node, constants: set[fx.Node]) -> str | None:
    """Return the parameter name of an operator's weight, or None.

    A weight that is computed from one parameter alone has that parameter's name.
    """
    weight = node.args[1] if node.target in WEIGHTED else None
    while isinstance(weight, fx.Node) and weight in constants:
        if weight.op == "get_attr":
            return str(weight.target)
        weight = weight.args[0]
    return None


def operator_of(node: fx.Node | None) -> str:
    """Return the name of a node's operator, "" for no node."""
    if node is None:
        return ""
    overload = node.target
    return overload.overloadpacket.__name__ if isinstance(overload, torch._ops.OpOverload) else str(overload)


def _softmax_site(node: fx.Node) -> SoftmaxSite:
    dimension = node.args[1]
    tokens = int(node.meta["val"].shape[dimension])
    return SoftmaxSite(node=node.name, module=module_of(node), tokens=tokens)


def module_of(node: fx.Node) -> str:
    """Return the dotted name of a node's module, "" for the model."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""
