"""How a verb is called: `verb` makes a function with every setting as a keyword out of one that takes an object."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from typing import Any, ParamSpec, TypeVar

from ..errors import PocketError
from .base import Settings, find, settings_of
from .configfile import read_values
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
    if config is not None:
        held = read_values(config, kind)
        for name, value in held.items():
            if name not in values and isinstance(value, str) and value.startswith("("):
                raise PocketError(f"{config}: {name} was {value[1:-1]}, an object of Python's. Give it again.")
        values = {**held, **values}
    for one in settings_of(kind):
        if one.default is MISSING and one.name not in values:
            usage = " ".join(each.flag for each in settings_of(kind) if each.positional)
            raise PocketError(f"{one.flag} is missing: `pocketvit {kind.verb} {usage}`. It is: {one.help}.")
    settings = kind(**values)
    settings.look()
    return settings


def speak() -> None:
    """Let a Python caller see what the command line would: called by every verb, changes nothing if logging is set."""
    if not log.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False  # a library that sets logging up later would say every line again
