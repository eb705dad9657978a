"""Checks of paths that a user gives, made before torch is imported."""

import os
import zipfile
from pathlib import Path

from efficientquant.errors import ArtifactFileError, CheckpointError, DataError, PictureError

NAMED_WEIGHTS = ("pretrained", "random")
PICTURE_SUFFIXES = (".png", ".svg")
IMAGE_SUFFIXES = frozenset(
    {
        *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
        *(".tif", ".tiff", ".webp"),
    }
)
CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".pth.tar", ".bin", ".ckpt", ".npz")
# Protobuf writes and reads no larger message, and every runtime here gets the model as one.
MAX_ARTIFACT_BYTES = (1 << 31) - 1
_HEAD_BYTES = 256
_LFS_POINTER = b"version https://git-lfs"
_OTHER_KINDS = (
    (_LFS_POINTER, "a git-lfs pointer; 'git lfs pull' gets the file itself"),
    (b"PK", "a zip file such as PyTorch's .pt; 'efficientquant quantize' makes an ONNX file of a model"),
    (b"\x80\x02", "a pickle such as PyTorch's old .pth; 'efficientquant quantize' makes an ONNX file of a model"),
    (b"<", "a web page or XML; download the file again"),
)


def require_images(path: Path | None) -> None:
    """Raise DataError unless a path can hold images.

    It can be a folder that holds an image, or an .npz. None is not checked.
    """
    if path is None:
        return
    if os.path.isdir(path):
        _require_image_inside(path)
    elif not os.path.exists(path):
        raise DataError(path, "there is no such file or folder")
    elif path.suffix != ".npz":
        raise DataError(path, "is neither a folder of images nor an .npz file")
    elif not os.path.isfile(path) or not zipfile.is_zipfile(path):
        raise DataError(path, "is not an .npz file, whatever its name says; write one with numpy.savez")


def require_weights(weights: str) -> None:
    """Raise CheckpointError unless weights are pretrained, random, or a readable file."""
    if weights in NAMED_WEIGHTS:
        return
    path = Path(weights)
    if not weights:
        raise CheckpointError(path, "no name is given; give a file, or pass pretrained or random")
    if os.path.isdir(path):
        raise CheckpointError(path, "is a folder; give a file (.safetensors, .pth, .pt)")
    if not os.path.exists(path):
        raise CheckpointError(path, "there is no such file; give one, or pass pretrained or random")
    if not os.path.isfile(path):
        raise CheckpointError(path, "is not a regular file; give one (.safetensors, .pth, .pt)")
    if not os.access(path, os.R_OK):
        raise CheckpointError(path, "may not be read by you")
    if os.path.getsize(path) == 0:
        raise CheckpointError(path, "is empty; copy or download it again")


def checkpoint_of(weights: str, model: str) -> str | Path:
    """Return a model's checkpoint in a folder.

    `pretrained` and `random` are returned as they are. Raises CheckpointError where the folder or the file is missing.
    """
    if weights in NAMED_WEIGHTS:
        return weights
    folder = Path(weights)
    if not os.path.isdir(folder):
        raise CheckpointError(folder, "there is no such folder; give one that holds MODEL.safetensors for each model")
    for suffix in CHECKPOINT_SUFFIXES:
        if os.path.isfile(folder / f"{model}{suffix}"):
            return folder / f"{model}{suffix}"
    raise CheckpointError(
        folder / f"{model}.safetensors",
        f"there is no such file, nor .pth or .pt (or {', '.join(CHECKPOINT_SUFFIXES[3:])}); --models can leave it out",
    )


def picture_paths(out: Path, name: str) -> list[Path]:
    """Return the files to write for a picture.

    These are `out` itself, or NAME.png and NAME.svg where it is a folder. Raises PictureError for another suffix.
    """
    if out.suffix in PICTURE_SUFFIXES:
        paths = [out]
    elif not out.suffix or out.is_dir():
        paths = [out / f"{name}{suffix}" for suffix in PICTURE_SUFFIXES]
    else:
        raise PictureError(out, f"can end in {' or '.join(PICTURE_SUFFIXES)}, or be a folder that gets both")
    return paths


def require_artifact(path: Path) -> None:
    """Raise ArtifactFileError unless a path may be an ONNX file.

    Its size and first bytes decide.
    """
    if os.path.isdir(path):
        inside = sorted(name for name in os.listdir(path) if name.endswith(".onnx"))
        hint = f", for example {path / inside[0]}" if inside else ""
        raise ArtifactFileError(path, f"is a directory; give an .onnx file{hint}")
    if not os.path.exists(path):
        raise ArtifactFileError(path, "there is no such file")
    if not os.path.isfile(path):
        raise ArtifactFileError(path, "is not a regular file; give an .onnx file")
    size_bytes = os.path.getsize(path)
    if size_bytes == 0:
        raise ArtifactFileError(path, "is not an ONNX file: it is empty")
    if size_bytes > MAX_ARTIFACT_BYTES:
        limit = "an ONNX file ends at 2 GiB, and up to that can be checked, external data included"
        raise ArtifactFileError(path, f"has {format_gib(size_bytes)}; {limit}")
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise ArtifactFileError(path, f"cannot be read ({error.strerror})") from error
    for start, kind in _OTHER_KINDS:
        if head.startswith(start):
            raise ArtifactFileError(path, f"is not an ONNX file but {kind}")


def starts_like_lfs(path: Path) -> bool:
    """Tell whether a file is a git-lfs pointer."""
    with path.open("rb") as stream:
        return stream.read(len(_LFS_POINTER)) == _LFS_POINTER


def _require_image_inside(folder: Path) -> None:
    try:
        empty = not os.listdir(folder)
    except OSError as error:
        raise DataError(folder, f"cannot be read ({error.strerror})") from error
    if empty:
        raise DataError(folder, "is an empty folder; give one that holds images")
    names = (name for _, _, files in os.walk(folder, followlinks=True) for name in files)
    if not any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names):
        raise DataError(folder, f"holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")


def format_gib(size_bytes: int) -> str:
    """Return a size in GiB with two digits."""
    return f"{size_bytes / 2**30:.2f} GiB"
