"""Any model that exists, written as the files that a device takes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..errors import PocketError
from ..models.saving import find_model
from ..tasks import Task, task_named
from ..teachers import load_teacher
from ..views.preprocessing import Preprocessing
from .export import export_onnx
from .int8 import quantize_int8
from .model import Network
from .opening import open_model
from .package import draw_golden, write_device_zip
from .parity import Parity, check_parity
from .web import write_web


def export_files(
    model: Any,
    folder: Path | None = None,
    *,
    picture_size: tuple[int, int] | None = None,
    arch: str | None = None,
    weights: str | Path | None = None,
    input_size: int | None = None,
    norm: Any = None,
    classes: Sequence[str] | None = None,
) -> tuple[Path, dict[str, Parity]]:
    """Write ``model.onnx``, ``model-int8.onnx`` and ``device.zip``; return their folder and how they agree.

    A student or run folder is exported with the preprocessing that it carries, so that its new files answer as it does.

    Args:
        model: What `open_model` or `load_teacher` opens.
        folder: To write into; by default exported/NAME.
        picture_size: (height, width) of the camera's pictures, to have resizing, normalization and softmax inside.
        arch, weights, input_size, norm: As for `load_teacher`.
        classes: Names of the outputs; None for the model's own, else numbers.

    Raises:
        PocketError: It has no classes, or cannot be exported.
    """
    module, names, about, task, name = _opened(model, arch, weights, input_size, norm, classes)
    folder = folder or Path("exported") / name.replace("/", "_")
    fp32, int8 = folder / "model.onnx", folder / "model-int8.onnx"
    export_onnx(module, fp32, classes=names, preprocessing=about, task=task, source_size=picture_size)
    quantize_int8(fp32, int8)
    side = (about.view_size, about.view_size)
    drawn = np.stack([np.roll(draw_golden(*(picture_size or side)), 7 * shift, axis=1) for shift in range(8)])
    pixels = drawn if picture_size else drawn.transpose(0, 3, 1, 2)
    checks = {file.name: check_parity(module, file, pixels) for file in (fp32, int8)}
    write_device_zip(folder / "device.zip", int8)
    return folder, checks


def export_web(model: Any, folder: Path | None = None, *, runtime: Path, **given: Any) -> tuple[Path, str]:
    """Write a page that runs the model in the browser; return its folder and what was checked.

    Args:
        model: As for `export_files`.
        folder: To write into; by default exported/NAME-web.
        runtime: The folder of onnxruntime-web's files.
        given: As for `export_files`.
    """
    names = ("arch", "weights", "input_size", "norm", "classes")
    module, classes, about, task, name = _opened(model, *(given.get(one) for one in names))
    folder = folder or Path("exported") / f"{name.replace('/', '_')}-web"
    with tempfile.TemporaryDirectory() as made:
        fp32 = export_onnx(module, Path(made) / "fp32.onnx", classes=classes, preprocessing=about, task=task)
        return folder, write_web(folder, quantize_int8(fp32, Path(made) / "model.onnx"), runtime)


def _opened(
    model: Any, arch: str | None, weights: Any, input_size: int | None, norm: Any, classes: Sequence[str] | None
) -> tuple[nn.Module, Sequence[str], Preprocessing, Task, str]:
    path = Path(model).expanduser() if isinstance(model, str | Path) else None
    if path is not None and path.is_dir() and (input_size, norm, arch) == (None, None, None):
        student = find_model(path)[0].parent
        opened = open_model(student)
        assert isinstance(opened, Network)
        known = classes or opened.classes
        if classes and opened.classes and len(classes) != len(opened.classes):
            raise PocketError(f"{len(classes)} class names were given, and {model} has {len(opened.classes)} outputs.")
        name = path.resolve().parent.name if path.name == "student" else path.resolve().name
        return opened.module, known, opened.preprocessing, opened.task, name
    loaded = load_teacher(model, arch=arch, weights=weights, input_size=input_size, norm=norm, classes=classes)
    if not loaded.raw_outputs:
        raise PocketError(f"{model} has no classes, only features; train a head first: `pocketvit train IMAGES`.")
    known = loaded.classes or tuple(str(index) for index in range(loaded.raw_outputs))
    about = Preprocessing.plain((loaded.input_size, loaded.mean, loaded.std))
    return loaded.module, known, about, task_named("classification"), loaded.name
