"""Images of other depths than 8 bits, which Pillow would cut to 8 bits, read without their sign, or not at all.

Everything is read with its own sign and polarity: black is the lowest value. What cannot be is refused by name.
"""

from __future__ import annotations

import io
import re
import struct

import numpy as np
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin

from .broken import BrokenImage, check_size

Tags = TiffImagePlugin.ImageFileDirectory_v2
_BITS, _COMPRESSION, _PHOTOMETRIC, _FORMAT = 258, 259, 262, 339  # tags of TIFF
_VOID = 4  # a sample format: unsigned for all that is known
_WIDE_TYPES = ("int8", "uint16", "int16", "uint32", "int32", "float32")


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn [H, W] or [H, W, C] as EXIF's orientation (1 to 8) says; anything else leaves it as it is."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    down, across = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return np.ascontiguousarray(pixels[::down, ::across])


def orientation_of(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 where there is none."""
    return int(image.getexif().get(ExifTags.Base.Orientation, 1) or 1)


def read_wide(image: ImageFile.ImageFile, data: bytes, name: str) -> np.ndarray | None:
    """Return the pixels of a file that Pillow would not give as they are, upright; None where Pillow is fine.

    Raises:
        BrokenImage: nothing here reads it without a loss, either.
    """
    kind = image.format
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return None if _is_plain_tiff(image.tag_v2) else read_tiff(data, name)
    if kind == "PNG" and _drops_bits(image):
        return upright(_png(data), orientation_of(image))
    if kind == "PPM":
        return _pnm(data, name)
    if kind == "JPEG2000":
        return _jpeg2000(image, data, name)
    if _drops_bits(image):
        raise BrokenImage(name, f"is a 16-bit {image.mode} {kind}, which would lose depth here; {_REMEDY}")
    return None


_REMEDY = "save it as 16-bit PNG"


def _drops_bits(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow, which has 16 bits for grey only, would silently drop the lower bytes of this file."""
    if image.mode not in ("RGB", "RGBA", "RGBX", "LA", "CMYK"):
        return False
    arguments = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in image.tile]
    return any(isinstance(one, str) and ";16" in one for some in arguments for one in some)


def _png(data: bytes) -> np.ndarray:
    import torch
    from torchvision.io import decode_png

    pixels = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8)).numpy()
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _pnm(data: bytes, name: str) -> np.ndarray | None:
    """Read PGM and PPM above 8 bits, which Pillow stretches to 16 bits or cuts to 8."""
    blank = rb"(?:\s|#[^\n]*\n)+"
    head = re.match(rb"P([2356])" + blank + rb"(\d+)" + blank + rb"(\d+)" + blank + rb"(\d+)\s", data)
    if head is None or int(head[4]) < 256:
        return None
    width, height, largest = int(head[2]), int(head[3]), int(head[4])
    check_size(name, width, height)
    if largest > 65535:
        raise BrokenImage(name, f"claims values up to {largest}, which no PNM can have; {_REMEDY}")
    shape = (height, width, 3) if head[1] in b"36" else (height, width)
    count = int(np.prod(shape))
    rest = data[head.end() :]
    if head[1] in b"23":  # numbers as text
        values = np.array(rest.split()[:count], np.uint16)
    else:
        values = np.frombuffer(rest[: 2 * count], ">u2")
    if len(values) < count:
        raise BrokenImage(name, "is damaged (it ends too early); copy it again or delete it")
    return values.astype(np.uint16).reshape(shape)


def _jpeg2000(image: ImageFile.ImageFile, data: bytes, name: str) -> np.ndarray | None:
    """Read grey JPEG 2000 of 9 to 16 bits, which Pillow shifts to 16 bits and makes unsigned."""
    at = data.find(b"\xff\x4f\xff\x51")  # the start of the codestream, and the sizes
    if at < 0:
        return None
    (channels,) = struct.unpack(">H", data[at + 40 : at + 42])
    depths = [data[at + 42 + 3 * channel] for channel in range(min(channels, 4))]
    signed = any(depth & 128 for depth in depths)
    bits = max((depth & 127) + 1 for depth in depths)
    if bits <= 8 and not signed:
        return None
    if bits > 16 or image.mode != "I;16":
        sign = "signed " if signed else ""
        raise BrokenImage(name, f"is a {sign}{bits}-bit {image.mode} JPEG 2000, which would lose depth; {_REMEDY}")
    stretched = np.asarray(image)
    pixels = np.ascontiguousarray(stretched, np.uint16) >> (16 - bits)
    return pixels.astype(np.int32) - (1 << (bits - 1)) if signed else pixels


def check_avif(data: bytes, name: str) -> None:
    """Refuse an AVIF of 10 or 12 bits, of which Pillow gives 8."""
    at = data.find(b"av1C", 0, 1 << 16) if data[4:8] == b"ftyp" else -1
    flags = data[at + 6] if 0 <= at < len(data) - 6 else 0  # the third byte of the decoder's configuration
    if flags & 64:
        bits = 12 if flags & 32 else 10
        raise BrokenImage(name, f"is a {bits}-bit AVIF, which would lose depth here; {_REMEDY}")


def _is_plain_tiff(tags: Tags) -> bool:
    """Whether a TIFF has 8 bits or fewer a sample, unsigned, which Pillow reads as they are."""
    bits, formats = tags.get(_BITS, (1,)), tags.get(_FORMAT, (1,))
    return max(bits) <= 8 and set(formats) <= {1, _VOID}


def read_tiff(data: bytes, name: str) -> np.ndarray:
    """Read one page of a TIFF of any depth, upright, black being the lowest value.

    Returns:
        [H, W], [H, W, 3] or [H, W, 4] as uint8, int8, uint16, int16, uint32, int32 or float32.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if len(file.pages) > 1:
            raise BrokenImage(name, stack_of(len(file.pages)))
        page = file.pages.first
        check_size(name, page.imagewidth, page.imagelength)
        if page.imagedepth > 1:
            raise BrokenImage(name, stack_of(page.imagedepth))
        photometric = getattr(page.photometric, "name", str(page.photometric))
        allowed = {"MINISBLACK": (1,), "MINISWHITE": (1,), "RGB": (3, 4)}.get(photometric, ())
        if page.samplesperpixel not in allowed:
            what = f"{page.samplesperpixel} channels ({photometric})"
            raise BrokenImage(name, f"is a TIFF of {page.dtype} with {what}; save it as 16-bit RGB or grey PNG")
        orientation = int(page.tags.valueof(ExifTags.Base.Orientation, 1))
        try:
            pixels = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return _polar(_grey_by_pillow(data, name, page), photometric, name)
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:  # one plane a colour
            pixels = np.moveaxis(pixels, 0, -1)
    pixels = _kept(pixels, name)
    if pixels.shape[2:] == (4,) and not set(page.extrasamples) & {1, 2}:  # a band that is no opacity, as near infrared
        pixels = pixels[..., :3]
    if pixels.shape[2:] == (4,) and pixels.dtype not in (np.uint8, np.uint16):
        raise BrokenImage(name, f"is a TIFF of {pixels.dtype} with alpha; save it without its fourth channel")
    return upright(_polar(pixels, photometric, name), orientation)


def stack_of(pages: int) -> str:
    """Say that a TIFF is a stack, and what to do."""
    return f"is a stack of {pages} pages; save the one you mean as a file of its own, or delete it"


def _kept(pixels: np.ndarray, name: str) -> np.ndarray:
    """Bring types that are rare to the nearest one that holds their values."""
    kind = pixels.dtype.kind
    if kind == "b":
        return pixels.astype(np.uint8) * 255
    if kind == "f":
        return pixels.astype(np.float32)
    if kind not in "iu":
        raise BrokenImage(name, f"is a TIFF of {pixels.dtype}, which is no intensity; save its magnitude as float32")
    if pixels.dtype.itemsize == 8:
        narrow = np.dtype("int32" if kind == "i" else "uint32")
        if pixels.size and (pixels.min() < np.iinfo(narrow).min or pixels.max() > np.iinfo(narrow).max):
            raise BrokenImage(name, f"is a TIFF of {pixels.dtype} with values beyond 32 bits; scale them down")
        return pixels.astype(narrow)
    return pixels.astype(pixels.dtype.newbyteorder("="))


def _polar(pixels: np.ndarray, photometric: str, name: str) -> np.ndarray:
    """Turn pixels whose lowest value is white."""
    if photometric != "MINISWHITE":
        return pixels
    if pixels.dtype.kind == "f":
        raise BrokenImage(name, "is a float TIFF in which 0 is white; invert it and save it with black as 0")
    return ~pixels  # of unsigned ones the largest value less each, of signed ones -1 less each


def _grey_by_pillow(data: bytes, name: str, page: object) -> np.ndarray:
    """Read grey of a compression that tifffile leaves to another package and Pillow knows (LZW is one)."""
    how = getattr(page, "compression", 0)
    dtype = getattr(page, "dtype", None)
    bits = getattr(page, "bitspersample", 0)
    if getattr(page, "samplesperpixel", 0) == 1 and dtype is not None and dtype.name in _WIDE_TYPES and bits % 8 == 0:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            image.load()  # which turns it upright
            pixels = np.asarray(image)
        if pixels.dtype.itemsize == dtype.itemsize and pixels.dtype.kind in "iu" and dtype.kind in "iu":
            pixels = pixels.view(dtype)  # the bits are right, the sign may not be
        return np.ascontiguousarray(pixels, dtype)
    colour = "colour" if getattr(page, "samplesperpixel", 0) > 1 else "grey"
    raise BrokenImage(
        name,
        f"is a {bits}-bit {colour} TIFF compressed with {getattr(how, 'name', how)}, which is not read; save it "
        "uncompressed, with Deflate, or as 16-bit PNG",
    )
