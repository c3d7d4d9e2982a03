"""A bank of synthetic images: uint8 pictures, what the teacher said of them, and what they were made from.

A folder with `images.npz`, an ordinary source without labels (`pocketvit distill BANK/images.npz`), and `bank.json`,
its provenance. While it is being made its pieces lie in numbered shards, so that a kill costs one of them at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import PocketError
from ..files import read_json, require_space, write_json
from ..labels.manifest import differences
from ..sources import Dataset
from ..sources.arrays import list_arrays
from ..sources.assemble import assemble
from .seen import likely
from .shards import Shards, map_arrays, write_npz

MANIFEST, IMAGES = "bank.json", "images.npz"
_FORMAT = 1
_BEFORE = {"config.yaml", "train.log", "start"}  # what may lie in its folder before a bank is begun
_THUMBNAIL = 8  # side of what near duplicates are found by
_ALIKE = 0.02  # root mean square difference of two thumbnails (of 1) below which two pictures are one
_BLOCK = 2048

Piece = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Pictures uint8 [n, 3, S, S], the teacher's logits [n, C], and how each came about, int8 [n]."""


@dataclass(frozen=True)
class Bank:
    """A finished bank, memory-mapped.

    Attributes:
        folder: of its files.
        images: uint8 [N, S, S, 3].
        logits: float16 [N, C], what the teacher sees in the pictures as they are stored (see `seen`).
        origin: int8 [N], an index into ``origins``: how each came about.
        origins: such as ("drawn", "bred", "pushed").
        provenance: what everything depends on, JSON-like.
        classes: names of the C classes; () where the teacher does not tell.
    """

    folder: Path
    images: np.ndarray
    logits: np.ndarray
    origin: np.ndarray
    origins: tuple[str, ...]
    provenance: dict[str, Any]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def kind(self) -> str:
        """Of the teacher: "softmax", "sigmoid" or "boxes"."""
        return self.provenance["provenance"]["teacher"].get("kind", "softmax")

    @property
    def file(self) -> Path:
        """What `sources.open_images` reads."""
        return self.folder / IMAGES

    @property
    def probabilities(self) -> np.ndarray:
        """float32 [N, C]."""
        return likely(self.kind, np.asarray(self.logits))

    def pixels(self, rows: np.ndarray) -> Tensor:
        """Return some pictures as a teacher takes them, uint8 [n, 3, S, S]."""
        return torch.from_numpy(np.ascontiguousarray(self.images[rows].transpose(0, 3, 1, 2)))

    def dataset(self) -> Dataset:
        """Return the pictures as training images of an ordinary source, memory-mapped; nothing is held out."""
        listing = list_arrays(self.folder.name, {"train": (self.images, None)})
        listing.synthetic = provenance(self.provenance)
        listing.notes.append(f"synthetic images, {listing.synthetic}")
        return assemble(listing, val_fraction=0, seed=0, window=None, progress=False)


def find_bank(images: Any) -> Path | None:
    """Return the file of a bank's images, where a user names that or the bank's folder; None for anything else."""
    if not isinstance(images, str | Path):
        return None
    path = Path(images).expanduser()
    file = path / IMAGES if path.is_dir() else path
    return file if file.name == IMAGES and file.is_file() and (file.parent / MANIFEST).is_file() else None


class BankFolder:
    """A bank that is being made, or made already: the same request continues it, another one is refused.

    Args:
        folder: made when absent.
        provenance: everything that its pictures depend on, JSON-like.
        bytes: that it will take, checked before anything is made.
    """

    def __init__(self, folder: Path | str, provenance: Mapping[str, Any], *, bytes: int = 0) -> None:
        self.folder = Path(folder)
        self.manifest = self.folder / MANIFEST
        wanted = {"format": _FORMAT, **provenance}
        if self.manifest.exists():
            held = read_json(self.manifest)["provenance"]
            lines = differences(held, wanted)
            if lines:
                raise PocketError(
                    f"{self.folder} holds a bank that was asked for otherwise ({'; '.join(lines[:3])}). Ask for the "
                    "same one to continue it, or choose another folder with --out."
                )
        elif self.folder.exists() and {path.name for path in self.folder.glob("[!.]*")} - _BEFORE:
            raise PocketError(f"{self.folder} is not empty and holds no bank: choose another folder with --out.")
        else:
            require_space(self.folder, bytes, f"the bank in {self.folder}")
            write_json(self.manifest, {"provenance": wanted, "finished": False})
        self.provenance = wanted

    def shards(self, prefix: str) -> Shards:
        return Shards(self.folder, prefix)

    @property
    def finished(self) -> bool:
        return bool(read_json(self.manifest)["finished"])

    def finish(
        self,
        parts: Iterator[Piece],
        count: int,
        size: int,
        width: int,
        classes: tuple[str, ...],
        origins: tuple[str, ...],
        made: Mapping[str, Any],
    ) -> Bank:
        """Write the bank and delete the shards.

        Args:
            parts: consecutive; read once.
            count: pictures in all parts.
            size: S.
            width: C.
            classes: their names; () where the teacher does not tell.
            origins: names of the values of ``origin``.
            made: what came out, for the record.
        """
        logits = np.empty((count, width), np.float16)
        origin = np.empty(count, np.int8)

        def images() -> Iterator[np.ndarray]:
            start = 0
            for pixels, answers, how in parts:
                logits[start : start + len(pixels)], origin[start : start + len(pixels)] = answers, how
                start += len(pixels)
                yield pixels.transpose(0, 2, 3, 1)
            assert start == count, f"{start} pictures instead of {count}"

        said = np.array([provenance({"provenance": self.provenance, "made": dict(made)})])
        write_npz(
            self.folder / IMAGES,
            {
                "train_images": ((count, size, size, 3), np.dtype(np.uint8), images()),
                "logits": (logits.shape, logits.dtype, iter([logits])),
                "origin": (origin.shape, origin.dtype, iter([origin])),
                "synthetic": (said.shape, said.dtype, iter([said])),
            },
        )
        about = {"origins": list(origins), "classes": list(classes), "made": dict(made)}
        write_json(self.manifest, {"provenance": self.provenance, "finished": True, **about})
        for path in self.folder.glob("*-??????.npz"):
            path.unlink(missing_ok=True)
        return open_bank(self.folder)


def open_bank(folder: Path | str) -> Bank:
    """Open a finished bank.

    Raises:
        PocketError: there is none, or it is not finished.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise PocketError(f"{folder} holds no bank of synthetic images ({MANIFEST} is missing).")
    manifest = read_json(folder / MANIFEST)
    if not manifest.get("finished"):
        raise PocketError(f"the bank in {folder} is not finished: run the same `synthesize` again to complete it.")
    arrays = map_arrays(folder / IMAGES)
    return Bank(
        folder,
        arrays["train_images"],
        arrays["logits"],
        arrays["origin"],
        tuple(manifest["origins"]),
        {name: value for name, value in manifest.items() if name not in ("origins", "classes", "finished")},
        tuple(manifest["classes"]),
    )


def provenance(about: Mapping[str, Any]) -> str:
    """Say in one sentence whether real images stand behind a bank, and what else does.

    Args:
        about: its record ``provenance`` (what was asked for) and ``made`` (what came out).
    """
    real, described = (_most(about["provenance"], name) for name in ("real_images", "statistics_images"))
    kept = about["made"].get("priors", [])
    if real:
        amount = "one real image" if real == 1 else f"{real:,} real images"
        moments = f", and moments over {described:,} more (a statistics card)" if described else ""
        return f"NOT data-free: made with {amount}{moments}"
    if described:
        held = next((words for words in kept if "statistics card" in words), "a statistics card")
        return (
            f"statistics-assisted, NOT data-free: made without an image, from the teacher, its preprocessing and {held}"
        )
    used = f", what it keeps of its data ({'; '.join(kept)})" if kept else ""
    return f"data-free: no real image, and of real data nothing but the teacher{used} and its preprocessing were used"


def _most(record: Any, name: str) -> int:
    """The largest value of a field anywhere in a record: a bank that starts from another holds that one's."""
    if isinstance(record, dict):
        own = record.get(name, 0)
        return max([own if isinstance(own, int) else 0, *(_most(part, name) for part in record.values())])
    return max((_most(part, name) for part in record), default=0) if isinstance(record, list) else 0


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Return what near duplicates are found by: uint8 [N, 3, S, S] -> float32 [N, 192] in 0..1."""
    size = images.shape[-1]
    edges = np.linspace(0, size, _THUMBNAIL + 1).round().astype(int)
    starts, lengths = edges[:-1], np.maximum(np.diff(edges), 1).astype(np.float32)
    starts = np.minimum(starts, size - 1)
    small = np.add.reduceat(images.astype(np.float32), starts, axis=2)
    small = np.add.reduceat(small, starts, axis=3) / (255 * lengths[:, None] * lengths)
    return small.reshape(len(images), images.shape[1] * _THUMBNAIL**2)


def near_duplicates(thumbs: np.ndarray, groups: np.ndarray | None = None, first: int = 0) -> np.ndarray:
    """Return bool [N]: whether an earlier picture (of the same group) looks the same.

    Args:
        thumbs: float32 [N, D] of `thumbnails`.
        groups: [N], pictures are compared within; None for all.
        first: Pictures before this one are compared with, but not judged.
    """
    result = np.zeros(len(thumbs), bool)
    for group in [None] if groups is None else np.unique(groups):
        rows = np.arange(len(thumbs)) if group is None else np.flatnonzero(groups == group)
        own = thumbs[rows] - 0.5
        squares = (own**2).sum(1)
        limit = own.shape[1] * _ALIKE**2
        for start in range(int(np.searchsorted(rows, first)) // _BLOCK * _BLOCK, len(rows), _BLOCK):
            here = slice(start, start + _BLOCK)
            for before in range(0, start + 1, _BLOCK):
                there = slice(before, before + _BLOCK)
                distance = squares[here, None] + squares[there] - 2 * own[here] @ own[there].T
                close = distance < limit
                if before == start:
                    close = np.tril(close, -1)
                result[rows[here]] |= close.any(1)
    result[:first] = False
    return result
