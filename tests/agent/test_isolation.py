"""The tests of an agent on a device without runtimes."""

import pkgutil
import subprocess
import sys

import efficientquant_agent

BLOCKED = (
    "numpy",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "tensorrt_rtx_bindings",
    "pycuda",
    "psutil",
    "torch",
    "onnx",
    "efficientquant",
)


def run_without_runtimes(code):
    """Run code in a new interpreter without runtimes, and return its output."""
    block = "import sys; sys.modules.update(dict.fromkeys({!r}))\n".format(BLOCKED)
    return subprocess.check_output([sys.executable, "-W", "error", "-c", block + code], universal_newlines=True)


def test_every_module_imports_without_runtimes():
    """Every agent module imports without numpy and without any runtime."""
    names = [
        module.name
        for module in pkgutil.walk_packages(efficientquant_agent.__path__, "efficientquant_agent.")
        if not module.name.endswith("__main__")
    ]
    assert "efficientquant_agent.backends.ort" in names

    printed = run_without_runtimes("import importlib; print(len([importlib.import_module(n) for n in %r]))" % names)

    assert int(printed) == len(names)


def test_device_without_runtimes():
    """A device without any runtime has no backend, which is not an error."""
    printed = run_without_runtimes(
        "from efficientquant_agent.backends.__main__ import find_runtimes; f = find_runtimes();"
        "print(f['backends'], f['broken'], list(f['library_versions']))"
    )

    assert printed.strip() == "[] [] ['python']"


def test_only_the_client_knows_the_wire():
    """Only client.py and messages.py import grpc or the protos."""
    printed = run_without_runtimes(
        "import efficientquant_agent.child.measure, efficientquant_agent.run.runner,"
        "efficientquant_agent.link.artifacts, efficientquant_agent.link.outbox,"
        "efficientquant_agent.link.delivery, efficientquant_agent.link.room,"
        "efficientquant_agent.host.device, efficientquant_agent.config;"
        "print([name for name in ('grpc', 'google.protobuf', 'efficientquant_protos') if name in sys.modules])"
    )

    assert printed.strip() == "[]"
