"""Reading of weights files without running their code.

The content of a file decides, not its name. A file without weights is refused with a sentence that says what it is.
"""

import pickle
import pickletools
import struct
import tarfile
import zipfile
import zlib
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from efficientquant.errors import CheckpointError

_SAVE_ADVICE = "save the weights alone: torch.save(model.state_dict(), FILE)"
_HEAD_BYTES = 4096
# The number that torch's legacy files begin with, as it is pickled.
_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Later protocols have instructions that torch's weights-only loading does not know.
_PROTOCOL = 2
# A legacy file is a sequence of pickles. The fourth holds the weights' names.
_LEGACY_PICKLES = 4
_READING_ERRORS = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, AssertionError, RuntimeError),
    *(
        MemoryError,
        OverflowError,
        struct.error,
        zlib.error,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        tarfile.TarError,
    ),
)
_STARTS = (
    (b"version https://git-lfs.github.com", "it is a Git LFS pointer, not the file itself; run 'git lfs pull'"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes them; export the weights from torch"),
    (b"GGUF", "it is a GGUF file; export the weights from torch"),
    (b"\x1f\x8b", "it is compressed with gzip; unpack it first"),
    (b"BZh", "it is compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "it is compressed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd; unpack it first"),
    (b"\x89PNG", "it is a picture"),
    (b"\xff\xd8\xff", "it is a picture"),
    (b"\x93NUMPY", "it is a single NumPy array; an .npz holds named ones"),
    (b"%PDF", "it is a PDF document"),
    (b"PK\x03\x04", "it is a zip archive that is cut off; copy it again"),
    (b"\x80", "it is a Python pickle that torch.save did not write; " + _SAVE_ADVICE),
)
_WEB_PAGE = "it is a web page, probably an error or a login; download the file again"


class _Inert:
    """A stand-in for an object of a training script.

    It accepts every field and does nothing.
    """

    def __init__(self, *fields: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _InertTable:
    """A stand-in for a training script's dictionary, such as Lightning's hyper-parameters."""

    def __new__(cls, *_fields: object) -> Any:
        """Return an ordinary dictionary, whatever the fields."""
        return OrderedDict()


class _InertRow:
    """A stand-in for a sequence of a training script."""

    def __new__(cls, *_fields: object) -> Any:
        """Return an ordinary list."""
        return []


_ROWS = frozenset({"collections.deque", "omegaconf.listconfig.ListConfig"})
_TABLES = frozenset(
    {
        "collections.defaultdict",
        "addict.addict.Dict",
        "easydict.EasyDict",
        "lightning.fabric.utilities.data.AttributeDict",
        "lightning.pytorch.utilities.parsing.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict",
        "mmengine.config.config.ConfigDict",
        "pytorch_lightning.utilities.parsing.AttributeDict",
        "timm.utils.misc.AttrDict",
        "yacs.config.CfgNode",
    }
)
_SETTINGS = frozenset(
    {
        *("argparse.Namespace", "types.SimpleNamespace", "decimal.Decimal", "fractions.Fraction", "uuid.UUID"),
        *("datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta", "datetime.timezone"),
        *("pathlib.Path", "pathlib.PosixPath", "pathlib.PurePath", "pathlib.PurePosixPath", "pathlib.WindowsPath"),
        *("pathlib.PureWindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
        *("numpy.dtype", "numpy.ndarray", "numpy.random._pickle.__randomstate_ctor", "typing.Any"),
        *(f"builtins.{name}" for name in ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "object")),
        *(f"builtins.{name}" for name in ("range", "slice", "str", "tuple")),
        *(
            f"{module}.multiarray.{name}"
            for module in ("numpy.core", "numpy._core")
            for name in ("_reconstruct", "scalar")
        ),
        "torch.torch_version.TorchVersion",
    }
)
# Everything that these packages put into a checkpoint is a setting, a metric or an optimizer's state.
_SETTING_PACKAGES = (
    *("numpy.dtypes.", "torch.optim.", "torch.distributed.", "torchmetrics.", "omegaconf.", "yacs.", "easydict."),
    *("addict.", "hydra.", "ml_collections.", "mmengine.", "mmcv.", "lightning.", "pytorch_lightning."),
    *("lightning_fabric.", "transformers.training_args", "transformers.trainer_", "accelerate.", "timm.optim."),
    *("timm.scheduler.", "timm.utils.", "timm.data."),
)


def read_checkpoint(path: Path) -> Any:
    """Return the nested dictionaries of tensors in a weights file.

    Objects of a training script are replaced by inert ones. Accepts safetensors, torch's zip and legacy formats, and
    .npz of named arrays, whatever the file is called. Raises CheckpointError, which says what the file is instead.
    """
    try:
        if path.is_dir():
            raise CheckpointError(path, "is a folder; pass the file with the weights in it")
        if not path.is_file():
            raise CheckpointError(path, "there is no such file")
        with path.open("rb") as file:
            return _read(path, file)
    except SafetensorError as error:
        raise CheckpointError(path, f"cannot be read as a safetensors file ({error}); copy it again") from error
    except _READING_ERRORS as error:
        # torch's own message advises letting the file run code.
        damaged = f"it is cut off or damaged; copy it again, or {_SAVE_ADVICE}"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else damaged
        raise CheckpointError(path, f"cannot be read: {reason}") from error


def _read(path: Path, file: BinaryIO) -> Any:
    head = file.read(_HEAD_BYTES)
    size = file.seek(0, 2)
    file.seek(0)
    if _is_safetensors(head, size):
        return dict(load_file(path))
    if zipfile.is_zipfile(file):
        return _read_zip(path, file)
    if head[:1] == b"\x80" and head[2:].startswith(_TORCH_MAGIC):
        names = _legacy_globals(path, file)
        _require_inert(path, names)
        return _load_torch(path, names)
    raise CheckpointError(path, f"cannot be read as weights: {_describe(head, size, path.suffix)}")


def _is_safetensors(head: bytes, size: int) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _read_zip(path: Path, file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
            raise CheckpointError(path, f"cannot be read as weights: it is a TorchScript program; {_SAVE_ADVICE}")
        if any(name.endswith("archive_format") for name in names):
            raise CheckpointError(path, f"cannot be read as weights: it is a program of torch.export; {_SAVE_ADVICE}")
        if names and all(name.endswith(".npy") for name in names):
            return _read_arrays(path)
        pickles = [name for name in names if name.endswith("data.pkl")]
        if not pickles:
            listed = ", ".join(names[:3]) or "nothing"
            raise CheckpointError(path, f"cannot be read as weights: it is a zip archive of {listed}")
        with archive.open(pickles[0]) as stream:
            names_inside = _globals(path, stream)
    _require_inert(path, names_inside)
    return _load_torch(path, names_inside)


def _read_arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored}


def _globals(path: Path, stream: Any) -> set[str]:
    """Return the full names of the classes and functions in a pickle.

    Nothing of the pickle is run. Raises CheckpointError for a protocol that torch's safe loading cannot read.
    """
    names: set[str] = set()
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            names.add(_modern(str(argument)))
        elif opcode.name == "PROTO" and argument != _PROTOCOL:
            problem = f"it was saved with pickle protocol {argument}; save it with torch.save's own, {_PROTOCOL}"
            raise CheckpointError(path, f"cannot be read safely: {problem}")
    return names


def _legacy_globals(path: Path, file: BinaryIO) -> set[str]:
    file.seek(0)
    return {name for _ in range(_LEGACY_PICKLES) for name in _globals(path, file)}


def _require_inert(path: Path, names: Collection[str]) -> None:
    """Raise CheckpointError for names of code that is not allowed.

    These are the classes of a whole pickled model, and anything else without a stand-in.
    """
    foreign = sorted(name for name in names if not _is_torchs(name) and _stand_in(name) is None)
    models = [name for name in foreign if _is_module(name)]
    if models:
        kind = next((name for name in models if ".models." in name), "torch.nn.Module")
        raise CheckpointError(path, f"cannot be read as weights: it is a whole pickled model ({kind}); {_SAVE_ADVICE}")
    if foreign:
        listed = ", ".join(foreign[:3])
        raise CheckpointError(
            path, f"cannot be read safely: it asks to run {listed}, which is no weight; {_SAVE_ADVICE}"
        )


def _is_torchs(name: str) -> bool:
    """Tell whether torch's weights-only loading knows the name by itself."""
    return name in torch._weights_only_unpickler._get_allowed_globals()


def _is_module(name: str) -> bool:
    packages = ("torch.nn.modules.", "timm.models.", "timm.layers.", "torchvision.models.")
    return name.startswith(packages)


def _modern(name: str) -> str:
    """Return the Python 3 name of a pickled class or function.

    A pickle of protocol 2 has the Python 2 name, with a space before the member.
    """
    module, _, member = name.partition(" ")
    module, member = NAME_MAPPING.get((module, member), (IMPORT_MAPPING.get(module, module), member))
    return f"{module}.{member}"


def _stand_in(name: str) -> type | None:
    """Return the stand-in for a training script's class.

    Returns None for a name that is not allowed.
    """
    if name in _TABLES:
        return _InertTable
    if name in _ROWS:
        return _InertRow
    if name in _SETTINGS or name.startswith(_SETTING_PACKAGES):
        return _Inert
    return None


def _load_torch(path: Path, names: Collection[str]) -> Any:
    stand_ins = {name: _stand_in(name) for name in names if not _is_torchs(name)}
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (kind, name) for name, kind in stand_ins.items() if kind is not None
    ]
    # With a path that ends in .safetensors, torch would not look at the content.
    with torch.serialization.safe_globals(allowed), path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def _describe(head: bytes, size: int, suffix: str) -> str:
    """Describe a file that holds no weights."""
    if size == 0:
        return "it is empty"
    for start, description in _STARTS:
        if head.startswith(start):
            return description
    if head[8:9] == b"{":
        return "it is a safetensors file that is cut off; copy it again"
    if head[257:262] == b"ustar":
        return "it is a tar archive; unpack it and pass the file inside"
    if head[4:8] == b"TFL3":
        return "it is a TensorFlow Lite model; export the weights from torch"
    if suffix.lower() == ".onnx" or (head[:1] == b"\x08" and head[2:3] in b"\x12\x1a\x22\x2a\x3a\x42"):
        return "it is an ONNX model, which 'efficientquant check' takes; pass the checkpoint that it was exported from"
    text = _as_text(head)
    if text is not None and text.lstrip().lower().startswith(("<!doctype html", "<html")):
        return _WEB_PAGE
    if text is not None:
        return f"it is a text file{_json_hint(text)}; pass a .safetensors, .pth or .pt file"
    return "its format is not known, or it is damaged; pass a .safetensors, .pth or .pt file"


def _json_hint(text: str) -> str:
    if not text.lstrip().startswith("{"):
        return ""
    return " that lists the parts of a checkpoint" if '"weight_map"' in text else " in JSON"


def _as_text(head: bytes) -> str | None:
    try:
        text = head.decode("utf-8", errors="strict" if len(head) < _HEAD_BYTES else "ignore")
    except UnicodeDecodeError:
        return None
    return text if all(character.isprintable() or character.isspace() for character in text) else None
