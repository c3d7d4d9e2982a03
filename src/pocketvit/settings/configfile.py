"""Settings in a file: `dump` writes all of a run's, `load` reads them again, `read_values` reads those a user wrote."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import PocketError
from .base import Setting, Settings, find, listed, near, settings_of
from .teachers import NO_TEACHER
from .verbs import VERBS

_NOTHING: Mapping[str, Any] = {}
# What is chosen for a student with a teacher, and cannot be given beside --teacher none.
_OF_TAUGHT = ("match", "store_features", "views", "objective", "temperature", "teacher_weights", "hard_share")
_LARGEST = 100_000  # bytes of a file
_OLD = (
    "was written by an earlier version, whose settings cannot be taken over. `pocketvit predict`, `report`, `bench` "
    "and `export` still open its run; to go on, start a new one."
)


def plain(settings: Settings) -> dict[str, Any]:
    """Return the settings that are saved as text, numbers and lists; of an object that only Python has, its kind."""
    return {one.name: plain_value(getattr(settings, one.name)) for one in settings_of(type(settings)) if one.saved}


def dump(settings: Settings) -> str:
    """Return the text of ``config.yaml``: who wrote it, and a line per setting, group by group."""
    from .. import __version__

    lines = [_line("pocketvit", __version__), _line("verb", settings.verb)]
    values, group = plain(settings), ""
    for one in settings_of(type(settings)):
        if one.saved:
            lines += [f"\n# {one.group}\n"] if one.group != group else []
            lines.append(_line(one.name, values[one.name]))
            group = one.group
    return "".join(lines)


def load(path: Path | str) -> Settings:
    """Return the settings that `dump` wrote, of the verb's class.

    Raises:
        PocketError: No such file, or none that `dump` wrote.
    """
    values = _mapping(path)
    if "pocketvit" not in values:
        raise PocketError(f"{path} {_OLD}")
    kind = VERBS.get(str(values.get("verb")))
    if kind is None:
        raise PocketError(f"{path} names no verb of this version ({values.get('verb')!r}). Update pocketvit?")
    return _within(path, lambda: kind(**_known(kind, values)))


def of_a_run(path: Path | str) -> bool:
    """Whether `dump` wrote a file, which then holds what was chosen for a run besides what was asked for."""
    return "pocketvit" in _mapping(path)


def read_values(path: Path | str, kind: type[Settings], given: Mapping[str, Any] = _NOTHING) -> dict[str, Any]:
    """Return the values in a file for a verb, which may be `dump`'s or a user's own with a few lines.

    Args:
        path: Of the file.
        kind: The settings class of the verb.
        given: What goes over these values: of a run's, those that were chosen for others are left out.

    Raises:
        PocketError: It cannot be read, is of another verb, or has a setting that there is not, or a value that cannot
            be.
    """
    values = _mapping(path)
    verb = str(values.get("verb", kind.verb))
    if verb != kind.verb:
        right = f"the verbs are {', '.join(VERBS)}{near(verb, VERBS) or '.'}"
        if verb in VERBS:
            right = f"`pocketvit {verb} --config {shlex.quote(str(path))}`."
        raise PocketError(f"{path} has settings of `{verb}`, not of `{kind.verb}`: {right}")
    for name in _chosen(values, given) if "pocketvit" in values else ():
        values.pop(name, None)

    def taken() -> dict[str, Any]:
        known = _known(kind, values)
        for name, value in known.items():
            find(kind, name).take(value)  # a value that cannot be is the file's, not the command line's
        return known

    return _within(path, taken)


def differences(old: Settings, new: Settings) -> list[str]:
    """Return a line ``name: old -> new`` for every setting that results depend on and in which two differ."""
    if old.verb != new.verb:
        return [f"verb: {old.verb} -> {new.verb}"]
    before, after = plain(old), plain(new)
    compared = [one for one in settings_of(type(new)) if one.saved and one.compared]
    return [
        f"{one.name}: {_said(before[one.name], one)} -> {_said(after[one.name], one)}"
        for one in compared
        if before[one.name] != after[one.name]
    ]


def _chosen(values: dict[Any, Any], given: Mapping[str, Any]) -> list[str]:
    """Return the settings in a run's file that will be chosen again, or are not wanted beside what is given."""
    names = ["student"] if values.get("fit") else []
    names += [
        other for one, other in (("hours", "epochs"), ("epochs", "hours")) if given.get(one) and not given.get(other)
    ]
    names += ["store_features"] if listed(given.get("match")) == ("none",) else []
    untaught = any(isinstance(one, str) and one == NO_TEACHER for one in listed(given.get("teacher")))
    return [*names, *(_OF_TAUGHT if untaught else ())]


def _mapping(path: Path | str) -> dict[str, Any]:
    """Read a file of ``name: value`` lines, whatever it may hold."""
    import yaml  # here, for most calls read no file

    if os.path.isfile(os.path.join(path, "config.yaml")):
        inside = shlex.quote(os.path.join(path, "config.yaml"))
        raise PocketError(f"{path} is a run folder. Give the file in it: --config {inside}.")
    if not os.path.isfile(path):
        raise PocketError(f"there is no file {path}. Give a file of `name: value` lines, as a run's config.yaml.")
    try:
        if os.path.getsize(path) > _LARGEST:
            raise ValueError("it is too large")
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise PocketError(f"{path} is no file of `name: value` lines ({reason}).") from None
    if not isinstance(values, dict):
        raise PocketError(f"{path} is no file of `name: value` lines.")
    if any(isinstance(values.get(old), dict) for old in ("view", "loss", "train")):
        raise PocketError(f"{path} {_OLD}")
    return values


def _known(kind: type[Settings], values: dict[Any, Any]) -> dict[str, Any]:
    """The values without who wrote them; an unknown name is an error that has the near one."""
    return {find(kind, str(name)).name: value for name, value in values.items() if name not in ("pocketvit", "verb")}


def _within(path: Path | str, make: Any) -> Any:
    try:
        return make()
    except PocketError as error:
        raise PocketError(f"{path}: {error}") from None


def plain_value(value: Any) -> Any:
    """Return one value as `plain` has it."""
    if isinstance(value, tuple):
        return [plain_value(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else f"({type(value).__name__})"


def _said(value: Any, one: Setting) -> str:
    """A value in words; an empty list, where that is the default, is none that was given."""
    if isinstance(value, list) and (value or one.default != ()):
        return ", ".join(_said(each, one) for each in value) or "none"
    return "not given" if value in (None, []) else str(value).lower() if isinstance(value, bool) else str(value)


def _line(name: str, value: Any) -> str:
    import yaml

    flow = None if isinstance(value, list) else False  # lists within their line
    plain = all(str(one).isprintable() for one in listed(value))  # else PyYAML loses line breaks such as U+0085
    return yaml.safe_dump({name: value}, allow_unicode=plain, default_flow_style=flow, width=1_000_000)
