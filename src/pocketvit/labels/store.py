"""Reading a soft-label store: which teachers and views it holds, whether it fits, and the labels of a whole view.

A store is a folder of folders, one per teacher; nothing outside a teacher's folder is needed to read it, so that
merging two stores of the same images and views is copying folders or files::

    STORE/
      resnet56-1f0c9a2b/            one per teacher: its name and the start of its fingerprint
        manifest.json               written once: what the labels are of, by whom, and how they were computed
        view-00000/
          rows-0000000000.safetensors     at most 65,536 rows; describes and checks itself
          rows-0000065536.safetensors
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ViewConfig
from ..errors import PocketError
from ..views import Views
from .manifest import (
    MANIFEST,
    check_same_images,
    check_teachers_agree,
    differences,
    digest,
    environment,
    manifest_record,
    read_manifest,
)
from .ragged import OFFSETS, places
from .record import Record
from .shard import POSITION, ShardInfo, damaged, read_info, read_shard


def view_folder(view: int) -> str:
    """Name of the folder of a view."""
    return f"view-{view:05d}"


class LabelStore:
    """Soft labels on disk, by teacher and view.

    Args:
        folder: The store's folder, which holds one folder per teacher.

    Attributes:
        folder: Path of the store.
        manifest: What each teacher's ``manifest.json`` says, by teacher key.

    Raises:
        PocketError: There is no store in ``folder``, or its teachers labelled different images or views.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        paths = sorted(self.folder.glob(f"*/{MANIFEST}"))
        self.manifest: dict[str, dict[str, Any]] = {path.parent.name: read_manifest(path) for path in paths}
        self._last: dict[str, tuple[int, Any]] = {}  # by teacher: the view that was read last, and its labels
        if not self.manifest:
            raise PocketError(
                f"there are no soft labels in {self.folder}. Make them with `label IMAGES --teacher NAME`."
            )
        check_teachers_agree(self.folder, self.manifest)

    def teachers(self) -> list[str]:
        """Keys of the teachers, in the order of their names."""
        return list(self.manifest)

    def key(self, teacher: Any) -> str:
        """Find a teacher by key, by name, or by a live ``Teacher`` (then by its fingerprint).

        Raises:
            PocketError: No such teacher, or a name that several share; a live teacher that differs from the stored
                one of its name is told the differing fields.
        """
        name = teacher if isinstance(teacher, str) else teacher.name
        if isinstance(teacher, str):
            if teacher in self.manifest:
                return teacher
            found = self._named(name)
            if len(found) > 1:
                raise PocketError(f"{self.folder} holds several teachers named {name!r}: name one of {found}.")
        else:
            wanted = digest(teacher.fingerprint)
            found = [key for key, one in self.manifest.items() if digest(one["teacher"]["fingerprint"]) == wanted]
            namesakes = self._named(name)
            if not found and namesakes:
                stored = self.manifest[namesakes[-1]]["teacher"]["fingerprint"]
                raise PocketError(
                    f"the teacher {name!r} is not the one that made the labels in {self.folder}: teacher differs "
                    f"({'; '.join(differences(stored, teacher.fingerprint))}). Label with this teacher (its labels are "
                    "added beside the others), or load the one that was used."
                )
        if not found:
            raise PocketError(
                f"{self.folder} holds no labels by a teacher {name!r}, only by {', '.join(self.manifest)}. "
                "Add them with `label`."
            )
        return found[0]

    def _named(self, name: str) -> list[str]:
        return [key for key, one in self.manifest.items() if one["teacher"]["name"] == name]

    def num_images(self) -> int:
        """Number of images every view holds."""
        return next(iter(self.manifest.values()))["source"]["images"]

    def record(self, teacher: str) -> Record:
        """What a record of this teacher is made of."""
        return manifest_record(self.manifest[self.key(teacher)])

    def check_kind(self, teacher: str, kind: str) -> None:
        """Refuse records of another kind than what learns from them takes ("softmax", "sigmoid", "boxes", ...).

        Raises:
            PocketError: Of another kind they mean something else: a softmax forgets a constant that sigmoids need.
        """
        held = self.record(teacher).kind
        if held != kind:
            raise PocketError(
                f"the labels by {teacher} in {self.folder} are of the kind {held}, and what learns from them takes "
                f"{kind}. Label these images again into another folder."
            )

    def views(self, teacher: str | None = None) -> list[int]:
        """Views that are complete: for one teacher, or (None) for all of them."""
        if teacher is None:
            return sorted(set.intersection(*(set(self.views(key)) for key in self.manifest)))
        key = self.key(teacher)
        numbers = (path.name.removeprefix("view-") for path in (self.folder / key).glob("view-*"))
        return [view for view in sorted(int(n) for n in numbers if n.isdigit()) if self._complete(key, view)]

    def shards(self, teacher: str, view: int) -> list[tuple[Path, ShardInfo]]:
        """The finished shards of a view, by first row; each is checked to belong here (not for flipped bytes).

        Raises:
            PocketError: A shard is damaged, or was copied here from a store of other images, views or teacher.
        """
        key = self.key(teacher)
        result = []
        for path in sorted((self.folder / key / view_folder(view)).glob("rows-*.safetensors")):
            info = read_info(path)
            self._check_belongs(key, view, path, info)
            result.append((path, info))
        return result

    def _check_belongs(self, key: str, view: int, path: Path, info: ShardInfo) -> None:
        manifest = self.manifest[key]
        for part, value in (("teacher", info.teacher), ("source", info.source), ("views", info.views)):
            if value != digest(manifest[part]["fingerprint"]):
                raise PocketError(
                    f"the shard {path} does not belong to this store: its {part} fingerprint differs from that of "
                    f"{key}/{MANIFEST}. Move the file away and run `label` again."
                )
        here, there = (self._held(key), view), (_held(info.record, info.ordered), info.view)
        if here != there:
            raise PocketError(
                f"the shard {path} is of view {there[1]} with {there[0]}, but stands where view {view} with {here[0]} "
                "belongs. Move the file away and run `label` again."
            )

    def _held(self, key: str) -> str:
        return _held(self.record(key), self.manifest[key]["ordered"])

    def _complete(self, key: str, view: int) -> bool:
        return not missing_rows([(info.start, info.rows) for _, info in self.shards(key, view)], self.num_images())

    def replay(self, source: Any) -> Views:
        """Return the views that the labels are of, of the same images: what `render` gives is what the teachers saw.

        For a training loop of one's own (docs/store.md). The number of a view is that of `read`.

        Args:
            source: The images that were labelled, as `sources.open_images` opens them: its ``train``.

        Raises:
            PocketError: These are other images, or another version of pocketvit rendered them otherwise.
        """
        held = next(iter(self.manifest.values()))["views"]["fingerprint"]
        said: dict[str, Any] = {name: held[name] for name in ViewConfig.__dataclass_fields__ if name in held}
        for name, value in said.items():
            said[name] = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
        config = ViewConfig(**said)
        views = Views(source, config, held.get("seed", 0))
        self.check(source, views)
        return views

    def read(self, teacher: str, view: int, rows: np.ndarray | None = None) -> Any:
        """Return the labels of a view in memory and in stored types: all images, in the order of the source, or some.

        Reads the view's shards once in sequence, verifying checksums the first time in a process. The last whole view
        of a teacher is kept, so that reading it again costs nothing.

        Args:
            teacher: Key or name.
            view: Which view.
            rows: int64, ascending: only these images, for a process that sees no others.

        Returns:
            What the kind of record makes of it: `SoftLabels`, `BoxLabels`, ...

        Raises:
            PocketError: The view is missing or incomplete, or a shard is damaged.
        """
        key = self.key(teacher)
        if rows is not None:
            return self._load(key, view, rows)
        kept = self._last.get(key)
        if kept is None or kept[0] != view:
            self._last.pop(key, None)  # before the next is read: two views are too many in memory
            kept = self._last[key] = (view, self._load(key, view, None))
        return kept[1]

    def _load(self, key: str, view: int, wanted: np.ndarray | None) -> Any:
        images, record = self.num_images(), self.record(key)
        shards = self.shards(key, view)
        missing = missing_rows([(info.start, info.rows) for _, info in shards], images)
        if missing:
            held = ", ".join(map(str, self.views(key))) or "none"
            raise PocketError(
                f"view {view} by {key} in {self.folder} lacks {missing} of {images} images (complete views: {held}). "
                "Run `label` with more views, or again with the same options if it was interrupted."
            )
        slots = None
        if wanted is not None:
            slots = np.full(images, -1, np.int64)
            slots[wanted] = np.arange(len(wanted))
        pieces = [_piece(path, images, slots) for path, _ in shards]
        return gather_pieces(record, images if wanted is None else len(wanted), pieces)

    def check(self, source: Any = None, views: Any = None, teachers: Sequence[Any] = ()) -> list[str]:
        """Check that the store was made from these images, views and live teachers.

        Returns:
            Warnings: library versions or a device that differ, which may change values within tolerance.

        Raises:
            PocketError: Says which of source, views and teacher differs, and in which fields.
        """
        one = next(iter(self.manifest.values()))
        check_same_images(self.folder, one, source, views)
        warnings = []
        for teacher in teachers:
            manifest = self.manifest[self.key(teacher)]
            stored = {name: value for name, value in manifest.get("environment", {}).items() if name != "pocketvit"}
            found = differences(stored, environment(teacher.device.type))
            if found:
                warnings.append(f"labels by {teacher.name} were made elsewhere: {'; '.join(found)}")
        return warnings


def missing_rows(pieces: Sequence[tuple[int, int]], stop: int, start: int = 0) -> int:
    """Count the rows of ``start``..``stop`` that no piece (first row, number of rows) covers; pieces may overlap."""
    covered, end = 0, start
    for first, rows in sorted(pieces):
        covered += max(0, min(stop, first + rows) - max(end, first))
        end = max(end, first + rows)
    return stop - start - covered


Piece = tuple[Any, np.ndarray | None, dict[str, np.ndarray]]
"""Where a shard's rows go (a slice, or int64), which of its rows are wanted (None: all), and its arrays."""


def _piece(path: Path, images: int, slots: np.ndarray | None) -> Piece:
    """Map one shard; ``slots`` [N] says where each image goes, -1 where it is not wanted (None: all, in order)."""
    info, arrays = read_shard(path)
    rows: Any = slice(info.start, info.start + info.rows)
    if rows.stop > images:
        raise damaged(path, f"its rows end at {info.start + info.rows}, beyond the {images} images")
    if not info.ordered:
        rows = arrays[POSITION].astype(np.int64)
        if rows.max() >= images:
            raise damaged(path, f"it holds a position beyond the {images} images")
    if slots is None:
        return rows, None, arrays
    chosen = np.flatnonzero(slots[rows] >= 0)
    return slots[rows][chosen], chosen, arrays


def gather_pieces(record: Record, images: int, pieces: Sequence[Piece]) -> Any:
    """Bring the records of several shards to where they belong; where two have the same image, the later counts."""
    fields = record.fields()
    offsets, owner = None, np.empty(0, np.int64)
    if record.ragged:
        lengths, owner = np.zeros(images, np.int64), np.zeros(images, np.int64)
        for number, (rows, chosen, arrays) in enumerate(pieces):
            counts = np.diff(arrays[OFFSETS])
            lengths[rows] = counts if chosen is None else counts[chosen]
            owner[rows] = number
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    labels, whole = record.empty(images, offsets)
    for (number, (rows, chosen, arrays)), (name, array) in itertools.product(enumerate(pieces), whole.items()):
        if not fields[name].ragged:
            array[rows] = arrays[name] if chosen is None else arrays[name][chosen]
            continue
        assert offsets is not None
        mine = np.flatnonzero(owner[rows] == number)
        place = np.arange(images)[rows][mine]
        array[places(offsets, place)] = arrays[name][places(arrays[OFFSETS], mine if chosen is None else chosen[mine])]
    return labels


def _held(record: Record, ordered: bool) -> str:
    return f"{record.text()} ({record.kind}), {'source' if ordered else 'paired'} order"
