"""Image files decoded to 8-bit pictures.

Every pixel format that Pillow reads is converted, or refused where its numbers are ambiguous.
"""

import io
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from efficientquant.errors import DataError

# Some of Pillow's readers start other programs (EPS) or are for network formats. Pictures need neither.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
# Formats whose integers of more than eight bits always use the whole range of 16.
_SIXTEEN_BIT_FORMATS = frozenset({"JPEG2000", "PNG", "PPM"})
_DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, MemoryError, OverflowError, RuntimeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO = 0
_SIGNED = 2
_MAX_16 = (1 << 16) - 1
_MAX_12 = (1 << 12) - 1
# With a smaller maximum, a 32-bit image would be black if it used its type's whole range, so it must use another one.
_LEAST_32 = 1 << 24
_FLOAT_TOLERANCE = 1e-3

# Python's warning filters belong to the whole process, and pictures are read in several threads.
_filter_lock = threading.Lock()


def read_picture(path: Path, content: bytes, mode: str) -> tuple[Image.Image, list[str]]:
    """Return a file's upright picture and notes about it.

    The picture has mode "L" or "RGB". 16-bit images use 0…65535, float images 0…1, 32-bit integers 0…65535 or their
    type's whole range. Transparency is dropped, as timm does. Raises DataError, naming the file, if it cannot be
    decoded or if its numbers are ambiguous.
    """
    try:
        with _open(content) as image:
            notes = [f"{path.name} holds several pictures: the first is taken"] if _is_sequence(image) else []
            eight_bits, level_notes = _to_eight_bits(path, image)
            picture = eight_bits.convert(mode)
    except UnidentifiedImageError:
        raise DataError(path, "is no image that can be decoded") from None
    except _DECODING_ERRORS as error:
        raise DataError(path, f"cannot be decoded ({error or type(error).__name__})") from error
    return picture, notes + level_notes


def is_uniform(picture: Image.Image) -> bool:
    """Tell whether all pixels of an 8-bit picture are equal."""
    extrema = picture.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in bands)


def _open(content: bytes) -> Image.Image:
    """Decode an image and turn it as its EXIF orientation says."""
    Image.init()
    with _filter_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large images and broken metadata do not matter here
        image = Image.open(io.BytesIO(content), formats=[name for name in _FORMATS if name in Image.OPEN])
        try:
            turned = image.getexif().get(0x0112, 1) not in (0, 1)
        except _DECODING_ERRORS:
            turned = False
    image.load()
    if turned and image.format != "TIFF":  # Pillow turns TIFF files by itself
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _is_sequence(image: Image.Image) -> bool:
    # Cameras add previews and depth maps to a JPEG, which is then called MPO.
    return bool(getattr(image, "is_animated", False)) and image.format != "MPO"


def _to_eight_bits(path: Path, image: Image.Image) -> tuple[Image.Image, list[str]]:
    if image.mode == "LAB":
        raise DataError(path, "is in the LAB colour space; convert it to RGB")
    if _tiff_tag(image, _TIFF_SAMPLE_FORMAT, 1) == _SIGNED and _tiff_tag(image, _TIFF_BITS, 8) < 32:
        raise DataError(path, "holds signed integers, which do not say what is black; convert it to unsigned ones")
    if image.mode.startswith("I;16"):
        white = (1 << _tiff_tag(image, _TIFF_BITS, 16)) - 1
        pixels = np.asarray(image)
        return _scale(image, pixels, white), _dark_notes(path, pixels, white)
    if image.mode == "I":
        return _from_integers(path, image)
    if image.mode == "F":
        return _from_floats(path, image), []
    if image.mode in ("P", "PA"):
        return image.convert("RGBA"), []
    return image, []


def _from_integers(path: Path, image: Image.Image) -> tuple[Image.Image, list[str]]:
    pixels = np.asarray(image)
    signed = _tiff_tag(image, _TIFF_SAMPLE_FORMAT, _SIGNED) == _SIGNED
    if not signed:
        pixels = pixels.view(np.uint32)
    smallest, largest = int(pixels.min()), int(pixels.max())
    if image.format in _SIXTEEN_BIT_FORMATS or (smallest >= 0 and (largest == 0 or 255 < largest <= _MAX_16)):
        return _scale(image, pixels, _MAX_16), _dark_notes(path, pixels, _MAX_16)
    if smallest >= 0 and largest >= _LEAST_32:
        return _scale(image, pixels, (1 << 31) - 1 if signed else (1 << 32) - 1), []
    raise DataError(
        path,
        f"holds 32-bit integers from {smallest} to {largest}, which do not say what is white; "
        "save it with 8 bits, or with 16 bits from 0 to 65535",
    )


def _from_floats(path: Path, image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    if not np.isfinite(pixels).all():
        raise DataError(path, "holds NaN or infinity")
    smallest, largest = float(pixels.min()), float(pixels.max())
    if smallest < -_FLOAT_TOLERANCE or largest > 1 + _FLOAT_TOLERANCE:
        raise DataError(
            path, f"holds floats from {smallest:.4g} to {largest:.4g}; float images are read as 0 (black) to 1 (white)"
        )
    return _grey(image, (pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def _scale(image: Image.Image, pixels: np.ndarray, white: int) -> Image.Image:
    """Return a grey picture of integers from 0 to `white`.

    Takes their upper eight bits, as Pillow does for colours.
    """
    return _grey(image, (pixels >> (white.bit_length() - 8)).astype(np.uint8))


def _grey(image: Image.Image, pixels: np.ndarray) -> Image.Image:
    # Pillow inverts such images only where they have up to 8 bits.
    white_is_zero = _tiff_tag(image, _TIFF_PHOTOMETRIC, 1) == _WHITE_IS_ZERO
    return Image.fromarray(255 - pixels if white_is_zero else pixels)


def _dark_notes(path: Path, pixels: np.ndarray, white: int) -> list[str]:
    largest = int(pixels.max())
    if white != _MAX_16 or not 0 < largest <= _MAX_12:
        return []
    return [f"{path.name} uses 0 to {largest} of the 65535 levels of 16 bits, and is read as nearly black"]


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    """Return the first value of a TIFF image's tag.

    Returns `default` for other formats and missing tags.
    """
    value = getattr(image, "tag_v2", {}).get(tag, default) if image.format == "TIFF" else default
    return int(value[0]) if isinstance(value, tuple) else int(value)
