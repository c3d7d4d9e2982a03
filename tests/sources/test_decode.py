"""Decoding: native depth comes out, odd kinds are converted in a stated way, bad files say what and what to do."""

from __future__ import annotations

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from pocketvit import PocketError
from pocketvit.sources import BrokenImage, decode, to_rgb8
from pocketvit.sources.decode import probe


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def wide_png(pixels: np.ndarray) -> bytes:
    """Write 16-bit RGB or RGBA as PNG, which Pillow cannot."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [0, 2, 3, 4])
def test_eight_bit_pixels_come_out_as_they_went_in(noise, channels):
    pixels = noise(1, channels=channels)
    assert np.array_equal(decode(saved(Image.fromarray(pixels))), pixels)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_every_bit(kind):
    pixels = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16) + 3 * (np.arange(16, dtype=np.uint16) % 2)
    decoded = decode(saved(Image.fromarray(pixels), kind))
    assert decoded.dtype == np.uint16
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colour_png_keeps_every_bit_though_pillow_would_not(channels):
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    decoded = decode(wide_png(pixels))
    assert decoded.dtype == np.uint16
    assert np.array_equal(decoded, pixels)


def wide_tiff(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="rgb", **options)
    return buffer.getvalue()


def wide(height: int = 5, width: int = 7, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (height, width, channels)).astype(np.uint16)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "deflate"},
        {"compression": "deflate", "predictor": True},
        {"byteorder": ">"},
        {"tile": (16, 16)},
    ],
)
@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colour_tiff_keeps_every_bit_though_pillow_would_not(options, channels):
    pixels = wide(channels=channels)
    more = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    data = wide_tiff(pixels, **options, **more)
    assert np.asarray(Image.open(io.BytesIO(data))).dtype == np.uint8  # Pillow's silent loss
    decoded = decode(data)
    assert decoded.dtype == np.uint16
    assert decoded.dtype.isnative
    assert np.array_equal(decoded, pixels)
    assert probe(data, "scan.tif").kind == f"16-bit {'RGB' if channels == 3 else 'RGBA'}"


def test_sixteen_bit_colour_planes_are_put_together():
    pixels = wide()
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    assert np.array_equal(decode(wide_tiff(planes, planarconfig="separate")), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sixteen_bit_colour_tiff_stands_upright_as_pillow_turns_it(orientation):
    pixels = wide() // 256 * 257  # of which Pillow keeps all that there is
    data = wide_tiff(pixels, extratags=[(274, "H", 1, orientation, True)])
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode(data) // 256, expected)


def test_sixteen_bit_colour_tiff_of_a_compression_that_is_not_read_names_the_remedy():
    data = bytearray(wide_tiff(wide()))
    at = data.index(struct.pack("<HHI", 259, 3, 1))  # the compression's entry
    data[at + 8 : at + 10] = struct.pack("<H", 5)
    with pytest.raises(BrokenImage, match=r"compressed with LZW, .* save it uncompressed, with Deflate, or as 16-bit"):
        decode(bytes(data), "scan.tif")


def test_a_damaged_sixteen_bit_colour_tiff_is_refused():
    data = wide_tiff(wide(60, 60), compression="deflate")
    with pytest.raises(BrokenImage, match=r"scan.tif is damaged"):
        decode(data[: len(data) // 2], "scan.tif")


def test_big_endian_sixteen_bit_becomes_native():
    little = Image.fromarray(np.array([[1, 256], [513, 65535]], np.uint16))
    decoded = decode(saved(Image.frombytes("I;16B", (2, 2), np.asarray(little).astype(">u2").tobytes()), "TIFF"))
    assert decoded.dtype.isnative
    assert decoded.tolist() == [[1, 256], [513, 65535]]


def test_float_tiff_stays_float():
    pixels = np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(decode(saved(Image.fromarray(pixels), "TIFF")), pixels)


def test_palettes_become_rgb_and_transparent_ones_rgba():
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert decode(saved(palette)).tolist() == [[[10, 200, 30]] * 3] * 2
    assert decode(saved(palette, transparency=1)).tolist() == [[[10, 200, 30, 0]] * 3] * 2


def test_black_and_white_becomes_grey():
    assert decode(saved(Image.fromarray(np.array([[True, False], [False, True]])))).tolist() == [[255, 0], [0, 255]]


def test_cmyk_becomes_rgb():
    decoded = decode(saved(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=100))
    assert decoded.shape == (16, 16, 3)
    assert np.abs(decoded.astype(int) - [0, 255, 255]).max() <= 3  # cyan


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_applied(noise, orientation):
    pixels = noise(2, 4, 6)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    assert np.array_equal(decode(saved(Image.fromarray(pixels), exif=exif)), np.rot90(pixels, turns))


def test_grey_is_repeated_and_transparency_laid_over_white():
    assert to_rgb8(np.array([[7]], np.uint8)).tolist() == [[[7, 7, 7]]]
    assert to_rgb8(np.array([[[100, 0, 200, 0]]], np.uint8)).tolist() == [[[255, 255, 255]]]
    assert to_rgb8(np.array([[[100, 0, 200, 255]]], np.uint8)).tolist() == [[[100, 0, 200]]]
    # by hand: (100 * 51 + 255 * 204 + 127) // 255 = 224
    assert to_rgb8(np.array([[[100, 51]]], np.uint8)).tolist() == [[[224, 224, 224]]]


@pytest.mark.parametrize("depth", [np.uint16, np.int32, np.float32])
def test_a_window_maps_linearly_rounds_half_up_and_clips(depth):
    image = np.array([[0, 100, 110, 125, 150, 151, 60000]], np.float64).astype(depth)
    # (v - 100) * 255 / 50: 110 -> 51, 125 -> 127.5 -> 128, 150 -> 255
    assert to_rgb8(image, (100, 150))[..., 0].tolist() == [[0, 0, 51, 128, 255, 255, 255]]


def test_opacity_is_not_windowed():
    image = np.array([[[1000, 1000, 1000, 65535], [1000, 1000, 1000, 0]]], np.uint16)
    assert to_rgb8(image, (1000, 2000)).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_deep_images_without_a_window_are_refused():
    with pytest.raises(PocketError, match="--window LOW,HIGH"):
        to_rgb8(np.zeros((2, 2), np.uint16))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_batch_equals_its_images_one_by_one(channels):
    batch = np.random.default_rng(0).integers(0, 65536, (3, 4, 5, channels)).astype(np.uint16)
    alone = np.stack([to_rgb8(image, (10, 60000)) for image in batch])
    assert np.array_equal(to_rgb8(batch, (10, 60000)), alone)


def frames(noise, count: int = 3) -> dict:
    pictures = [Image.fromarray(noise(seed)) for seed in range(count)]
    return {"save_all": True, "append_images": pictures[1:]}


def test_files_that_hold_no_single_picture_are_refused_by_name_with_the_remedy(noise):
    first = Image.fromarray(noise(0))
    whole = saved(Image.fromarray(noise(1, 64, 64)), "JPEG")
    cases = {
        "stack.tif": (saved(first, "TIFF", **frames(noise)), "a stack of 3 pages; save the one you mean"),
        "dance.gif": (saved(first, "GIF", **frames(noise)), "an animation of 3 frames; save the one"),
        "dance.png": (saved(first, "PNG", **frames(noise)), "an animation"),
        "half.jpg": (whole[: len(whole) // 2], "damaged .*copy it again"),
        "half.png": (saved(first)[:-30], "damaged .*copy it again"),
        "none.png": (b"", "empty .0 bytes."),
        "text.jpg": (b"<html>not found</html>", "not an image that can be read"),
        "dot.png": (saved(Image.new("RGB", (1, 1))), "a single pixel"),
    }
    for name, (data, why) in cases.items():
        with pytest.raises(BrokenImage, match=why) as caught:
            decode(data, name)
        assert caught.value.name == name
        assert str(caught.value).startswith(name)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(BrokenImage, match=r"gone\.png cannot be read"):
        decode(tmp_path / "gone.png")


def test_a_format_that_starts_other_programs_is_not_tried():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(BrokenImage, match="not an image"):
        decode(eps, "a.eps")


def test_probing_a_photograph_gives_its_full_upright_shape_and_finds_damage(noise):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = saved(Image.fromarray(noise(3, 600, 800)), "JPEG", exif=exif)
    found = probe(photo, "photo.jpg")
    assert found.shape == decode(photo).shape == (800, 600, 3)
    assert found.pixels.size < 600 * 800 * 3 / 16
    with pytest.raises(BrokenImage, match="damaged"):
        probe(photo[: len(photo) - 500], "photo.jpg")


def test_a_fourth_band_that_is_no_opacity_is_dropped():
    pixels = wide(channels=4)
    assert np.array_equal(decode(wide_tiff(pixels, extrasamples=["unspecified"])), pixels[..., :3])
