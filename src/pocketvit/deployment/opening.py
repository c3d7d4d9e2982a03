"""One door to every model that exists as files: an exported one, a student's folder, a run's."""

from __future__ import annotations

from pathlib import Path

from ..errors import PocketError
from ..models import load_model
from ..tasks import task_named
from .model import Model, Network
from .run import OnnxModel

_IN_A_RUN = ("model-int8.onnx", "model.onnx", "student")  # what ships first


def open_model(path: Path | str) -> Model:
    """Open an ``.onnx`` file, a student folder (or any of timm's), or a run folder, whose int8 file is preferred.

    Raises:
        PocketError: there is nothing that can be opened.
    """
    path = Path(path).expanduser()
    if path.suffix == ".onnx":
        return OnnxModel(path)
    for name in _IN_A_RUN:
        if (path / name).exists():
            return open_model(path / name)
    if path.is_dir() and (path / "config.yaml").is_file() and not (path / "config.json").is_file():
        raise PocketError(
            f"the run {path} has no model yet: finish it with the same command and --resume, or name another."
        )
    loaded = load_model(path)
    return Network(
        loaded.module,
        classes=loaded.classes,
        task=task_named(loaded.task),
        preprocessing=loaded.preprocessing,
        name=str(path),
    )
