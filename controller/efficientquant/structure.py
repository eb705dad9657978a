"""Structure-aware block identification (the paper's Algorithm 1): what is convolutional, what transformer."""

from torch import fx, nn

from efficientquant.capture import CONVOLUTION, call_nodes, parameter_name
from efficientquant.manifest import ActivationSite, Manifest, ManifestEntry, Product, SoftmaxSite, build_manifest
from efficientquant.recipe import IdentificationRule, Scope
from efficientquant.roles import LINEAR, PRODUCTS, SOFTMAX, Role, assign_roles

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
    "find_weights",
    "paper_blocks",
]

TRANSFORMER_WORDS = ("attn", "Attention", "Transformer")


def find_weights(model: nn.Module, graph: fx.GraphModule, scope: Scope, rule: IdentificationRule) -> list[str]:
    """Return the names of the weights that a scope covers under a rule, in execution order, a shared one once.

    `graph` is the model's captured graph, with or without folded batch norm. A weight that is itself computed
    (standardized, for instance) has no name of its own and is left out.
    """
    operators = (CONVOLUTION, LINEAR) if scope in (Scope.CONV_LINEAR, Scope.ALL) else (CONVOLUTION,)
    named = [(name, node) for node in call_nodes(graph, *operators) if (name := parameter_name(node.args[1]))]
    outside_only = scope is Scope.CONV_OUTSIDE_TRANSFORMERS
    if rule is IdentificationRule.PAPER:
        blocks = paper_blocks(model)
        listed = {name for block in blocks for name in block}
        transformer = set(blocks[1]) if outside_only else set()
        found = [n for n, _ in named if _module(n) in listed and not _is_within(n, transformer)]
    elif outside_only:
        roles = assign_roles(graph)
        found = [name for name, node in named if not roles.in_transformer(node)]
    else:
        found = [name for name, _ in named]
    return list(dict.fromkeys(found))


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
        elif name and (isinstance(module, nn.Linear) or any(word in own_name for word in TRANSFORMER_WORDS)):
            transformer.append(name)
    return convolutional, transformer


def _module(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _is_within(parameter: str, modules: set[str]) -> bool:
    """Return whether a parameter lies anywhere below one of the modules."""
    parts = parameter.split(".")
    return any(".".join(parts[:depth]) in modules for depth in range(1, len(parts)))
