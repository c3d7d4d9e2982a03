"""Settings in words: the pages of ``--help``, and the docstring that Python's ``help`` shows."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import MISSING
from pathlib import Path

from ..errors import PocketError
from .base import Setting, Settings, near, settings_of

_FEW = 16  # so many settings stand on one page
_WIDTH = 100
_INDENT = 22


def summary(kind: type[Settings]) -> str:
    """Return what a verb does, in one line."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def groups_of(kind: type[Settings]) -> list[str]:
    """Return the groups of a verb's settings."""
    return list(dict.fromkeys(one.group for one in settings_of(kind) if not one.positional))


def page(kind: type[Settings], topic: str = "") -> str:
    """Return a page of help: the common settings, ``all`` by group, or those of one group.

    Raises:
        PocketError: There is no such group.
    """
    known, groups = settings_of(kind), groups_of(kind)
    places = [one for one in known if one.positional]
    few = len(known) <= _FEW
    usage = " ".join(["pocketvit", kind.verb, *(_place(one) for one in places), "[--SETTING VALUE ...]"])
    lines = [usage, "", inspect.getdoc(kind) or "", "", *(line for one in places for line in _lines(one))]
    if topic == "all" or (few and not topic):
        chosen = groups
    elif not topic:
        lines += [line for one in known if one.common and not one.positional for line in _lines(one)]
        chosen = []
    elif topic in groups:
        chosen = [topic]
    else:
        raise PocketError(f"there is no help on {topic!r}{near(topic, groups) or '.'} It is: all, {', '.join(groups)}.")
    for group in chosen:
        members = [line for one in known if one.group == group and not one.positional for line in _lines(one)]
        lines += [*([""] if lines[-1] else []), group, *members]
    lines += [*([""] if chosen else []), *_lines_of("--json", "print the result as one line of JSON")]
    if not chosen:
        more = f"All settings: pocketvit {kind.verb} --help all. One group: --help {' | '.join(groups)}"
        lines += ["", *textwrap.wrap(more, _WIDTH)]
    return "\n".join(lines)


def docstring(kind: type[Settings], text: str | None = None) -> str:
    """Return a docstring with every setting by group, after the text or that of the class."""
    parts = [text or inspect.getdoc(kind) or "", "", "Args:"]
    for one in settings_of(kind):
        words = textwrap.fill(f"{one.name}: {_help(one)}", 112, initial_indent="    ", subsequent_indent="        ")
        parts.append(words)
    return "\n".join(parts)


def _place(one: Setting) -> str:
    name = f"{one.flag}..." if one.many else one.flag
    return name if one.default is MISSING else f"[{name}]"


def _lines(one: Setting) -> list[str]:
    if one.positional:
        return _lines_of(one.flag, _help(one))
    flag = f"--[no-]{one.flag[2:]}" if one.kinds == {bool} and one.default is not False else one.flag
    return _lines_of(f"{flag} {_metavar(one)}".strip(), _help(one))


def _lines_of(left: str, right: str) -> list[str]:
    words = textwrap.wrap(right, _WIDTH - _INDENT)
    start = f"  {left}"
    if len(start) > _INDENT - 2:
        return [start, *(" " * _INDENT + line for line in words)]
    return [f"{start:{_INDENT}}{words[0]}", *(" " * _INDENT + line for line in words[1:])]


def _metavar(one: Setting) -> str:
    if bool in one.kinds:  # a flag, which may have a value where it is not only that
        return f"[{one.metavar}]" if one.metavar else ""
    if one.choices:
        return "|".join(one.choices)
    usual = "N" if int in one.kinds else "X" if float in one.kinds else "PATH" if Path in one.kinds else "TEXT"
    return one.metavar or usual


def _help(one: Setting) -> str:
    if one.default in (MISSING, None, (), False):
        return one.help
    usual = ",".join(one.default) if isinstance(one.default, tuple) else one.default
    return f"{one.help} (default {'yes' if usual is True else usual})"
