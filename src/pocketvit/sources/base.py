"""What an image source is: images of one split with their targets, and the three splits of a dataset."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from .decode import to_rgb8
from .findings import DEPTHS
from .targets import target_at

SPLITS = ("train", "val", "test")
_NAMED, _LONGEST = 5, 40  # classes that are named in what is said, and characters of a name
Window = tuple[float, float]
Item = TypeVar("Item")
Result = TypeVar("Result")

_pool: tuple[int, ThreadPoolExecutor] | None = None


class Source:
    """Images of one split, with their targets. Subclasses say where the pixels are.

    Attributes:
        name: of the dataset, for messages.
        split: "train", "val" or "test".
        classes: class names; () when unlabelled.
        ids: uint64 [N], hash of split and normalized relative path (or array index): the same on any machine.
        targets: int64 [N], -1 where unknown; with several labels per image int64 [N, C] of 0 and 1; or `Boxes`.
        names: [N] relative path or index as text, for messages and tables.
        window: intensities (low, high) that become 0 and 255 where an image is not 8-bit.
        size: (height, width) when all images share one, else None.
        fingerprint: hex SHA-256 of split, ids and content (and the window, if any).
        groups: int64 [N], equal for images of one patient (or what the images are grouped by); None if ungrouped.
        parents: int64 [N], the image that each tile was cut from; None if the images are whole.
        bound: shorter side in pixels to which much larger images were brought; None where all are as they came.
    """

    bound: int | None = None

    def __init__(
        self,
        *,
        name: str,
        split: str,
        classes: tuple[str, ...],
        ids: np.ndarray,
        targets: Any,
        names: Sequence[str],
        window: Window | None,
        size: tuple[int, int] | None,
        fingerprint: str,
        groups: np.ndarray | None = None,
        parents: np.ndarray | None = None,
    ) -> None:
        self.name = name
        self.split = split
        self.classes = classes
        self.ids = ids
        self.targets = targets
        self.names = names
        self.window = window
        self.size = size
        self.fingerprint = fingerprint
        self.groups = groups
        self.parents = parents

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> tuple[np.ndarray, Any]:
        """Return the image as it is (HxW or HxWxC, native depth, upright) and its target."""
        raise NotImplementedError

    def described(self) -> tuple[np.ndarray, np.ndarray]:
        """Return shapes int32 [N, 3] (0 channels for plain [H, W]) and depths uint8 [N], indices into `DEPTHS`."""
        images = (self[position][0] for position in range(len(self)))
        shapes, depths = zip(*((image.shape, DEPTHS.index(image.dtype.name)) for image in images), strict=True)
        return np.array([(*shape, 0)[:3] for shape in shapes], np.int32), np.array(depths, np.uint8)

    def target(self, position: int) -> Any:
        """Return an image's class, its labels [C], or its `Boxes`."""
        return target_at(self.targets, position)

    def rgb(self, positions: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """Return images as 8-bit RGB: uint8 [B, H, W, 3] when all share one size, else a list of [H, W, 3]."""
        images = in_threads(lambda position: to_rgb8(self[int(position)][0], self.window), positions)
        if self.size is None:
            return images
        return np.stack(images) if images else np.zeros((0, *self.size, 3), np.uint8)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}/{self.split}: {len(self)} images, {len(self.classes)} classes>"


@dataclass(frozen=True)
class Checks:
    """What one pass over all images found.

    Attributes:
        counts: images per split and class; unlabelled ones under "".
        broken: (name, why) of what was left out.
        duplicates: (name, name) of equal images that stand in different splits.
        sizes: images per (height, width).
        modes: images per kind, such as "RGB" or "uint16".
        images: images per split, where they have several labels or boxes each and ``counts`` do not add up to it.
        unit: what ``counts`` count: "images" or "boxes".
    """

    counts: dict[str, dict[str, int]]
    broken: tuple[tuple[str, str], ...] = ()
    duplicates: tuple[tuple[str, str], ...] = ()
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    unit: str = "images"

    @property
    def several(self) -> bool:
        """Whether images have several labels each."""
        return bool(self.images) and self.unit == "images"

    @property
    def balance(self) -> float:
        """Images (or boxes) of the largest training class over those of the smallest that has any; 1 without any."""
        counts = [count for label, count in self.counts.get("train", {}).items() if label and count]
        return max(counts) / min(counts) if counts else 1.0

    def lines(self, most: int = 5) -> list[str]:
        """Say it for people: counts, sizes, then at most ``most`` broken files and duplicates by name."""
        images = self.images or {split: sum(of.values()) for split, of in self.counts.items()}
        lines = [f"{split}: {count:,} images" for split, count in images.items()]
        split = "train" if "train" in self.counts else "test"  # of images for a test alone
        classes = [count for label, count in self.counts.get(split, {}).items() if label]
        if classes:
            low, high = min(classes), max(classes)
            each = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            what = "labels, several per image" if self.several else "classes"
            names = [_shortened(label) for label in self.counts[split] if label]
            named = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
            whose = "training" if split == "train" else split
            lines.append(f"{what}: {len(classes):,} ({named}), with {each} {whose} {self.unit} each")
        shapes = sorted(self.sizes, key=lambda size: size[0] * size[1])
        if shapes:
            (h0, w0), (h1, w1) = shapes[0], shapes[-1]
            lines.append(f"sizes: {w0}x{h0}" if len(shapes) == 1 else f"sizes: {w0}x{h0} to {w1}x{h1} pixels")
        lines.append("kinds: " + ", ".join(f"{mode} ({count:,})" for mode, count in Counter(self.modes).most_common()))
        if self.balance >= 2:
            what = "commonest label" if self.several else "largest class"
            lines.append(f"balance: the {what} has {self.balance:.1f} times the {self.unit} of the smallest")
        lines += _some([f"{name} {why}" for name, why in self.broken], "left out", most)
        lines += _some([f"{a} = {b}" for a, b in self.duplicates], "equal images in different splits", most)
        return lines


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."


def _some(items: list[str], title: str, most: int) -> list[str]:
    if not items:
        return []
    more = [f"  ... and {len(items) - most} more"] if len(items) > most else []
    return [f"{title}: {len(items)}", *(f"  {item}" for item in items[:most]), *more]


@dataclass(frozen=True)
class Dataset:
    """The splits of one dataset, fixed before anything is labelled.

    Attributes:
        notes: what was decided and is said aloud: whose split it is, labels that contradict each other, windows.
        checks: what the pass over all images found.
        task: what the labels are, a name of `tasks`: "classification", "ordinal" (grades in order), "multilabel",
            "detection".
        modality: kind of image, where it is known: "xray", "ct", "ultrasound", "fundus", "oct", "microscopy",
            "histology" or "dermatoscopy".
        group: column of the patients (or whatever else stays on one side of every split), if one was named.
        group_names: cell of that column by `Source.groups`; images whose cell is empty have higher numbers.
        synthetic: what synthetic training images were made from; "" for images that somebody gave.
        numbers: number of each class in the annotations of boxes; {} where they have none.
    """

    name: str
    classes: tuple[str, ...]
    train: Source
    val: Source | None
    test: Source | None
    notes: tuple[str, ...]
    checks: Checks
    task: str = "classification"
    modality: str | None = None
    group: str | None = None
    group_names: tuple[str, ...] = ()
    synthetic: str = ""
    numbers: Mapping[str, int] = field(default_factory=dict)

    @property
    def research(self) -> bool:
        """Whether these are medical images, or people's: what comes of them is for research use."""
        return self.modality is not None or self.group is not None

    @property
    def splits(self) -> dict[str, Source]:
        """The splits that there are, in the order train, val, test."""
        return {split: source for split in SPLITS if (source := getattr(self, split)) is not None}


def sample_id(split: str, key: str) -> int:
    """Return the 64-bit id of a sample: BLAKE2b of the split and the normalized path inside it (or array index)."""
    text = f"{split}\0{key}".encode("utf-8", "surrogateescape")  # names on Linux need not be UTF-8
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def fingerprint_of(split: str, ids: np.ndarray, digests: np.ndarray, window: Window | None) -> str:
    """Return the hex SHA-256 of a split's ids and content.

    Args:
        ids: uint64 [N].
        digests: uint8 [N, 32], SHA-256 of each file's bytes or array image.
        window: stays out where it is None, so that 8-bit sources never notice it.
    """
    head: dict[str, object] = {"kind": "source", "version": 1, "split": split, "count": len(ids)}
    if window is not None:
        head["window"] = [float(value) for value in window]
    total = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    total.update(np.ascontiguousarray(ids, "<u8").tobytes())
    total.update(np.ascontiguousarray(digests).tobytes())
    return total.hexdigest()


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(work: Callable[[Item], Result], items: Sequence[Item] | np.ndarray) -> list[Result]:
    """Return ``[work(item) for item in items]`` from this process's pool of threads (decoders release the GIL)."""
    global _pool
    if len(items) < 2 or cores() == 1:
        return [work(item) for item in items]
    if _pool is None or _pool[0] != os.getpid():  # threads do not survive a fork
        _pool = (os.getpid(), ThreadPoolExecutor(cores(), thread_name_prefix="pocketvit-decode"))
    return list(_pool[1].map(work, items))
