"""device.zip: the model, what runs it, and one picture whose answer is known. No PyTorch on the device."""

from __future__ import annotations

import io
import json
import platform
import runpy
import zipfile
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from .. import files as storage
from ..errors import PocketError
from .predict import PRESENT, label_pictures
from .run import OnnxModel

# Processors round in their own way (and some older x86 saturate int8 sums): largest difference of a probability, and
# relative distance of the centred logits, that a device may show.
TOLERANCE = {"int8": {"probability": 0.03, "logits": 0.1}, "fp32": {"probability": 0.002, "logits": 0.005}}
_SCRIPTS = ("predict.py", "bench.py")


def write_device_zip(out: Path | str, onnx_path: Path | str, golden: np.ndarray | None = None) -> Path:
    """Write ``device.zip`` around an exported file and check what was written.

    The expected answer comes from this package's own preprocessing and ONNX Runtime; the packed ``predict.py``, which
    does its own, must agree with it before the zip is let out.

    Args:
        out: the zip file, replaced atomically.
        onnx_path: the file to ship, as a rule the int8 one.
        golden: uint8 [H, W, 3], a picture whose answer is checked on the device; by default a drawn one, so that
            nothing of the user's data leaves.

    Raises:
        PocketError: the packed script's answer differs from this package's.
    """
    out, onnx_path = Path(out), Path(onnx_path)
    model = OnnxModel(onnx_path)
    source = model.signature.source_size
    picture = draw_golden(*(source or (96, 128))) if golden is None else np.ascontiguousarray(golden)
    probabilities = label_pictures(model, [picture])[0]
    there = [name for name, p in zip(model.classes, probabilities, strict=True) if p >= PRESENT]
    label = (", ".join(there) or "none") if model.signature.several else model.classes[int(probabilities.argmax())]
    tolerance = TOLERANCE[model.signature.precision]
    image = io.BytesIO()
    Image.fromarray(picture).save(image, "PNG", optimize=True)
    golden_json = {
        "model": onnx_path.name,
        "picture": "golden.png",
        "label": label,
        "probabilities": [float(f"{value:.6g}") for value in probabilities],
        "tolerance": tolerance,
        "made_with": {"machine": platform.machine(), "onnxruntime": onnxruntime.__version__},
    }
    scripts = {name: (files(__package__) / "device" / name).read_text(encoding="utf-8") for name in _SCRIPTS}
    found = _answer_of_script(onnx_path, image.getvalue())
    difference = float(np.abs(found - probabilities).max())
    if not difference <= tolerance["probability"]:
        raise PocketError(
            f"the packed predict.py answers otherwise than PocketViT (difference {difference:.2g}, at most "
            f"{tolerance['probability']:g}): {out} was not written. Please report this with the model's config.json."
        )
    with storage.atomic(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(onnx_path, onnx_path.name)
        for name, text in scripts.items():
            archive.writestr(name, text)
        archive.writestr("golden.png", image.getvalue())
        archive.writestr("golden.json", json.dumps(golden_json, indent=2, ensure_ascii=False) + "\n")
        archive.writestr("requirements.txt", "onnxruntime>=1.17\nnumpy\npillow\n")
        archive.writestr("README.txt", _readme(model, onnx_path))
    return out


def draw_golden(height: int, width: int) -> np.ndarray:
    """Return a smooth drawn picture uint8 [height, width, 3]: waves of different length in the three channels."""
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    waves = [np.sin(2 * np.pi * (a * x + b * y) + c) for a, b, c in ((2, 1, 0.0), (1, 3, 1.0), (3, 2, 2.0))]
    return np.rint(127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)


def _answer_of_script(onnx_path: Path, picture: bytes) -> np.ndarray:
    """Return the probabilities that the device's predict.py finds for a picture file's bytes."""
    with as_file(files(__package__) / "device" / "predict.py") as script:
        device = runpy.run_path(str(script))
    return device["Model"](onnx_path)(device["load"](io.BytesIO(picture)))


def _readme(model: OnnxModel, path: Path) -> str:
    answers, script = "classes", "label and score"
    if model.signature.several:
        answers, script = "labels that may be there together", "the labels that are there, or none"
    names = ", ".join(model.classes[:12]) + (", ..." if len(model.classes) > 12 else "")
    return f"""{path.name}: an image classifier ({len(model.classes)} {answers}: {names}), made with PocketViT.

On the device, with Python 3.10 or newer:

    pip install -r requirements.txt
    python bench.py                    checks golden.png and measures the time; the exit code is 0 when it matches
    python predict.py photo.jpg        {script}; --json for programs, folders are fine

Classes and preprocessing are written inside the .onnx file.
"""
