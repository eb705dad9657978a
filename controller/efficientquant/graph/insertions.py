"""The quantizers and modules between a node and its readers."""

from typing import TypeGuard

from torch import fx

from efficientquant.quantizers import CodeQuantizer


def is_inserted(node: object) -> TypeGuard[fx.Node]:
    """Tell whether a node is a module between two operators."""
    return isinstance(node, fx.Node) and node.op == "call_module" and len(node.args) == 1


def is_quantizer(graph: fx.GraphModule, node: object) -> bool:
    """Tell whether a node is an activation quantizer."""
    return is_inserted(node) and isinstance(graph.get_submodule(str(node.target)), CodeQuantizer)


def input_of(node: fx.Node) -> fx.Node:
    """Return the node that an inserted module reads."""
    (source,) = node.all_input_nodes
    return source


def source_of(node: fx.Node) -> fx.Node:
    """Return the operator that computes a node, skipping inserted modules."""
    while is_inserted(node):
        node = input_of(node)
    return node


def readers_of(node: fx.Node) -> list[fx.Node]:
    """Return the operators that read a node, skipping inserted modules."""
    readers: dict[fx.Node, None] = {}
    for user in node.users:
        readers |= dict.fromkeys(readers_of(user) if is_inserted(user) else [user])
    return list(readers)


def path_to(consumer: fx.Node, operand: int) -> list[fx.Node]:
    """Return the modules in front of an operand, in execution order."""
    path: list[fx.Node] = []
    node = consumer.args[operand]
    while is_inserted(node):
        path.append(node)
        node = input_of(node)
    return path[::-1]


def path_behind(source: fx.Node) -> list[fx.Node]:
    """Return the modules between a node and all of its readers.

    They are in execution order.
    """
    path: list[fx.Node] = []
    node = source
    while len(node.users) == 1 and is_inserted(reader := next(iter(node.users))):
        path.append(reader)
        node = reader
    return path


def find_quantizer(graph: fx.GraphModule, path: list[fx.Node]) -> fx.Node | None:
    """Return the quantizer of a path, or None."""
    return next((node for node in path if is_quantizer(graph, node)), None)


def operand_place(graph: fx.GraphModule, operand: fx.Node) -> fx.Node:
    """Return the node that the quantizer of an operand reads.

    Without a quantizer, this is the operand.
    """
    node = operand
    while is_inserted(node):
        if is_quantizer(graph, node):
            return input_of(node)
        node = input_of(node)
    return operand


def result_place(graph: fx.GraphModule, source: fx.Node) -> fx.Node:
    """Return the node that the quantizer of a node's result reads.

    Without a quantizer, this is the last module behind the node, or the node.
    """
    path = path_behind(source)
    quantizer = find_quantizer(graph, path)
    return input_of(quantizer) if quantizer is not None else [source, *path][-1]


def free_operand(graph: fx.GraphModule, consumer: fx.Node, operand: int) -> tuple[fx.Node, int]:
    """Detach an operand from its quantizer and return the operand to quantize.

    Returns a node and the index of its argument. The node is the first module behind the quantizer, or `consumer`.
    Other readers keep the quantizer. Raises ValueError when such a module has other readers too.
    """
    path = path_to(consumer, operand)
    quantizer = find_quantizer(graph, path)
    if quantizer is None:
        return consumer, operand
    behind = path[path.index(quantizer) + 1 :]
    shared = next((node for node in behind if len(node.users) > 1), None)
    if shared is not None:
        raise ValueError(
            f"{str(shared.target)!r} stands between the quantizer {str(quantizer.target)!r} and several readers; "
            f"quantize behind {source_of(shared).name!r} instead"
        )
    reader, position = (behind[0], 0) if behind else (consumer, operand)
    reader.update_arg(position, input_of(quantizer))
    if not quantizer.users:
        remove(graph, quantizer)
    return reader, position


def free_result(graph: fx.GraphModule, source: fx.Node) -> fx.Node:
    """Detach all readers of a node from their quantizers.

    Returns the node behind which the next quantizer goes.
    """
    place = result_place(graph, source)
    pending = list(place.users)
    while pending:
        node = pending.pop()
        if is_inserted(node):
            pending += node.users
            if is_quantizer(graph, node):
                remove(graph, node)
    return place


def remove(graph: fx.GraphModule, node: fx.Node) -> None:
    """Remove an inserted module and connect its readers to its input."""
    node.replace_all_uses_with(input_of(node))
    graph.graph.erase_node(node)
    delattr(graph, str(node.target))
