"""Packs: all images of a split in one flat file, memory-mapped, so that nothing is opened or decoded twice.

A pack is a folder ``<split>-<fingerprint>/`` with

* ``images.bin``: decoded pixels end to end where images are small or tiles, else the bytes of the original files; of
  photographs much larger than any view, decoded pixels at a bounded resolution (`BOUND`), so that no epoch decodes
  twelve megapixels again;
* ``index.safetensors``: offsets [N+1], shapes [N, 3], depths [N], CRC-32 checksums [N], ids, targets, names, groups
  and parents where there are any; classes and so on, and a CRC-32 of all of it, as metadata. It is written last: a
  pack without it is not finished.
* ``journal.jsonl``: only while packing: what is being packed, then after each piece that is safely on disk how many
  images that makes.

A killed process loses at most the piece it was writing: the next call goes on after the images that the journal counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ..errors import PocketError
from ..files import storage_error
from .base import Dataset, Source
from .decode import decode, to_rgb8
from .listing import batch_rgb8
from .packing import (
    BOUND,
    STORED,
    VERSION,
    Layout,
    checksums,
    index_checksum,
    much_larger,
    write_index,
    write_pack,
)
from .targets import equal, from_columns


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
    smaller = f"-{bound}" if len(much_larger(source, bound)) else ""
    place = Path(folder) / f"{source.split}-{source.fingerprint[:16]}{smaller}"
    pack = _finished(place, source)
    if pack is not None and _same_labels(pack, source):
        return pack
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _locked(place):  # another process may have packed while this one waited, with other labels
            pack = _finished(place, source)
            if pack is None:
                write_pack(place, source, progress, bound)
            elif not _same_labels(pack, source):  # the pixels stay, a label was corrected
                layout = Layout(pack.offsets, pack.shapes, pack.depths, pack.bounded, pack.bound)
                write_index(place, source, layout, pack.checksums)
            pack = Pack(place)
    except OSError as error:
        raise storage_error(error, place) from error
    return pack


_INTACT: set[tuple[str, int, int]] = set()  # pixels that this process has checked: path, size and time of change


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
        self.checksums = index["checksums"]  # uint32 [N]
        self._intact = np.zeros(len(self), bool)  # which images have been checked
        self._map()
        if self.stacked is not None:  # read as one array, in many places: all of it is checked now, and once
            self._check_all()

    def _check_all(self) -> None:
        stat = (self.folder / "images.bin").stat()
        known = str(self.folder.resolve()), stat.st_size, stat.st_mtime_ns
        if known in _INTACT:
            return
        wrong = np.flatnonzero(checksums(self.bytes, self.offsets) != self.checksums)
        if len(wrong):
            raise self._damaged(int(wrong[0]))
        _INTACT.add(known)

    def _damaged(self, position: int) -> PocketError:
        return PocketError(
            f"{self.folder / 'images.bin'} is damaged: image {self.names[position]} is not as it was packed. Delete "
            f"{self.folder} and give the command again, which packs it anew."
        )

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
        depth = STORED[self.depths[0]]
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
        if not self._intact[position]:
            if zlib.crc32(data.data) != self.checksums[position]:
                raise self._damaged(position)
            self._intact[position] = True
        depth = STORED[self.depths[position]]
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
        if (self.depths == STORED.index("file")).any():
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
        version = about["version"]
        if version == VERSION and about["check"] != index_checksum(index, about):
            raise ValueError("its checksum is wrong: bytes of it have changed")
    except FileNotFoundError as error:
        raise PocketError(f"{folder} is not a finished pack: pack the images again") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise PocketError(f"{path} is damaged ({error}): delete {folder} and pack again") from error
    if version != VERSION:
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
