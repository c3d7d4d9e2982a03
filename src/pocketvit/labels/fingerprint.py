"""The three fingerprints of a store (source, views, teacher), and how to say in which part two of them differ."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch

from ..files import sha256_of

_LONG = 40  # longer values (hashes, lists) are shortened in messages


def describe_source(source: Any) -> dict[str, Any]:
    """What identifies the images of a store: content, ids and split in one hash, and words for messages."""
    return {
        "name": source.name,
        "split": source.split,
        "images": len(source),
        "classes": len(source.classes),
        "fingerprint": source.fingerprint,
    }


def environment(device: str) -> dict[str, str]:
    """Library versions and device: they may change values within tolerance, so that they only warn."""
    return {"torch": torch.__version__, "numpy": np.__version__, "machine": platform.machine(), "device": device}


def digest(fingerprint: Any) -> str:
    """Hex SHA-256 of a fingerprint: as it is when it is a hash already, else of its JSON."""
    return fingerprint if isinstance(fingerprint, str) else sha256_of(fingerprint)


def differences(there: Any, here: Any, prefix: str = "") -> list[str]:
    """Name the fields in which two fingerprints differ: ``["crop: 'padded' there, 'none' here"]``."""
    if isinstance(there, dict) and isinstance(here, dict):
        found = []
        for name in sorted(there.keys() | here.keys()):
            found += differences(there.get(name), here.get(name), f"{prefix}.{name}" if prefix else name)
        return found
    if _plain(there) == _plain(here):
        return []
    return [f"{prefix or 'it'}: {_short(there)} there, {_short(here)} here"]


def _plain(value: Any) -> Any:
    """A value as JSON gives it back (tuples become lists)."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    if value is None:
        return "the default"
    text = repr(value)
    return text if len(text) <= _LONG else f"{text[:12]}..."
