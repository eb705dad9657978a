"""The capture of an eager timm model as one editable graph.

The graph's operators are aten's, and its batch norm can be folded into its convolutions.
"""

import operator
import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from efficientquant.errors import CaptureError

aten = torch.ops.aten
CONVOLUTION = aten.conv2d.default
BATCH_NORM = aten.batch_norm.default
MAX_BATCH = 1024


def capture(model: nn.Module, shape: Sequence[int]) -> fx.GraphModule:
    """Return the model's graph for inputs (N, *shape), with N free.

    Parameters keep their names and get_attr nodes. The eager model is not changed. Raises CaptureError when
    torch.export fails.
    """
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    example = torch.zeros(2, *shape)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Some attentions assign caches, which torch.export warns of. The captured graph does not need them.
            warnings.filterwarnings("ignore", message="The tensor attribute")
            exported = torch.export.export(model.eval(), (example,), dynamic_shapes=({0: batch},))
    except (RuntimeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
        name = type(model).__name__
        raise CaptureError(name, str(error).splitlines()[0]) from error
    module = exported.module(check_guards=False)
    _own_tensors(module)
    return module


def call_nodes(module: fx.GraphModule, *targets: object) -> list[fx.Node]:
    """Return the nodes that call one of the operators, in execution order."""
    return [node for node in module.graph.nodes if node.op == "call_function" and node.target in targets]


def parameter_name(node: object) -> str | None:
    """Return the name of the parameter or buffer that an argument reads.

    It is None for a computed argument.
    """
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def get_tensor(module: nn.Module, name: str) -> Tensor:
    """Return a parameter or buffer by its dotted name."""
    return cast(Tensor, operator.attrgetter(name)(module))


def set_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Replace or create a parameter by its dotted name."""
    owner, _, leaf = name.rpartition(".")
    parent = module.get_submodule(owner)
    setattr(parent, leaf, nn.Parameter(value, requires_grad=False))


def fold_batch_norm(module: fx.GraphModule) -> dict[str, str]:
    """Fold each batch norm into its convolution.

    Folds only where the norm alone reads the convolution, and the convolution alone reads its weight and bias. Returns
    {norm parameter: convolution weight}.
    """
    folded: dict[str, str] = {}
    for norm in call_nodes(module, BATCH_NORM):
        convolution = norm.args[0]
        if _can_fold(module, convolution):
            folded |= _fold(module, cast(fx.Node, convolution), norm)
    module.graph.eliminate_dead_code()
    module.recompile()
    return folded


def _own_tensors(module: fx.GraphModule) -> None:
    """Copy the graph's parameters, which share storage with the eager model."""
    for name, tensor in list(module.named_parameters()):
        set_tensor(module, name, tensor.detach().clone())


def _can_fold(module: fx.GraphModule, node: object) -> bool:
    if not isinstance(node, fx.Node) or node.target is not CONVOLUTION or len(node.users) != 1:
        return False
    names = [parameter_name(operand) for operand in node.args[1:3] if operand is not None]
    return all(name is not None and count_readers(module, name) == 1 for name in names)


def count_readers(module: fx.GraphModule, name: str) -> int:
    """Return how many operators read a parameter."""
    return sum(len(node.users) for node in module.graph.find_nodes(op="get_attr") if node.target == name)


def _fold(module: fx.GraphModule, convolution: fx.Node, norm: fx.Node) -> dict[str, str]:
    """Rewrite a convolution and its norm as one convolution.

    Together they are y = γ (Wx + b - μ) / √(σ² + ε) + β. The new weight and bias are computed in float64.
    """
    _, gamma_node, beta_node, mean_node, variance_node, _, _, epsilon, *_ = norm.args
    weight_name = cast(str, parameter_name(convolution.args[1]))
    weight = get_tensor(module, weight_name)
    mean, variance = (_read(module, node).double() for node in (mean_node, variance_node))
    gamma = _read(module, gamma_node).double() if gamma_node is not None else torch.ones_like(mean)
    beta = _read(module, beta_node).double() if beta_node is not None else torch.zeros_like(mean)
    bias_node = convolution.args[2] if len(convolution.args) > 2 else None
    bias = _read(module, bias_node).double() if bias_node is not None else torch.zeros_like(mean)
    factor = gamma / (variance + cast(float, epsilon)).sqrt()
    set_tensor(module, weight_name, (weight.double() * factor.reshape(-1, 1, 1, 1)).to(weight.dtype))
    bias_name = parameter_name(bias_node) or f"{weight_name.rpartition('.')[0]}.bias"
    set_tensor(module, bias_name, (beta + (bias - mean) * factor).to(weight.dtype))
    use_bias(module, convolution, bias_name)
    norm.replace_all_uses_with(convolution)
    module.graph.erase_node(norm)
    return {name: weight_name for name in map(parameter_name, (gamma_node, beta_node)) if name is not None}


def _read(module: fx.GraphModule, node: Any) -> Tensor:
    return get_tensor(module, cast(str, parameter_name(node)))


def use_bias(module: fx.GraphModule, layer: fx.Node, bias_name: str) -> None:
    """Make a convolution or linear add the bias of that name."""
    with module.graph.inserting_before(layer):
        bias = module.graph.get_attr(bias_name)
    layer.args = (*layer.args[:2], bias, *layer.args[3:])
