"""`--fit 3MB,20ms`: which student of the ladder fits, int8 counted.

The size is exact, not estimated: a student with random weights is exported and quantized as the trained one will be,
once, and remembered in the user's cache folder. Bytes do not depend on the values, as long as no two tensors are equal
(equal ones are stored once: fresh biases, all zero, made files of 501 kB out of what shipped as 520).
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnxruntime
import torch
from torch import nn

from ..config import NetworkConfig
from ..errors import PocketError
from ..files import BYTE_UNITS, human_bytes, read_json, sha256_of, write_json
from ..models import LADDER
from ..models.flops import count_parameters
from ..tasks import Task
from ..views.preprocessing import Preprocessing
from .export import OPSET, export_onnx
from .int8 import quantize_int8
from .latency import measure
from .signature import CLASSIFICATION, Signature

SLACK = 256  # bytes: the exporter's names of nodes differ by a few letters from one trained network to the next
_FORMAT = 5  # raised when a change here or in export.py or int8.py changes bytes


@dataclass(frozen=True)
class Budget:
    """What the device allows; None is no limit."""

    bytes: int | None = None  # of the int8 file
    ms: float | None = None  # at batch 1 with one thread

    def excess(self, bytes: int, ms: float | None = None, *, least: bool = False) -> str | None:
        """Say by how much a file misses, or return None when it fits.

        Args:
            bytes: of the int8 file.
            ms: of one picture on this machine; None where it was not measured.
            least: the file has at least so many bytes.
        """
        parts = []
        if self.bytes is not None and bytes > self.bytes:
            much = "at least " if least else ""
            parts.append(f"needs {much}{bytes:,} bytes, {much}{human_bytes(bytes - self.bytes)} too much")
        if self.ms is not None and ms is not None and ms > self.ms:
            parts.append(f"takes {ms:.3g} ms already on this machine, {ms - self.ms:.3g} ms too long")
        return " and ".join(parts) or None

    def __str__(self) -> str:
        size = f"{self.bytes:,} bytes" if self.bytes is not None else ""
        return " and ".join(filter(None, (size, f"{self.ms:g} ms" if self.ms is not None else "")))


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


def choose(
    budget: Budget,
    network: NetworkConfig,
    *,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    task: Task = CLASSIFICATION,
    names: Sequence[str] = tuple(LADDER),
) -> Choice:
    """Return the largest student of the ladder that fits.

    A time cannot be checked on a device that is not here. A student that is too slow even on this machine is passed
    over; otherwise the note says that the time was not measured and gives the line to run on the device.

    Args:
        budget: what `parse_budget` returned.
        network: what is asked of the student beside its size.
        classes: of the student, as they will be written into the file.
        preprocessing: likewise.
        task: likewise.
        names: of the ladder, smallest first.

    Raises:
        PocketError: none fits; the message says by how much the smallest misses.
    """
    tried: list[Candidate] = []
    for name in reversed(names):
        signature = Signature(tuple(classes), preprocessing, task)
        found = candidate(replace(network, name=name), signature, limit=budget.bytes)
        tried.append(found)
        if _excess(found, budget) is None:
            return Choice(found, tuple(tried), _notes(found, tried[:-1], budget))
    smallest = tried[-1]
    raise PocketError(
        f"no student of the ladder fits into {budget} (--fit): the smallest, {smallest.name}, "
        f"{_excess(smallest, budget)}. Allow more, or make the images smaller."
    )


def candidate(network: NetworkConfig, signature: Signature, *, limit: int | None = None) -> Candidate:
    """Return the figures of one student, measured once for a machine and library versions and then remembered.

    A student with more parameters than ``limit`` bytes is not exported: int8 needs at least one byte for each.
    """
    model = _student(network, signature)
    parameters = count_parameters(model)
    if limit is not None and parameters > limit:
        return Candidate(
            network.name, bytes=parameters, fp32_bytes=4 * parameters, parameters=parameters, ms=None, exact=False
        )
    key = {
        "format": _FORMAT,
        "opset": OPSET,
        "network": asdict(network),
        "signature": signature.to_json(),
        "shapes": [list(parameter.shape) for parameter in model.parameters()],
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "machine": _processor(),
    }
    remembered = _cache_folder() / f"{sha256_of(key)[:24]}.json"
    if remembered.exists():
        with contextlib.suppress(PocketError, TypeError):  # a damaged note is measured again
            return Candidate(**read_json(remembered))
    with tempfile.TemporaryDirectory() as folder:
        fp32, int8 = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        export_onnx(model, fp32, classes=signature.classes, preprocessing=signature.preprocessing, task=signature.task)
        quantize_int8(fp32, int8)
        side = signature.preprocessing.input_size
        result = Candidate(
            name=network.name,
            bytes=int8.stat().st_size,
            fp32_bytes=fp32.stat().st_size,
            parameters=parameters,
            ms=measure({"int8": int8}, image_size=side, seconds=0.5)["int8"].best,
        )
    with contextlib.suppress(PocketError):  # a read-only home: measured again next time
        write_json(remembered, asdict(result))
    return result


def _student(network: NetworkConfig, signature: Signature) -> nn.Module:
    """Return a student in which every weight is random: fresh biases and norms are all alike."""
    state = torch.get_rng_state()  # a search must not change what is trained after it
    try:
        torch.manual_seed(0)
        side = signature.preprocessing.input_size
        classes, tokens = len(signature.classes), network.tokens
        model = signature.task.network(network, classes=classes, side=side, tokens=tokens)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    finally:
        torch.set_rng_state(state)
    return model


def _excess(found: Candidate, budget: Budget) -> str | None:
    return budget.excess(found.bytes + SLACK * found.exact, found.ms, least=not found.exact)


def _notes(found: Candidate, larger: Sequence[Candidate], budget: Budget) -> tuple[str, ...]:
    notes = [f"{found.name}: {found.parameters / 1e6:.2f} M parameters, int8 file of {found.bytes:,} bytes"]
    if larger:
        notes.append(f"the next larger one, {larger[-1].name}, {_excess(larger[-1], budget)}")
    if budget.ms is not None:
        notes.append(
            f"{budget.ms:g} ms not measured on your device (here: {found.ms:.2g} ms with one thread). "
            "To measure there: unpack device.zip and run `python bench.py`"
        )
    return tuple(notes)


def _processor() -> str:
    """Name the processor: a time that was measured on another one says nothing here."""
    name = platform.processor()
    with contextlib.suppress(OSError, IndexError):
        name = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))[0]
    return f"{platform.machine()} {name}"


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pocketvit" / "fit"
