"""What `bench.py --json` of a device.zip measured there, as a row of a table."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PocketError
from ..files import read_json, write_json

_FILES = {"int8": "model-int8.onnx", "student": "model.onnx"}  # role of a row -> its file in the run


@dataclass(frozen=True)
class Measured:
    """The figures of one file on one device."""

    digest: str  # SHA-256 of the file
    bytes: int
    p50: float  # milliseconds, batch 1
    p90: float
    threads: int
    machine: str
    matches: bool  # whether the golden picture's answer is right there
    device: str = ""  # how `bench --on` reached it

    @classmethod
    def read(cls, found: Any, place: str) -> Measured:
        """Make it of what ``bench.py --json`` printed.

        Args:
            found: The JSON's value.
            place: Where it is from, in words.

        Raises:
            PocketError: It is anything else.
        """
        try:
            if not isinstance(found, dict):
                raise ValueError("no JSON object")
            times = {name: float(found["latency_ms"][name]) for name in ("p50", "p90")}
            if not all(math.isfinite(time) and time > 0 for time in times.values()):
                raise ValueError(f"times of {times['p50']:g} and {times['p90']:g} ms")
            return cls(
                digest=str(found["sha256"]), bytes=int(found["bytes"]), **times, threads=int(found["threads"]),
                machine=str(found["machine"]), matches=bool(found["golden"]["matches"]),
                device=str(found.get("device", "")),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            told = f"no {error}" if isinstance(error, KeyError) else error
            raise PocketError(
                f"{place} is not what `python bench.py --json > FILE` of device.zip prints ({told}). Run it on the "
                "device once more, and give that file."
            ) from error

    def row(self, here: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Return the row of the device, without its key.

        Args:
            here: The row of the same file on this machine, whose accuracy is taken where the device computes the same.
            name: Of the file.
        """
        where = f"{self.device} ({self.machine})" if self.device else self.machine
        row: dict[str, Any] = {
            "name": f"{name}, on {self.device or self.machine}",
            "role": "other", "status": "measured", "bytes": self.bytes,
            "latency_ms": {"p50": self.p50, "p90": self.p90},
        }  # fmt: skip
        if not self.matches:
            return row | {"note": f"the golden picture DOES NOT MATCH on {where}: this device computes something else"}
        note = f"measured on {where} by bench.py, {self.threads} thread{'s' * (self.threads > 1)}"
        if here.get("accuracy") is not None:
            note += "; its accuracy is the file's here"
        return {key: value for key, value in here.items() if key != "memory_mb"} | row | {"note": note}


def add_device(folder: Path, measured: Path) -> str:
    """Add the row of a file on a device to a run's ``results.json``; return its name.

    It takes the place of an earlier one of that file, threads and device. Devices are told apart by how ``bench --on``
    reached them, others by the name of their JSON.

    Raises:
        PocketError: The JSON is not one of ``bench.py``, or not of a file of this run.
    """
    try:
        value = json.loads(measured.read_bytes())
    except (OSError, ValueError, RecursionError):
        value = None
    found = Measured.read(value, str(measured))
    role = next((role for role, name in _FILES.items() if _is(folder / name, found.digest)), None)
    if role is None:
        raise PocketError(
            f"{measured} was measured with another file than those of {folder}. Give the run that its device.zip "
            "comes from."
        )
    results = read_json(folder / "results.json")
    here: dict[str, Any] = next((row for row in results["rows"] if row.get("role") == role), {})
    row = found.row(here, here.get("name", _FILES[role]))
    row["key"] = f"device-{found.device or measured.stem}-{found.machine}-{role}-{found.threads}"
    if not found.device:
        row["note"] += f" ({measured.name})"
    results["rows"] = [old for old in results["rows"] if old.get("key") != row["key"]] + [row]
    write_json(folder / "results.json", results)
    return str(row["name"])


def _is(file: Path, digest: str) -> bool:
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest
