"""The run folder: one walk of the road on disk, and the object that a verb returns for it.

runs/photos-1/
  config.yaml      every choice that was made
  train.log        what was said
  metrics.jsonl    a line per epoch
  checkpoints/     best and last, to resume from
  student/         model.safetensors and config.json, as timm reads them
  model.onnx, model-int8.onnx, device.zip
  results.json, predictions.npz, report.html
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .errors import PocketError
from .files import locked, read_json, storage_error, write_text
from .settings import Settings, differences, dump, load

if TYPE_CHECKING:
    from torch import nn

    from .reporting import Table

log = logging.getLogger("pocketvit")


@dataclass
class Outcome:
    """What a verb that leaves no run folder returns: a text for people, data for programs."""

    text: str
    data: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


class Run:
    """A run folder. In a notebook it shows its table."""

    begun: ClassVar[int] = 0  # how many, by this process: before that nothing is there to resume

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        if not (self.folder / "config.yaml").is_file():
            raise PocketError(f"{self.folder} is not a run folder: it has no config.yaml. `ls runs/` lists the runs.")

    @classmethod
    def begin(cls, name: str, settings: Any) -> Run:
        """Return a new run, or with ``settings.resume`` the unfinished one; all ranks of ``torchrun`` get rank 0's."""
        from .training.distributed import from_rank_zero, join_processes

        processes = join_processes(settings.device or "auto")
        if isinstance(settings.resume, bool):
            folder = ""
            if processes.rank == 0:
                make = cls.unfinished if settings.resume else cls.create
                folder = str(make(settings.out, name, settings).folder)
            run = cls(from_rank_zero(folder, processes.world))
        else:
            run = cls(settings.resume)
        Run.begun += 1
        return run

    @classmethod
    def create(cls, parent: Path | str, name: str, settings: Settings) -> Run:
        """Make the first free of ``parent/name-1``, ``name-2``, ...; a run never overwrites another."""
        parent = Path(parent)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            number = 1 + max([0, *(int(match[1]) for match in _numbered(parent, name))])
            while True:
                try:
                    (parent / f"{name}-{number}").mkdir()
                    break
                except FileExistsError:  # another process was faster
                    number += 1
        except OSError as error:
            raise storage_error(error, parent / name) from error
        folder = parent / f"{name}-{number}"
        write_text(folder / "config.yaml", dump(settings))
        return cls(folder)

    @classmethod
    def unfinished(cls, parent: Path | str, name: str, settings: Settings) -> Run:
        """Return the newest run of that name; an error if its settings are others."""
        run = cls._last(Path(parent), name)
        changes = differences(run.settings, settings)
        if changes:
            typed = shlex.quote(str(run.folder))
            raise PocketError(
                f"{run.folder} was started with other choices ({'; '.join(changes[:4])}). Give the same options, or "
                f"`--resume {typed}` to go on with its own, or leave --resume away to start a new run."
            )
        return run

    @classmethod
    def newest(cls, settings: Any, name: str) -> Run:
        """Return the run that ``settings.resume`` goes on with: the one it names, else the newest of that name."""
        return cls._last(Path(settings.out), name) if isinstance(settings.resume, bool) else cls(settings.resume)

    @classmethod
    def _last(cls, parent: Path, name: str) -> Run:
        numbered = ((int(match[1]), match[0]) for match in _numbered(parent, name))
        found = sorted(entry for entry in numbered if (parent / entry[1] / "config.yaml").is_file())
        if not found:
            raise PocketError(f"nothing to resume: no run {name}-N in {parent}. Leave --resume away to start one.")
        return cls(parent / found[-1][1])

    @property
    def settings(self) -> Any:
        """The choices this run was made with, of the class of its verb."""
        return load(self.folder / "config.yaml")

    @property
    def results(self) -> dict[str, Any]:
        """Everything that was measured (``results.json``)."""
        path = self.folder / "results.json"
        if not path.is_file():
            typed = shlex.quote(str(self.folder))
            raise PocketError(f"{self.folder} is not finished; give its command again with --resume {typed}.")
        value = read_json(path)
        if not isinstance(value, dict) or not isinstance(value.get("rows"), list):
            raise PocketError(f"{path} is not the results of a run. Delete it, and resume {self.folder}.")
        return value

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def finished(self) -> bool:
        """Whether the run was measured and reported."""
        return (self.folder / "results.json").is_file() and self.report.is_file()

    @property
    def exit_code(self) -> int:
        """What the command ends with: 2 where the file that ships is larger than was asked for, else 0."""
        return 2 if self.finished and self.results.get("too_large") else 0

    @property
    def data(self) -> dict[str, Any]:
        """The results with the run's folder: what ``--json`` prints."""
        return {"folder": str(self.folder), **self.results}

    @property
    def table(self) -> Table:
        """The honest table: student, teacher, baselines, with intervals."""
        from .reporting import Table

        return Table.of(self.results)

    @property
    def report(self) -> Path:
        """The path of the HTML report."""
        return self.folder / "report.html"

    @property
    def student(self) -> nn.Module:
        """The student as a PyTorch module in eval mode: normalized float images in, logits out."""
        from .models import load_model

        return load_model(self.folder / "student").module

    def predict(self, images: Any, *, window: tuple[float, float] | None = None, top: int = 1) -> list[dict[str, Any]]:
        """Label images with the exported student; a dict per image.

        Args:
            images: One or many: paths, images of Pillow, arrays [H, W(, C)], uint8 tensors [C, H, W], bytes of files.
            window: Intensities that become black and white in images that are not 8-bit.
            top: How many classes are listed.
        """
        from .deployment.predict import predict_images

        return [one.data for one in predict_images(self.folder, images, window=window, top=top)]

    def say(self, notes: list[str]) -> None:
        """Say where the run lies and what was chosen for it."""
        log.info("run      %s", self.folder)
        for note in notes:
            log.info("         %s", note)

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Keep other commands out of the folder while this one works in it; the processes of one command are one."""
        if os.environ.get("RANK", "0") != "0":
            return contextlib.nullcontext()
        busy = f"another command is at work in {self.folder}. Wait for it, or leave --resume away to start a new run."
        return locked(self.folder, refused=busy)

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Also write what is said to ``train.log``."""
        try:
            handler = logging.FileHandler(self.folder / "train.log", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise storage_error(error, self.folder / "train.log") from error
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            handler.close()

    def __str__(self) -> str:
        return f"{self.table}\n\nrun     {self.folder}\nreport  {self.report}"

    def __repr__(self) -> str:
        return str(self) if self.finished else f"Run({str(self.folder)!r}, unfinished)"

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def machine() -> dict[str, Any]:
    """Return the machine that stands under every table."""
    import torch

    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        model = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "gpu": gpu,
        "torch": torch.__version__,
        "os": f"{platform.system()} {platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
    }


def _numbered(parent: Path, name: str) -> list[re.Match[str]]:
    names = os.listdir(parent) if parent.is_dir() else []
    matches = (re.fullmatch(re.escape(name) + r"-(\d+)", entry) for entry in names)
    return [match for match in matches if match]
