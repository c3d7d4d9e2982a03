"""Any model that exists, written as the files that a device takes."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..errors import NotSmaller, PocketError
from ..files import whole_folder
from ..models.inputs import parse_norm
from ..tasks import Task, task_named
from ..teachers import load_teacher
from ..teachers.hugging_face import kind_saved
from ..views.preprocessing import Preprocessing
from .export import export_onnx
from .int8 import open_graph, quantize_int8, save_int8
from .opening import load_for_colour
from .package import draw_golden, write_device_zip
from .parity import Parity, check_parity
from .web import write_web

log = logging.getLogger("pocketvit")

_FEATURES = "{} has no classes, only features; train a head first: `pocketvit train IMAGES`."


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

    A student or run folder is exported with the task and preprocessing that it carries, less what is named here, so
    that its new files answer as it does. Of its int8 file see `_write_int8`; where there is none the fp32 one ships.

    Args:
        model: What `open_model` or `load_teacher` opens.
        folder: To write into; by default exported/NAME.
        picture_size: (height, width) of the camera's pictures, to have resizing, normalization and softmax inside.
        arch, weights, input_size, norm: As for `load_teacher`.
        classes: Names of the outputs; None for the model's own, else numbers.

    Raises:
        PocketError: It has no classes, or cannot be exported.
    """
    module, names, about, task, name = opened(model, arch, weights, input_size, norm, classes)
    folder = folder or Path("exported") / name.replace("/", "_")
    side = (about.view_size, about.view_size)
    drawn = np.stack([np.roll(draw_golden(*(picture_size or side)), 7 * shift, axis=1) for shift in range(8)])
    pixels = drawn if picture_size else drawn.transpose(0, 3, 1, 2)
    with whole_folder(folder) as made:
        fp32, int8 = made / "model.onnx", made / "model-int8.onnx"
        export_onnx(module, fp32, classes=names, preprocessing=about, task=task, source_size=picture_size)
        same = picture_size is None and not any((arch, weights, input_size, norm))
        files = [fp32, int8] if _write_int8(model, fp32, int8, same=same) else [fp32]
        checks = {file.name: check_parity(module, file, pixels) for file in files}
        write_device_zip(made / "device.zip", files[-1])
    return folder, checks


def _write_int8(model: Any, fp32: Path, int8: Path, *, same: bool) -> bool:
    """Write the int8 version of an fp32 file; return whether there is one.

    That of a finished run is taken as it is, for it was made with care: with layers that stay fp32, calibrated, or
    trained for few bits. Where a run has none, none was good enough.

    Args:
        model: What the fp32 file was made of.
        fp32: The file.
        int8: To be written.
        same: Whether the fp32 file is that of the run, nothing of it named otherwise but its classes.
    """
    if _is_file(model, "results.json", "model.onnx"):
        own = Path(model).expanduser() / "model-int8.onnx"
        if not own.is_file():
            return False
        graph, signature = open_graph(own)
        if same and signature.weights:  # else of a version that did not seal them
            named = open_graph(fp32)[1].classes
            if signature.classes == named:
                shutil.copyfile(own, int8)
            else:
                save_int8(graph, dataclasses.replace(signature, classes=named), int8)
            return True
        log.info("note     the int8 file is made anew and not scored; the run's own, which was, answers otherwise")
    try:
        quantize_int8(fp32, int8)
    except NotSmaller:
        return False
    return True


def _is_file(model: Any, *names: str) -> bool:
    """Whether a model is a run folder that has files of these names."""
    if not isinstance(model, str | os.PathLike):
        return False
    return all((Path(model).expanduser() / name).is_file() for name in ("config.yaml", *names))


def export_web(model: Any, folder: Path | None = None, *, runtime: Path, **given: Any) -> tuple[Path, str]:
    """Write a page that runs the model in the browser; return its folder and what was checked.

    Args:
        model: As for `export_files`.
        folder: To write into; by default exported/NAME-web.
        runtime: The folder of onnxruntime-web's files.
        given: As for `export_files`.
    """
    names = ("arch", "weights", "input_size", "norm", "classes")
    module, classes, about, task, name = opened(model, *(given.get(one) for one in names))
    folder = folder or Path("exported") / f"{name.replace('/', '_')}-web"
    with tempfile.TemporaryDirectory() as made:
        fp32, int8 = Path(made) / "fp32.onnx", Path(made) / "model.onnx"
        export_onnx(module, fp32, classes=classes, preprocessing=about, task=task)
        same = not any(value for one, value in given.items() if one != "classes")
        if not _write_int8(model, fp32, int8, same=same):
            fp32.replace(int8)
        return folder, write_web(folder, int8, runtime, name=name)


def opened(
    model: Any, arch: str | None, weights: Any, input_size: int | None, norm: Any, classes: Sequence[str] | None
) -> tuple[nn.Module, Sequence[str], Preprocessing, Task, str]:
    """Return the network of a model, its classes, preprocessing and task, and what to call it.

    Raises:
        PocketError: It cannot be opened, or has no classes.
    """
    folder = _saved(model)
    if folder is not None and not (arch and folder.is_file()):
        if arch or weights:
            raise PocketError(f"{model} says itself of which network its weights are. Leave --arch and --weights away.")
        loaded = load_for_colour(folder, input_size)
        about, outputs = loaded.preprocessing, int(getattr(loaded.module, "num_classes", 0))
        if not outputs:
            raise PocketError(_FEATURES.format(model))
        if norm is not None:
            mean, std = parse_norm(norm)
            about = dataclasses.replace(about, mean=tuple(mean), std=tuple(std))
        if classes and loaded.classes and len(classes) != len(loaded.classes):
            raise PocketError(f"{len(classes)} class names were given, and {model} has {len(loaded.classes)} outputs.")
        known = tuple(classes or loaded.classes or map(str, range(outputs)))
        place = folder.resolve()
        name = place.parent.name if place.name == "student" or place.is_file() else place.name
        return loaded.module, known, about, task_named(loaded.task), name
    teacher = load_teacher(model, arch=arch, weights=weights, input_size=input_size, norm=norm, classes=classes)
    if not teacher.raw_outputs:
        raise PocketError(_FEATURES.format(model))
    known = tuple(teacher.classes or map(str, range(teacher.raw_outputs)))
    about = Preprocessing.plain((teacher.input_size, teacher.mean, teacher.std))
    return teacher.module, known, about, task_named("classification"), teacher.name


def _saved(model: Any) -> Path | None:
    """Return the folder, or the weights beside their config.json, of a model that says itself how it is fed."""
    if not isinstance(model, str | os.PathLike):
        return None
    path = Path(os.fspath(model).removeprefix("local-dir:")).expanduser()
    if path.suffix == ".safetensors" and (path.parent / "config.json").is_file():
        return path
    return path if path.is_dir() and kind_saved(str(path)) != "ImageClassification" else None
