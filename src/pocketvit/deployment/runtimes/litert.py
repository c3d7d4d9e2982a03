"""LiteRT, TensorFlow Lite's successor: a .tflite, for apps on Android and for embedded Linux.

The converter asks for an older PyTorch than the newest, and so lives in an environment of its own. int8 needs no
images: weights have a scale a row, and inputs of products are rounded while the file runs. Classes and preprocessing
lie in a zip behind the model, where TensorFlow Lite's own metadata puts labels too.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import PocketError
from ...files import is_archive
from ..export import first_line
from ..run import Run
from ..signature import KEY
from .base import Exported, Runtime, converting

METADATA = f"{KEY}.json"  # the name of the file in the zip


def write(exported: Exported, path: Path) -> None:
    """Write a model whose input is laid out as PyTorch's, [1, 3, S, S]."""
    side = exported.signature.preprocessing.input_size
    with converting("LiteRT"):
        import litert_torch

        example = (torch.zeros(1, 3, side, side),)
        litert_torch.convert(exported.network, example).export(str(path))
        if exported.signature.precision == "int8":
            _round(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA, exported.signature.to_json())


def _round(path: Path) -> None:
    """Replace a file by its int8 form."""
    from ai_edge_quantizer import quantizer, recipe

    found: Any = quantizer.Quantizer(str(path), recipe.dynamic_wi8_afp32()).quantize()
    path.unlink()
    found.export_model(str(path))


def load(path: Path, threads: int) -> tuple[str, Run]:
    """See `Runtime.load`."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        model: Any = Interpreter(model_path=str(path), num_threads=threads)
        model.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise PocketError(f"LiteRT cannot open {path}: {first_line(error)}") from error
    source, answer = model.get_input_details()[0]["index"], model.get_output_details()[0]["index"]

    def run(feed: np.ndarray) -> np.ndarray:
        model.set_tensor(source, np.ascontiguousarray(feed))
        model.invoke()
        return model.get_tensor(answer)

    return _metadata(path), run


def _metadata(path: Path) -> str:
    if not is_archive(path):
        return ""
    with zipfile.ZipFile(path) as archive:
        return archive.read(METADATA).decode() if METADATA in archive.namelist() else ""


LITERT = Runtime(
    "LiteRT",
    ".tflite",
    ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
    "its converter asks for an older PyTorch; in an environment of its own, type "
    "`python -m venv litert && litert/bin/pip install 'pocketvit[litert]'`",
    write,
    load,
    runs_with=("ai_edge_litert",),
    example="example_litert.py",
)
