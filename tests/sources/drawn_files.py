"""Image files of every depth, written by the tests: TIFF, PNG, PNM, DICOM."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image


def tiff(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def png(pixels: np.ndarray, orientation: int = 1) -> bytes:
    """Write 8- or 16-bit grey, RGB or RGBA as PNG (Pillow writes no 16-bit colour), with EXIF's orientation."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape[:2]
    colour = {0: 0, 2: 4, 3: 2, 4: 6}[(*pixels.shape, 0)[2]]
    head = struct.pack(">IIBBBBB", width, height, 8 * pixels.dtype.itemsize, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    parts = [chunk(b"IHDR", head), chunk(b"eXIf", exif.tobytes()[6:]), chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def pnm(pixels: np.ndarray, largest: int, text: bool = False) -> bytes:
    kind = {(2, False): 5, (3, False): 6, (2, True): 2, (3, True): 3}[pixels.ndim, text]
    head = b"P%d\n# drawn\n%d %d\n%d\n" % (kind, pixels.shape[1], pixels.shape[0], largest)
    return head + (" ".join(map(str, pixels.ravel())).encode() if text else pixels.astype(">u2").tobytes())


def dicom(
    stored: np.ndarray, *, kind: str = "MONOCHROME2", bits: int | None = None, patient: str = "", **tags
) -> bytes:
    """Write pixels as one uncompressed DICOM file."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = Dataset()
    file.file_meta = meta
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.PatientID = patient
    file.Rows, file.Columns = stored.shape[-3 if kind == "RGB" else -2 :][:2]
    file.SamplesPerPixel = 3 if kind == "RGB" else 1
    if kind == "RGB":
        file.PlanarConfiguration = 0
    file.PhotometricInterpretation = kind
    file.BitsAllocated = 8 * stored.dtype.itemsize
    file.BitsStored = bits or file.BitsAllocated
    file.HighBit = file.BitsStored - 1
    file.PixelRepresentation = int(stored.dtype.kind == "i")
    for name, value in tags.items():
        setattr(file, name, value)
    data = stored.tobytes()
    file.PixelData = data + b"\0" * (len(data) % 2)
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def spread(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return values over all of a type, its ends among them; of floats, numbers that float16 holds."""
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return random.integers(-512, 512, shape).astype(dtype) / 8
    about = np.iinfo(dtype)
    pixels = random.integers(about.min, about.max, shape, dtype=dtype, endpoint=True)
    pixels.flat[0], pixels.flat[-1] = about.min, about.max
    return pixels
