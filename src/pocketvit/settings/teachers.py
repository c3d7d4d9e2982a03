"""The groups of settings that say which networks are loaded, and what their files do not say of them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..errors import PocketError
from .base import Model, Settings, check_path, find, listed, setting

Norm = Literal["imagenet", "half", "none"]
TEACHER = (
    "timm name, hf-hub:NAME, local-dir:FOLDER, a weights file (with --arch where its layers do not say what it is) or "
    "MODULE:FUNCTION; in Python also an nn.Module"
)
LIGHT_TEACHERS = 2  # that are trained on the user's labels where none is named
NO_TEACHER = "none"  # in place of a teacher's name


class Teachers(Settings, group="teachers"):
    """Which teachers, and what their files do not say of them."""

    teacher: Model | Sequence[Model] | None = setting(
        f"{TEACHER}. Repeat for several", default=(), metavar="NAME", common=True,
    )  # fmt: skip
    arch: str | None = setting("architecture of a weights file named as teacher", default=None, metavar="NAME")
    weights: str | Path | None = setting(
        "weights file for an architecture or MODULE:FUNCTION named as teacher",
        default=None, metavar="FILE", exists="a weights file", regular=True,
    )  # fmt: skip
    teacher_size: int | None = setting(
        "side in pixels of what the teacher sees, where its file does not say",
        default=None, low=1, high=4096, was="input",
    )  # fmt: skip
    teacher_norm: Norm | None = setting(
        "normalization of the teacher's input, where its file does not say", default=None, was="norm"
    )

    def check(self) -> None:
        super().check()
        if not self.teacher:
            for name in ("arch", "weights", "teacher_size", "teacher_norm"):
                if getattr(self, name) is not None:
                    raise self.refused(name, "this describes a teacher. Name it with --teacher")

    def look(self) -> None:
        super().look()
        for teacher in listed(self.teacher):
            check_model(self, "teacher", teacher)
            whole = isinstance(teacher, str) and (
                teacher.startswith(("local-dir:", "hf-hub:")) or Path(teacher).is_dir()
            )
            for name in ("arch", "weights"):
                file = name == "weights" and isinstance(teacher, str | Path) and Path(teacher).is_file()
                function = name == "arch" and isinstance(teacher, str) and ":" in teacher
                if (whole or file or function) and getattr(self, name) is not None:
                    raise self.refused(name, f"{teacher} says this itself. Leave {find(type(self), name).flag} away")

    @property
    def untaught(self) -> bool:
        """Whether there is to be no teacher at all, not even one that is made here."""
        return NO_TEACHER in [one for one in listed(self.teacher) if isinstance(one, str)]

    def require_teacher(self) -> None:
        """Refuse to start without a teacher."""
        if not self.teacher:
            raise PocketError(f"name the teacher: `pocketvit {self.verb} ... --teacher NAME`.")


class Adapting(Settings, group="teachers"):
    """What becomes of a teacher whose classes are others."""

    fine_tune: bool = setting(
        "fine-tune a teacher that has other classes (or classes without names), however long that takes", default=False
    )
    freeze: bool = setting("only train a linear probe on such a teacher", default=False)

    def check(self) -> None:
        super().check()
        if self.fine_tune and self.freeze:
            raise PocketError(
                "--fine-tune and --freeze exclude each other: all weights are trained, or the head alone."
            )
        for name in ("fine_tune", "freeze"):
            if getattr(self, name) and not getattr(self, "teacher", None):
                raise self.refused(name, "this is for a teacher that has other classes. Name it with --teacher")


class Loading(Settings, group="model"):
    """What the files of models do not say of them."""

    arch: str | None = setting("architecture of weights files", default=None, metavar="NAME")
    weights: str | Path | None = setting(
        "weights file for an architecture or MODULE:FUNCTION",
        default=None, metavar="FILE", exists="a weights file", regular=True,
    )  # fmt: skip
    input_size: int | None = setting(
        "side in pixels of what a model sees, where its file does not say",
        default=None, low=1, high=4096, was="input",
    )  # fmt: skip
    norm: Norm | None = setting("normalization of a model's input, where its file does not say", default=None)


def check_model(settings: Settings, name: str, value: object) -> None:
    """Refuse a model whose name says that it is a file or folder, and which is not there.

    A slash says so too: the hub's names have one as well, and stand behind ``hf-hub:``.
    """
    if not isinstance(value, str) or re.match("hf[-_]hub:", value):
        return
    one, place = find(type(settings), name), value.removeprefix("local-dir:")
    if place != value or re.search(r"\.(pth?|th|safetensors|onnx|bin|xml|pte|tflite|mlpackage)$", value):
        check_path(dataclasses.replace(one, exists="a path that is there, or a name of timm or of the hub"), place)
    elif "/" in value:
        hub = f", or hf-hub:{value} for a model of the hub" if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", value) else ""
        check_path(dataclasses.replace(one, exists=f"a path that is there{hub}"), os.path.expanduser(value))
