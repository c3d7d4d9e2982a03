"""What the checks found of files, remembered between starts: a file of the same path, size and time is not read again.

One file per set of images, with a column per finding. Broken images are not remembered: what they lacked may have been
installed since.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import PocketError
from ..files import atomic
from .findings import Findings

_VERSION = 1  # raised by hand when the checks find other things, or decoding changes
_ARRAYS = ("digests", "shapes", "depths", "stored", "ranges", "robust", "windows", "drafted")
_WORDS = ("kinds", "patients")
_LOOK = 16  # bytes of a look
_FRESH = 2_000_000_000  # nanoseconds: a file changed so lately may change again without its time doing so


def stamps_of(paths: list[str]) -> np.ndarray:
    """Return int64 [N, 2], size and time of change of each file; -1 where there is none."""
    stamps = np.full((len(paths), 2), -1, np.int64)
    for row, path in enumerate(paths):
        with contextlib.suppress(OSError):
            about = os.stat(path)
            stamps[row] = about.st_size, about.st_mtime_ns
    return stamps


def place_of(folder: Path, paths: list[str]) -> Path:
    """Return the file that remembers these images: by the folder that all of them are in."""
    root = os.path.commonpath([os.path.dirname(min(paths)), os.path.dirname(max(paths))])
    return folder / f"{hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:16]}.safetensors"


def recall(place: Path, paths: list[str], stamps: np.ndarray, findings: Findings) -> np.ndarray:
    """Fill in what is remembered; return bool [N], of which images that is all."""
    known = np.zeros(len(paths), bool)
    try:
        with safe_open(place, "numpy") as file:
            about = json.loads((file.metadata() or {})["about"])
            kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about["version"] != _VERSION:
            return known
    except (OSError, SafetensorError, KeyError, ValueError):  # nothing, or nothing of use: it is all read again
        return known
    there = kept["paths"].tobytes().decode("utf-8", "surrogateescape").split("\0")
    if there == paths:
        rows = where = np.arange(len(paths))
    else:
        index = {path: row for row, path in enumerate(there)}
        pairs = [(row, index[path]) for row, path in enumerate(paths) if path in index]
        rows, where = np.array(pairs, np.int64).reshape(-1, 2).T
    same = (kept["stamps"][where] == stamps[rows]).all(1)
    rows, where = rows[same], where[same]
    for name in _ARRAYS:
        getattr(findings, name)[rows] = kept[name][where]
    looks = kept["looks"].tobytes()
    for name in _WORDS:
        words, column = about[name], getattr(findings, name)
        for row, word in zip(rows.tolist(), kept[name][where].tolist(), strict=True):
            column[row] = words[word]
    for row, at in zip(rows.tolist(), where.tolist(), strict=True):
        findings.looks[row] = looks[at * _LOOK : (at + 1) * _LOOK]
    known[rows] = True
    return known


def remember(place: Path, paths: list[str], stamps: np.ndarray, findings: Findings) -> None:
    """Write down what was found of the images that can be used; where that cannot be done, it is done again."""
    settled = (stamps[:, 0] >= 0) & (stamps[:, 1] < time.time_ns() - _FRESH)
    rows = np.flatnonzero(findings.good & settled)
    if not len(rows):
        return
    tensors = {name: np.ascontiguousarray(getattr(findings, name)[rows]) for name in _ARRAYS}
    tensors["stamps"] = stamps[rows]
    joined = "\0".join([paths[row] for row in rows]).encode("utf-8", "surrogateescape")
    tensors["paths"] = np.frombuffer(joined, np.uint8)
    tensors["looks"] = np.frombuffer(b"".join(findings.looks[row] for row in rows), np.uint8)
    about: dict[str, object] = {"version": _VERSION}
    for name in _WORDS:
        numbers: dict[str, int] = {}
        column = getattr(findings, name)
        tensors[name] = np.array([numbers.setdefault(column[row], len(numbers)) for row in rows], np.int32)
        about[name] = list(numbers)
    with contextlib.suppress(PocketError, SafetensorError), atomic(place) as temporary:
        save_file(tensors, temporary, metadata={"about": json.dumps(about)})
