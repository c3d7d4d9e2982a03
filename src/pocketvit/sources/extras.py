"""Formats that need a package beyond ours: HEIC (pillow-heif) and DICOM (pydicom); without it, it is named."""

from __future__ import annotations

import importlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from .broken import BrokenImage, check_size
from .wide import stack_of

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_WHOLE = ("uint8", "int16", "uint16", "int32")
_STORED = ("uint8", "int8", "uint16", "int16", "uint32", "int32")


@dataclass(frozen=True)
class Scan:
    """One image of a DICOM file.

    Attributes:
        pixels: after the modality's rescaling (of CT Hounsfield units), black being the lowest: [H, W], or RGB.
        window: the intensities (low, high) that its tags show from black to white, or None.
        patient: its PatientID, "" where there is none.
    """

    pixels: np.ndarray
    window: tuple[float, float] | None
    patient: str


def is_heic(data: bytes) -> bool:
    """Whether a file is HEIC or HEIF, as phones write it; AVIF, which is built alike, is not."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS and b"avif" not in data[8:64]


def is_dicom(data: bytes) -> bool:
    """Whether a file is DICOM, whatever its name ends with."""
    return data[128:132] == b"DICM"


def _package(module: str, extra: str, name: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BrokenImage(name, f"is {what}; to read it, type: pip install 'pocketvit[{extra}]'") from error


def read_heic(data: bytes, name: str) -> np.ndarray:
    """Read the primary image of a HEIC file, upright: [H, W, 3] or with alpha, uint8, or uint16 above 8 bits."""
    heif = _package("pillow_heif", "heic", name, "HEIC")
    image = heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
    check_size(name, *image.size)
    pixels = np.asarray(image)  # libheif has turned it as the file says
    if image.mode.startswith("BGR"):
        pixels = pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]
    return np.ascontiguousarray(pixels)


def read_dicom(data: bytes, name: str) -> Scan:
    """Read a DICOM file of one frame.

    Raises:
        BrokenImage: pydicom is not there, the file has several frames or no pixels, or they are compressed in a way
            that is not read.
    """
    pydicom = _package("pydicom", "dicom", name, "DICOM")
    from pydicom.pixels import apply_color_lut, apply_modality_lut

    file = pydicom.dcmread(io.BytesIO(data))
    if "PixelData" not in file and "FloatPixelData" not in file:
        raise BrokenImage(name, f"is DICOM without an image ({file.get('Modality', 'no modality')}); leave it out")
    frames = int(file.get("NumberOfFrames", 1) or 1)
    if frames > 1:
        raise BrokenImage(name, stack_of(frames))
    check_size(name, int(file.Columns), int(file.Rows))
    try:
        stored = file.pixel_array
    except (RuntimeError, NotImplementedError) as error:
        how = file.file_meta.TransferSyntaxUID.name
        raise BrokenImage(
            name, f"is compressed ({how}), which is not read; decompress it, as with gdcmconv --raw"
        ) from error
    kind = str(file.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        return Scan(_eight_bit_colour(apply_color_lut(stored, file), name), None, _patient(file))
    if stored.ndim == 3:  # pydicom has turned YBR into RGB
        return Scan(_eight_bit_colour(stored, name), None, _patient(file))
    bits = int(file.get("BitsStored", 8 * stored.dtype.itemsize))
    highest = 2**bits - 1 if stored.dtype.kind == "u" else 2 ** (bits - 1) - 1
    # Of more than 8 bits, a dark picture is no 8-bit one: the set's window is for it, too.
    kinds = _WHOLE if bits <= 8 else _WHOLE[1:]
    pixels, top = _compact(apply_modality_lut(stored, file), kinds), float(_rescaled(highest, file))
    window = _window(file)
    if kind == "MONOCHROME1":  # the lowest is white
        lowest = 0 if stored.dtype.kind == "u" else -(2 ** (bits - 1))
        ends = top + float(_rescaled(lowest, file))
        pixels = _compact(ends - pixels.astype(np.float64), kinds)
        window = None if window is None else (ends - window[1], ends - window[0])
    elif kind != "MONOCHROME2":
        raise BrokenImage(name, f"is DICOM of the kind {kind}, which is not read; save it as 16-bit PNG")
    padded = _padded(stored, file)
    if padded is not None:
        pixels = np.where(padded, pixels[~padded].min(), pixels)
    return Scan(pixels, None if pixels.dtype == np.uint8 else window, _patient(file))


def _padded(stored: np.ndarray, file: Any) -> np.ndarray | None:
    """Return which stored pixels are none of the image (PS3.3 C.7.5.1.1.2), bool [H, W]; None where none are, or all.

    They are shown as background, however low or high their value: a window that reached to it would lose the image.
    """
    value = file.get("PixelPaddingValue")
    if value is None:
        return None
    ends = np.array([value, file.get("PixelPaddingRangeLimit", value)], np.int64).astype(stored.dtype)
    padded = (stored >= ends.min()) & (stored <= ends.max())
    return padded if padded.any() and not padded.all() else None


def _rescaled(value: float, file: Any) -> float:
    return value * float(file.get("RescaleSlope", 1) or 1) + float(file.get("RescaleIntercept", 0) or 0)


def _compact(values: np.ndarray, kinds: tuple[str, ...]) -> np.ndarray:
    """Return values in the first of ``kinds`` that holds them exactly, float32 where they are no whole numbers."""
    if values.dtype.kind in "iu" and values.dtype.name in _STORED:
        return values.astype(values.dtype.newbyteorder("="))
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite([low, high]).all() and (values == np.rint(values)).all()):
        return values.astype(np.float32)
    for name in kinds:
        if np.iinfo(name).min <= low and high <= np.iinfo(name).max:
            return values.astype(name)
    return values.astype(np.float32)


def _eight_bit_colour(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.dtype == np.uint16 and not (pixels & 255 != pixels >> 8).any():  # a palette's 8 bits, twice
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.shape[2:] != (3,):
        raise BrokenImage(name, f"is colour DICOM of {pixels.dtype} {pixels.shape}, which is not read; save it as PNG")
    return np.ascontiguousarray(pixels)


def _patient(file: Any) -> str:
    return str(file.get("PatientID", "") or "").strip()


def _window(file: Any) -> tuple[float, float] | None:
    """Return what the first window of the tags shows (DICOM PS3.3 C.11.2.1.2: centre c - 0.5, extent w - 1)."""
    centre, width = file.get("WindowCenter"), file.get("WindowWidth")
    if centre is None or width is None or centre == "" or width == "":
        return None
    one = [float(value[0] if isinstance(value, (list, tuple)) or hasattr(value, "append") else value)
           for value in (centre, width)]  # fmt: skip
    if not one[1] > 1:
        return None
    return one[0] - 0.5 - (one[1] - 1) / 2, one[0] - 0.5 + (one[1] - 1) / 2
