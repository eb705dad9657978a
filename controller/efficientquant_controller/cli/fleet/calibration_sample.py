"""Images to calibrate on, packed for the upload: of a folder only as many as calibration looks at."""

import zipfile
from pathlib import Path

from efficientquant.images.data import open_images
from efficientquant.models import InputSpec

from efficientquant_controller.cli import output
from efficientquant_controller.errors import UserError

SAMPLE_IMAGES = 32
# Which files are drawn does not depend on what a model makes of them; three channels of any size will do.
_ANY_MODEL = InputSpec(shape=(3, 224, 224), interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0)
# A file's own date would give equal samples different hashes.
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def pack_images(path: Path, folder: Path) -> Path:
    """The file to upload for `path`: an .npz is that file itself; of a folder, 32 images in a .zip inside `folder`.

    Of a data set's root the training split is taken. The same images give the same bytes. Raises the library's
    DataError for what holds no images or one that cannot be decoded, and UserError for a file that cannot be read.
    """
    if path.suffix == ".npz" and path.is_file():
        return path
    images = open_images(path, _ANY_MODEL, split="train").sample(SAMPLE_IMAGES)
    for _ in images.batches():  # a file that no model can take is named here, and not after the upload
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
