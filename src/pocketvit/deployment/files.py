"""Any model that exists, written as the files that a device takes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..errors import PocketError
from ..files import storage_error
from ..models.saving import find_model
from ..tasks import Task, task_named
from ..teachers import load_teacher
from ..views.preprocessing import Preprocessing
from .export import export_onnx
from .int8 import open_graph, quantize_int8
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
    A run's own int8 file is taken as it is (see `_own_int8`), for it was made with care: with layers that stay fp32,
    calibrated, or trained for few bits. Where a run has none, none was good enough, and the fp32 file ships.

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
    plain = picture_size is None and not any((arch, weights, input_size, norm, classes))
    own = _own_int8(model) if plain else None
    refused = own is None and plain and _is_file(model, "model.onnx", "results.json")
    side = (about.view_size, about.view_size)
    drawn = np.stack([np.roll(draw_golden(*(picture_size or side)), 7 * shift, axis=1) for shift in range(8)])
    pixels = drawn if picture_size else drawn.transpose(0, 3, 1, 2)
    with whole(folder) as made:
        fp32, int8 = made / "model.onnx", made / "model-int8.onnx"
        export_onnx(module, fp32, classes=names, preprocessing=about, task=task, source_size=picture_size)
        if own is not None:
            shutil.copyfile(own, int8)
        elif not refused:
            quantize_int8(fp32, int8)
        files = [fp32] if refused else [fp32, int8]
        checks = {file.name: check_parity(module, file, pixels) for file in files}
        write_device_zip(made / "device.zip", files[-1])
    return folder, checks


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """Yield a folder to write into; when all is written its files come into ``folder``, else none of them does.

    Raises:
        PocketError: Nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-")
    except OSError as error:
        raise storage_error(error, folder) from error
    try:
        with place as made:
            yield Path(made)
            for path in sorted(Path(made).iterdir()):
                if (folder / path.name).is_dir():  # of an earlier export: Core ML's files are folders
                    shutil.rmtree(folder / path.name)
                path.replace(folder / path.name)
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()


def _own_int8(model: Any) -> Path | None:
    """Return the int8 file of a run that is whole and of this version; None of anything else."""
    if not _is_file(model, "model-int8.onnx", "results.json"):
        return None
    file = Path(model).expanduser() / "model-int8.onnx"
    return file if open_graph(file)[1].weights else None


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
    own = None if any(given.values()) else _own_int8(model)
    with tempfile.TemporaryDirectory() as made:
        if own is not None:
            return folder, write_web(folder, Path(shutil.copyfile(own, Path(made) / "model.onnx")), runtime)
        fp32 = export_onnx(module, Path(made) / "fp32.onnx", classes=classes, preprocessing=about, task=task)
        return folder, write_web(folder, quantize_int8(fp32, Path(made) / "model.onnx"), runtime)


def opened(
    model: Any, arch: str | None, weights: Any, input_size: int | None, norm: Any, classes: Sequence[str] | None
) -> tuple[nn.Module, Sequence[str], Preprocessing, Task, str]:
    """Return the network of a model, its classes, preprocessing and task, and what to call it.

    Raises:
        PocketError: It cannot be opened, or has no classes.
    """
    path = Path(model).expanduser() if isinstance(model, str | Path) else None
    if path is not None and path.is_dir() and (input_size, norm, arch) == (None, None, None):
        network = open_model(find_model(path)[0].parent)
        assert isinstance(network, Network)
        known = classes or network.classes
        if classes and network.classes and len(classes) != len(network.classes):
            raise PocketError(f"{len(classes)} class names were given, and {model} has {len(network.classes)} outputs.")
        name = path.resolve().parent.name if path.name == "student" else path.resolve().name
        return network.module, known, network.preprocessing, network.task, name
    loaded = load_teacher(model, arch=arch, weights=weights, input_size=input_size, norm=norm, classes=classes)
    if not loaded.raw_outputs:
        raise PocketError(f"{model} has no classes, only features; train a head first: `pocketvit train IMAGES`.")
    known = loaded.classes or tuple(str(index) for index in range(loaded.raw_outputs))
    about = Preprocessing.plain((loaded.input_size, loaded.mean, loaded.std))
    return loaded.module, known, about, task_named("classification"), loaded.name
