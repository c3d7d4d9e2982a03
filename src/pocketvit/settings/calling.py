"""How a verb is called: `verb` makes a function with every setting as a keyword out of one that takes an object."""

from __future__ import annotations

import functools
import inspect
import logging
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ..errors import PocketError
from .base import Settings, check_path, find, listed, settings_of
from .configfile import load, of_a_run, plain_value, read_values
from .pages import docstring

P = ParamSpec("P")
S = TypeVar("S", bound=Settings)
R = TypeVar("R")

log = logging.getLogger("pocketvit")


def verb(kind: Callable[P, S]) -> Callable[[Callable[[S], R]], Callable[P, R]]:
    """Turn ``distill(settings: Distill)`` into ``distill(images, *, teacher=..., epochs=3, ...)``.

    The function that is called has the parameters and defaults of the settings class, for editors, type checkers and
    ``help``; under ``__wrapped__`` is the one that takes settings, for the command line.

    Args:
        kind: The settings class of the verb.
    """
    assert isinstance(kind, type)
    assert issubclass(kind, Settings)

    ordered = sorted(settings_of(kind), key=lambda one: not one.positional)

    def decorate(function: Callable[[S], R]) -> Callable[P, R]:
        parameters = inspect.signature(kind).parameters
        returns = inspect.signature(function).return_annotation
        signature = inspect.Signature([parameters[one.name] for one in ordered], return_annotation=returns)

        @functools.wraps(function)
        def call(*args: P.args, **given: P.kwargs) -> R:
            speak()
            return function(gather(kind, {**signature.bind_partial(*args).arguments, **given}))  # type: ignore[arg-type]

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()} | {"return": returns}
        call.__doc__ = docstring(kind, inspect.getdoc(function))
        return call

    return decorate


def gather(kind: type[Settings], given: Mapping[str, Any]) -> Settings:
    """Return the settings for a verb to start with: what is given, over what the file ``config`` holds.

    Raises:
        PocketError: A name that there is not, a value that cannot be, or something that is missing.
    """
    values = {find(kind, name).name: value for name, value in given.items()}
    config = values.pop("config", None)
    asked = set(values)
    if config is not None:
        held = _still_there(config, read_values(config, kind, values), values)
        asked |= set() if of_a_run(config) else set(held)
        values = {**held, **values}
    if "resume" in values:
        values = _of_the_run(kind, values)
    for one in settings_of(kind):
        if one.default is MISSING and one.name not in values:
            usage = " ".join(each.flag for each in settings_of(kind) if each.positional)
            raise PocketError(f"{one.flag} is missing: `pocketvit {kind.verb} {usage}`. It is: {one.help}.")
    settings = kind(**values)
    if not isinstance(getattr(settings, "resume", None), str):  # a finished run opens when its images are gone
        settings.check_given(asked)
        settings.look()
    return settings


def _of_the_run(kind: type[Settings], values: dict[str, Any]) -> dict[str, Any]:
    """With the settings of the run that goes on, where one is named; what its results depend on cannot change."""
    folder = find(kind, "resume").take(values["resume"])
    if not isinstance(folder, str):
        return values
    check_path(find(kind, "resume"), folder)
    file = Path(folder) / "config.yaml"
    if not file.is_file():
        raise PocketError(
            f"{folder} is not a run folder: it has no config.yaml. `ls runs/` lists the runs. (--resume takes the word "
            "behind it: name the images first.)"
        )
    run = load(file)
    if run.verb not in (kind.verb, kind.makes):
        raise PocketError(f"{folder} was made by `pocketvit {run.verb}`; go on with the same command and --resume.")
    own = {one.name: getattr(run, one.name) for one in settings_of(kind) if one.saved and hasattr(run, one.name)}
    finished = (Path(folder) / "report.html").is_file()  # it is only to be shown
    for name, value in values.items():
        one = find(kind, name)
        if name not in own or not one.compared or one.exists:  # paths may move
            continue
        if plain_value(one.take(value)) != plain_value(own[name]):
            goes = "is finished," if finished else "goes on"
            other = f"; for a new run leave --resume {folder} away" if finished else ""
            raise one.refused(value, f"{folder} {goes} with its own ({own[name]}). Leave it away{other}")
    return {**(own if finished else _still_there(folder, own, values)), **values}


def _still_there(where: Any, held: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a file holds, unless an object that only Python has is among them, and not given again."""
    for name, value in held.items():
        for one in listed(value):
            if name not in given and isinstance(one, str) and re.fullmatch(r"\(\w+\)", one):
                raise PocketError(f"{where}: the {name} was a {one[1:-1]} given in Python. Give it again, in Python.")
    return held


def speak() -> None:
    """Let a Python caller see what the command line would: called by every verb, changes nothing if logging is set."""
    if not log.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False  # a library that sets logging up later would say every line again
