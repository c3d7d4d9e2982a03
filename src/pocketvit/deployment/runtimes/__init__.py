"""Runtimes other than ONNX Runtime: a file each, with what writes their files and what runs them.

Their tools are optional, and imported only where they are used.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import PocketError
from ..run import FileModel
from ..signature import KEY, parse_signature
from .base import Exported, Runtime
from .coreml import COREML
from .executorch import EXECUTORCH
from .litert import LITERT
from .openvino import OPENVINO

RUNTIMES = {"openvino": OPENVINO, "executorch": EXECUTORCH, "litert": LITERT, "coreml": COREML}
"""By the name that ``export --target`` knows."""


def runtime_of(path: Path | str) -> Runtime | None:
    """Return the runtime whose file this is, by its suffix; None for anything else."""
    suffix = Path(path).suffix
    return next((one for one in RUNTIMES.values() if one.suffix == suffix), None)


def open_with(runtime: Runtime, path: Path | str, threads: int = 1) -> FileModel:
    """Open a file under its runtime.

    Raises:
        PocketError: The runtime is not installed, or does not run here; the file cannot be opened, or is not ours.
    """
    path = Path(path)
    if runtime.load is None:
        raise PocketError(f"{path} cannot be run here: {runtime.unchecked}")
    runtime.check(only_to_run=True)
    if not path.exists():
        raise PocketError(f"there is no file {path}.")
    text, run = runtime.load(path, threads)
    return FileModel(path, parse_signature({KEY: text} if text else {}, path), run, one_by_one=True)


__all__ = ["RUNTIMES", "Exported", "Runtime", "open_with", "runtime_of"]
