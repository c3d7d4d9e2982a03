"""What a setting is: a field of a frozen dataclass that says its type, default, range, help and group, once.

    class Training(Settings, group="training"):
        epochs: int | None = setting("of the student", default=None, low=1, common=True)

makes the option ``--epochs``, the keyword ``epochs``, the line ``epochs:`` of ``config.yaml``, their help and their
check. `groups` has the groups of settings, `verbs` a class per verb. A settings object that exists is valid: every
value was read (a number may be typed as text, a path may be a `Path`, one thing may stand for a list of one) and
checked. Nothing here imports torch or numpy, so that mistakes are told at once.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import math
import os
import re
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Iterable
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, Union, dataclass_transform, get_args, get_origin

from ..errors import PocketError


class Other:
    """Stands for objects that only Python can give, as a network or a picture: they are passed on untouched."""


if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

    from ..rundir import Run
    from ..sources import Dataset
    from ..teachers import Teacher

    Model: TypeAlias = str | Path | Run | nn.Module | Teacher
    ImageSet: TypeAlias = str | Path | Dataset | tuple[Any, Any]
    Picture: TypeAlias = str | Path | Image
    RunFolder: TypeAlias = str | Path | Run
else:  # their rooms are not to be imported
    Model = ImageSet = Picture = RunFolder = str | Path | Other


@dataclass(frozen=True, kw_only=True)
class Setting:
    """All that is known of one setting.

    Attributes:
        name: The same in the shell, in Python and in files.
        help: One sentence.
        group: By default that of the class.
        default: What holds where nothing is said; MISSING where a value must be given.
        positional: It is named by its place, as the images are.
        kinds: Of bool, int, float, str, Path and Other, by the annotation.
        many: It holds a tuple, for which a single value may be given.
        optional: It may be None.
        choices: The texts that it may be, by the annotation.
        low, high, above, below: The range of a number: at least, at most, more than, less than.
        read: Turns a given value into what is kept; a ``ValueError`` says what is wanted. See `values`.
        metavar: How the help calls a value; by default by its type.
        exists: The value is a path that must be there; these words say what may be given instead.
        besides: Values that are no paths.
        regular: The path must be that of a file.
        common: It stands on the first page of help.
        was: Its former name, which the shell still takes.
        saved: Whether ``config.yaml`` keeps it.
        compared: Whether results may depend on it, so that a resumed run must have the same.
    """

    name: str
    help: str
    group: str
    default: Any
    positional: bool
    kinds: frozenset[type]
    many: bool
    optional: bool
    choices: tuple[str, ...]
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    read: Callable[[Any], Any] | None = None
    metavar: str = ""
    exists: str = ""
    besides: tuple[str, ...] = ()
    regular: bool = False
    common: bool = False
    was: str = ""
    saved: bool = True
    compared: bool = True

    @property
    def flag(self) -> str:
        """How the shell says it: ``--teacher-size``, or ``IMAGES`` where the place says which it is."""
        return self.name.upper() if self.positional else "--" + self.name.replace("_", "-")

    @property
    def wanted(self) -> str:
        """What a value may be, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kinds & {int, float}:
            return ("a whole number" if int in self.kinds else "a number") + self._range()
        if bool in self.kinds:
            return "true or false" + (" or a path" if Path in self.kinds else "")
        return "a name or a path" if Path in self.kinds else "text"

    def take(self, value: Any) -> Any:
        """Return a given value as settings keep it.

        Raises:
            PocketError: It cannot be used; the message names the option, the value and what is wanted.
        """
        if value is None and self.optional:
            return () if self.default == () else None
        try:
            if self.read is not None and value is not None:
                return self.read(value)
            if not self.many:
                return self._one(value)
            if not (values := listed(value)) and self.default is MISSING:
                raise ValueError(f"give {self.wanted}")
        except ValueError as error:
            raise self.refused(value, str(error)) from None
        single = dataclasses.replace(self, many=False, optional=False)
        return tuple(map(single.take, values))

    def refused(self, value: Any, reason: str) -> PocketError:
        """Return the error that names the option, its value and the reason."""
        if value is False and self.default is True:
            return PocketError(f"--no-{self.flag.removeprefix('--')}: {reason.rstrip('.')}.")
        if value is True and bool in self.kinds:  # as it is typed
            return PocketError(f"{self.flag}: {reason.rstrip('.')}.")
        if isinstance(value, str):
            text = value if value.strip() else repr(value)
        elif self.many and isinstance(value, list | tuple) and value:
            text = ", ".join(map(str, value))
        else:
            text = str(value).lower() if value is None or isinstance(value, bool) else reprlib.repr(value)
        text = " ".join(text.split())
        text = text if len(text) <= 80 else text[:77] + "..."
        return PocketError(f"{self.flag} {text}: {reason.rstrip('.')}{'' if reason.endswith('?') else '.'}")

    def _one(self, value: Any) -> Any:
        if Other not in self.kinds and getattr(value, "ndim", None) == 0:  # a scalar of numpy or torch
            value = value.item()
        if isinstance(value, os.PathLike):
            value = os.fsdecode(value)
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, bool):
            if bool in self.kinds:
                return value
        elif isinstance(value, int | float):
            if self.kinds & {int, float}:
                return self._number(value)
        elif Other in self.kinds and (not isinstance(value, bytes | dict | None) or _is_by_split(value)):
            return value
        raise ValueError(f"give {self.wanted}")

    def _text(self, text: str) -> Any:
        if self.choices:
            if text in self.choices:
                return text
            raise ValueError(f"give {self.wanted}{near(text, self.choices)}")
        if not self.kinds & {str, Path}:
            return self._number(text.strip())
        if not text.strip() or "\0" in text:
            raise ValueError(f"this names nothing. Give {self.wanted}, or leave {self.flag} away")
        if Path in self.kinds or text.startswith("local-dir:"):
            text = os.path.expanduser(text) if text.startswith("~") else text
            text = text.rstrip("/") or text
        return text

    def _number(self, value: str | float) -> Any:
        try:
            whole = isinstance(value, int) or (isinstance(value, str) and re.fullmatch(r"[-+]?\d+", value))
            number = int(value) if int in self.kinds and whole else float(value) if float in self.kinds else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if (
            math.isfinite(number)
            and (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        ):
            return number
        raise ValueError(f"give {self.wanted}")

    def _range(self) -> str:
        if self.low is not None and self.high is not None:
            return f" from {self.low:,} to {self.high:,}"
        bounds = {"of at least": self.low, "of at most": self.high, "above": self.above, "below": self.below}
        return " and".join(f" {word} {bound:,}" for word, bound in bounds.items() if bound is not None)


def setting(help: str, *, default: Any = MISSING, kw_only: bool = True, group: str = "", **more: Any) -> Any:
    """Say what a field of `Settings` is; ``more`` are attributes of `Setting`. Without a default it must be given."""
    return dataclasses.field(default=default, kw_only=kw_only, metadata={"help": help, "group": group, **more})


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting,))
@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """The settings of a verb, or a group of them for verbs to combine. Subclasses are frozen dataclasses."""

    verb: ClassVar[str] = ""
    makes: ClassVar[str] = ""  # the verb whose runs it makes, where that is another
    _group: ClassVar[str] = ""
    _settings: ClassVar[tuple[Setting, ...]]

    config: str | Path | None = setting(  # noqa: RUF009
        "start from the values in this file, as a run's config.yaml; what is given beside it goes over it",
        default=None, metavar="FILE", common=True, group="output", saved=False, compared=False,
    )  # fmt: skip

    def __init_subclass__(cls, group: str = "", verb: str = "") -> None:
        cls._group = group or verb or cls._group
        cls.verb = verb or cls.verb
        dataclass(frozen=True, kw_only=True, repr=False)(cls)

    def __post_init__(self) -> None:
        for one in settings_of(type(self)):
            object.__setattr__(self, one.name, one.take(getattr(self, one.name)))
        self.check()

    def check(self) -> None:
        """Refuse combinations that cannot be, from the values alone. Groups extend it and call ``super().check()``."""
        if self.config is not None:
            raise self.refused("config", "verbs read this file; settings.load(FILE) gives the settings that it holds")

    def check_given(self, given: Collection[str]) -> None:
        """Refuse combinations of what the user gave, by name. Beside it a run's file may hold what was chosen for it.

        It is no part of `check`, so that this file can be read. Groups extend it as they do `check`.
        """

    def look(self) -> None:
        """Refuse what is missing, before a verb starts: a path that is not there, something that must be named.

        It is no part of `check`, so that the settings of an old run can be read when its images are gone.
        """
        for one in settings_of(type(self)):
            if one.exists:
                for value in listed(getattr(self, one.name)):
                    check_path(one, value)

    def refused(self, name: str, reason: str) -> PocketError:
        """Return the error that refuses the value of a setting for a reason."""
        return find(type(self), name).refused(getattr(self, name), reason)

    def __repr__(self) -> str:
        changed = (one for one in settings_of(type(self)) if getattr(self, one.name) != one.default)
        return f"{type(self).__name__}({', '.join(f'{one.name}={getattr(self, one.name)!r}' for one in changed)})"


def settings_of(kind: type[Settings]) -> tuple[Setting, ...]:
    """Return the settings of a class, group by group, its own group first and in each group the common ones."""
    if "_settings" in vars(kind):
        return kind._settings
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    bases = [base for base in kind.__mro__ if issubclass(base, Settings)]
    order = list(dict.fromkeys([*(base._group for base in bases if base._group), "output"]))
    found: dict[str, Setting] = {}
    for base in bases:
        for name in vars(base).get("__annotations__", ()):
            if name in fields and name not in found:
                field = fields[name]
                found[name] = Setting(
                    name=name,
                    default=field.default,
                    positional=not field.kw_only,
                    **_kinds(hints[name]),
                    **{**field.metadata, "group": field.metadata["group"] or base._group},
                )
    kind._settings = tuple(
        sorted(found.values(), key=lambda one: (order.index(one.group), not one.positional, not one.common))
    )
    return kind._settings


def find(kind: type[Settings], name: str) -> Setting:
    """Return one setting of a class.

    Raises:
        PocketError: It has none of that name; the message names the near one, or what it is called now.
    """
    known = {one.name: one for one in settings_of(kind)}
    if name in known:
        return known[name]
    now = next((one.name for one in known.values() if one.was == name), None)
    hint = f". Did you mean {now}?" if now else near(name, known) or f". `pocketvit {kind.verb} --help all` lists them."
    raise PocketError(f"`pocketvit {kind.verb}` has no setting {name!r}{hint}")


def listed(value: Any) -> tuple[Any, ...]:
    """Return many values as a tuple, and a single one, which may itself be iterable, as a tuple of one."""
    if isinstance(value, list | tuple | collections.abc.Iterator):
        return tuple(value)
    return () if value is None else (value,)


def near(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean ...?" with the nearest of the known words, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f". Did you mean {close[0]}?" if close else ""


def _is_by_split(value: Any) -> bool:
    """Whether a dictionary is images by split; one of a settings file is a mistake."""
    return isinstance(value, dict) and "train" in value


def check_path(one: Setting, value: Any) -> None:
    """Refuse a path that is not there, or is no file where it must be one, with the one that may have been meant."""
    if not isinstance(value, str) or value in one.besides:
        return
    if not os.path.exists(value):
        folder, name = os.path.split(value)
        try:
            names = os.listdir(folder or ".")
        except OSError:
            names = []
        close = [os.path.join(folder, found) for found in difflib.get_close_matches(name, names, n=2)]
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        if one.name == "images" and value == "demo":
            hint = " `pocketvit demo` is a command of its own."
        if one.name == "teacher" and "," in value and all(map(os.path.exists, value.split(","))):
            hint = " Repeat --teacher for several."
        where = "" if one.positional else f"{one.flag}: "
        raise PocketError(f"{where}there is no {value}.{hint}" + (f" Give {one.exists}." if one.exists else ""))
    if one.regular and not os.path.isfile(value):
        raise one.refused(value, f"this is no file. Give {one.exists}")


def _kinds(hint: Any) -> dict[str, Any]:
    kinds: set[type] = set()
    choices: tuple[str, ...] = ()
    many = optional = False
    parts = [hint]
    for part in parts:
        origin = get_origin(part)
        if origin in (Union, types.UnionType):
            parts += get_args(part)
        elif origin is Literal:
            choices += get_args(part)
        elif origin is collections.abc.Sequence:
            many = True
            parts += get_args(part)
        elif part is type(None):
            optional = True
        elif origin is None:
            kinds.add(part)
    return {"kinds": frozenset(kinds), "choices": choices, "many": many, "optional": optional}
