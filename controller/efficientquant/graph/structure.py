"""Structure-aware block identification (the paper's Algorithm 1).

It separates convolutional from transformer modules.
"""

from torch import fx, nn

from efficientquant.graph.capture import CONVOLUTION, aten, call_nodes, parameter_name
from efficientquant.graph.manifest import (
    ActivationSite,
    Manifest,
    ManifestEntry,
    Product,
    SoftmaxSite,
    build_manifest,
    module_of,
    operator_of,
)
from efficientquant.graph.roles import LINEAR, PRODUCTS, SOFTMAX, Role, assign_roles
from efficientquant.options import IdentificationRule, Scope

__all__ = [
    "LINEAR",
    "PRODUCTS",
    "SOFTMAX",
    "ActivationSite",
    "Manifest",
    "ManifestEntry",
    "Product",
    "Role",
    "SoftmaxSite",
    "build_manifest",
    "find_float_convolutions",
    "find_printed_defects",
    "find_weights",
    "paper_blocks",
]

FLOAT_CONVOLUTIONS = (
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.default,
    aten.conv3d.padding,
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
)
TRANSFORMER_WORDS = ("attn", "Attention", "Transformer")


_OPERATORS = {
    Scope.LINEAR: (LINEAR,),
    Scope.CONV_LINEAR: (CONVOLUTION, LINEAR),
    Scope.ALL: (CONVOLUTION, LINEAR),
}


def find_weights(model: nn.Module, graph: fx.GraphModule, scope: Scope, rule: IdentificationRule) -> list[str]:
    """Return the names of the weights in scope under a rule.

    They are in execution order, a shared weight once. `graph` is the model's captured graph, with or without folded
    batch norm. A weight that is itself computed (standardized, for instance) has no name of its own and is left out.
    """
    operators = _OPERATORS.get(scope, (CONVOLUTION,))
    named = [(name, node) for node in call_nodes(graph, *operators) if (name := parameter_name(node.args[1]))]
    outside_only = scope is Scope.CONV_OUTSIDE_TRANSFORMERS
    if rule is IdentificationRule.PAPER:
        blocks = paper_blocks(model)
        listed = {name for block in blocks for name in block}
        transformer = set(blocks[1]) if outside_only else set()
        names = [n for n, _ in named if _module(n) in listed and not _is_within(n, transformer)]
    elif outside_only:
        roles = assign_roles(graph)
        names = [name for name, node in named if not roles.in_transformer(node)]
    else:
        names = [name for name, _ in named]
    return list(dict.fromkeys(names))


def find_float_convolutions(graph: fx.GraphModule) -> dict[str, list[str]]:
    """Return the modules of the convolutions that are not quantized, by kind.

    A kind is an operator such as conv1d. Conv2d is among them where its padding is a word.
    """
    modules: dict[str, list[str]] = {}
    for node in call_nodes(graph, *FLOAT_CONVOLUTIONS):
        modules.setdefault(operator_of(node), []).append(module_of(node))
    return modules


def paper_blocks(model: nn.Module) -> tuple[list[str], list[str]]:
    """Return the (convolutional, transformer) module names by Algorithm 1 as printed.

    Conv2d is convolutional. Linear and anything with attn, Attention or Transformer in its path or class is
    transformer, even a dropout. Unlike in the printed listing, names have their separators, so that `get_submodule`
    finds them. It takes O(n).
    """
    convolutional: list[str] = []
    transformer: list[str] = []
    for name, module in model.named_modules():
        words = f"{name} {type(module).__name__}"
        if isinstance(module, nn.Conv2d):
            convolutional.append(name)
        elif name and (isinstance(module, nn.Linear) or any(word in words for word in TRANSFORMER_WORDS)):
            transformer.append(name)
    return convolutional, transformer


def find_printed_defects(model: nn.Module, manifest: Manifest) -> list[str]:
    """Return one sentence for each defect of Algorithm 1 as printed.

    Each sentence has a count and an example.
    """
    convolutional, transformer = paper_blocks(model)
    listed = convolutional + transformer
    modules = dict(model.named_modules())
    empty = [name for name in transformer if not any(True for _ in modules[name].parameters())]
    heads = sorted({e.module for e in manifest.entries.values() if e.role is Role.HEAD} & set(transformer))
    inner = {e.module for e in manifest.entries.values() if e.operator == "conv2d" and e.in_transformer}
    misplaced = [name for name in convolutional if name in inner]
    owners = {entry.module: None for entry in manifest.entries.values()}
    neither = [name for name in owners if name not in set(listed)]
    joined = [name for name in listed if name.replace(".", "") not in modules]
    defects = (
        ("names that do not resolve, because they are joined without a separator", joined),
        ("classifiers listed as Transformer", heads),
        ("modules without parameters, such as dropouts and identities, listed as Transformer", empty),
        ("convolutions inside transformer blocks listed as CNN", misplaced),
        ("modules with parameters, such as normalizations, listed nowhere", neither),
    )
    return [f"{what}: {len(names)} (for instance {names[0]})" for what, names in defects if names]


def _module(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _is_within(parameter: str, modules: set[str]) -> bool:
    """Tell whether a parameter is anywhere inside one of the modules."""
    parts = parameter.split(".")
    return any(".".join(parts[:depth]) in modules for depth in range(1, len(parts)))
