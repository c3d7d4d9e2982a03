"""One door to every model that exists as files: an exported one, a student's folder, a run's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..errors import PocketError
from ..models import load_model
from ..models.grey import in_colour, of_brightness
from ..models.saving import LoadedModel
from ..tasks import task_named
from .model import Model, Network
from .run import FileModel, OnnxModel
from .runtimes import RUNTIMES, open_with, runtime_of

_IN_A_RUN = ("model-int8.onnx", "model.onnx", "student")  # what ships first


def is_exported(path: Path | str) -> bool:
    """Whether a path has the name of an exported file."""
    return Path(path).suffix == ".onnx" or runtime_of(path) is not None


def size_of(path: Path) -> int:
    """Return the bytes of an exported file, with those of what belongs to it."""
    runtime = runtime_of(path)
    return path.stat().st_size if runtime is None else runtime.size(path)


def open_file(path: Path | str) -> FileModel:
    """Open an exported file under the runtime that it was written for.

    Raises:
        PocketError: the runtime is not there, or the file cannot be opened.
    """
    runtime = runtime_of(path)
    return OnnxModel(path) if runtime is None else open_with(runtime, path)


def onnx_file(model: Path | str) -> Path | None:
    """Return the ONNX file that `open_model` opens; None where it opens another kind, or nothing."""
    path = Path(model).expanduser()
    files = [path] if path.suffix == ".onnx" else [path / name for name in _IN_A_RUN if name.endswith(".onnx")]
    return next((file for file in files if file.is_file()), None)


def shipped_in(folder: Path) -> Path | None:
    """Return what `open_model` opens of a run, or of a folder that `export` wrote; None where nothing is there."""
    places = [folder / name for name in _IN_A_RUN]
    places += [folder / f"model{kind}{runtime.suffix}" for kind in ("-int8", "") for runtime in RUNTIMES.values()]
    return next((place for place in places if place.exists()), None)


def open_model(path: Path | str) -> Model:
    """Open an exported file, a student folder (or any of timm's), or a run folder, whose int8 file is preferred.

    Raises:
        PocketError: there is nothing that can be opened.
    """
    path = Path(path).expanduser()
    if is_exported(path):
        return open_file(path)
    shipped = shipped_in(path)
    if shipped is not None:
        return open_model(shipped)
    if path.is_dir() and (path / "config.yaml").is_file() and not (path / "config.json").is_file():
        raise PocketError(
            f"the run {path} has no model yet: finish it with the same command and --resume, or name another."
        )
    loaded = load_for_colour(path)
    return Network(
        loaded.module,
        classes=loaded.classes,
        task=task_named(loaded.task),
        preprocessing=loaded.preprocessing,
        name=str(path),
    )


def load_for_colour(path: Path | str, input_size: int | None = None) -> LoadedModel:
    """Load a network as `load_model` does; one of grey pictures sees the brightness of colour ones, as a teacher's.

    Raises:
        PocketError: See `load_model`.
    """
    loaded = load_model(path, input_size)
    if not in_colour(loaded.module):
        return loaded
    about = loaded.preprocessing
    mean, std = of_brightness(about.mean), of_brightness(about.std)
    return dataclasses.replace(loaded, preprocessing=dataclasses.replace(about, mean=mean, std=std))
