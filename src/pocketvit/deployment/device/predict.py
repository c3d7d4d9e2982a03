"""Label pictures with the model in this folder. Needs only onnxruntime, numpy and Pillow.

python predict.py photo.jpg more_photos/
python predict.py photo.jpg --json
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}


class Model:
    """The network with its classes and preprocessing, both read out of the .onnx file itself."""

    def __init__(self, path=None, threads=1):
        if path is None:
            path = next(iter(sorted(HERE.glob("*.onnx"))), None)
            if path is None:
                raise SystemExit(f"error: there is no .onnx file in {HERE}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # widen int8 convolutions once, on opening
        self.path = Path(path)
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.about = json.loads(self.session.get_modelmeta().custom_metadata_map["pocketvit"])
        self.classes = self.about["classes"]
        self.several = self.about.get("activation") == "sigmoid"

    def prepare(self, picture):
        """Turn a picture (uint8 [H, W, 3]) into what the file takes (batch of one)."""
        about, view = self.about, self.about["view"]
        if about["source_size"]:
            if list(picture.shape[:2]) != about["source_size"]:
                height, width = about["source_size"]
                raise ValueError(f"has {picture.shape[1]}x{picture.shape[0]} pixels; this model takes {width}x{height}")
            return picture[None]
        pixels = to_view(picture, view)
        if view["view_size"] != about["input_size"]:
            pixels = resize(pixels, about["input_size"], about["input_size"], "lanczos", 5)
        mean, std = np.array(about["mean"]), np.array(about["std"])
        normalized = pixels.astype(np.float32) * np.float32(1 / (255 * std)) + np.float32(-mean / std)
        return np.ascontiguousarray(normalized.transpose(2, 0, 1)[None])

    def run(self, prepared):
        """Return the probabilities [C] of one prepared picture."""
        answer = self.session.run(None, {self.input: prepared})[0][0]
        if self.about["source_size"]:
            return answer
        if self.several:  # each label is there or not
            return 1 / (1 + np.exp(-np.clip(answer, -80, 80)))
        exponent = np.exp(answer - answer.max())
        return exponent / exponent.sum()

    def __call__(self, picture):
        """Return the probabilities [C] of a picture (uint8 [H, W, 3])."""
        tile = self.about.get("tile")
        tiles = cut_tiles(picture, tile) if tile else [picture]
        return np.mean([self.run(self.prepare(one)) for one in tiles], axis=0)


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


def present(model, probabilities):
    """Return [label, probability] of each of several labels that is there (0.5 or more), the likeliest first."""
    order = np.argsort(-probabilities, kind="stable")
    return [[model.classes[i], float(probabilities[i])] for i in order if probabilities[i] >= 0.5]


def load(path, window=None):
    """Decode a picture to upright uint8 RGB [H, W, 3]; transparency is laid over white."""
    with Image.open(path) as file:
        image: Image.Image = file
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            raise ValueError("holds several pictures; save the one you mean")
        image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            if window is None:
                raise ValueError("is not 8-bit, and this model was made from 8-bit pictures")
            low, high = window
            scaled = np.floor((np.asarray(image, np.float64) - low) * (255.0 / (high - low)) + 0.5)
            return np.repeat(np.clip(scaled, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            rgba = np.asarray(image.convert("RGBA")).astype(np.uint16)
            alpha = rgba[..., 3:]
            return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        return np.asarray(image.convert("RGB"))


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


def to_view(picture, view):
    """Make a picture square (crop, pad with black, or stretch) at the view's size."""
    size = view["view_size"]
    height, width = picture.shape[:2]
    high = wide = size
    if view["fit"] == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        picture = picture[top : top + side, left : left + side]
    elif view["fit"] == "pad":
        longest = max(height, width)
        high, wide = (max(1, (2 * side * size + longest) // (2 * longest)) for side in (height, width))
    result = np.zeros((size, size, 3), np.uint8)
    top, left = (size - high) // 2, (size - wide) // 2
    result[top : top + high, left : left + wide] = resize(picture, high, wide, view["resample"], view["lobes"])
    return result


def pictures_in(paths):
    """Yield the picture files that ``paths`` name or hold."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        else:
            yield path


def main():
    """Label the files given on the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Label pictures with the model in this folder.")
    parser.add_argument("pictures", nargs="+", help="picture files and folders")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--model", help="an .onnx file; by default the one beside this script")
    parser.add_argument("--threads", type=int, default=1, help="threads of ONNX Runtime (1)")
    arguments = parser.parse_intermixed_args()
    model = Model(arguments.model, arguments.threads)
    failed = False
    for path in pictures_in(arguments.pictures):
        try:
            probabilities = model(load(path, model.about["window"]))
        except (OSError, ValueError, SyntaxError) as error:  # Pillow's decoders raise all three on damaged files
            print(f"error: {path}: {error}", file=sys.stderr)
            failed = True
            continue
        best = int(probabilities.argmax())
        if arguments.json:
            scores = {name: round(float(p), 6) for name, p in zip(model.classes, probabilities, strict=True)}
            answer = {"file": str(path), "label": model.classes[best], "score": float(probabilities[best])}
            if model.several:
                answer = {"file": str(path), "labels": present(model, probabilities)}
            print(json.dumps({**answer, "scores": scores}, ensure_ascii=False))
        elif model.several:
            print(f"{path}: " + (", ".join(f"{name} {p:.3f}" for name, p in present(model, probabilities)) or "none"))
        else:
            print(f"{path}: {model.classes[best]} {probabilities[best]:.3f}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
