"""Which TensorRT attributes a piece of source touches in a release, along the branches that it would take there."""

import ast

# How the backend names what it holds, without leading underscores; everything else is not TensorRT's.
CLASS_OF = {
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "dequantize": "ILayer",
    "engine": "ICudaEngine",
    "error": "ParserError",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "quantize": "ILayer",
    "runtime": "Runtime",
    "tensor": "ITensor",
}


class Walk:
    """The functions of some modules, and the attributes that a release's way through them touches."""

    def __init__(self, sources, api, not_tensorrt=()):
        self._api = api
        self._not_tensorrt = set(not_tensorrt)
        self._functions = {}
        entries = []
        for source in sources:
            for node in ast.parse(source).body:
                inner = node.body if isinstance(node, ast.ClassDef) else [node]
                for function in inner:
                    if isinstance(function, ast.FunctionDef):
                        self._functions.setdefault(function.name, []).append(function)
                        if not function.name.startswith("_") or function.name == "__init__":
                            entries.append(function.name)
        self.touched = set()
        self.reached = set()
        self._pending = entries
        while self._pending:
            name = self._pending.pop()
            if name not in self.reached:
                self.reached.add(name)
                for function in self._functions[name]:
                    self._statements(function.body)

    def wrong(self):
        """Return what is touched and does not exist in the release, sorted."""
        return sorted(
            "{}.{}".format(name, attribute)
            for name, attribute in self.touched
            if attribute not in self._api.get(name, ())
        )

    def _statements(self, statements):
        for statement in statements:
            if isinstance(statement, ast.If):
                holds = self._truth(statement.test)
                self._visit(statement.test)
                if holds is not False:
                    self._statements(statement.body)
                if holds is not True:
                    self._statements(statement.orelse)
                if holds is True and isinstance(statement.body[-1], (ast.Return, ast.Raise, ast.Continue)):
                    return
            else:
                self._visit(statement)

    def _visit(self, node):
        if isinstance(node, ast.IfExp):
            holds = self._truth(node.test)
            self._visit(node.test)
            for branch, taken in ((node.body, holds is not False), (node.orelse, holds is not True)):
                if taken:
                    self._visit(branch)
            return
        if isinstance(node, ast.BoolOp):
            decisive = isinstance(node.op, ast.Or)
            for value in node.values:
                self._visit(value)
                if self._truth(value) is decisive:
                    return
            return
        if isinstance(node, ast.Attribute):
            self._touch(node)
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in self._functions:
                self._pending.append(name)
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                self._statements(value)
            elif isinstance(value, list):
                for one in value:
                    if isinstance(one, ast.AST):
                        self._visit(one)
            elif isinstance(value, ast.AST):
                self._visit(value)

    def _touch(self, node):
        name = self._class_of(node.value)
        if name == "the module":
            self.touched.add(("the module", node.attr))
        elif name is not None:
            self.touched.add((name, node.attr))

    def _class_of(self, node):
        """Return the class of what an expression holds, "the module" for `trt` itself, None for what is not its."""
        if isinstance(node, ast.Attribute) and self._class_of(node.value) == "the module":
            return node.attr
        if isinstance(node, ast.Attribute) and not isinstance(node.value, ast.Name):
            return None
        held = node.attr if isinstance(node, ast.Attribute) and node.value.id == "self" else getattr(node, "id", "")
        held = held.lstrip("_")
        if held == "trt":
            return "the module"
        return None if held in self._not_tensorrt else CLASS_OF.get(held)

    def _truth(self, test):
        """Return whether a condition holds in this release, None where that depends on anything else."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            holds = self._truth(test.operand)
            return None if holds is None else not holds
        if isinstance(test, ast.BoolOp):
            parts = [self._truth(value) for value in test.values]
            decisive = isinstance(test.op, ast.Or)
            if decisive in parts:
                return decisive
            return None if None in parts else not decisive
        if isinstance(test, ast.Call) and getattr(test.func, "id", "") == "hasattr":
            name, attribute = self._class_of(test.args[0]), test.args[1]
            literal = getattr(attribute, "value", getattr(attribute, "s", None))
            if name is not None and isinstance(literal, str):
                return literal in self._api.get(name, ())
        return None
