"""One shard: the labels of consecutive rows of one view by one teacher, in a safetensors file that checks itself."""

from __future__ import annotations

import functools
import json
import math
import threading
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from ..errors import PocketError
from ..files import atomic
from .ragged import OFFSETS
from .record import Field, Record, record_kind

FORMAT = 2  # the newest that is known here; a shard has its record's
POSITION = "position"  # of each row in the source, where rows stand in another order
_KEY = "pocketvit"  # one metadata entry: safetensors writes several in no fixed order, and bytes are to be equal
_verified: set[tuple[str, int, int]] = set()
_verified_lock = threading.Lock()


@dataclass(frozen=True)
class ShardInfo:
    """What stands in a shard's own metadata, so that a copied file still says what it belongs to.

    ``teacher``, ``source`` and ``views`` are the hex digests of the three fingerprints.
    """

    teacher: str
    source: str
    views: str
    view: int
    start: int
    rows: int
    num_classes: int
    k: int
    ordered: bool
    kind: str = "softmax"
    format: int = 1
    more: dict[str, Any] = field(default_factory=dict)  # of the record

    @property
    def record(self) -> Record:
        return record_kind(self.kind)(self.num_classes, self.k, **self.more)

    def fields(self) -> dict[str, Field]:
        """What stands in the file: the record's arrays, and where the rows and what is ragged belong."""
        fields = self.record.fields()
        if not self.ordered:
            fields[POSITION] = Field(np.uint32)
        if self.record.ragged:
            fields[OFFSETS] = Field(np.int64)
        return fields


def shard_name(start: int) -> str:
    """File name of the shard whose first row is ``start``."""
    return f"rows-{start:010d}.safetensors"


def write_shard(path: Path, info: ShardInfo, arrays: dict[str, np.ndarray]) -> None:
    """Write a shard durably under a temporary name and rename it into place.

    Every tensor's CRC-32 (which finds any burst of up to 32 wrong bits) and that of the description itself are stored
    in the metadata.
    """
    description: dict[str, Any] = asdict(info)
    if not info.more:  # what is at its default stays out, so that shards are as they always were
        del description["more"]
    description["crc32"] = {name: _checksum(name, arrays[name]) for name in sorted(arrays)}
    description["check"] = _description_checksum(description)
    arrays = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    with atomic(path) as temporary:
        # Not save_file, whose own temporary file would outlive a kill and whose errors are none of the system's.
        temporary.write_bytes(save(arrays, metadata={_KEY: json.dumps(description, sort_keys=True)}))


def read_info(path: Path) -> ShardInfo:
    """Read only the description of a shard; a file that is not whole is a ``PocketError``."""
    return _read_header(path).info


def read_shard(path: Path) -> tuple[ShardInfo, dict[str, np.ndarray]]:
    """Map a shard into memory: read-only arrays by name. The first time in a process its checksums are verified.

    Raises:
        PocketError: a byte is wrong or missing; names the file and how to mend it.
    """
    header = _read_header(path)
    data = np.memmap(path, np.uint8, "r", offset=header.start) if header.size else np.empty(0, np.uint8)
    arrays = {}
    for name, (dtype, shape, begin) in header.arrays.items():
        size = dtype.itemsize * math.prod(shape)
        arrays[name] = data[begin : begin + size].view(dtype).reshape(shape)
    state = _state(path)
    if state not in _verified:
        for name, array in arrays.items():
            if _checksum(name, array) != header.checksums[name]:
                raise damaged(path, f"the checksum of its {name} is wrong")
        if OFFSETS in arrays:
            offsets = arrays[OFFSETS]
            if offsets[0] != 0 or (np.diff(offsets) < 0).any() or offsets[-1] != _items(header):
                raise damaged(path, "its offsets do not fit its records")
        with _verified_lock:
            _verified.add(state)
    return header.info, arrays


def _items(header: _Header) -> int:
    """Number of items in a ragged shard."""
    name = next(name for name, one in header.info.record.fields().items() if one.ragged)
    return header.arrays[name][1][0]


def _state(path: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns


def _unreadable(path: Path, error: OSError) -> PocketError:
    return PocketError(f"could not read the soft-label shard {path}: {error.strerror or error}.")


def damaged(path: Path, why: str) -> PocketError:
    """The one message for a shard that cannot be trusted."""
    return PocketError(
        f"the soft-label shard {path} is damaged: {why}. Delete this file and run `label` again with the same "
        "options: only this shard is computed anew."
    )


@dataclass(frozen=True)
class _Header:
    info: ShardInfo
    checksums: dict[str, str]
    arrays: dict[str, tuple[np.dtype, tuple[int, ...], int]]  # type, shape, first byte in the data
    start: int  # of the data in the file
    size: int  # of the data


def _read_header(path: Path) -> _Header:
    """Read and check the head of a safetensors file, unless the same file was read before."""
    return _header_of(*_state(path))


@functools.lru_cache(maxsize=16_384)
def _header_of(name: str, whole: int, changed: int) -> _Header:
    """Parse 8 bytes of length, JSON of that length, then the data, of a file of ``whole`` bytes."""
    path = Path(name)
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > whole - 8:
                raise damaged(path, "it is not a whole safetensors file")
            entries = json.loads(file.read(length))
        description = json.loads(entries.pop("__metadata__")[_KEY])
        if description.pop("check") != _description_checksum(description):
            raise damaged(path, "the checksum of its description is wrong")
        checksums = description.pop("crc32")
        if description["format"] > FORMAT:
            raise PocketError(f"{path} was written by a newer pocketvit (format {description['format']}): update.")
        info = ShardInfo(**description)
        arrays, end, items = {}, 0, {}
        for key, one in info.fields().items():
            entry, dtype = entries.pop(key), np.dtype(one.dtype)
            begin, stop = entry["data_offsets"]
            first = entry["shape"][0]
            if one.ragged:
                items[key] = first
            wanted = first if one.ragged else info.rows + (key == OFFSETS)
            if entry["dtype"] != _SAFETENSORS[dtype.name] or entry["shape"] != [wanted, *one.shape]:
                raise damaged(path, f"its {key} have another type or shape than its description says")
            if begin < 0 or stop - begin != one.nbytes * first:
                raise damaged(path, f"its {key} lie at a wrong place")
            arrays[key], end = (dtype, (first, *one.shape), begin), max(end, stop)
        if entries or 8 + length + end != whole or len(set(items.values())) > 1:
            raise damaged(path, "it is not a whole safetensors file")
        return _Header(info, checksums, arrays, 8 + length, end)
    except OSError as error:
        raise _unreadable(path, error) from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise damaged(path, "its description cannot be read") from error


_SAFETENSORS = {
    "bool": "BOOL",
    **{f"{kind}{8 * size}": f"{kind[0].upper()}{8 * size}" for kind in ("uint", "int") for size in (1, 2, 4, 8)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
}


def _checksum(name: str, array: np.ndarray) -> str:
    seed = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode())
    data = np.ascontiguousarray(array).data.cast("B") if array.size else b""
    return f"{zlib.crc32(data, seed):08x}"


def _description_checksum(description: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(description, sort_keys=True).encode()):08x}"
