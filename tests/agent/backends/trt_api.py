"""Which attribute of the TensorRT Python API exists in which release: the table, and what we use beside it."""

import csv
from pathlib import Path

TABLE = Path(__file__).parent.parent.parent / "fixtures" / "tensorrt_api.csv"

with TABLE.open() as _stream:
    _ROWS = list(csv.DictReader(_stream))
RELEASES = [column for column in _ROWS[0] if column != "api"]
RTX = RELEASES[-1]
_SINCE_8_5 = RELEASES[2:]

# Attributes outside the table, from NVIDIA's Python API reference of each release; RTX's are checked against the
# real module. The third column says in which releases; None is all of them.
ALLOWED = {
    "Builder": (("create_network", "create_builder_config"), None),
    "IBuilderConfig": (("set_flag", "clear_flag"), None),
    "INetworkDefinition": (("num_inputs", "get_input"), None),
    "ILayer": (("name", "type", "num_inputs", "num_outputs", "get_input", "get_output", "set_input"), None),
    "ITensor": (("name", "dtype", "shape"), None),
    "LayerType": (("QUANTIZE", "DEQUANTIZE", "CONSTANT", "CONVOLUTION"), None),
    "DataType": (("FLOAT", "HALF", "INT8", "INT32", "BOOL"), None),
    "ILogger": (("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"), None),
    "OnnxParser": (("num_errors", "get_error"), None),
    "ParserError": (("code", "desc"), None),
    "ErrorCode": (("UNSUPPORTED_NODE", "INVALID_GRAPH"), None),
    "TensorIOMode": (("INPUT", "OUTPUT"), _SINCE_8_5),
    "ComputeCapability": (("NONE", "CURRENT", "SM75", "SM80", "SM86", "SM89", "SM120", "SM121"), [RTX]),
}
# From which release on the parser's errors name the node themselves.
NAMED_ERRORS = RELEASES[4:]
MODULE_ATTRIBUTES = ("__version__", "init_libnvinfer_plugins")


def _allowed(release):
    found = {}
    for name, (attributes, releases) in ALLOWED.items():
        if releases is None or release in releases:
            found[name] = set(attributes)
    if release in NAMED_ERRORS:
        found["ParserError"] |= {"node_name", "node_operator"}
    return found


def api_of(release):
    """Return {class: attributes} of a release: the table's "yes", and what is allowed beside it."""
    classes = _allowed(release)
    for row in _ROWS:
        name, attribute = row["api"].split(".")
        if row[release] != "no-class":
            classes.setdefault(name, set())
        if row[release] == "yes":
            classes[name].add(attribute)
    return classes


def in_table():
    """Return {class: attributes} of everything that the table has a row for."""
    classes = {}
    for row in _ROWS:
        name, attribute = row["api"].split(".")
        classes.setdefault(name, set()).add(attribute)
    return classes
