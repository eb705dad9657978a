"""The arrows between packages and inside them, and the limits of files."""

import ast
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {
    "efficientquant": ROOT / "controller/efficientquant",
    "efficientquant_controller": ROOT / "controller/efficientquant_controller",
    "efficientquant_agent": ROOT / "agent/efficientquant_agent",
    "efficientquant_protos": ROOT / "protos/efficientquant_protos",
}
ARROWS = {
    "efficientquant": set(),
    "efficientquant_controller": {"efficientquant", "efficientquant_protos"},
    "efficientquant_agent": {"efficientquant_protos"},
    "efficientquant_protos": set(),
}
# The wings of each package, the lowest first: a module imports its own wing and those below it. A name is a folder, or
# a module that stands next to the folders. Names on one line do not import each other.
LAYERS = {
    "efficientquant": (
        {"errors", "options"},
        {"option_values", "primitives", "targets", "checkpoints", "files"},
        {"quantizers", "softmax_quantizers", "observers", "installation", "models"},
        {"graph", "images", "emulated"},
        {"sites"},
        {"bits", "workbench"},
        {"search"},
        {"recipe"},
        {"methods", "quantization"},
        {"lowering"},
        {"artifact"},
        {"verdicts", "evaluation"},
        {"checking", "plots", "paper"},
        {"__init__"},
    ),
    "efficientquant_controller": (
        {"__init__", "errors", "model", "columns"},
        {"bounds", "database_location", "analysis"},
        {"addresses"},
        {"config"},
        {"store"},
        {"fleet"},
        {"server"},
        {"cli"},
    ),
    "efficientquant_agent": (
        {"records", "errors", "versions", "digests", "openblas", "files"},
        {"__init__", "protocol", "state", "streams", "samplers"},
        {"address", "command_line", "link"},
        {"config"},
        {"host"},
        {"backends"},
        {"child", "run", "doctor"},
        {"daemon"},
        {"__main__"},
    ),
}
# The verbs of the command line: what they share, then tables of results, which the others print.
CLI_LAYERS = ({""}, {"tables"}, {"results"}, {"fleet", "library"})
MOST_FILES = 16
# Wire types stop at the seam.
MAY_IMPORT_PROTOS = {"client.py", "messages.py", "server", "connection.py", "convert.py"}
WITHOUT_CIRCLES = tuple(SOURCES)
VAGUE = {"utils.py", "util.py", "common.py", "helpers.py", "helper.py", "misc.py", "manager.py"}


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def import_graph(root: Path) -> dict[str, set[str]]:
    """Return the modules of the same package that each module imports.

    Imports inside functions count. A name imported from a package is its submodule if there is one, and the package
    itself otherwise.
    """
    modules = {".".join(path.relative_to(root.parent).with_suffix("").parts): path for path in root.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    return {
        name: {imported for imported in imported_names(name, path, modules.keys()) if imported in modules}
        for name, path in modules.items()
    }


def imported_names(module: str, path: Path, modules: Collection[str]) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            names = [f"{source}.{alias.name}" for alias in node.names]
            yield from (name if name in modules else source for name in names)


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected components of more than one module."""
    reached = {name: reachable(graph, name) for name in graph}
    components = {name: frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    return [set(component) for component in set(components.values()) if len(component) > 1]


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    pending = [start]
    while pending:
        new = graph[pending.pop()] - reached
        reached |= new
        pending += new
    return reached


def sources() -> list[Path]:
    return [path for root in SOURCES.values() for path in root.rglob("*.py")]


@pytest.mark.parametrize("package", SOURCES)
def test_packages_import_each_other_along_three_arrows_only(package: str) -> None:
    """The controller uses the library and the protos, the agent the protos, and nothing else."""
    for path in SOURCES[package].rglob("*.py"):
        ours = {name.split(".")[0] for name in imports_of(path)} & SOURCES.keys()
        assert ours <= ARROWS[package] | {package}, path


@pytest.mark.parametrize("package", LAYERS)
def test_every_wing_has_a_layer(package: str) -> None:
    """LAYERS name each folder and each module of a package, and nothing else."""
    listed = sorted(name for layer in LAYERS[package] for name in layer)
    names = {wing_of(package, module) for module in import_graph(SOURCES[package])}
    assert listed == sorted(names)


@pytest.mark.parametrize("package", LAYERS)
def test_arrows_inside_a_package_go_down(package: str) -> None:
    """A module imports its own wing and lower ones only."""
    height = {name: at for at, layer in enumerate(LAYERS[package]) for name in layer}
    assert upward_arrows(package, height) == []


def test_shared_modules_import_no_verb() -> None:
    """The modules that verbs share import no verb."""
    root = SOURCES["efficientquant_controller"] / "cli"
    height = {name: at for at, layer in enumerate(CLI_LAYERS) for name in layer}
    for path in root.rglob("*.py"):
        wing = path.parent.name if path.parent != root else ""
        for name in imported_names("", path, ()):
            inner = name.removeprefix("efficientquant_controller.cli.").split(".")[0]
            if name.startswith("efficientquant_controller.cli.") and inner in height and inner != wing:
                assert height[inner] < height[wing], f"{path} imports {name}"


@pytest.mark.parametrize("root", [*SOURCES.values(), ROOT / "tests"], ids=lambda root: root.name)
def test_no_folder_has_more_files_than_one_can_overlook(root: Path) -> None:
    """A folder holds at most 16 files that a person writes."""
    folders = {path.parent for path in root.rglob("*.py")}
    counts = {str(folder): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


def wing_of(package: str, module: str) -> str:
    """Return the folder of a module, else its own name, else `__init__` for the package."""
    return module.removeprefix(package).strip(".").split(".")[0] or "__init__"


def upward_arrows(package: str, height: Mapping[str, int]) -> list[str]:
    """Return the imports that lead to a wing of the same height or above, but for the package's own version."""
    arrows = []
    for module, imported in import_graph(SOURCES[package]).items():
        wing = wing_of(package, module)
        for other in imported:
            to = wing_of(package, other)
            if to not in (wing, "__init__") and height[to] >= height[wing]:
                arrows.append(f"{module} → {other}")
    return sorted(arrows)


@pytest.mark.parametrize("package", WITHOUT_CIRCLES)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    """The imports of a package form no circle, those for type checking included."""
    assert circles(import_graph(SOURCES[package])) == []


def test_a_circle_of_imports_is_found() -> None:
    """Modules that reach each other form one component."""
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}
    assert circles(graph) == [{"a", "b", "c"}]


def test_wire_types_stop_at_the_seam() -> None:
    """Only the clients, the server and the converters import the messages."""
    for package in ("efficientquant_controller", "efficientquant_agent"):
        for path in SOURCES[package].rglob("*.py"):
            if any(name.startswith("efficientquant_protos.v1") for name in imports_of(path)):
                assert {path.name, path.parent.name} & MAY_IMPORT_PROTOS, path


def test_only_builds_uses_the_library() -> None:
    """In the fleet, only builds and the command line import the library.

    Every module may name how an extra is installed.
    """
    for path in SOURCES["efficientquant_controller"].rglob("*.py"):
        names = [name for name in imports_of(path) if name != "efficientquant.installation"]
        if any(name.split(".")[0] == "efficientquant" for name in names):
            assert path.name == "builds.py" or "cli" in path.parts, path


def test_the_agent_needs_no_library_of_the_controller() -> None:
    """torch, onnx and SQLAlchemy are not imported anywhere on the device."""
    forbidden = {"torch", "timm", "onnx", "sqlalchemy", "alembic", "typer", "rich"}
    for path in SOURCES["efficientquant_agent"].rglob("*.py"):
        assert not {name.split(".")[0] for name in imports_of(path)} & forbidden, path


def test_no_file_has_a_name_that_says_nothing() -> None:
    """A file is named after what lives in it, and never like a library it could shadow."""
    for path in sources():
        assert path.name not in VAGUE, path
        assert path.stem not in {"onnx", "torch", "timm", "grpc", "tensorrt", "pynvml", "sqlalchemy"}, path


def test_no_source_file_is_too_long_to_read() -> None:
    """No file that a person writes has more than 400 lines."""
    written = [path for path in sources() if "_pb2" not in path.name]
    assert {str(path): count for path in written if (count := len(path.read_text().splitlines())) > 400} == {}


def test_only_the_outermost_loops_may_catch_everything() -> None:
    """Only the outermost loops of agent and controller catch every exception, since that hides bugs."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler) and path.name not in {"daemon.py", "owner.py"}:
                caught = ast.unparse(node.type) if node.type else "everything"
                assert caught not in {"everything", "Exception", "BaseException"}, f"{path}:{node.lineno}"


def test_the_agent_names_every_encoding() -> None:
    """Text files are UTF-8 on a device without a locale too, where Python 3.6 would take them for ASCII."""
    for path in SOURCES["efficientquant_agent"].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"open", "os.fdopen"}:
                modes = [value.value for value in node.args[1:] if isinstance(value, ast.Constant)]
                is_binary = any("b" in str(mode) for mode in modes)
                assert is_binary or any(word.arg == "encoding" for word in node.keywords), f"{path}:{node.lineno}"


@pytest.mark.parametrize(("importing", "imported"), [("run", "child"), ("child", "run")])
def test_parent_and_child_share_the_protocol_only(importing: str, imported: str) -> None:
    """Neither side of a run imports the other: what they agree on stands in protocol.py."""
    package = "efficientquant_agent"
    for module, others in import_graph(SOURCES[package]).items():
        if wing_of(package, module) == importing:
            assert imported not in {wing_of(package, other) for other in others}, module
