"""One shard: the labels of consecutive rows of one view by one teacher, in a safetensors file that checks itself."""

from __future__ import annotations

import json
import math
import threading
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ..errors import PocketError
from ..files import atomic
from .record import Layout

FORMAT = 1
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
    format: int = FORMAT

    @property
    def layout(self) -> Layout:
        return Layout(self.num_classes, self.k, self.ordered)


def shard_name(start: int) -> str:
    """File name of the shard whose first row is ``start``."""
    return f"rows-{start:010d}.safetensors"


def write_shard(path: Path, info: ShardInfo, arrays: dict[str, np.ndarray]) -> None:
    """Write a shard durably under a temporary name and rename it into place.

    Every tensor's CRC-32 (which finds any burst of up to 32 wrong bits) and that of the description itself are stored
    in the metadata.
    """
    description: dict[str, Any] = asdict(info)
    description["crc32"] = {name: _checksum(name, arrays[name]) for name in sorted(arrays)}
    description["check"] = _description_checksum(description)
    arrays = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    with atomic(path) as temporary:
        save_file(arrays, temporary, metadata={_KEY: json.dumps(description, sort_keys=True)})


def read_info(path: Path) -> ShardInfo:
    """Read only the description of a shard; a file that is not whole is a ``PocketError``."""
    return _read_header(path).info


def read_shard(path: Path) -> tuple[ShardInfo, dict[str, np.ndarray]]:
    """Map a shard into memory: read-only arrays by name. The first time in a process its checksums are verified.

    Raises:
        PocketError: a byte is wrong or missing; names the file and how to mend it.
    """
    header = _read_header(path)
    info = header.info
    data = np.memmap(path, np.uint8, "r", offset=header.start) if header.size else np.empty(0, np.uint8)
    arrays = {}
    for name, (dtype, shape) in info.layout.tensors().items():
        begin = header.offsets[name]
        size = dtype.itemsize * info.rows * math.prod(shape)
        arrays[name] = data[begin : begin + size].view(dtype).reshape(info.rows, *shape)
    stat = path.stat()
    state = (str(path.absolute()), stat.st_size, stat.st_mtime_ns)
    if state not in _verified:
        for name, array in arrays.items():
            if _checksum(name, array) != header.checksums[name]:
                raise damaged(path, f"the checksum of its {name} is wrong")
        with _verified_lock:
            _verified.add(state)
    return info, arrays


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
    offsets: dict[str, int]  # first byte of each tensor in the data
    start: int  # of the data in the file
    size: int  # of the data


def _read_header(path: Path) -> _Header:
    """Read and check the head of a safetensors file: 8 bytes of length, JSON of that length, then the data."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            whole = path.stat().st_size
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
        offsets, end = {}, 0
        for name, (dtype, shape) in info.layout.tensors().items():
            entry = entries.pop(name)
            begin, stop = entry["data_offsets"]
            size = dtype.itemsize * info.rows * math.prod(shape)
            if entry["dtype"] != _SAFETENSORS[dtype.name] or entry["shape"] != [info.rows, *shape]:
                raise damaged(path, f"its {name} have another type or shape than its description says")
            if begin < 0 or stop - begin != size:
                raise damaged(path, f"its {name} lie at a wrong place")
            offsets[name], end = begin, max(end, stop)
        if entries or 8 + length + end != whole:
            raise damaged(path, "it is not a whole safetensors file")
        return _Header(info, checksums, offsets, 8 + length, end)
    except OSError as error:
        raise PocketError(f"could not read the soft-label shard {path}: {error.strerror or error}.") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, "its description cannot be read") from error


_SAFETENSORS = {"uint16": "U16", "uint32": "U32", "int32": "I32", "float16": "F16", "float32": "F32"}


def _checksum(name: str, array: np.ndarray) -> str:
    seed = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode())
    return f"{zlib.crc32(np.ascontiguousarray(array).data.cast('B'), seed):08x}"


def _description_checksum(description: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(description, sort_keys=True).encode()):08x}"
