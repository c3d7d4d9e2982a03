"""Reading a soft-label store: which teachers and views it holds, whether it fits, and the labels of a whole view.

A store is a folder of folders, one a teacher; nothing outside a teacher's folder is needed to read it, so that merging
two stores of the same images and views is copying folders or files::

    STORE/
      resnet56-1f0c9a2b/            one a teacher: its name and the start of its fingerprint
        manifest.json               written once: what the labels are of, by whom, and how they were computed
        view-00000/
          rows-0000000000.safetensors     at most 65,536 rows; describes and checks itself
          rows-0000065536.safetensors
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import PocketError
from ..files import read_json
from .fingerprint import describe_source, differences, digest, environment
from .record import Layout, Packed, SoftLabels
from .shard import FORMAT, ShardInfo, damaged, read_info, read_shard

MANIFEST = "manifest.json"


def view_folder(view: int) -> str:
    """Name of the folder of a view."""
    return f"view-{view:05d}"


class LabelStore:
    """Soft labels on disk, by teacher and view.

    Args:
        folder: The store's folder, which holds one folder a teacher.

    Attributes:
        folder: Path of the store.
        manifest: What each teacher's ``manifest.json`` says, by teacher key.

    Raises:
        PocketError: There is no store in ``folder``, or its teachers labelled different images or views.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.manifest: dict[str, dict[str, Any]] = {}
        self._current: dict[str, tuple[int, SoftLabels]] = {}
        self._ahead: dict[tuple[str, int], Future[SoftLabels]] = {}
        self._pool: ThreadPoolExecutor | None = None
        for path in sorted(self.folder.glob(f"*/{MANIFEST}")):
            manifest = read_json(path)
            if not isinstance(manifest, dict) or "teacher" not in manifest:
                raise PocketError(f"{path} is not the manifest of a soft-label store: move its folder away.")
            if manifest.get("format", 0) > FORMAT:
                raise PocketError(f"{path} was written by a newer pocketvit (format {manifest['format']}): update.")
            self.manifest[path.parent.name] = manifest
        if not self.manifest:
            raise PocketError(
                f"there are no soft labels in {self.folder}. Make them with `label IMAGES --teacher NAME`."
            )
        self._check_teachers_agree()

    def _check_teachers_agree(self) -> None:
        (first, one), *others = self.manifest.items()
        for key, other in others:
            for part, things in (("source", "images"), ("views", "views")):
                found = differences(_identity(one[part]), _identity(other[part]))
                if found:
                    raise PocketError(
                        f"{first} and {key} in {self.folder} labelled different {things} ({'; '.join(found)}; the "
                        f"former is {first}'s). Keep them in two stores."
                    )

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

    def layout(self, teacher: str) -> Layout:
        """The tensors a record of this teacher consists of."""
        manifest = self.manifest[self.key(teacher)]
        return Layout(manifest["teacher"]["outputs"], manifest["k"], manifest["ordered"])

    def check_kind(self, teacher: str, kind: str) -> None:
        """Refuse logits that are of another kind than what learns from them: "softmax" or "sigmoid".

        Raises:
            PocketError: A softmax forgets a constant that independent labels need, and knows nothing of absent ones.
        """
        held = self.manifest[self.key(teacher)].get("kind", "softmax")
        if held != kind:
            words = {"softmax": "one class", "sigmoid": "several labels"}
            raise PocketError(
                f"the labels by {teacher} in {self.folder} are for images of {words.get(held, held)} each ({held}), "
                f"and these have {words[kind]} ({kind}). Label them again into another folder."
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
        if info.view != view or info.layout != self.layout(key):
            raise PocketError(
                f"the shard {path} is of view {info.view} with {_held(info.layout)}, but stands where view {view} with "
                f"{_held(self.layout(key))} belongs. Move the file away and run `label` again."
            )

    def _complete(self, key: str, view: int) -> bool:
        return not missing_rows([(info.start, info.rows) for _, info in self.shards(key, view)], self.num_images())

    def read(self, teacher: str, view: int) -> SoftLabels:
        """Return the labels of all images of a view, in the order of the source, in memory and in stored types.

        Reads the view's shards once in sequence, verifying checksums the first time in a process. A view that was
        prefetched is waited for; the last view read of a teacher is kept, so that reading it again costs nothing.

        Raises:
            PocketError: The view is missing or incomplete, or a shard is damaged.
        """
        key = self.key(teacher)
        kept = self._current.get(key)
        if kept is not None and kept[0] == view:
            return kept[1]
        ahead = self._ahead.pop((key, view), None)
        labels = ahead.result() if ahead is not None else self._load(key, view)
        self._current[key] = (view, labels)
        return labels

    def prefetch(self, teacher: str, view: int) -> None:
        """Begin to read a view in a thread, for a `read` that comes later. Errors are raised there."""
        place = (self.key(teacher), view)
        if place in self._ahead or self._current.get(place[0], (None,))[0] == view:
            return
        for other in [other for other in self._ahead if other[0] == place[0]]:
            del self._ahead[other]  # one that was never asked for keeps no memory
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="soft-labels")
        self._ahead[place] = self._pool.submit(self._load, *place)

    def _load(self, key: str, view: int) -> SoftLabels:
        images, layout = self.num_images(), self.layout(key)
        shards = self.shards(key, view)
        missing = missing_rows([(info.start, info.rows) for _, info in shards], images)
        if missing:
            held = ", ".join(map(str, self.views(key))) or "none"
            raise PocketError(
                f"view {view} by {key} in {self.folder} lacks {missing} of {images} images (complete views: {held}). "
                "Run `label` with more views, or again with the same options if it was interrupted."
            )
        if layout.k:
            packed = Packed.empty(images, layout)
            labels, whole = SoftLabels.from_packed(packed), packed.arrays()
        else:
            whole = layout.empty(images)
            labels = layout.soft_labels(whole)
        for path, info in shards:
            arrays = read_shard(path)[1]
            rows: Any = slice(info.start, info.start + info.rows)
            if not layout.ordered:
                rows = arrays["position"].astype(np.int64)
                if rows.max() >= images:
                    raise damaged(path, f"it holds a position beyond the {images} images")
            for name, array in arrays.items():
                if name != "position":
                    whole[name][rows] = array
        return labels

    def serves(self, needs: Literal["full", "topk"], teachers: Sequence[str] | None = None) -> bool:
        """Whether an objective with these needs can learn from the store (all its teachers, or those named)."""
        return needs == "topk" or all(self.layout(key).k == 0 for key in teachers or self.manifest)

    def refusal(self, objective: str, teachers: Sequence[str] | None = None) -> str:
        """Say why ``objective``, which needs all logits, cannot be served, and what to do."""
        short = [self.key(key) for key in teachers or self.manifest if self.layout(key).k]
        layout = self.layout(short[0])
        return (
            f"the objective {objective!r} needs the logits of all classes, but {self.folder} holds only the top "
            f"k = {layout.k} of {layout.num_classes} by {', '.join(short)}. Use an objective that the top k serves "
            "(hard, or kl at temperature 1), label again into another folder with all logits (--top-k 0: "
            f"{2 * layout.num_classes} bytes an image and view instead of {layout.bytes_per_record}), or accept an "
            "approximation of the rest with --approximate-tail."
        )

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
            stored = {name: value for name, value in manifest["environment"].items() if name != "pocketvit"}
            found = differences(stored, environment(teacher.device.type))
            if found:
                warnings.append(f"labels by {teacher.name} were made elsewhere: {'; '.join(found)}")
        return warnings


def check_same_images(folder: Path, manifest: dict[str, Any], source: Any, views: Any) -> None:
    """Raise ``PocketError`` when a manifest is of other images or other views than these (None: not checked)."""
    if source is not None:
        there, here = manifest["source"], describe_source(source)
        if there["fingerprint"] != here["fingerprint"]:
            found = differences(_named_parts(there), _named_parts(here))
            raise PocketError(
                f"the labels in {folder} were made for other images: source differs "
                f"({'; '.join(found) or 'same name and number of images, but other content, ids or split'}). Use the "
                "images that were labelled, or label these into another folder."
            )
    if views is not None:
        found = differences(manifest["views"]["fingerprint"], views.fingerprint)
        if found:
            raise PocketError(
                f"the labels in {folder} were made for other views: view config differs ({'; '.join(found)}). Use the "
                "same view options and seed as for `label`, or label again into another folder."
            )


def missing_rows(pieces: Sequence[tuple[int, int]], stop: int, start: int = 0) -> int:
    """Count the rows of ``start``..``stop`` that no piece (first row, number of rows) covers; pieces may overlap."""
    covered, end = 0, start
    for first, rows in sorted(pieces):
        covered += max(0, min(stop, first + rows) - max(end, first))
        end = max(end, first + rows)
    return stop - start - covered


def _identity(part: dict[str, Any]) -> dict[str, Any]:
    fingerprint = part["fingerprint"]
    return fingerprint if isinstance(fingerprint, dict) else part


def _named_parts(source: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in source.items() if name != "fingerprint"}


def _held(layout: Layout) -> str:
    held = f"top {layout.k} of {layout.num_classes}" if layout.k else f"all {layout.num_classes}"
    return f"{held} logits, {'source' if layout.ordered else 'paired'} order"
