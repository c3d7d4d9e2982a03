"""`pocketvit export MODEL`."""

from __future__ import annotations

from pathlib import Path

from ..rundir import Outcome, speak


def export(
    model: str,
    *,
    out: str | None = None,
    picture: str | None = None,
    arch: str | None = None,
    weights: str | None = None,
    input: int | None = None,
    norm: str | None = None,
    classes: str | None = None,
) -> Outcome:
    """Export any model to ONNX, fp32 and int8, check both against the original, and pack device.zip.

    Args:
        model: a run or student folder, a timm name, hf-hub:NAME, a weights file (with --arch), MODULE:FUNCTION
        out: the folder to write into; by default exported/NAME
        picture: WIDTHxHEIGHT of the camera's pictures, to have resizing, normalization and softmax inside the graph
        arch: architecture of a weights file
        weights: weights file for an architecture or MODULE:FUNCTION
        input: side in pixels of what the model sees, where its file does not say
        norm: normalization where its file does not say: imagenet, half or none
        classes: names of the outputs, with commas; by default those of the model, else numbers
    """
    import numpy as np

    from ..deployment.export import export_onnx
    from ..deployment.int8 import quantize_int8
    from ..deployment.package import draw_golden, write_device_zip
    from ..deployment.parity import check_parity
    from ..errors import PocketError
    from ..files import human_bytes
    from ..teachers import load_teacher
    from .options import check_numbers

    speak()
    check_numbers(input=input)
    names = [name.strip() for name in classes.split(",")] if classes else None
    loaded = load_teacher(model, arch=arch, weights=weights, input_size=input, norm=norm, classes=names)
    if not loaded.raw_outputs:
        raise PocketError(f"{model} has no classes, only features; train a head first: `pocketvit train IMAGES`.")
    labels = loaded.classes or tuple(str(index) for index in range(loaded.raw_outputs))
    size = _picture_size(picture)
    folder = Path(out) if out else Path("exported") / loaded.name.replace("/", "_")
    fp32, int8 = folder / "model.onnx", folder / "model-int8.onnx"
    side = loaded.input_size
    export_onnx(
        loaded.module, fp32, image_size=side, mean=loaded.mean, std=loaded.std, classes=labels, source_size=size,
        several=loaded.kind == "sigmoid",
    )  # fmt: skip
    quantize_int8(fp32, int8)
    drawn = np.stack([np.roll(draw_golden(*(size or (side, side))), 7 * shift, axis=1) for shift in range(8)])
    pixels = drawn if size else drawn.transpose(0, 3, 1, 2)
    checks = {"model.onnx": check_parity(loaded.module, fp32, pixels)}
    checks["model-int8.onnx"] = check_parity(loaded.module, int8, pixels)
    archive = write_device_zip(folder / "device.zip", int8)
    sizes = {name: (folder / name).stat().st_size for name in checks}
    lines = [f"{name:16} {human_bytes(sizes[name]):>8}  {check.text()}" for name, check in checks.items()]
    lines.append(f"{'device.zip':16} {human_bytes(archive.stat().st_size):>8}  checked: it answers as PocketViT does")
    data = {
        "folder": str(folder),
        "files": {name: {"bytes": sizes[name], **vars(check)} for name, check in checks.items()},
    }
    return Outcome("\n".join([*lines, f"written to {folder} (parity on drawn pictures)"]), data)


def _picture_size(text: str | None) -> tuple[int, int] | None:
    """Read WIDTHxHEIGHT into (height, width)."""
    from ..errors import PocketError

    if text is None:
        return None
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise PocketError(f"--picture {text}: give the pictures' width and height, as in --picture 640x480.") from None
    if min(width, height) < 1:
        raise PocketError(f"--picture {text}: width and height must be at least 1 pixel.")
    return height, width
