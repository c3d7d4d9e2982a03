"""Files to arrays in their native depth, and arrays of any kind to 8-bit RGB.

What comes out of `decode` is upright (EXIF orientation applied) and one of: grey [H, W], grey with alpha [H, W, 2],
RGB [H, W, 3] or RGBA [H, W, 4], in one of `findings.DEPTHS`. Palettes become RGB(A), black-and-white becomes grey,
CMYK, YCbCr and Lab become RGB. Other depths than 8 bits are read in `wide`, DICOM in `dicom`.
"""

from __future__ import annotations

import io
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import PocketError
from .broken import MOST_BYTES, BrokenImage, check_size
from .extras import is_dicom, is_heic, read_dicom, read_heic
from .wide import check_avif, orientation_of, read_tiff, read_wide, stack_of

Image.init()
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `check_size` says it, and where
# A list, because Pillow would else also try formats that start other programs (EPS) or are no photographs.
_WANTED = ("JPEG", "MPO", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "AVIF", "JPEG2000")
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)  # AVIF and others depend on how Pillow was built
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".tif", ".tiff", ".bmp", ".gif", ".webp"),
        *(".pbm", ".pgm", ".ppm", ".pnm", ".avif", ".jp2", ".heic", ".heif", ".hif", ".dcm", ".dicom"),
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
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LARGE = 512 * 512  # pixels from which an eighth of the size still tells images apart


@dataclass(frozen=True)
class Probe:
    """What can be said of an image file without decoding a large photograph in full.

    Attributes:
        pixels: decoded; of a large JPEG, at an eighth of its size (all of its data is read: damage is found).
        shape: of the image in full, (height, width) or (height, width, channels), upright.
        kind: its channels and depth as the file has them: "RGB", "16-bit grey", "CMYK".
        drafted: whether the pixels are fewer than the shape says.
        window: of DICOM, the intensities that its tags show from black to white.
        patient: of DICOM, its PatientID.
    """

    pixels: np.ndarray
    shape: tuple[int, ...]
    kind: str
    drafted: bool = False
    window: tuple[float, float] | None = None
    patient: str = ""


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
        return whole(source, name or "image").pixels
    name = name or str(source)
    return whole(read_bytes(Path(source), name), name).pixels


def probe(data: bytes, name: str) -> Probe:
    """Check one image file at the least cost; raises as `decode`."""
    return _guarded(data, name, 0)


def whole(data: bytes, name: str) -> Probe:
    """Check one image file in full; raises as `decode`."""
    return _guarded(data, name, None)


def decode_at(data: bytes, name: str, height: int, width: int) -> np.ndarray:
    """Decode one 8-bit image file to a smaller size, upright: of a JPEG little more than that is ever decoded."""
    pixels = _guarded(data, name, min(height, width)).pixels
    if pixels.dtype != np.uint8:
        raise BrokenImage(name, f"is {kind_of(pixels)}, and was 8-bit when it was checked")
    return resized(pixels, height, width)


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bring 8-bit pixels [H, W] or [H, W, C] to another size."""
    single = pixels.shape[2:] == (1,)
    picture = Image.fromarray(pixels[..., 0] if single else pixels)
    small = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
    return small[..., None] if single else small


def read_bytes(path: Path, name: str) -> bytes:
    """Read a file; one that cannot be read is a `BrokenImage`."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for, and a device may never end
            raise BrokenImage(name, "is no regular file; leave it out")
        if about.st_size > MOST_BYTES:
            raise BrokenImage(name, f"has {about.st_size:,} bytes, and {MOST_BYTES:,} are the most; make it smaller")
        return path.read_bytes()
    except OSError as error:
        raise BrokenImage(name, f"cannot be read ({error.strerror or error})") from error


def _guarded(data: bytes, name: str, least: int | None) -> Probe:
    """Decode; of a large JPEG, where ``least`` is given, a half to an eighth, with no side below that many pixels."""
    if not data:
        raise BrokenImage(name, "is empty (0 bytes); copy it again or delete it")
    try:
        return _probe(data, name, least)
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


def _probe(data: bytes, name: str, least: int | None) -> Probe:
    if is_dicom(data):
        scan = read_dicom(data, name)
        kind = f"DICOM, {kind_of(scan.pixels)}"
        return Probe(scan.pixels, scan.pixels.shape, kind, window=scan.window, patient=scan.patient)
    if is_heic(data):
        pixels = read_heic(data, name)
        return Probe(pixels, pixels.shape, f"HEIC {kind_of(pixels)}")
    check_avif(data, name)
    try:
        return _by_pillow(data, name, least)
    except UnidentifiedImageError:
        if data[:4] not in _TIFF_STARTS:
            raise
    pixels = read_tiff(data, name)  # depths that Pillow does not know
    return Probe(pixels, pixels.shape, kind_of(pixels))


def _by_pillow(data: bytes, name: str, least: int | None) -> Probe:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_size(name, *image.size)
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # an MPO is a photograph with a preview or a second eye behind it
            raise BrokenImage(
                name,
                stack_of(frames)
                if image.format == "TIFF"
                else f"is an animation of {frames} frames; save the one you mean as a file of its own, or delete it",
            )
        pixels = read_wide(image, data, name)
        if pixels is not None:
            return Probe(pixels, pixels.shape, kind_of(pixels))
        kind = _KINDS.get(image.mode, image.mode)
        size = image.size
        turned = orientation_of(image) in (5, 6, 7, 8)
        if least is not None and image.format in ("JPEG", "MPO") and size[0] * size[1] > _LARGE:
            image.draft(image.mode, (max(size[0] // 8, least), max(size[1] // 8, least)))
        drafted = image.size != size
        image.load()
        pixels = from_pillow(image)
    full = (size if turned else size[::-1]) if drafted else pixels.shape[:2]
    return Probe(pixels, (*full, *pixels.shape[2:]), kind, drafted)


def from_pillow(image: Image.Image) -> np.ndarray:
    """Return the pixels of an image that Pillow has opened, upright, in as much of their depth as Pillow has."""
    pixels = np.asarray(_plain_mode(ImageOps.exif_transpose(image)))
    return np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))


def kind_of(pixels: np.ndarray) -> str:
    """Say what channels and depth pixels have: "RGB", "16-bit grey", "int32 grey"."""
    depth = {"uint8": "", "uint16": "16-bit "}.get(pixels.dtype.name, f"{pixels.dtype.name} ")
    return depth + CHANNELS[pixels.shape[2] if pixels.ndim == 3 else 0]


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
