"""Packs: all images of a split in one flat file, memory-mapped, so that nothing is opened or decoded twice.

A pack is a folder ``<split>-<fingerprint>/`` with

* ``images.bin``: decoded pixels end to end where images are small or tiles, else the bytes of the original files; of
  photographs much larger than any view, decoded pixels at a bounded resolution (`BOUND`), so that no epoch decodes
  twelve megapixels again;
* ``index.safetensors``: offsets [N+1], shapes [N, 3], depths [N], ids, targets, names, groups and parents where
  there are any; classes and so on as metadata. It is written last: a pack without it is not finished.
* ``journal.jsonl``: only while packing: what is being packed, then after each piece that is safely on disk how many
  images that makes.

A killed process loses at most the piece it was writing: the next call goes on after the images that the journal counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from ..errors import PocketError
from ..files import atomic, require_space, storage_error
from .base import Dataset, Source, in_threads
from .checks import digest_of
from .decode import decode, decode_at, resized, to_rgb8
from .findings import DEPTHS
from .listing import ArraySource, FileSource, ItemSource, batch_rgb8
from .targets import equal, from_columns, sizes_of, to_columns
from .tiles import Tiles

SMALL = 64 * 1024  # bytes of decoded pixels an image, on average, up to which they are stored decoded
PIECE = 64 * 1024 * 1024  # bytes between two lines of the journal: what a kill costs at most
BOUND = 448  # pixels of the shorter side of a bounded copy: twice a view of 224; views that are larger need more
_DEPTHS = (*DEPTHS, "file")  # "file": original bytes
_VERSION = 2


def bound_for(view_size: int) -> int:
    """Return the bound of a pack for views of a size: one for all up to 224, so that they share a pack."""
    return max(BOUND, 2 * view_size)


def pack_dataset(dataset: Dataset, folder: Path | str, progress: bool = True, *, bound: int = BOUND) -> Dataset:
    """Pack each split of a dataset below ``folder`` and return the dataset with its packs in place of the splits.

    Finished packs of the same fingerprint are reused, unfinished ones are completed.

    Args:
        bound: 8-bit images in files whose shorter side has twice as many pixels or more are kept at this one.

    Raises:
        PocketError: the disk is or would be full, the folder cannot be written, or an image changed since the checks.
    """
    packs: dict[str, Any] = {
        split: pack_source(source, folder, progress, bound=bound) for split, source in dataset.splits.items()
    }
    count = sum(int(pack.bounded.sum()) for pack in packs.values())
    more = (
        [f"{count:,} photos much larger than any view are kept with {bound} pixels on their shorter side"]
        if count and not any(isinstance(source, Pack) for source in dataset.splits.values())
        else []
    )
    return dataclasses.replace(dataset, **packs, notes=(*dataset.notes, *more))


def pack_source(source: Source, folder: Path | str, progress: bool = True, *, bound: int = BOUND) -> Pack:
    """Pack one split below ``folder``; see `pack_dataset`."""
    if isinstance(source, Pack):
        return source
    smaller = f"-{bound}" if len(_much_larger(source, bound)) else ""
    place = Path(folder) / f"{source.split}-{source.fingerprint[:16]}{smaller}"
    pack = _finished(place, source)
    if pack is not None and _same_labels(pack, source):
        return pack
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _locked(place):  # another process may have packed while this one waited, with other labels
            pack = _finished(place, source)
            if pack is None:
                _write(place, source, progress, bound)
            elif not _same_labels(pack, source):  # the pixels stay, a label was corrected
                _write_index(place, source, _Layout(pack.offsets, pack.shapes, pack.depths, pack.bounded, pack.bound))
            pack = Pack(place)
    except OSError as error:
        raise storage_error(error, place) from error
    return pack


class Pack(Source):
    """A packed split, memory-mapped. Opened by its folder alone; pickled without its pixels."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        index, about = _read_index(self.folder)
        super().__init__(
            name=about["name"],
            split=about["split"],
            classes=tuple(about["classes"]),
            ids=index["ids"],
            targets=from_columns(index),
            names=index["names"].tobytes().decode("utf-8", "surrogateescape").split("\0"),
            window=tuple(about["window"]) if about["window"] else None,
            size=tuple(about["size"]) if about["size"] else None,
            fingerprint=about["fingerprint"],
            groups=index.get("groups"),
            parents=index.get("parents"),
        )
        self.bound, self.bounded = about["bound"], index["bounded"]  # bool [N]: which images are smaller copies
        self.offsets, self.shapes, self.depths = index["offsets"], index["shapes"], index["depths"]
        self._map()

    def _map(self) -> None:
        path = self.folder / "images.bin"
        expected = int(self.offsets[-1])
        if not path.is_file() or path.stat().st_size != expected:
            raise PocketError(
                f"{path} is not the {expected:,} bytes that its index says: delete {self.folder}, pack again"
            )
        # A plain array over the map: numpy's memmap class would run Python code at every slice.
        self.bytes = np.asarray(np.memmap(path, np.uint8, "r"))
        self.stacked = self._stacked()

    def _stacked(self) -> np.ndarray | None:
        """Return all images as one array [N, H, W] or [N, H, W, C] over the map, if they are alike and decoded."""
        alike = (self.shapes == self.shapes[0]).all() and (self.depths == self.depths[0]).all()
        depth = _DEPTHS[self.depths[0]]
        if not alike or depth == "file":
            return None
        height, width, channels = (int(side) for side in self.shapes[0])
        return self.bytes.view(depth).reshape(len(self), height, width, *([channels] if channels else []))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("bytes", "stacked")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map()

    def __getitem__(self, position: int) -> tuple[np.ndarray, Any]:
        return self._image(int(position)), self.target(position)

    def _image(self, position: int) -> np.ndarray:
        if self.stacked is not None:
            return self.stacked[position]
        data = self.bytes[self.offsets[position] : self.offsets[position + 1]]
        depth = _DEPTHS[self.depths[position]]
        if depth == "file":
            return decode(data.tobytes(), self.names[position])
        height, width, channels = (int(side) for side in self.shapes[position])
        # Pixels lie end to end, so 16-bit ones may start at an odd byte after 8-bit ones: copied, then viewed.
        pixels = data if depth == "uint8" else np.frombuffer(data.tobytes(), depth)
        return pixels.reshape(height, width, *([channels] if channels else []))

    def rgb(self, positions: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """Return uint8 [B, H, W, 3] when all images share one size, else a list of [H, W, 3]."""
        if self.stacked is not None:
            return batch_rgb8(self.stacked[positions], self.window)
        if (self.depths == _DEPTHS.index("file")).any():
            return super().rgb(positions)
        images = [to_rgb8(self._image(int(position)), self.window) for position in positions]
        return np.stack(images) if images and self.size is not None else images


class _OtherVersionError(PocketError):
    """A pack of another layout than this version writes."""


def _read_index(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    path = folder / "index.safetensors"
    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {})["pack"])
            index = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise PocketError(f"{folder} is not a finished pack: pack the images again") from error
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise PocketError(f"{path} is damaged ({error}): delete {folder} and pack again") from error
    if about["version"] != _VERSION:
        raise _OtherVersionError(f"{folder} was packed by another version: delete it and pack again")
    return index, about


def _finished(place: Path, source: Source) -> Pack | None:
    """Return the finished pack at ``place`` if it is this source's; its labels may be others."""
    if not (place / "index.safetensors").is_file():
        return None
    try:
        pack = Pack(place)
    except _OtherVersionError:
        return None
    if pack.fingerprint != source.fingerprint:
        raise PocketError(f"{place} holds other images than {source.name}: delete it")
    return pack


def _same_labels(pack: Pack, source: Source) -> bool:
    named = (pack.classes, list(pack.names), pack.name) == (source.classes, list(source.names), source.name)
    return named and equal(pack.targets, source.targets) and _alike(pack.groups, source.groups)


def _alike(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other if one is None or other is None else np.array_equal(one, other)


def _write_index(place: Path, source: Source, layout: _Layout) -> None:
    sides = np.unique(layout.shapes[:, :2], axis=0)
    about = {
        "version": _VERSION,
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
    }
    tensors |= {name: column for name in ("groups", "parents") if (column := getattr(source, name)) is not None}
    with atomic(place / "index.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"pack": json.dumps(about)})


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Let one process at a time pack here; the lock goes with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows: one process at a time is the user's care there
        yield
        return
    with open(place / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclasses.dataclass
class _Layout:
    """Where each image goes in ``images.bin``, known before anything is written."""

    offsets: np.ndarray  # int64 [N+1]
    shapes: np.ndarray  # int32 [N, 3]
    depths: np.ndarray  # uint8 [N], index into _DEPTHS
    bounded: np.ndarray  # bool [N], whether the shape is smaller than the image's
    bound: int | None  # pixels of the shorter side of these; None where there is none


def _much_larger(source: Source, bound: int) -> np.ndarray:
    """Return the positions of the images that are kept at a bounded resolution.

    Only 8-bit ones: of deeper ones every value counts. And boxes are in the pixels of their images.
    """
    if not isinstance(source, FileSource | ItemSource) or sizes_of(source.targets) is not None:
        return np.empty(0, np.int64)
    found = source.findings
    return np.flatnonzero((found.shapes[:, :2].min(1) >= 2 * bound) & (found.depths == DEPTHS.index("uint8")))


def _layout(source: Source, bound: int) -> _Layout:
    bounded = np.zeros(len(source), bool)
    if isinstance(source, FileSource | ItemSource):
        found, large = source.findings, _much_larger(source, bound)
        as_files = isinstance(source, FileSource) and found.decoded.mean() > SMALL
        sizes, shapes = (found.stored if as_files else found.decoded).copy(), found.shapes.copy()
        depths = np.full(len(source), _DEPTHS.index("file"), np.uint8) if as_files else found.depths.copy()
        sides = found.shapes[large, :2].astype(np.int64)
        shapes[large, :2] = (2 * sides * bound + sides.min(1, keepdims=True)) // (2 * sides.min(1, keepdims=True))
        depths[large], bounded[large] = DEPTHS.index("uint8"), True
        sizes[large] = np.maximum(shapes[large].astype(np.int64), 1).prod(1)
    elif isinstance(source, Tiles):  # decoded, however large: its image would be decoded again for each tile
        shapes, depths = source.described()
        widths = np.array([np.dtype(depth).itemsize for depth in DEPTHS], np.int64)
        sizes = shapes[:, 0].astype(np.int64) * shapes[:, 1] * np.maximum(shapes[:, 2], 1) * widths[depths]
    else:
        images = (source[row][0] for row in range(len(source)))
        described = [(image.shape, image.dtype) for image in images]
        shapes = np.array([(*shape, 0)[:3] for shape, _ in described], np.int32)
        depths = np.array([_DEPTHS.index(dtype.name) for _, dtype in described], np.uint8)
        sizes = np.array([int(np.prod(shape)) * dtype.itemsize for shape, dtype in described], np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return _Layout(offsets, shapes, depths, bounded, bound if bounded.any() else None)


def pack_bytes(source: Source, bound: int = BOUND) -> int:
    """Return how many bytes a source takes as a pack."""
    return int(_layout(source, bound).offsets[-1])


def _write(place: Path, source: Source, progress: bool, bound: int) -> None:
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
    _write_index(place, source, layout)
    (place / "journal.jsonl").unlink()


def _piece(source: Source, layout: _Layout, rows: np.ndarray) -> list[bytes | memoryview]:
    """Return what ``images.bin`` holds of some images, in order."""
    if isinstance(source, ArraySource):
        return [np.ascontiguousarray(source.native(rows)).data.cast("B")]
    if isinstance(source, Tiles):
        return [np.ascontiguousarray(tile).data.cast("B") for tile in source.native(rows)]
    if isinstance(source, FileSource):
        return in_threads(functools.partial(_file, source, layout), rows)
    return [_item(source, layout, int(row)).data.cast("B") for row in rows]


def _item(source: Source, layout: _Layout, row: int) -> np.ndarray:
    pixels = source[row][0]
    if isinstance(source, ItemSource) and digest_of(pixels) != source.findings.digests[row].tobytes():
        raise PocketError(
            f"item {source.names[row]} of {source.name} differs each time that it is read: give the dataset without "
            "its random transforms, for views are made here"
        )
    return np.ascontiguousarray(resized(pixels, *layout.shapes[row, :2].tolist()) if layout.bounded[row] else pixels)


def _file(source: FileSource, layout: _Layout, row: int) -> bytes | memoryview:
    name = source.names[row]
    try:
        data = source.paths[row].read_bytes()
    except OSError as error:
        raise PocketError(f"{name} in {source.name} can no longer be read ({error.strerror}): start again") from error
    if hashlib.sha256(data).digest() != source.findings.digests[row].tobytes():
        raise PocketError(f"{name} in {source.name} was changed while the images were being packed: start again")
    if _DEPTHS[layout.depths[row]] == "file":
        return data
    height, width = layout.shapes[row, :2].tolist()
    pixels = decode_at(data, name, height, width) if layout.bounded[row] else decode(data, name)
    return np.ascontiguousarray(pixels).data.cast("B")


def _head(source: Source, layout: _Layout) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "fingerprint": source.fingerprint,
        "bytes": int(layout.offsets[-1]),
        "depths": sorted({_DEPTHS[depth] for depth in np.unique(layout.depths)}),
    }


def _note(journal: TextIO, line: dict[str, Any]) -> None:
    journal.write(json.dumps(line) + "\n")
    journal.flush()
    os.fsync(journal.fileno())


def _resume(place: Path, source: Source, layout: _Layout) -> int:
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
