"""Values with a form of their own, as in ``--window 0,4095``: each is read from text, or taken as Python has it.

A reader returns what settings keep, which ``config.yaml`` holds and the reader takes again; a ``ValueError`` says what
is wanted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..config import TermConfig
from ..files import BYTE_UNITS

Method = Literal["auto", "drawn", "inverted", "generated", "photograph", "noise"]

_NUMBER = r"\d+(?:\.\d*)?|\.\d+"
_TERM = re.compile(rf"([a-z_]+)(?::({_NUMBER}))?(?:@([^>]*)>(.*))?")
_HOURS = re.compile(rf"(\+?)({_NUMBER})\s*(h|hours?|min|minutes?)?")
_HOST = re.compile(r"(?!-)(?:ssh://)?(?:(?!-)[\w.+%-]+@)?(?!-)[\w.:%\[\]-]+")  # no more to ssh or a shell than a name
_LARGEST = 8192  # pixels of a side of a camera's picture
_MOST_HOURS = 10_000


@dataclass(frozen=True)
class Budget:
    """What a device allows; None is no limit."""

    bytes: int | None = None  # of the int8 file
    ms: float | None = None  # at batch 1 with one thread


@dataclass(frozen=True)
class Hours:
    """A time budget of training."""

    hours: float
    more: bool = False  # on top of what a run had


def read_window(value: Any) -> tuple[float, float]:
    """Read ``LOW,HIGH``, the intensities that become black and white."""
    try:
        low, high = (float(part) for part in (value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        raise ValueError("give two numbers, LOW,HIGH, as in --window 0,4095") from None
    if not -math.inf < low < high < math.inf:
        raise ValueError("the first number must be the smaller one, and both finite")
    return low, high


def read_picture(value: Any) -> str:
    """Read ``WIDTHxHEIGHT`` in pixels."""
    sides = re.fullmatch(r"(\d{1,9})[x×](\d{1,9})", value.strip().lower()) if isinstance(value, str) else None
    if sides is None:
        raise ValueError("give the pictures' width and height, as in --picture 640x480")
    if not all(1 <= int(side) <= _LARGEST for side in sides.groups()):
        raise ValueError(f"width and height may have 1 to {_LARGEST} pixels")
    return f"{int(sides[1])}x{int(sides[2])}"


def read_budget(value: Any) -> str:
    """Read what `parse_budget` understands, and keep the text."""
    if not isinstance(value, str):
        raise ValueError("give a size, a time or both, as in --fit 3MB,20ms")
    parse_budget(value)
    return value


def parse_budget(text: str) -> Budget:
    """Return the limits in ``3MB``, ``500kB``, ``20ms`` or both with a comma (MiB and KiB are binary units)."""
    limits: dict[str, float] = {}
    for part in (piece.strip() for piece in text.split(",")):
        match = re.fullmatch(rf"({_NUMBER})\s*([a-zA-Z]+)", part)
        unit = match[2].lower() if match else ""
        kind = "ms" if unit in ("ms", "s") else "bytes"
        if not match or (kind == "bytes" and unit not in BYTE_UNITS) or kind in limits or float(match[1]) <= 0:
            raise ValueError("give a size, a time or both, as in --fit 3MB,20ms (B, kB, MB, KiB, MiB; ms, s)")
        limits[kind] = float(match[1]) * (BYTE_UNITS[unit] if kind == "bytes" else 1000 if unit == "s" else 1)
    size = limits.get("bytes")
    return Budget(bytes=int(size) if size is not None else None, ms=limits.get("ms"))


def read_bytes(value: Any) -> str:
    """Read a size such as ``2GB``, and keep the text; `files.parse_bytes` gives the number."""
    match = re.fullmatch(rf"\s*({_NUMBER})\s*([a-zA-Z]+)\s*", value) if isinstance(value, str) else None
    if match is None or match[2].lower() not in BYTE_UNITS:
        raise ValueError("give a number and a unit, as in 2GB")
    return value


def read_hours(value: Any) -> float | str:
    """Read hours, or minutes as in ``30min``: a number, or the text ``+0.5`` where they come on top."""
    budget = parse_hours(value)
    return f"+{budget.hours!r}" if budget.more else budget.hours


def parse_hours(value: str | float) -> Hours:
    """Return the time budget in ``0.5``, ``30min`` or ``+0.5``."""
    match = _HOURS.fullmatch(str(value).strip())
    hours = float(match[2]) / (60 if (match[3] or "h")[0] == "m" else 1) if match else 0.0
    if match is None or not 0 < hours <= _MOST_HOURS:
        raise ValueError(f"give hours, up to {_MOST_HOURS:,}, as in --hours 0.5, 30min, or with --resume +0.5")
    return Hours(hours, bool(match[1]))


def read_names(value: Any) -> tuple[str, ...]:
    """Read names with commas between, or a list of them."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
        raise ValueError("give names with commas between")
    return tuple(name.strip() for word in words for name in word.split(",") if name.strip())


def read_methods(value: Any) -> tuple[str, ...]:
    """Read ways of making images, with commas between; () for "none". Drawn pictures are procedural, too."""
    names = tuple("drawn" if name == "procedural" else name for name in read_names(value))
    if names == ("none",):
        return ()
    known = [method for method in get_args(Method) if method != "auto"]
    for name in names:
        if name not in known:
            raise ValueError(f"{name} is none of {', '.join(known)}; none stands alone")
    return names


def read_match(value: Any) -> str:
    """Read objectives on features as `parse_match` understands them, and keep the text."""
    text = ",".join(read_names(value))
    parse_match(text)
    return text


def parse_match(text: str | None) -> tuple[TermConfig, ...]:
    """Return the objectives in a text of parts ``NAME[:WEIGHT][@STUDENT_LAYER>TEACHER_LAYER]`` with commas between.

    None, and the word none, are no objectives.
    """
    terms = []
    for part in read_names("" if text in (None, "none") else text):
        found = _TERM.fullmatch(part)
        if found is None:
            raise ValueError(
                f"{part!r} is not understood. Give an objective, if you like with its weight and layers, as in "
                "fitnets, rkd:0.5 or fitnets:1@blocks.3>layer3"
            )
        name, weight, mine, theirs = found.groups()
        terms.append(TermConfig(name, float(weight or 1.0), (mine or "").strip(), (theirs or "").strip()))
    return tuple(terms)


def read_name(value: Any) -> str:
    """Read the name of a run: one word, which becomes a folder's."""
    if (
        not isinstance(value, str)
        or not value.strip()
        or Path(value).name != value
        or value[0] in ".-"
        or "\0" in value
    ):
        raise ValueError("a run's name is one word; --out takes the folder it goes into")
    return value


def read_host(value: Any) -> str:
    """Read a device as ``ssh`` knows it: ``user@device``, an alias of its configuration, ``ssh://user@device:port``."""
    if not isinstance(value, str) or not _HOST.fullmatch(value):
        raise ValueError("give a device as `ssh` takes it, as in --on pi@raspberrypi or --on ssh://pi@raspberrypi:2222")
    return value


def read_device(value: Any) -> str:
    """Read a device; whether this machine has it is found out when it is used."""
    if not re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d{1,3})?", str(value)):
        raise ValueError("give cpu or cuda, or cuda:1 for the second one")
    return str(value)
