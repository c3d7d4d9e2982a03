"""device.zip: the model, what runs it, and one picture whose answer is known. No PyTorch on the device."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from .. import files as storage
from ..errors import PocketError
from .export import describe_input, describe_output, ends
from .run import FileModel, OnnxModel

# Processors round in their own way (and some older x86 saturate int8 sums): largest difference of a probability, and
# relative distance of the centred logits, that a device may show.
TOLERANCE = {"int8": {"probability": 0.03, "logits": 0.1}, "fp32": {"probability": 0.002, "logits": 0.005}}
SCRIPTS = ("preprocessing.py", "boxes.py", "answers.py", "predict.py", "bench.py")  # each imports only those before it


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
    if not model.signature.weights:
        raise PocketError(f"{onnx_path} is of an older pocketvit. Export it again: `pocketvit export RUN`.")
    picture = draw_golden(*golden_size(model)) if golden is None else np.ascontiguousarray(golden)
    answer = model.label([picture])[0]
    probabilities = model.task.class_scores(answer, len(model.classes))
    tolerance = TOLERANCE[model.signature.precision]
    image = io.BytesIO()
    Image.fromarray(picture).save(image, "PNG", optimize=True)
    weights = onnx_path.read_bytes()
    golden_json = {
        "model": onnx_path.name,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "picture": "golden.png",
        "label": model.task.named(model.task.answered(answer[None])[0], model.classes) or "nothing",
        "probabilities": [float(f"{value:.6g}") for value in probabilities],
        "tolerance": tolerance,
        "made_with": {"machine": platform.machine(), "onnxruntime": onnxruntime.__version__},
    }
    packed = io.BytesIO()  # whole in memory first: a kill leaves nothing half written behind
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(onnx_path.name, weights)
        for name in SCRIPTS:
            archive.writestr(name, script(name))
        archive.writestr("golden.png", image.getvalue())
        archive.writestr("golden.json", json.dumps(golden_json, indent=2, ensure_ascii=False) + "\n")
        archive.writestr("requirements.txt", "onnxruntime>=1.17\nnumpy\npillow\n")
        archive.writestr("README.txt", _readme(model))
    difference = float(np.abs(_answer_on_device(packed) - probabilities).max())
    if not difference <= tolerance["probability"]:
        raise PocketError(
            f"the packed predict.py answers otherwise than PocketViT (difference {difference:.2g}, at most "
            f"{tolerance['probability']:g}): {out} was not written. Please report this with the model's config.json."
        )
    with storage.atomic(out) as temporary:
        temporary.write_bytes(packed.getvalue())
    return out


def script(name: str) -> str:
    """Return the text of one of the device's `SCRIPTS`."""
    return (files(__package__) / "device" / name).read_text(encoding="utf-8")


def _answer_on_device(packed: io.BytesIO) -> np.ndarray:
    """Return the probabilities that ``predict.py`` finds for the golden picture, unpacked and run as on a device."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(packed) as archive:
        archive.extractall(folder)
        return scores_on_device(Path(folder), "predict.py", "golden.png", "--json")


def scores_on_device(folder: Path, *command: str) -> np.ndarray:
    """Return the probabilities [C] that a script in a folder prints, run as on a device.

    Raises:
        PocketError: It does not run here.
    """
    run = [sys.executable, *command]
    # Names of classes may be of any alphabet, and a pipe of Windows takes few of them.
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        run, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PocketError(f"the packed {command[0]} does not run here: {last}. Are numpy and Pillow whole?")
    return np.array([score for _, score in json.loads(done.stdout.strip().splitlines()[-1])["scores"]])


def draw_golden(height: int, width: int) -> np.ndarray:
    """Return a smooth drawn picture uint8 [height, width, 3]: waves of different length in the three channels."""
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    waves = [np.sin(2 * np.pi * (a * x + b * y) + c) for a, b, c in ((2, 1, 0.0), (1, 3, 1.0), (3, 2, 2.0))]
    return np.rint(127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)


def golden_size(model: FileModel) -> tuple[int, int]:
    """Return (H, W) of a drawn picture: that of the file's pictures, or an odd one that takes more than one tile."""
    tile = model.preprocessing.tile
    return model.signature.source_size or ((96, 128) if tile is None else (tile, tile + tile // 2))


def _readme(model: OnnxModel) -> str:
    names = ", ".join(model.classes[:12]) + (", ..." if len(model.classes) > 12 else "")
    source, answer = ends(model.signature)
    return f"""{model.path.name}: an image model of {len(model.classes)} classes ({names}), made with PocketViT.

On the device, with Python 3.10 or newer:

    pip install -r requirements.txt
    python bench.py                    checks the file and golden.png and measures the time; exit code 0: it matches
    python predict.py photo.jpg        what is in the picture; --json for programs, folders are fine

Classes and preprocessing are written inside the .onnx file, as JSON in its metadata under "pocketvit". preprocessing.py
is all that stands between a picture and the network. For an app of your own:

input "{source}": {describe_input(model.signature, model.batch)}
output "{answer}": {describe_output(model.signature, model.batch)}
"""
