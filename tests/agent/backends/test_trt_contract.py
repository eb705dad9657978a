"""The tests of the TensorRT backend's source against each release's API."""

from pathlib import Path

import efficientquant_agent.backends
import pytest
from real_parts import tensorrt_rtx
from trt_api import ALLOWED, MODULE_ATTRIBUTES, RELEASES, RTX, api_of, in_table
from trt_walk import Walk

FOLDER = Path(efficientquant_agent.backends.__file__).parent
# The names that are our own objects in each file, not TensorRT's.
FILES = {"trt.py": ("error",), "trt_building.py": (), "trt_running.py": ("tensor", "error"), "trt_log.py": ()}
NANO, TEN = RELEASES[0], RELEASES[5]


def module_and_classes(release):
    api = api_of(release)
    return dict(api, **{"the module": set(api) | set(MODULE_ATTRIBUTES)})


def wrong_in(source, release, not_tensorrt=()):
    return Walk([source], module_and_classes(release), not_tensorrt).wrong()


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", sorted(FILES))
def test_every_attribute_exists_on_the_way(name, release):
    """Along a release's branches, every TensorRT attribute in the source exists in that release."""
    assert wrong_in((FOLDER / name).read_text(), release, FILES[name]) == []


def test_the_walk_sees_the_backend():
    """The walk finds each API's own functions in its releases, and only there."""
    source = (FOLDER / "trt_running.py").read_text()
    old, new = (Walk([source], module_and_classes(release), ("tensor", "error")) for release in (NANO, TEN))

    assert ("IExecutionContext", "execute_async_v2") in old.touched - new.touched
    assert ("IExecutionContext", "execute_async_v3") in new.touched - old.touched
    assert ("ICudaEngine", "num_bindings") in old.touched - new.touched
    assert len(old.touched) > 15


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("def f(config): config.make_faster()", ["IBuilderConfig.make_faster"]),
        ("def f(trt): return trt.BuilderFlag.FASTER", ["BuilderFlag.FASTER"]),
        ("def f(trt): return trt.make_faster()", ["the module.make_faster"]),
        ("class A:\n def f(self): return self._engine.num_bindings", ["ICudaEngine.num_bindings"]),
        ("def f(engine):\n if hasattr(engine, 'num_bindings'): return engine.num_bindings", []),
        ("def f(engine):\n if not hasattr(engine, 'fast'): return 0\n return engine.fast", []),
        ("def f(engine): return hasattr(engine, 'fast') and engine.fast", []),
        ("def f(engine): return engine.fast if hasattr(engine, 'name') else 0", ["ICudaEngine.fast"]),
        ("def f(engine): return 1\ndef _g(engine): return engine.fast", []),
        ("def f(engine): return _g(engine)\ndef _g(engine): return engine.fast", ["ICudaEngine.fast"]),
    ],
)
def test_what_does_not_exist_is_caught(source, wrong):
    """An attribute that the release does not have is reported, unless a condition excludes the release."""
    assert wrong_in(source, TEN) == wrong


def test_the_table_is_not_contradicted():
    """An attribute that is allowed outside the table has no row in it."""
    table = in_table()

    assert [
        (name, attribute)
        for name, (attributes, _) in ALLOWED.items()
        for attribute in attributes
        if attribute in table.get(name, ())
    ] == []


def test_allowed_attributes_exist_in_the_real_module():
    """The real TensorRT-RTX has every attribute that the stub of its release has."""
    trt = tensorrt_rtx()

    missing = [
        "{}.{}".format(name, attribute)
        for name, attributes in api_of(RTX).items()
        for attribute in attributes
        if not hasattr(getattr(trt, name), attribute)
    ]
    assert missing == []
    assert [attribute for attribute in MODULE_ATTRIBUTES if not hasattr(trt, attribute)] == []
