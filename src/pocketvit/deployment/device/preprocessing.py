"""From a picture file to what the network takes, with nothing but numpy and Pillow.

    pixels = prepare(load("photo.jpg", about["window"]), about)        # float32 [tiles, 3, S, S]

``about`` is the dictionary "preprocessing" that every model of PocketViT carries: in ``config.json`` of a student's
folder, or in the metadata of an ONNX file. The pixels are equal to the bit to those that PocketViT makes.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".apng", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm",
    ".pbm", ".pnm", ".avif", ".heic", ".heif", ".hif",
}  # fmt: skip
_BITS, _PHOTOMETRIC, _FORMAT = 258, 262, 339  # tags of TIFF


def pictures_in(paths):
    """Yield the picture files that ``paths`` name or hold; hidden files are left out."""
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        for file in sorted(path.rglob("*")):
            inner = file.relative_to(path).parts
            hidden = any(part.startswith(".") or part == "__MACOSX" for part in inner)
            if file.suffix.lower() in SUFFIXES and not hidden:
                yield file


def without_pictures(paths):
    """Return the folders among ``paths`` that hold no picture."""
    return [path for path in paths if Path(path).is_dir() and next(pictures_in([path]), None) is None]


def load(path, window=None):
    """Decode a picture to upright uint8 RGB [H, W, 3]; transparency is laid over white.

    Raises ValueError where a picture cannot be used as it is.
    """
    try:
        with Image.open(path) as file:
            return _rgb(file, path, window)
    except UnidentifiedImageError as error:
        kind = Path(path).suffix.lower()
        if kind in (".heic", ".heif", ".hif", ".avif"):
            raise ValueError(f"is {kind[1:].upper()}, which this Pillow cannot read; save it as JPEG or PNG") from error
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"is too large to decode safely ({error}); make it smaller") from error


def _rgb(file, path, window):
    if getattr(file, "n_frames", 1) > 1 and file.format != "MPO":
        raise ValueError("holds several pictures; save the one you mean")
    if _wide_colour(file):
        raise ValueError("is 16-bit colour, which Pillow would cut to 8 bits; save it as 8-bit, or as 16-bit grey")
    if _misread(file):
        raise ValueError("has a depth, a sign or a white of 0 that Pillow would misread; save it as 16-bit grey PNG")
    image: Image.Image = ImageOps.exif_transpose(file)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        if window is None:
            raise ValueError("is not 8-bit, and this model was made from 8-bit pictures")
        low, high = window
        grey = np.asarray(image, np.float64)
        if np.quantile(grey, 0.999) - low < 0.25 * (high - low):
            print(f"warning: {path}: nearly black in the window {low:g} to {high:g}: another depth?", file=sys.stderr)
        scaled = np.floor((grey - low) * 255.0 / (high - low) + 0.5)
        return np.repeat(np.clip(scaled, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA")).astype(np.uint16)
        alpha = rgba[..., 3:]
        return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.asarray(image.convert("RGB"))


def _wide_colour(file):
    """Whether Pillow, which has 16 bits for grey only, would silently drop the lower bytes of this file."""
    if file.mode not in ("RGB", "RGBA", "RGBX", "LA", "CMYK"):
        return False
    if file.format == "TIFF":
        return max(file.tag_v2.get(_BITS, (8,))) > 8
    arguments = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in file.tile]
    return any(isinstance(one, str) and ";16" in one for some in arguments for one in some)


def _misread(file):
    """Whether Pillow would read more than 8 bits, or a sign, as other values than the file has."""
    if file.format == "TIFF":
        bits, kind = max(file.tag_v2.get(_BITS, (8,))), max(file.tag_v2.get(_FORMAT, (1,)))
        return (bits, kind) in ((8, 2), (32, 1)) or (bits > 8 and file.tag_v2.get(_PHOTOMETRIC) == 0)
    largest = [one for tile in file.tile if file.format == "PPM" for one in tile[3] if isinstance(one, int)]
    return max(largest, default=0) > 255


def prepare(picture, about):
    """Turn a picture (uint8 [H, W, 3]) into what the network takes: float32 [tiles, 3, S, S], as a rule one tile."""
    tiles = cut_tiles(picture, about["tile"]) if about["tile"] else [picture]
    mean, std = np.array(about["mean"]), np.array(about["std"])
    scale, shift = np.float32(1 / (255 * std)), np.float32(-mean / std)
    size = about["input_size"]
    pixels = [resize(to_view(tile, about), size, size, "lanczos", 5) for tile in tiles]
    return np.stack([(one.astype(np.float32) * scale + shift).transpose(2, 0, 1) for one in pixels])


def cut_tiles(picture, tile):
    """Cut a picture into the fewest squares that cover it, evenly spread; one smaller than a square is mirrored."""

    def starts(side):
        count = -(-side // tile)
        return [0] if count <= 1 else [i * (side - tile) // (count - 1) for i in range(count)]

    high, wide = (max(tile - side, 0) for side in picture.shape[:2])
    picture = np.pad(picture, [(0, high), (0, wide), (0, 0)], mode="symmetric")
    return [
        picture[top : top + tile, left : left + tile]
        for top in starts(picture.shape[0])
        for left in starts(picture.shape[1])
    ]


def to_view(picture, about):
    """Make a picture square (crop, pad with black, or stretch) at the view's size."""
    size = about["view_size"]
    height, width = picture.shape[:2]
    high = wide = size
    if about["aspect"] == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        picture = picture[top : top + side, left : left + side]
    elif about["aspect"] == "pad":
        longest = max(height, width)
        high, wide = (max(1, (2 * side * size + longest) // (2 * longest)) for side in (height, width))
    result = np.zeros((size, size, 3), np.uint8)
    top, left = (size - high) // 2, (size - wide) // 2
    result[top : top + high, left : left + wide] = resize(picture, high, wide, about["resample"], about["lobes"])
    return result


def resize(picture, height, width, kernel, lobes):
    """Resize uint8 [H, W, 3], columns first; equal to the bit to what the model was trained on."""
    for axis, size in ((1, width), (0, height)):
        if picture.shape[axis] == size:
            continue
        weights = kernel_weights(picture.shape[axis], size, kernel, lobes)
        source = np.moveaxis(picture, axis, 2)
        result = np.empty((*source.shape[:2], size), np.uint8)
        for start in range(0, size, 32):  # most weights are zero: take only the input that a block of output sees
            block = weights[start : start + 32]
            used = np.flatnonzero(block.any(axis=0))
            seen = slice(used[0], used[-1] + 1)
            part = np.ascontiguousarray(source[..., seen], np.float32).reshape(-1, used[-1] + 1 - used[0])
            value = np.clip(np.floor(part @ block[:, seen].T + np.float32(0.5)), 0, 255)
            result[..., start : start + 32] = value.reshape(*source.shape[:2], -1)
        picture = np.moveaxis(result, 2, axis)
    return picture


def kernel_weights(size_in, size_out, kernel, lobes):
    """Return one axis's weights [size_out, size_in]: multiples of 2^-14, rows sum to 1: float32 sums are exact."""
    if kernel == "nearest":
        return np.eye(size_in, dtype=np.float32)[(2 * np.arange(size_out) + 1) * size_in // (2 * size_out)]
    scale = size_in / size_out
    wide = max(scale, 1.0)  # when shrinking the kernel widens: antialiasing
    reach = {"lanczos": lobes, "bicubic": 2, "bilinear": 1}[kernel] * wide
    centre = ((np.arange(size_out) + 0.5) * scale)[:, None]
    tap = np.arange(size_in)
    x = np.abs(tap + 0.5 - centre) / wide
    if kernel == "lanczos":
        value = np.where(x < lobes, np.sinc(x) * np.sinc(x / lobes), 0.0)
    elif kernel == "bicubic":
        far = ((-0.5 * x + 2.5) * x - 4) * x + 2
        value = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, far, 0.0))
    else:
        value = np.maximum(1 - x, 0)
    value = value * ((tap >= np.floor(centre - reach + 0.5)) & (tap < np.floor(centre + reach + 0.5)))
    total = np.floor(np.cumsum(value / value.sum(axis=1, keepdims=True), axis=1) * 2**14 + 0.5)
    return np.diff(total, axis=1, prepend=0).astype(np.float32) / 2**14
