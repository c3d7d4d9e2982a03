"""`--fit 3MB,20ms`: which student of the ladder fits, int8 counted.

The size is exact, not estimated: a student with random weights is exported and quantized as the trained one will be
(bytes do not depend on the values), once, and remembered in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnxruntime
import torch

from ..config import Attention, Stem
from ..errors import PocketError
from ..files import BYTE_UNITS, human_bytes, read_json, sha256_of, write_json
from ..models import LADDER, create_student
from .export import OPSET, export_onnx
from .flops import count_parameters
from .int8 import quantize_int8
from .latency import measure

_FORMAT = 2  # raised when a change here or in export.py or int8.py changes bytes
# Class names and preprocessing are only known to the last byte when the student is exported.
_SLACK = 2048


@dataclass(frozen=True)
class Budget:
    """What the device allows; None is no limit."""

    bytes: int | None = None  # of the int8 file
    ms: float | None = None  # at batch 1 with one thread


@dataclass(frozen=True)
class Candidate:
    """One student of the ladder, as it would ship."""

    name: str
    bytes: int  # int8 file
    fp32_bytes: int
    parameters: int
    ms: float | None  # fastest run of the int8 file on this machine, batch 1, one thread; None: not measured
    exact: bool = True  # False: known to be too large from its parameters alone, which is the least it can need


@dataclass(frozen=True)
class Choice:
    """The largest student that fits, and what is to be said about it."""

    candidate: Candidate
    tried: tuple[Candidate, ...]  # largest first; those that were measured
    notes: tuple[str, ...]


def parse_budget(text: str) -> Budget:
    """Read ``3MB``, ``500kB``, ``20ms`` or both with a comma (decimal units; MiB and KiB are binary).

    Raises:
        PocketError: anything else.
    """
    limits: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]+)", part)
        unit = match[2].lower() if match else ""
        kind = "ms" if unit in ("ms", "s") else "bytes"
        if not match or (kind == "bytes" and unit not in BYTE_UNITS) or kind in limits or float(match[1]) <= 0:
            raise PocketError(
                f"--fit {text}: {part!r} is not understood. Give a size, a time or both: --fit 3MB,20ms "
                "(B, kB, MB, KiB, MiB; ms, s)."
            )
        limits[kind] = float(match[1]) * (BYTE_UNITS[unit] if kind == "bytes" else 1000 if unit == "s" else 1)
    if not limits:
        raise PocketError("--fit needs a size, a time or both: --fit 3MB,20ms.")
    size = limits.get("bytes")
    return Budget(bytes=int(size) if size is not None else None, ms=limits.get("ms"))


def ladder_names() -> tuple[str, ...]:
    """Return the names of the ladder, smallest first."""
    return tuple(LADDER)


def candidate(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    patch_size: int | None = None,
    tokens: int = 0,
    stem: Stem = "patch",
    attention: Attention = "plain",
    limit: int | None = None,
) -> Candidate:
    """Return the figures of one student, measured once for a machine and library versions and then remembered.

    A student with more parameters than ``limit`` bytes is not exported: int8 needs at least one byte for each.
    """
    key = {
        "format": _FORMAT,
        "opset": OPSET,
        "name": name,
        "num_classes": num_classes,
        "image_size": image_size,
        "patch_size": patch_size,
        "tokens": tokens,
        **({"stem": stem} if stem != "patch" else {}),
        **({"attention": attention} if attention != "plain" else {}),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    state = torch.get_rng_state()  # a search must not change what is trained after it
    try:
        torch.manual_seed(0)
        model = create_student(
            name, num_classes=num_classes, image_size=image_size, patch_size=patch_size, tokens=tokens, stem=stem,
            attention=attention,
        )  # fmt: skip
    finally:
        torch.set_rng_state(state)
    parameters = count_parameters(model)
    if limit is not None and parameters > limit:
        return Candidate(name, bytes=parameters, fp32_bytes=4 * parameters, parameters=parameters, ms=None, exact=False)
    key["shapes"] = [list(parameter.shape) for parameter in model.parameters()]
    remembered = _cache_folder() / f"{sha256_of(key)[:24]}.json"
    if remembered.exists():
        with contextlib.suppress(PocketError, TypeError):  # a damaged note is measured again
            return Candidate(**read_json(remembered))
    with tempfile.TemporaryDirectory() as folder:
        fp32, int8 = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        export_onnx(model, fp32, image_size=image_size, classes=[str(i) for i in range(num_classes)])
        quantize_int8(fp32, int8)
        latency = measure({"int8": int8}, image_size=image_size, seconds=0.5)["int8"]
        result = Candidate(
            name=name,
            bytes=int8.stat().st_size,
            fp32_bytes=fp32.stat().st_size,
            parameters=parameters,
            ms=latency.best,
        )
    with contextlib.suppress(PocketError):  # a read-only home: measured again next time
        write_json(remembered, asdict(result))
    return result


def choose(
    budget: Budget,
    *,
    num_classes: int,
    image_size: int,
    patch_size: int | None = None,
    tokens: int = 0,
    stem: Stem = "patch",
    attention: Attention = "plain",
    names: Sequence[str] | None = None,
) -> Choice:
    """Return the largest student of the ladder that fits.

    A time cannot be checked on a device that is not here. A student that is too slow even on this machine is passed
    over; otherwise the note says that the time was not measured and gives the line to run on the device.

    Args:
        budget: what `parse_budget` returned.
        num_classes: of the student.
        image_size: side of its input in pixels.
        patch_size: None for the default of the image size.
        tokens: distillation tokens.
        stem: see `create_student`.
        attention: see `create_student`.
        names: of the ladder, smallest first; all of it by default.

    Raises:
        PocketError: none fits; the message says by how much the smallest misses.
    """
    tried: list[Candidate] = []
    for name in reversed(tuple(names) if names is not None else ladder_names()):
        found = candidate(
            name,
            num_classes=num_classes,
            image_size=image_size,
            patch_size=patch_size,
            tokens=tokens,
            stem=stem,
            attention=attention,
            limit=budget.bytes,
        )
        tried.append(found)
        if _excess(found, budget) is None:
            return Choice(found, tuple(tried), _notes(found, tried[:-1], budget))
    smallest = tried[-1]
    why = _excess(smallest, budget)
    raise PocketError(
        f"no student of the ladder fits --fit {_say(budget)}: the smallest, {smallest.name}, {why}. "
        "Allow more, or make the images smaller."
    )


def _excess(found: Candidate, budget: Budget) -> str | None:
    """Say by how much a candidate misses, or return None when it fits."""
    parts = []
    if budget.bytes is not None and found.bytes + _SLACK > budget.bytes:
        over = found.bytes + _SLACK - budget.bytes
        least = "" if found.exact else "at least "
        parts.append(f"needs {least}{human_bytes(found.bytes + _SLACK)}, {least}{human_bytes(over)} too much")
    if budget.ms is not None and found.ms is not None and found.ms > budget.ms:
        parts.append(f"takes {found.ms:.3g} ms already on this machine, {found.ms - budget.ms:.3g} ms too long")
    return " and ".join(parts) or None


def _notes(found: Candidate, larger: Sequence[Candidate], budget: Budget) -> tuple[str, ...]:
    notes = [f"{found.name}: {found.parameters / 1e6:.2f} M parameters, int8 file {human_bytes(found.bytes)}"]
    if larger:
        notes.append(f"the next larger one, {larger[-1].name}, {_excess(larger[-1], budget)}")
    if budget.ms is not None:
        notes.append(
            f"{budget.ms:g} ms not measured on your device (here: {found.ms:.2g} ms with one thread). "
            "To measure there: unpack device.zip and run `python bench.py`"
        )
    return tuple(notes)


def _say(budget: Budget) -> str:
    size = human_bytes(budget.bytes).replace(" ", "") if budget.bytes is not None else None
    time = f"{budget.ms:g}ms" if budget.ms is not None else None
    return ",".join(filter(None, (size, time)))


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pocketvit" / "fit"
