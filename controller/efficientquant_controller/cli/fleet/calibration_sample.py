"""The images to calibrate on, packed for the upload.

From a folder, only as many images are packed as calibration uses.
"""

import zipfile
from pathlib import Path

from efficientquant.images.data import open_images
from efficientquant.models import InputSpec

from efficientquant_controller.cli import output
from efficientquant_controller.errors import UserError

# The drawn files do not depend on the model, so any input with three channels works.
_ANY_MODEL = InputSpec(shape=(3, 224, 224), interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0)
# A file's own date would give equal samples different hashes.
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def pack_images(path: Path, folder: Path, count: int) -> Path:
    """Return the file to upload for `path`.

    An .npz is uploaded as it is. From a folder, `count` images are packed into a .zip inside `folder`. From the root of
    a data set, they are of the training split. The same images give the same bytes. Raises the library's DataError for
    a path without images and for an image that cannot be decoded, and UserError for a file that cannot be read.
    """
    if path.suffix == ".npz" and path.is_file():
        return path
    images = open_images(path, _ANY_MODEL, split="train").sample(count)
    for _ in images.batches():  # report a file that cannot be decoded before the upload
        pass
    for note in images.notes():
        output.print_message(f"note: {note}")
    packed = folder / f"{path.resolve().name}.zip"
    root = path / images.split if images.split else path
    with zipfile.ZipFile(packed, "w") as archive:
        for index in images.indices:
            name = images.source.names[index]
            archive.writestr(zipfile.ZipInfo(name, _NO_DATE), _read(root / name))
    return packed


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"the image {path} cannot be read: {error.strerror}") from error
