"""Structure-aware block identification (the paper's Algorithm 1) and the manifest of every parameter."""

import dataclasses
import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import fx, nn

from efficientquant.capture import BATCH_NORM, CONVOLUTION, aten, call_nodes, get_tensor, parameter_name
from efficientquant.recipe import IdentificationRule

LINEAR = aten.linear.default
SOFTMAX = (aten.softmax.int, aten._softmax.default)
WEIGHTED = (CONVOLUTION, LINEAR)
PRODUCTS = (aten.matmul.default, aten.bmm.default, aten.baddbmm.default)
RESHAPES = (
    aten.reshape.default,
    aten.view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten._unsafe_view.default,
)
TRANSPOSES = (aten.transpose.int, aten.permute.default)
SHAPE_ONLY = (*RESHAPES, *TRANSPOSES, aten.contiguous.default, aten.clone.default)
# Elementwise or normalizing: what may stand between a bridge convolution and the reshape chain.
POINTWISE = (
    BATCH_NORM,
    aten.layer_norm.default,
    aten.group_norm.default,
    aten.dropout.default,
    aten.silu.default,
    aten.silu_.default,
    aten.relu.default,
    aten.relu_.default,
    aten.gelu.default,
    aten.hardswish.default,
    aten.hardswish_.default,
)


class Role(enum.StrEnum):
    """What a parameter does in the network."""

    STEM = "stem"
    CONV = "conv"
    DEPTHWISE = "depthwise"
    BRIDGE = "bridge"
    ATTENTION_QKV = "attention-qkv"
    ATTENTION_PROJ = "attention-proj"
    MLP = "mlp"
    NORM = "norm"
    HEAD = "head"
    OTHER = "other"
    UNUSED = "unused"


@dataclasses.dataclass(frozen=True)
class ManifestEntry:
    """One parameter of the model: where it is used, what it does, and the bits that it has after quantization.

    `node` is the graph node that uses it, `operator` that node's kind. `sqnr_db` and `worst_channel_db` are
    measured where the bits are below 32. `folded_into` names the convolution that absorbed a batch norm.
    """

    parameter: str
    node: str
    module: str
    operator: str
    role: Role
    shape: tuple[int, ...]
    parameters: int
    bits: int = 32
    granularity: str = "none"
    sqnr_db: float | None = None
    worst_channel_db: float | None = None
    worst_channel: int | None = None
    folded_into: str | None = None


@dataclasses.dataclass(frozen=True)
class SoftmaxSite:
    """One softmax: its node, the module that runs it, how many tokens it normalizes over, and its quantizer."""

    node: str
    module: str
    tokens: int
    bits: int = 32
    form: str = "none"
    emulation: str = "none"
    quantizer: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ActivationSite:
    """One quantized activation: the node that computes it, what consumes it, and its symmetric scale.

    `consumers` are the kinds of operator (conv2d, linear, matmul) and their roles; `quantizer` the module's name.
    """

    node: str
    quantizer: str
    consumers: tuple[str, ...]
    bits: int
    scale: float


@dataclasses.dataclass
class Manifest:
    """Every parameter exactly once, every softmax, and every activation that is quantized."""

    entries: dict[str, ManifestEntry]
    softmax_sites: list[SoftmaxSite]
    activation_sites: list[ActivationSite] = dataclasses.field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON-ready values."""
        return {
            "parameters": [dataclasses.asdict(entry) for entry in self.entries.values()],
            "softmax_sites": [dataclasses.asdict(site) for site in self.softmax_sites],
            "activation_sites": [dataclasses.asdict(site) for site in self.activation_sites],
        }


def build_manifest(model: nn.Module, graph: fx.GraphModule) -> Manifest:
    """Account for every parameter of the eager model by its use in the captured graph, before anything is folded."""
    roles = _assign_roles(graph)
    uses = _parameter_uses(graph)
    entries = {}
    for name, parameter in model.named_parameters():
        node = uses.get(name)
        entries[name] = ManifestEntry(
            parameter=name,
            node=node.name if node is not None else "",
            module=name.rpartition(".")[0],
            operator=_operator(node),
            role=roles.get(node, Role.OTHER) if node is not None else Role.UNUSED,
            shape=tuple(parameter.shape),
            parameters=parameter.numel(),
        )
    return Manifest(entries=entries, softmax_sites=[_softmax_site(node) for node in call_nodes(graph, *SOFTMAX)])


def paper_blocks(model: nn.Module) -> tuple[list[str], list[str]]:
    """Return the names of the (convolutional, transformer) modules by the printed rule of Algorithm 1, in O(n).

    Conv2d is convolutional; Linear and anything named attn, Attention or Transformer is transformer. Unlike
    the printed listing, names carry their separators, so that `get_submodule` finds them.
    """
    convolutional: list[str] = []
    transformer: list[str] = []
    for name, module in model.named_modules():
        own_name = f"{name.rpartition('.')[2]} {type(module).__name__}"
        if isinstance(module, nn.Conv2d):
            convolutional.append(name)
        elif name and (
            isinstance(module, nn.Linear) or any(w in own_name for w in ("attn", "Attention", "Transformer"))
        ):
            transformer.append(name)
    return convolutional, transformer


def find_convolutions(model: nn.Module, graph: fx.GraphModule, rule: IdentificationRule) -> list[str]:
    """Return the weight names of the convolutions that the rule finds, in execution order."""
    weights = [name for node in call_nodes(graph, CONVOLUTION) if (name := parameter_name(node.args[1])) is not None]
    if rule is IdentificationRule.PAPER:
        convolutional = set(paper_blocks(model)[0])
        return [name for name in weights if name.rpartition(".")[0] in convolutional]
    return weights


def _parameter_uses(graph: fx.GraphModule) -> dict[str, fx.Node]:
    """Return for each parameter the first operator that it reaches."""
    uses: dict[str, fx.Node] = {}
    for node in graph.graph.nodes:
        for user in node.users if node.op == "get_attr" else ():
            uses.setdefault(str(node.target), user)
    return uses


def _operator(node: fx.Node | None) -> str:
    if node is None:
        return ""
    overload = node.target
    return overload.overloadpacket.__name__ if isinstance(overload, torch._ops.OpOverload) else str(overload)


def _softmax_site(node: fx.Node) -> SoftmaxSite:
    dimension = node.args[1]
    tokens = int(node.meta["val"].shape[dimension])
    return SoftmaxSite(node=node.name, module=_module_of(node), tokens=tokens)


def _module_of(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def _assign_roles(graph: fx.GraphModule) -> dict[fx.Node, Role]:
    """Classify every operator that has parameters; the first rule that fits wins."""
    softmaxes = call_nodes(graph, *SOFTMAX)
    weighted = call_nodes(graph, *WEIGHTED)
    rules: list[tuple[Role, set[fx.Node]]] = [
        (Role.STEM, _without_weighted(weighted, _inputs)),
        (Role.HEAD, _without_weighted(weighted, _users)),
        (Role.ATTENTION_QKV, _attention_inputs(softmaxes)),
        (Role.ATTENTION_PROJ, _reach(softmaxes, _users)),
        (Role.BRIDGE, {node for node in call_nodes(graph, CONVOLUTION) if _is_bridge(node)}),
        (Role.DEPTHWISE, {node for node in call_nodes(graph, CONVOLUTION) if _is_depthwise(graph, node)}),
    ]
    inside = _transformer_nodes(graph)
    roles = {}
    for node in graph.graph.nodes:
        if node.op == "call_function":
            roles[node] = next((role for role, nodes in rules if node in nodes), _default_role(node, inside))
    return roles


def _default_role(node: fx.Node, inside: set[fx.Node]) -> Role:
    if node.target is LINEAR or (node.target is CONVOLUTION and node in inside):
        return Role.MLP
    if node.target is CONVOLUTION:
        return Role.CONV
    if node.target in POINTWISE and "norm" in str(node.target):
        return Role.NORM
    return Role.OTHER


def _inputs(node: fx.Node) -> Iterable[fx.Node]:
    return node.all_input_nodes


def _users(node: fx.Node) -> Iterable[fx.Node]:
    return node.users


def _reach(starts: Iterable[fx.Node], step: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    """Return the first convolutions and linears met when walking from the starts, none beyond them."""
    found: set[fx.Node] = set()
    seen: set[fx.Node] = set()
    pending = [neighbour for start in starts for neighbour in step(start)]
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.target in WEIGHTED:
            found.add(node)
        else:
            pending.extend(step(node))
    return found


def _closure(starts: Iterable[fx.Node], step: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    """Return everything that can be walked to from the starts."""
    seen: set[fx.Node] = set()
    pending = list(starts)
    while pending:
        for neighbour in step(pending.pop()):
            if neighbour not in seen:
                seen.add(neighbour)
                pending.append(neighbour)
    return seen


def _without_weighted(weighted: list[fx.Node], step: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    """Return the convolutions and linears that have no other before (or behind) them."""
    return {node for node in weighted if not _reach([node], step)}


def _attention_inputs(softmaxes: list[fx.Node]) -> set[fx.Node]:
    """Return what makes queries and keys (before the softmax) and values (the product's other operand)."""
    found = _reach(softmaxes, _inputs)
    for softmax in softmaxes:
        for product in _first_products(softmax):
            others = [node for node in product.all_input_nodes if not _descends(node, softmax)]
            found |= {node for node in others if node.target in WEIGHTED} | _reach(others, _inputs)
    return found


def _first_products(softmax: fx.Node) -> Iterator[fx.Node]:
    """Yield the multiplications that consume a softmax: a matmul, or a context score's broadcast product."""
    for user in softmax.users:
        if user.target in (*PRODUCTS, aten.mul.Tensor):
            yield user
        elif user.target not in WEIGHTED:
            yield from _first_products(user)


def _descends(node: fx.Node, ancestor: fx.Node) -> bool:
    """Return whether a node is an ancestor's result after shape operators and dropout only."""
    while node is not ancestor and node.op == "call_function" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node is ancestor


def _is_depthwise(graph: fx.GraphModule, node: fx.Node) -> bool:
    weight = parameter_name(node.args[1])
    grouped = len(node.args) > 6 and cast(int, node.args[6]) > 1
    return grouped and weight is not None and bool(get_tensor(graph, weight).shape[1] == 1)


def _is_bridge(node: fx.Node) -> bool:
    return _crosses(node, _users) or _crosses(node, _inputs)


def _crosses(start: fx.Node, step: Callable[[fx.Node], Iterable[fx.Node]]) -> bool:
    """Return whether the way from a convolution leads through a reshape chain that permutes, other than into a product.

    Reshape-and-permute is how unfold, fold and patch embedding turn a picture into tokens or back; the head
    split of an attention looks alike, but ends in a product.
    """
    pending = [(node, False, False) for node in step(start)]
    while pending:
        node, reshaped, permuted = pending.pop()
        if node.target in SHAPE_ONLY:
            state = (reshaped or node.target in RESHAPES, permuted or node.target in TRANSPOSES)
            pending.extend((neighbour, *state) for neighbour in step(node))
        elif reshaped and permuted:
            if node.target not in PRODUCTS:
                return True
        elif node.target in POINTWISE and not (reshaped or permuted):
            pending.extend((neighbour, False, False) for neighbour in step(node))
    return False


def _transformer_nodes(graph: fx.GraphModule) -> set[fx.Node]:
    """Return what lies between an unfolding bridge and the folding bridge that follows it."""
    inside: set[fx.Node] = set()
    unfold: fx.Node | None = None
    for node in call_nodes(graph, CONVOLUTION):
        if unfold is not None and _crosses(node, _inputs):
            inside |= _closure([unfold], _users) & _closure([node], _inputs)
        if _crosses(node, _users):
            unfold = node
    return inside
