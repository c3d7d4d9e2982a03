"""Files to arrays in their native depth, and arrays of any kind to 8-bit RGB.

What comes out of `decode` is upright (EXIF orientation applied) and one of: grey [H, W], grey with alpha [H, W, 2],
RGB [H, W, 3] or RGBA [H, W, 4], as uint8, uint16, int32 or float32. Palettes become RGB(A), black-and-white becomes
grey, CMYK, YCbCr and Lab become RGB.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from ..errors import PocketError

Image.init()
# A list, because Pillow would else also try formats that start other programs (EPS) or are no photographs.
_WANTED = ("JPEG", "MPO", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "AVIF", "JPEG2000")
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)  # AVIF and others depend on how Pillow was built
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".tif", ".tiff", ".bmp", ".gif", ".webp"),
        *(".pbm", ".pgm", ".ppm", ".pnm", ".avif", ".jp2"),
    )
)
_NATIVE = {"L", "LA", "RGB", "RGBA", "I", "F"}
CHANNELS = ("grey", "grey", "grey with alpha", "RGB", "RGBA")
_KINDS = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with alpha",
    "P": "palette",
    "I": "32-bit grey",
    "F": "float32 grey",
    **dict.fromkeys(("I;16", "I;16B", "I;16L", "I;16N"), "16-bit grey"),
}
_BITS_PER_SAMPLE = 258  # the tag of TIFF
_LARGE = 512 * 512  # pixels from which an eighth of the size still tells images apart


class BrokenImage(PocketError):
    """An image that cannot be used as it is: ``name`` says which, ``why`` says why and what to do."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} {why}")
        self.name = name
        self.why = why

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.name, self.why)


@dataclass(frozen=True)
class Probe:
    """What can be said of an image file without decoding a large photograph in full.

    Attributes:
        pixels: decoded; of a large JPEG, at an eighth of its size (all of its data is read: damage is found).
        shape: of the image in full, (height, width) or (height, width, channels), upright.
        kind: its channels and depth as the file has them: "RGB", "16-bit grey", "CMYK".
    """

    pixels: np.ndarray
    shape: tuple[int, ...]
    kind: str


def decode(source: bytes | str | Path, name: str | None = None) -> np.ndarray:
    """Decode one image file in its native depth, upright.

    Args:
        source: the bytes of a file, or its path.
        name: what to call it in messages; the path by default.

    Returns:
        [H, W] or [H, W, C] as described at the top of this module.

    Raises:
        BrokenImage: not an image, truncated, empty, a single pixel, or several pictures in one file.
    """
    if isinstance(source, bytes):
        return _guarded(source, name or "image", reduce=False).pixels
    name = name or str(source)
    return _guarded(read_bytes(Path(source), name), name, reduce=False).pixels


def probe(data: bytes, name: str) -> Probe:
    """Check one image file at the least cost; raises as `decode`."""
    return _guarded(data, name, reduce=True)


def read_bytes(path: Path, name: str) -> bytes:
    """Read a file; one that cannot be read is a `BrokenImage`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokenImage(name, f"cannot be read ({error.strerror or error})") from error


def _guarded(data: bytes, name: str, reduce: bool) -> Probe:
    if not data:
        raise BrokenImage(name, "is empty (0 bytes); copy it again or delete it")
    try:
        return _probe(data, name, reduce)
    except BrokenImage:
        raise
    except UnidentifiedImageError as error:
        raise BrokenImage(name, "is not an image that can be read; save it as PNG, JPEG or TIFF") from error
    except Image.DecompressionBombError as error:
        raise BrokenImage(name, f"is too large to decode safely ({error}); make it smaller") from error
    except MemoryError as error:
        raise BrokenImage(name, "does not fit into memory") from error
    except Exception as error:  # decoders meet broken files with OSError, SyntaxError, struct.error, ...
        reason = str(error).split("\n")[0] or type(error).__name__
        raise BrokenImage(name, f"is damaged ({reason}); copy it again or delete it") from error


def _probe(data: bytes, name: str, reduce: bool) -> Probe:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # an MPO is a photograph with a preview or a second eye behind it
            kind = "a stack of {} pages" if image.format == "TIFF" else "an animation of {} frames"
            raise BrokenImage(
                name, f"is {kind.format(frames)}; save the one you mean as a file of its own, or delete it"
            )
        if image.width * image.height == 1:
            raise BrokenImage(name, "has a single pixel (1x1); replace it or delete it")
        if _wide_colour(image):
            if image.format == "PNG":
                pixels = _decode_wide_png(data)
            elif image.format == "TIFF" and image.mode in ("RGB", "RGBA"):
                pixels = _decode_wide_tiff(data, name, image.getexif().get(ExifTags.Base.Orientation, 1))
            else:
                raise BrokenImage(
                    name,
                    f"is a 16-bit {image.mode} {image.format}, which would lose depth here; save it as 16-bit RGB PNG",
                )
            return Probe(pixels, pixels.shape, f"16-bit {CHANNELS[pixels.shape[-1]]}")
        kind = _KINDS.get(image.mode, image.mode)
        size = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        if reduce and image.format in ("JPEG", "MPO") and size[0] * size[1] > _LARGE:
            image.draft(image.mode, (size[0] // 8, size[1] // 8))
        drafted = image.size != size
        image.load()
        pixels = np.asarray(_plain_mode(ImageOps.exif_transpose(image)))
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    full = (size if turned else size[::-1]) if drafted else pixels.shape[:2]
    return Probe(pixels, (*full, *pixels.shape[2:]), kind)


def _plain_mode(image: Image.Image) -> Image.Image:
    """Bring palettes, black-and-white, CMYK and so on to grey or RGB, with alpha where there is any."""
    see_through = "transparency" in image.info  # PNG and GIF: one colour or palette entry stands for nothing
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("L", "RGB") and see_through:
        return image.convert("LA" if image.mode == "L" else "RGBA")
    if image.mode in _NATIVE or image.mode.startswith("I;"):
        return image
    return image.convert("RGBA" if see_through or image.mode in ("PA", "RGBa", "La") else "RGB")


def _wide_colour(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow, which has 16 bits for grey only, would silently drop the lower bytes of this file."""
    if image.mode not in ("RGB", "RGBA", "RGBX", "LA", "CMYK"):
        return False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) > 8  # planes one by one have plain modes in their tiles
    for tile in image.tile:
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if any(isinstance(argument, str) and ";16" in argument for argument in arguments):
            return True
    return False


def _decode_wide_png(data: bytes) -> np.ndarray:
    import torch
    from torchvision.io import decode_png

    pixels = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8)).numpy()
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _decode_wide_tiff(data: bytes, name: str, orientation: int) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        try:
            pixels = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            how = getattr(page.compression, "name", page.compression)
            raise BrokenImage(
                name,
                f"is a 16-bit colour TIFF compressed with {how}, which is not read; save it uncompressed, with "
                "Deflate, or as 16-bit PNG",
            ) from error
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:  # one plane a colour
            pixels = np.moveaxis(pixels, 0, -1)
    if pixels.dtype != np.uint16 or pixels.shape[2:] not in ((3,), (4,)):
        raise BrokenImage(name, f"is a TIFF of {pixels.dtype} {pixels.shape}; save it as 16-bit RGB PNG")
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    down, across = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return np.ascontiguousarray(pixels[::down, ::across], np.uint16)


def to_rgb8(image: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """Bring one image, or a batch of one shape, to 8-bit RGB.

    Grey is repeated, transparency is laid over white, and anything that is not 8-bit is mapped linearly so that
    ``window`` becomes 0..255 (rounded half up, clipped outside).

    Args:
        image: [H, W], [H, W, C] or [B, H, W, C] with C in 1 to 4 (grey, grey and alpha, RGB, RGBA).
        window: (low, high); needed unless the image is 8-bit.

    Returns:
        uint8 [..., H, W, 3].

    Raises:
        PocketError: the image is not 8-bit and there is no window.
    """
    if image.dtype != np.uint8:
        if window is None:
            raise PocketError(
                f"a {image.dtype} image needs to be told which intensities are black and white: "
                "give the window, as --window LOW,HIGH"
            )
        image = _eight_bit(image, window)
    if image.ndim == 2:
        return _repeated(image[..., None])
    channels = image.shape[-1]
    if channels == 1:
        return _repeated(image)
    if channels == 3:
        return image
    alpha = image[..., -1:].astype(np.uint16)
    over_white = ((image[..., :-1] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return _repeated(over_white) if channels == 2 else over_white


def without_alpha(image: np.ndarray) -> np.ndarray:
    """Return the intensities of [H, W], [H, W, C] or [B, H, W, C], without the alpha channel of 2 or 4 channels."""
    return image[..., :-1] if image.ndim > 2 and image.shape[-1] in (2, 4) else image


def _eight_bit(image: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    scaled = _windowed(image, window)
    if without_alpha(image) is not image:  # opacity is a share of the type's range, whatever the window
        scaled[..., -1] = _windowed(image[..., -1], (0.0, float(np.iinfo(image.dtype).max)))
    return scaled


def _repeated(grey: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:-1], 3)))


def _windowed(image: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    low, high = window
    if image.dtype == np.uint16:
        return _scale(np.arange(65536), low, high)[image]
    return _scale(image, low, high)


def _scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = np.floor((values.astype(np.float64) - low) * 255.0 / (high - low) + 0.5)
    return np.clip(scaled, 0, 255).astype(np.uint8)
