"""Writing packs: where each image goes, its bytes piece by piece, and the index when all of them are on disk."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import zlib
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from safetensors.numpy import save_file
from tqdm import tqdm

from ..errors import PocketError
from ..files import atomic, require_space
from .base import Source, in_threads
from .checks import digest_of
from .decode import decode, decode_at, resized
from .findings import DEPTHS, decoded_bytes
from .listing import ArraySource, FileSource, ItemSource
from .targets import sizes_of, to_columns
from .tiles import Tiles

SMALL = 64 * 1024  # bytes of decoded pixels an image, on average, up to which they are stored decoded
PIECE = 64 * 1024 * 1024  # bytes between two lines of the journal: what a kill costs at most
BOUND = 448  # pixels of the shorter side of a bounded copy: twice a view of 224; views that are larger need more
STORED = (*DEPTHS, "file")  # what an image is kept as; "file": original bytes
VERSION = 3


def bound_for(view_size: int) -> int:
    """Return the bound of a pack for views of a size: one for all up to 224, so that they share a pack."""
    return max(BOUND, 2 * view_size)


@dataclasses.dataclass
class Layout:
    """Where each image goes in ``images.bin``, known before anything is written."""

    offsets: np.ndarray  # int64 [N+1]
    shapes: np.ndarray  # int32 [N, 3]
    depths: np.ndarray  # uint8 [N], index into STORED
    bounded: np.ndarray  # bool [N], whether the shape is smaller than the image's
    bound: int | None  # pixels of the shorter side of these; None where there is none


def much_larger(source: Source, bound: int) -> np.ndarray:
    """Return the positions of the images that are kept at a bounded resolution.

    Only 8-bit ones: of deeper ones every value counts. And boxes are in the pixels of their images.
    """
    if not isinstance(source, FileSource | ItemSource) or sizes_of(source.targets) is not None:
        return np.empty(0, np.int64)
    found = source.findings
    return np.flatnonzero((found.shapes[:, :2].min(1) >= 2 * bound) & (found.depths == DEPTHS.index("uint8")))


def _layout(source: Source, bound: int) -> Layout:
    bounded = np.zeros(len(source), bool)
    if isinstance(source, FileSource | ItemSource):
        found, large = source.findings, much_larger(source, bound)
        as_files = isinstance(source, FileSource) and found.decoded.mean() > SMALL
        sizes, shapes = (found.stored if as_files else found.decoded).copy(), found.shapes.copy()
        depths = np.full(len(source), STORED.index("file"), np.uint8) if as_files else found.depths.copy()
        sides = found.shapes[large, :2].astype(np.int64)
        shapes[large, :2] = (2 * sides * bound + sides.min(1, keepdims=True)) // (2 * sides.min(1, keepdims=True))
        depths[large], bounded[large] = DEPTHS.index("uint8"), True
        sizes[large] = decoded_bytes(shapes[large], depths[large])
    else:  # decoded, however large: the image of tiles would be decoded again for each
        shapes, depths = source.described()
        sizes = decoded_bytes(shapes, depths)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Layout(offsets, shapes, depths, bounded, bound if bounded.any() else None)


def checksums(stored: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return CRC-32 uint32 [N] of each image's bytes."""
    parts = itertools.pairwise(offsets.tolist())
    data = np.asarray(stored)  # numpy's memmap class would run Python code at every slice
    return np.fromiter((zlib.crc32(data[start:end].data) for start, end in parts), np.uint32, len(offsets) - 1)


def pack_bytes(source: Source, bound: int = BOUND) -> int:
    """Return how many bytes a source takes as a pack."""
    return int(_layout(source, bound).offsets[-1])


def write_pack(place: Path, source: Source, progress: bool, bound: int) -> None:
    for torn in place.glob(".index.*.part"):  # of a process that was killed while it wrote the index
        torn.unlink()
    layout = _layout(source, bound)
    offsets = layout.offsets
    done = _resume(place, source, layout)
    require_space(place, int(offsets[-1] - offsets[done]), f"packing {source.name}/{source.split}")
    with (
        open(place / "images.bin", "r+b" if done else "wb") as images,
        open(place / "journal.jsonl", "a" if done else "w", encoding="utf-8") as journal,
        tqdm(
            total=len(source),
            initial=done,
            desc=f"packing {source.split}",
            unit=" images",
            delay=1,
            disable=None if progress else True,  # None: only where standard error is a terminal
        ) as bar,
    ):
        if not done:
            _note(journal, _head(source, layout))
        images.seek(int(offsets[done]))
        while done < len(source):
            end = max(int(np.searchsorted(offsets, offsets[done] + PIECE, side="right")) - 1, done + 1)
            for data in _piece(source, layout, np.arange(done, end)):
                images.write(data)
            images.flush()
            os.fsync(images.fileno())
            _note(journal, {"images": end})  # only now: what the journal counts is on disk
            bar.update(end - done)
            done = end
    write_index(place, source, layout)
    (place / "journal.jsonl").unlink()


def _piece(source: Source, layout: Layout, rows: np.ndarray) -> list[bytes | memoryview]:
    """Return what ``images.bin`` holds of some images, in order."""
    if isinstance(source, ArraySource):
        return [np.ascontiguousarray(source.native(rows)).data.cast("B")]
    if isinstance(source, Tiles):
        return [np.ascontiguousarray(tile).data.cast("B") for tile in source.native(rows)]
    if isinstance(source, FileSource):
        return in_threads(functools.partial(_file, source, layout), rows)
    return [_item(source, layout, int(row)).data.cast("B") for row in rows]


def _item(source: Source, layout: Layout, row: int) -> np.ndarray:
    pixels = source[row][0]
    if isinstance(source, ItemSource) and digest_of(pixels) != source.findings.digests[row].tobytes():
        raise PocketError(
            f"item {source.names[row]} of {source.name} differs each time that it is read: give the dataset without "
            "its random transforms, for views are made here"
        )
    return np.ascontiguousarray(resized(pixels, *layout.shapes[row, :2].tolist()) if layout.bounded[row] else pixels)


def _file(source: FileSource, layout: Layout, row: int) -> bytes | memoryview:
    name = source.names[row]
    try:
        data = source.paths[row].read_bytes()
    except OSError as error:
        raise PocketError(f"{name} in {source.name} can no longer be read ({error.strerror}): start again") from error
    if hashlib.sha256(data).digest() != source.findings.digests[row].tobytes():
        raise PocketError(f"{name} in {source.name} was changed while the images were being packed: start again")
    if STORED[layout.depths[row]] == "file":
        return data
    height, width = layout.shapes[row, :2].tolist()
    pixels = decode_at(data, name, height, width) if layout.bounded[row] else decode(data, name)
    return np.ascontiguousarray(pixels).data.cast("B")


def _head(source: Source, layout: Layout) -> dict[str, Any]:
    return {
        "version": VERSION,
        "fingerprint": source.fingerprint,
        "bytes": int(layout.offsets[-1]),
        "depths": sorted({STORED[depth] for depth in np.unique(layout.depths)}),
    }


def _note(journal: TextIO, line: dict[str, Any]) -> None:
    journal.write(json.dumps(line) + "\n")
    journal.flush()
    os.fsync(journal.fileno())


def _resume(place: Path, source: Source, layout: Layout) -> int:
    """Return how many images an earlier, killed call has safely written; 0 when it was of another layout."""
    try:
        journal = place / "journal.jsonl"
        text = journal.read_bytes()
        os.truncate(journal, text.rfind(b"\n") + 1)  # a torn last line, which what follows would be glued to
        lines = text.split(b"\n")[:-1]
        head, *pieces = [json.loads(line) for line in lines]
        done = pieces[-1]["images"] if pieces else 0
        enough = (place / "images.bin").stat().st_size >= layout.offsets[done]
    except (FileNotFoundError, ValueError, KeyError, IndexError):
        return 0
    return done if enough and head == _head(source, layout) else 0


def write_index(place: Path, source: Source, layout: Layout, checks: np.ndarray | None = None) -> None:
    """Write the index of a pack whose pixels are there, with the checksums that these had, or have."""
    if checks is None:
        checks = checksums(np.memmap(place / "images.bin", np.uint8, "r"), layout.offsets)
    sides = np.unique(layout.shapes[:, :2], axis=0)
    about = {
        "version": VERSION,
        "name": source.name,
        "split": source.split,
        "classes": list(source.classes),
        "window": source.window,
        "size": sides[0].tolist() if len(sides) == 1 else None,
        "bound": layout.bound,
        "fingerprint": source.fingerprint,
    }
    tensors = {
        "ids": source.ids,
        **to_columns(source.targets),
        # A tensor, for the metadata may not pass 100 MB; names on Linux need not be UTF-8.
        "names": np.frombuffer("\0".join(source.names).encode("utf-8", "surrogateescape"), np.uint8),
        "offsets": np.asarray(layout.offsets, np.int64),
        "shapes": np.asarray(layout.shapes, np.int32),
        "depths": np.asarray(layout.depths, np.uint8),
        "bounded": np.asarray(layout.bounded, bool),
        "checksums": checks,
    }
    tensors |= {name: column for name in ("groups", "parents") if (column := getattr(source, name)) is not None}
    about["check"] = index_checksum(tensors, about)
    with atomic(place / "index.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"pack": json.dumps(about)})


def index_checksum(tensors: dict[str, np.ndarray], about: dict[str, Any]) -> str:
    """CRC-32 of everything in the index, labels among it, but for the checksum itself."""
    described = {name: value for name, value in about.items() if name != "check"}
    value = zlib.crc32(json.dumps(described, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tensor.shape}".encode(), value)
        value = zlib.crc32(tensor.tobytes(), value)
    return f"{value:08x}"
