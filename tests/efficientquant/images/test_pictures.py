import io
import os
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from efficientquant.errors import DataError
from efficientquant.images.data import open_images
from efficientquant.models import InputSpec
from PIL import Image

SPEC = InputSpec(shape=(3, 96, 96), interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0)
# A ramp from black to white, with 8 bits and with 16.
RAMP = np.tile(np.linspace(0, 253, 96).astype(np.uint8), (96, 1))
RAMP_16 = RAMP.astype(np.uint16) << 8
COLOURS = Image.merge("RGB", [Image.fromarray(RAMP)] * 3)


def write_tiff(path, pixels, *, bits, photometric=1, sample_format=1, order="<", width=None):
    """Write an uncompressed grey TIFF with tags that Pillow itself never writes."""
    height, width = pixels.shape[0], width or pixels.shape[1]
    data = pixels.tobytes()
    longs = {256: width, 257: height, 273: 8, 278: height, 279: len(data)}
    shorts = {258: bits, 259: 1, 262: photometric, 277: 1, 339: sample_format}
    entries = []
    for tag in sorted(longs | shorts):
        if tag in longs:
            entries.append(struct.pack(f"{order}HHII", tag, 4, 1, longs[tag]))
        else:
            entries.append(struct.pack(f"{order}HHIHH", tag, 3, 1, shorts[tag], 0))
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    path.write_bytes(header + data + directory)


def pack_12_bits(pixels):
    """Return rows of bytes: two pixels in three, the upper bits first."""
    left, right = pixels[:, ::2], pixels[:, 1::2]
    packed = np.stack([left >> 4, (left & 15) << 4 | right >> 8, right & 255], axis=2)
    return packed.reshape(len(pixels), -1).astype(np.uint8)


def load(folder, spec=SPEC):
    """Return the only image of a folder, (C, H, W), and the notes about it."""
    data = open_images(folder, spec)
    return torch.cat([images for images, _ in data.batches()])[0], data.notes()


@pytest.fixture
def png():
    """Return a function that gives the PNG file of some pixels.

    It takes pixels (H, W, C) and a colour type, also with depths that Pillow cannot write.
    """

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    def write(pixels, colour, size=None):
        width, height = size or pixels.shape[1::-1]
        header = struct.pack(">IIBBBBB", width, height, pixels.dtype.itemsize * 8, colour, 0, 0, 0)
        rows = io.BytesIO()
        for row in pixels:
            rows.write(b"\0" + row.tobytes())
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.getvalue())), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)

    return write


WRITERS = {
    "16.png": lambda path: Image.fromarray(RAMP_16).save(path),
    "16.tif": lambda path: Image.fromarray(RAMP_16).save(path),
    "16-big-endian.tif": lambda path: Image.fromarray(RAMP_16.astype(">u2")).save(path),
    "16-white-is-zero.tif": lambda path: write_tiff(path, 0xFFFF - RAMP_16, bits=16, photometric=0),
    "12.tif": lambda path: write_tiff(path, pack_12_bits(RAMP.astype(np.uint16) << 4), bits=12, width=96),
    "32-as-16.tif": lambda path: Image.fromarray(RAMP_16.astype(np.int32)).save(path),
    "32-big-endian.tif": lambda path: write_tiff(path, RAMP_16.astype(">i4"), bits=32, sample_format=2, order=">"),
    "32-unsigned.tif": lambda path: write_tiff(path, RAMP.astype("<u4") << 24, bits=32),
    "32-signed.tif": lambda path: write_tiff(path, RAMP.astype("<i4") << 23, bits=32, sample_format=2),
    "float.tif": lambda path: Image.fromarray(RAMP.astype(np.float32) / 255).save(path),
    "float-big-endian.tif": lambda path: write_tiff(
        path, (RAMP / 255).astype(">f4"), bits=32, sample_format=3, order=">"
    ),
    "16.pgm": lambda path: path.write_bytes(b"P5 96 96 65535 " + RAMP_16.astype(">u2").tobytes()),
    "8.gif": lambda path: Image.fromarray(RAMP).save(path),
    "la.png": lambda path: COLOURS.convert("LA").save(path),
    "rgba.png": lambda path: COLOURS.convert("RGBA").save(path),
    "transparent.png": lambda path: Image.fromarray(RAMP).convert("P").save(path, transparency=bytes(range(256))),
    "cmyk.tif": lambda path: COLOURS.convert("CMYK").save(path),
    "ycbcr.tif": lambda path: COLOURS.convert("YCbCr").save(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_pixel_format_gives_the_same_picture(tmp_path, name):
    """Grey or colour, 8, 16 or 32 bits or floats, either byte order: the ramp stays a ramp."""
    WRITERS[name](tmp_path / name)
    image, notes = load(tmp_path)
    expected = torch.from_numpy(RAMP / 255.0)
    assert float((image - expected).abs().max()) < 2.5 / 255
    assert notes == []


@pytest.mark.parametrize(("channels", "colour"), [(3, 2), (4, 6)])
def test_16_bit_colours_are_read(tmp_path, png, channels, colour):
    """16-bit colours, with and without transparency, are the picture with eight bits."""
    pixels = np.repeat(RAMP_16[..., None], channels, 2).astype(">u2")
    (tmp_path / "a.png").write_bytes(png(pixels, colour))
    assert float((load(tmp_path)[0] - torch.from_numpy(RAMP / 255.0)).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("pixels", "tags", "sentence"),
    [
        (RAMP.astype("<i4"), {"bits": 32, "sample_format": 2}, "32-bit integers from 0 to 253, .* what is white"),
        (RAMP.astype("<i4") - 1, {"bits": 32, "sample_format": 2}, "32-bit integers from -1 to 252"),
        (RAMP.astype("<i4") << 12, {"bits": 32, "sample_format": 2}, "32-bit integers from 0 to 1036288"),
        (RAMP.astype("<i2"), {"bits": 16, "sample_format": 2}, "signed integers"),
        (RAMP.astype("<f4"), {"bits": 32, "sample_format": 3}, r"floats from 0 to 253; .* 0 \(black\) to 1 \(white\)"),
        (RAMP.astype("<f4") - 1, {"bits": 32, "sample_format": 3}, "floats from -1 to 252"),
        (np.full((4, 4), np.nan, "<f4"), {"bits": 32, "sample_format": 3}, "NaN or infinity"),
    ],
)
def test_numbers_that_could_mean_two_pictures_are_refused(tmp_path, pixels, tags, sentence):
    """A file is refused by name where nothing says which number is white."""
    write_tiff(tmp_path / "odd.tif", pixels, **tags)
    with pytest.raises(DataError, match=rf"odd\.tif: holds {sentence}"):
        load(tmp_path)


def test_a_colour_space_without_conversion_is_refused(tmp_path):
    """LAB is named instead of being read as RGB."""
    Image.new("LAB", (9, 9)).save(tmp_path / "lab.tif")
    with pytest.raises(DataError, match=r"lab\.tif: is in the LAB colour space; convert it to RGB"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_pictures_are_turned_upright(tmp_path, suffix):
    """A camera's EXIF orientation is applied, whatever the format."""
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[:48] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90° to the right: the white half is on the right then
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", exif=exif)
    image, _ = load(tmp_path)
    assert float(image[:, :, 56:].min()) > 0.9
    assert float(image[:, :, :40].max()) < 0.1


def test_broken_metadata_do_not_matter(tmp_path):
    """A picture with EXIF data that cannot be read is a picture."""
    COLOURS.save(tmp_path / "a.jpg", exif=b"Exif\0\0garbage")
    assert load(tmp_path)[0].shape == (3, 96, 96)


def test_a_picture_of_equal_pixels_is_named(tmp_path):
    """A file without any content is used, and a note names it."""
    Image.new("RGB", (9, 9), (7, 7, 7)).save(tmp_path / "flat.png")
    assert load(tmp_path)[1] == [f"data {tmp_path.name}: flat.png: all pixels are equal"]


def test_many_equal_pictures_are_counted(tmp_path):
    """A report names five images and counts the others."""
    for number in range(8):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{number}.png")
    notes = load(tmp_path)[1]
    assert (len(notes), notes[-1]) == (6, f"data {tmp_path.name}: 3 more images like these")


def test_12_bits_in_16_are_named(tmp_path):
    """An image that leaves the upper bits empty is nearly black, and a note says so."""
    Image.fromarray(RAMP_16 >> 4).save(tmp_path / "dark.png")
    assert "dark.png uses 0 to 4048 of the 65535 levels" in load(tmp_path)[1][0]


def test_the_first_picture_of_several_is_taken(tmp_path):
    """An animation counts as its first picture, and a note says so."""
    Image.fromarray(RAMP).save(tmp_path / "a.gif", save_all=True, append_images=[Image.fromarray(255 - RAMP)])
    image, notes = load(tmp_path)
    assert float(image[0, 0, 0]) == 0.0
    assert notes == [f"data {tmp_path.name}: a.gif holds several pictures: the first is taken"]


@pytest.mark.parametrize(
    ("size", "sentence"),
    [((20000, 20000), "cannot be decoded"), ((0, 0), "is no image that can be decoded")],
)
def test_impossible_sizes_are_refused(tmp_path, png, size, sentence):
    """A picture that would fill the memory, and one without pixels, are named."""
    (tmp_path / "odd.png").write_bytes(png(np.zeros((1, 1, 1), np.uint8), 0, size=size))
    with pytest.raises(DataError, match=rf"odd\.png: {sentence}"):
        load(tmp_path)


def test_a_strip_of_pixels_is_refused(tmp_path):
    """Resized, one row of 30 000 pixels would fill the memory."""
    Image.new("L", (30000, 1)).save(tmp_path / "thin.png")
    with pytest.raises(DataError, match=r"thin\.png: is 30000 × 1 pixels: too narrow"):
        load(tmp_path)


def test_a_picture_starts_no_program(tmp_path):
    """PostScript under a picture's name is refused: Pillow would run an interpreter for it."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(DataError, match=r"a\.png: is no image that can be decoded"):
        load(tmp_path)


def test_hidden_files_and_those_of_macos_are_left_out(tmp_path):
    """Previews, resource forks and __MACOSX are neither images nor classes."""
    for folder in ("cat/.previews", "__MACOSX/cat", "cat"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "._a.png").write_bytes(b"no image")
    (tmp_path / "cat/.previews/a.png").write_bytes(b"no image")
    COLOURS.save(tmp_path / "cat/a.png")
    os.symlink("self.png", tmp_path / "cat/self.png")
    data = open_images(tmp_path, SPEC)
    assert (list(data.source.names), data.classes) == (["cat/a.png"], ("cat",))


def test_a_link_to_a_folder_above_is_refused(tmp_path):
    """A class folder that holds all others is named instead of being read."""
    (tmp_path / "cat").mkdir()
    COLOURS.save(tmp_path / "cat/a.png")
    (tmp_path / "loop").symlink_to("..")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'loop'}: is a link to a folder that holds it")):
        open_images(tmp_path, SPEC)


def test_a_path_that_the_system_refuses_is_one_sentence(tmp_path):
    """Errors of the file system name the path."""
    with pytest.raises(DataError, match=r"cannot be read \(File name too long\)"):
        open_images(tmp_path / ("x" * 300), SPEC)


def test_models_of_other_channels_take_no_image_files(tmp_path):
    """Image files fit models of one or three channels, and a model of five needs arrays."""
    COLOURS.save(tmp_path / "a.png")
    five = InputSpec((5, 96, 96), "bicubic", (0,) * 5, (1,) * 5, 1.0)
    with pytest.raises(DataError, match=r"the model takes 5 channels, image files have 1 or 3; give an \.npz"):
        open_images(tmp_path, five)


def test_images_fill_an_input_that_is_not_square(tmp_path):
    """The input's height and width are each kept."""
    COLOURS.save(tmp_path / "a.png")
    image, _ = load(tmp_path, InputSpec((3, 32, 64), "bicubic", (0, 0, 0), (1, 1, 1), 0.9))
    assert image.shape == (3, 32, 64)
