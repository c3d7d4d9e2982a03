"""What lies beside a runtime's files: a script to write an app after, and a picture whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import PocketError
from .model import Model
from .package import TOLERANCE, draw_golden, scores_on_device, script
from .runtimes import Runtime

EXAMPLE = "example.py"
_BESIDE = ("preprocessing.py", "boxes.py", "answers.py")  # what it imports: numpy and Pillow, no PyTorch


def write_example(folder: Path, runtime: Runtime, model: Model) -> str:
    """Write ``example.py``, what it imports, and ``golden.png`` with its ``golden.json``; return how it was checked.

    The expected answer is the live network's, under this package's own preprocessing.

    Args:
        folder: Of the runtime's files.
        runtime: Theirs.
        model: The network that they were made from.

    Raises:
        PocketError: The example answers otherwise than the network.
    """
    tile = model.preprocessing.tile
    picture = draw_golden(*((96, 128) if tile is None else (tile, tile + tile // 2)))
    expected = model.task.class_scores(model.label([picture])[0], len(model.classes))
    for name in _BESIDE:
        (folder / name).write_text(script(name), encoding="utf-8")
    (folder / EXAMPLE).write_text(script(runtime.example), encoding="utf-8")
    Image.fromarray(picture).save(folder / "golden.png", "PNG", optimize=True)
    scores = [[name, float(f"{score:.6g}")] for name, score in zip(model.classes, expected, strict=True)]
    golden = json.dumps({"picture": "golden.png", "scores": scores}, indent=2, ensure_ascii=False)
    (folder / "golden.json").write_text(golden + "\n", encoding="utf-8")
    if runtime.load is None:
        return runtime.unchecked
    difference = float(np.abs(scores_on_device(folder, EXAMPLE, "golden.png") - expected).max())
    if not difference <= max(TOLERANCE["fp32"]["probability"], runtime.tolerance):
        raise PocketError(
            f"example.py answers otherwise than PocketViT (difference {difference:.2g}): nothing was written. Please "
            "report this with the model's config.json."
        )
    return "checked: it answers as PocketViT does"
