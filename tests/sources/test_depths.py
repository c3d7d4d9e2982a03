"""Every depth is read with its sign, its polarity and upright, or refused by name: nothing is wrong without a word."""

from __future__ import annotations

import importlib
import io
import os
import struct
import zlib

import numpy as np
import pytest
from drawn_files import dicom, png, pnm, spread, tiff
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pocketvit.sources import BrokenImage, decode
from pocketvit.sources.decode import probe, read_bytes
from pocketvit.sources.wide import upright

pydicom = pytest.importorskip("pydicom")
heif = pytest.importorskip("pillow_heif")


GREY = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")


@settings(max_examples=50, deadline=None)
@given(
    dtype=st.sampled_from(GREY),
    shape=st.tuples(st.integers(1, 20), st.integers(2, 20)),
    orientation=st.integers(1, 8),
    big=st.booleans(),
    compression=st.sampled_from([None, "deflate"]),
    white_is_zero=st.booleans(),
    seed=st.integers(0, 99),
)
def test_grey_tiffs_keep_value_sign_polarity_and_stand_upright(
    dtype, shape, orientation, big, compression, white_is_zero, seed
):
    pixels = spread(dtype, shape, seed)
    white = white_is_zero and pixels.dtype.kind != "f"
    data = tiff(
        pixels,
        byteorder=">" if big else "<",
        compression=compression,
        photometric="miniswhite" if white else "minisblack",
        extratags=[(274, "H", 1, orientation, True)],
    )
    found = decode(data)
    assert found.dtype.isnative
    assert np.array_equal(found, upright(~pixels if white else pixels, orientation))


@settings(max_examples=30, deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "uint16"]),
    shape=st.tuples(st.integers(1, 12), st.integers(2, 12), st.sampled_from([0, 2, 3, 4])),
    orientation=st.integers(1, 8),
    kind=st.sampled_from(["png", "tiff"]),
    seed=st.integers(0, 99),
)
def test_colour_of_8_and_16_bits_keeps_its_values_and_stands_upright(dtype, shape, orientation, kind, seed):
    pixels = spread(dtype, tuple(side for side in shape if side), seed)
    if kind == "png":
        data = png(pixels, orientation)
    else:
        channels = (*pixels.shape, 0)[2]
        if channels == 2:
            return  # grey with alpha has no one way to be written as TIFF
        about = {0: {"photometric": "minisblack"}, 3: {"photometric": "rgb"}}.get(
            channels, {"photometric": "rgb", "extrasamples": ["unassalpha"]}
        )
        data = tiff(pixels, extratags=[(274, "H", 1, orientation, True)], **about)
    assert np.array_equal(decode(data), upright(pixels, orientation))


@settings(max_examples=20, deadline=None)
@given(
    shape=st.sampled_from([(3, 4), (5, 2, 3), (1, 7)]),
    largest=st.sampled_from([256, 1023, 4095, 65535]),
    text=st.booleans(),
    seed=st.integers(0, 99),
)
def test_pnm_above_8_bits_keeps_its_values(shape, largest, text, seed):
    pixels = np.random.default_rng(seed).integers(0, largest, shape, endpoint=True).astype(np.uint16)
    assert np.array_equal(decode(pnm(pixels, largest, text)), pixels)


@settings(max_examples=30, deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "uint16", "int16"]),
    bits=st.sampled_from([8, 10, 12, 16]),
    inverted=st.booleans(),
    rescale=st.sampled_from([None, (1, -1024), (2, 10), (0.5, 0)]),
    seed=st.integers(0, 99),
)
def test_dicom_is_rescaled_and_black_is_its_lowest_value(dtype, bits, inverted, rescale, seed):
    bits = min(bits, 8 * np.dtype(dtype).itemsize)
    low, high = (0, 2**bits - 1) if dtype[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    stored = np.random.default_rng(seed).integers(low, high, (6, 5), endpoint=True).astype(dtype)
    slope, intercept = rescale or (1, 0)
    tags = {} if rescale is None else {"RescaleSlope": slope, "RescaleIntercept": intercept}
    found = decode(dicom(stored, kind="MONOCHROME1" if inverted else "MONOCHROME2", bits=bits, **tags))
    shown = (high + low - stored.astype(np.float64)) if inverted else stored.astype(np.float64)
    assert np.array_equal(found.astype(np.float64), shown * slope + intercept)


def test_a_dicom_window_turns_with_the_polarity_and_the_patient_is_kept():
    stored = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300
    tags = {"WindowCenter": 1000, "WindowWidth": 401, "patient": "P7", "bits": 12}
    plain = probe(dicom(stored, **tags), "a.dcm")
    # PS3.3 C.11.2.1.2: from c - 0.5 - (w - 1) / 2 to c - 0.5 + (w - 1) / 2
    assert (plain.window, plain.patient) == ((799.5, 1199.5), "P7")
    inverted = probe(dicom(stored, kind="MONOCHROME1", **tags), "a.dcm")
    assert inverted.window == (4095 - 1199.5, 4095 - 799.5)


@pytest.mark.parametrize("kind", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("limit", [None, -1990])
def test_padding_of_dicom_is_background(kind, limit):
    stored = np.random.default_rng(0).integers(-900, 900, (6, 5)).astype(np.int16)
    padded = np.zeros((6, 5), bool)
    padded[:2], stored[0], stored[1] = True, -2000, -2000 if limit is None else -1995
    tags = {"PixelPaddingValue": -2000, "RescaleSlope": 1, "RescaleIntercept": -1024}
    found = decode(dicom(stored, kind=kind, **tags | ({} if limit is None else {"PixelPaddingRangeLimit": limit})))
    plain = decode(dicom(stored, kind=kind, RescaleSlope=1, RescaleIntercept=-1024))
    assert np.array_equal(found[~padded], plain[~padded])
    assert (found[padded] == plain[~padded].min()).all()


def test_dicom_in_colour_and_of_several_frames():
    colour = spread("uint8", (4, 6, 3))
    assert np.array_equal(decode(dicom(colour, kind="RGB")), colour)
    with pytest.raises(BrokenImage, match=r"a\.dcm is a stack of 3 pages; save the one you mean"):
        decode(dicom(spread("uint8", (3, 4, 6)), NumberOfFrames=3), "a.dcm")


@pytest.mark.parametrize(("package", "data", "extra"), [("pydicom", "dicom", "dicom"), ("pillow_heif", "heic", "heic")])
def test_a_missing_package_is_named_with_what_to_type(monkeypatch, package, data, extra):
    files = {"dicom": dicom(spread("uint8", (4, 6))), "heic": heic(smooth())}
    real = importlib.import_module

    def gone(name: str, *more: object):
        if name == package:
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", gone)
    with pytest.raises(BrokenImage, match=rf"pip install 'pocketvit\[{extra}\]'"):
        decode(files[data], "scan")


def smooth(height: int = 48, width: int = 64) -> np.ndarray:
    """Return a picture that lossy coding hardly changes, brighter to the right and redder to the bottom."""
    down, across = np.mgrid[:height, :width]
    return np.stack((down * 4, across * 3, np.full_like(down, 40)), -1).astype(np.uint8)


def heic(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    if pixels.dtype == np.uint16:
        file = heif.from_bytes("RGB;16", (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
        file.save(buffer, quality=-1)
    else:
        heif.from_pillow(Image.fromarray(pixels)).save(buffer, quality=95, **options)
    return buffer.getvalue()


def test_heic_of_a_phone_is_read_and_stands_upright():
    pixels = smooth()
    assert np.abs(decode(heic(pixels)).astype(int) - pixels).max() < 12
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(heic(pixels, exif=exif.tobytes()))
    assert turned.shape == (64, 48, 3)
    assert np.abs(turned.astype(int) - upright(pixels, 6)).max() < 12


def test_heic_above_8_bits_keeps_its_depth():
    pixels = (np.arange(64 * 48 * 3).reshape(48, 64, 3) % 1024).astype(np.uint16) << 6
    found = decode(heic(pixels))
    assert found.dtype == np.uint16
    assert len(np.unique(found)) > 256


def test_jpeg_2000_of_16_bits_keeps_its_values_and_deeper_colour_is_refused():
    buffer = io.BytesIO()
    pixels = spread("uint16", (9, 8))
    Image.fromarray(pixels).save(buffer, "JPEG2000")
    assert np.array_equal(decode(buffer.getvalue()), pixels)
    data = bytearray(buffer.getvalue())
    data[data.index(b"\xff\x4f\xff\x51") + 42] = 0x8F  # 16 bits, signed
    assert np.array_equal(decode(bytes(data)), pixels.astype(np.int32) - 32768)
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "JPEG2000")
    data = bytearray(buffer.getvalue())
    at = data.index(b"\xff\x4f\xff\x51") + 42
    data[at] = data[at + 3] = data[at + 6] = 11  # what 12-bit colour says of its components
    with pytest.raises(BrokenImage, match=r"12-bit RGB JPEG 2000, which would lose depth; save it as 16-bit PNG"):
        decode(bytes(data), "a.jp2")


def test_an_avif_of_10_bits_is_refused_for_it_would_lose_two():
    buffer = io.BytesIO()
    Image.fromarray(smooth()).save(buffer, "AVIF")
    data = bytearray(buffer.getvalue())
    assert decode(bytes(data)).shape == (48, 64, 3)
    data[data.index(b"av1C") + 6] |= 64
    with pytest.raises(BrokenImage, match=r"a\.avif is a 10-bit AVIF, which would lose depth here; save it as 16-bit"):
        decode(bytes(data), "a.avif")


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_lzw_which_is_pillows_alone_keeps_values_and_polarity(dtype):
    pixels = np.arange(0, 60, dtype=dtype).reshape(6, 10) * 1000 - (30000 if dtype == "int32" else 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "TIFF", compression="tiff_lzw", tiffinfo={274: 6})
    assert np.array_equal(decode(buffer.getvalue()), upright(pixels, 6))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (lambda: tiff(spread("float32", (4, 4)), photometric="miniswhite"), "float TIFF in which 0 is white; invert"),
        (lambda: tiff(np.ones((4, 4), np.complex64)), "complex64, which is no intensity"),
        (lambda: tiff(np.full((4, 4), 2**40, np.int64)), "values beyond 32 bits; scale them down"),
        (lambda: tiff(spread("uint16", (4, 4, 5)), photometric="minisblack", planarconfig="contig"), "5 channels"),
        (
            lambda: tiff(spread("float32", (4, 5, 6)), photometric="minisblack"),
            "a stack of 4 pages; save the one you mean",
        ),
        (lambda: tiff(spread("int16", (9, 9)))[:-40], "damaged"),
    ],
)
def test_what_cannot_be_read_as_it_is_is_refused_by_name(data, why):
    with pytest.raises(BrokenImage, match=rf"scan\.tif .*{why}"):
        decode(data(), "scan.tif")


def test_a_claimed_size_is_refused_before_memory_is_taken():
    def claims(width: int, height: int) -> bytes:
        data = bytearray(png(np.zeros((2, 2), np.uint8)))
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
        return bytes(data)

    for data in (claims(13_000, 13_000), claims(2**31 - 1, 2**31 - 1), b"P6\n99999 99999\n65535\n" + b"\0" * 99):
        with pytest.raises(BrokenImage, match=r"(128 million are the most|too large to decode)"):
            decode(data, "huge")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("/dev/zero")
    for name in ("a.png", "b.png"):
        with pytest.raises(BrokenImage, match=rf"{name} is no regular file"):
            read_bytes(tmp_path / name, name)


def test_a_dark_slice_of_a_deep_scan_is_as_deep(tmp_path):
    pytest.importorskip("pydicom")
    dark = np.arange(64, dtype=np.uint16).reshape(8, 8)
    bare, tagged = dicom(dark, bits=12), dicom(dark, bits=12, RescaleSlope=1, RescaleIntercept=0)
    for data in (bare, tagged):
        decoded = decode(data)
        assert decoded.dtype != np.uint8
        assert np.array_equal(decoded, dark)
    assert decode(dicom(dark.astype(np.uint8), RescaleSlope=1, RescaleIntercept=0)).dtype == np.uint8
