"""What a runtime other than ONNX Runtime is to the rest of the package."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ...errors import PocketError
from ..export import first_line, quiet
from ..run import Run
from ..signature import Signature


@dataclass(frozen=True)
class Exported:
    """A network on its way to a runtime.

    Attributes:
        network: In eval mode, float32, on the CPU; its attention in plain products, which every runtime knows.
        signature: What its file says of itself; of precision "int8" where integers are asked for.
        onnx: The same network as an ONNX file that takes one picture at a time; for int8 with calibrated scales (QDQ)
            where images were there to calibrate on.
    """

    network: nn.Module
    signature: Signature
    onnx: Path


@dataclass(frozen=True)
class Runtime:
    """A runtime that files are written for, and checked under.

    Attributes:
        name: For people.
        suffix: Of its files.
        tools: Modules that have to be there to write its files.
        install: How to get them: the line to type.
        write: Writes a file of it, which says of itself what the signature says.
        load: Returns of a file its `Signature.to_json`, and what runs it with so many threads; None where the runtime
            does not run on this kind of machine.
        runs_with: Those of the tools that are enough to run a file; () for all.
        tolerance: Largest difference of an output of its fp32 file that is let pass.
        calibrates: Whether its int8 file is made from calibrated scales, and so of a run's images.
        example: The script in ``device/`` that shows how an app runs its file.
        unchecked: Where there is no ``load``: what a person is told.
        beside: Endings of what belongs to a file, under its name.
    """

    name: str
    suffix: str
    tools: tuple[str, ...]
    install: str
    write: Callable[[Exported, Path], None]
    load: Callable[[Path, int], tuple[str, Run]] | None
    runs_with: tuple[str, ...] = ()
    tolerance: float = 1e-3
    calibrates: bool = False
    example: str = ""
    unchecked: str = ""
    beside: tuple[str, ...] = ()

    def check(self, *, only_to_run: bool = False) -> None:
        """See that the tools are there.

        Raises:
            PocketError: One is not; says the line that gets it.
        """
        needed = self.runs_with if only_to_run and self.runs_with else self.tools
        missing = [tool for tool in needed if not _there(tool)]
        if missing:
            raise PocketError(f"{self.name} needs {', '.join(missing)}, not installed here: {self.install}.")

    def size(self, path: Path) -> int:
        """Return the bytes of a file, with those that belong to it and, where it is a folder, those inside."""
        parts = [path, *(path.with_suffix(suffix) for suffix in self.beside), *path.rglob("*")]
        return sum(part.stat().st_size for part in parts if part.is_file())


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a module in a package that is not there
        return False


@contextlib.contextmanager
def converting(name: str) -> Iterator[None]:
    """Hide what a converter prints; what it raises becomes one sentence.

    Raises:
        PocketError: The converter failed.
    """
    try:
        with quiet():
            yield
    except (PocketError, KeyboardInterrupt):
        raise
    except Exception as error:  # the converters' exceptions share no base class
        raise PocketError(
            f"{name} cannot take this network ({first_line(error)}). Nothing was written; the ONNX files of "
            "`--target cpu` run wherever ONNX Runtime does."
        ) from error
