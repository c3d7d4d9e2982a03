"""What `bench.py --json` of a device.zip measured there, as a row of its run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..errors import PocketError
from ..files import read_json, write_json

_FILES = {"int8": "model-int8.onnx", "student": "model.onnx"}  # role of a row -> its file in the run


def add_device(folder: Path, measured: Path) -> str:
    """Add the row of a device to a run's ``results.json``, or replace the one of the same machine; return its name.

    Accuracy is that of the same file here: the golden picture says whether the device computes the same.

    Raises:
        PocketError: The JSON is not one of ``bench.py``, or not of a file of this run.
    """
    try:
        found = json.loads(measured.read_bytes())
        digest, machine, latency = found["sha256"], str(found["machine"]), found["latency_ms"]
        matches, threads, size = bool(found["golden"]["matches"]), int(found["threads"]), int(found["bytes"])
        times = {name: float(latency[name]) for name in ("p50", "p90")}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise PocketError(
            f"{measured} is not what `python bench.py --json > FILE` of device.zip prints ({error!r}). Run it on the "
            "device once more, and give that file."
        ) from error
    role = next((role for role, name in _FILES.items() if _is(folder / name, digest)), None)
    if role is None:
        raise PocketError(
            f"{measured} was measured with another file than those of {folder}. Give the run that its device.zip "
            "comes from."
        )
    results = read_json(folder / "results.json")
    here: dict[str, Any] = next((row for row in results["rows"] if row.get("role") == role), {})
    name = f"{here.get('name', _FILES[role])}, on {machine}"
    row: dict[str, Any] = {
        "key": f"device-{machine}", "name": name, "role": "other", "status": "measured", "bytes": size,
        "latency_ms": times,
        "note": f"measured there by bench.py, {threads} thread{'s' * (threads > 1)}; its accuracy is the file's here",
    }  # fmt: skip
    if matches:  # all that does not depend on the machine
        row = {key: value for key, value in here.items() if key != "memory_mb"} | row
    else:
        row["note"] = "the golden picture DOES NOT MATCH there: this device computes something else"
    results["rows"] = [old for old in results["rows"] if old.get("key") != row["key"]] + [row]
    write_json(folder / "results.json", results)
    return name


def _is(file: Path, digest: Any) -> bool:
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest
