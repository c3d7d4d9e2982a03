"""`pocketvit predict MODEL IMAGES`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..rundir import Outcome, speak


def predict(model: str, images: Sequence[str | Path] | str | Path, *, top: int = 1) -> Outcome:
    """Label images with a run, a student folder or an exported file.

    Where images have several labels, each with a probability of at least 50 % is named ("none" where there is none).
    Files that cannot be read are reported and the others go on; the exit code is then 1.

    Args:
        model: a run folder (its int8 file is used), a student folder, or an .onnx file
        images: files and folders
        top: how many classes to list for each image; above 1 the likeliest labels, there or not
    """
    from ..deployment.predict import predict_images
    from .options import check_numbers

    speak()
    check_numbers(top=top)
    paths = [images] if isinstance(images, str | Path) else list(images)
    found = predict_images(model, paths, topk=top)
    lines = []
    for entry in found:
        if "error" in entry:
            lines.append(f"{entry['file']}  could not be read: {entry['error']}")
        else:
            named = entry["labels"] if "labels" in entry and top == 1 else entry["topk"]
            ranked = "  ".join(f"{label} {score:.1%}" for label, score in named) or "none"
            lines.append(f"{entry['file']}  {ranked}")
    broken = any("error" in entry for entry in found)
    return Outcome("\n".join(lines), {"predictions": found}, exit_code=1 if broken else 0)
