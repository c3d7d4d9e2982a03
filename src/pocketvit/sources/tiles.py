"""Large images as tiles: cut in their own pixels after the split is fixed, and put together again per image."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import PocketError
from .base import Dataset, Source, in_threads
from .boxes import Boxes
from .decode import to_rgb8

SMALLEST = 8  # pixels: below that a tile shows nothing


def tile_dataset(dataset: Dataset, tile: int) -> Dataset:
    """Return the dataset with each split cut into tiles: all tiles of an image are in its split.

    Raises:
        PocketError: a tile of fewer than 8 pixels, or images with boxes.
    """
    if isinstance(dataset.train.targets, Boxes):
        raise PocketError(f"the boxes of {dataset.name} cannot be cut into tiles with its images: leave --tile away")
    tiles: dict[str, Any] = {split: Tiles(source, tile) for split, source in dataset.splits.items()}
    counts = ", ".join(f"{split} {one.images:,} images in {len(one):,}" for split, one in tiles.items())
    note = f"images are cut into tiles of {tile}x{tile} pixels ({counts}); tiles of one image are in one split"
    return dataclasses.replace(dataset, **tiles, notes=(*dataset.notes, note))


class Tiles(Source):
    """Images of another source in square tiles.

    The fewest tiles that cover an image, spread evenly: they overlap rather than leave its border or be padded. Only
    an image smaller than a tile is padded, by mirroring it. A tile has the labels and the group of its image, is named
    "image.tif#row,column", and has an id from its image's and its place.

    Attributes:
        source: the whole images.
        tile: side in pixels.
        images: number of whole images.
        boxes: int64 [M, 2], top and left of each tile; ``parents`` [M] says in which image.
    """

    def __init__(self, source: Source, tile: int) -> None:
        if tile < SMALLEST:
            raise PocketError(f"tiles of {tile} pixels show nothing: give {SMALLEST} or more, as --tile 256")
        self.source, self.tile, self.images = source, tile, len(source)
        self.sides = sides_of(source)
        parents, boxes, names = [], [], []
        for parent, (height, width) in enumerate(self.sides.tolist()):
            for row, top in enumerate(starts(height, tile)):
                for column, left in enumerate(starts(width, tile)):
                    parents.append(parent)
                    boxes.append((top, left))
                    names.append(f"{source.names[parent]}#{row},{column}")
        self.boxes = np.array(boxes, np.int64).reshape(-1, 2)
        of = np.array(parents, np.int64)
        self._last: tuple[int, np.ndarray] | None = None
        super().__init__(
            name=source.name,
            split=source.split,
            classes=source.classes,
            ids=_ids(source.ids[of], self.boxes, tile),
            targets=source.targets[of],
            names=names,
            window=source.window,
            size=(tile, tile),
            fingerprint=hashlib.sha256(f"{source.fingerprint}\0tiles of {tile}".encode()).hexdigest(),
            groups=None if source.groups is None else source.groups[of],
            parents=of,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_last": None}  # an image may be large, and is decoded again in no time

    def __getitem__(self, position: int) -> tuple[np.ndarray, Any]:
        parent = int(self.origin[position])
        last = self._last  # one assignment and one read: threads may decode twice, but never see another's image
        if last is None or last[0] != parent:
            last = self._last = (parent, self._whole(parent))
        return self._cut(last[1], position), self.target(position)

    def rgb(self, positions: np.ndarray) -> np.ndarray:
        """Return uint8 [B, tile, tile, 3]; an image that several of them are of is decoded once."""
        images = [to_rgb8(image, self.window) for image in self.native(positions)]
        return np.stack(images) if images else np.zeros((0, self.tile, self.tile, 3), np.uint8)

    def native(self, positions: np.ndarray) -> list[np.ndarray]:
        """Return tiles in native depth, each image decoded once."""
        positions = np.asarray(positions, np.int64)
        if not len(positions):
            return []
        places = np.argsort(self.origin[positions], kind="stable")
        shared = np.split(places, np.flatnonzero(np.diff(self.origin[positions][places])) + 1)

        def work(some: np.ndarray) -> list[np.ndarray]:
            whole = self._whole(int(self.origin[positions[some[0]]]))
            return [self._cut(whole, int(position)) for position in positions[some]]

        tiles: list[np.ndarray] = [np.empty(0)] * len(positions)
        for some, cut in zip(shared, in_threads(work, shared), strict=True):
            for place, tile in zip(some, cut, strict=True):
                tiles[place] = tile
        return tiles

    def described(self) -> tuple[np.ndarray, np.ndarray]:
        whole, depths = self.source.described()
        shapes = np.full((len(self), 3), self.tile, np.int32)
        shapes[:, 2] = whole[self.origin, 2]
        return shapes, depths[self.origin]

    @property
    def origin(self) -> np.ndarray:
        """int64 [M], the image of each tile."""
        assert self.parents is not None
        return self.parents

    def _whole(self, parent: int) -> np.ndarray:
        image = self.source[parent][0]
        if tuple(image.shape[:2]) != tuple(self.sides[parent]):
            raise PocketError(
                f"{self.source.names[parent]} in {self.name} was changed since it was checked: start again"
            )
        return image

    def _cut(self, image: np.ndarray, position: int) -> np.ndarray:
        top, left = self.boxes[position]
        return cut_tile(image, int(top), int(left), self.tile)


def cut_tiles(image: np.ndarray, tile: int) -> list[np.ndarray]:
    """Return the tiles of one image [H, W] or [H, W, C], row by row, as `Tiles` cuts them."""
    height, width = image.shape[:2]
    return [cut_tile(image, top, left, tile) for top in starts(height, tile) for left in starts(width, tile)]


def cut_tile(image: np.ndarray, top: int, left: int, tile: int) -> np.ndarray:
    """Return one tile; where the image ends before it does, it is mirrored."""
    cut = image[top : top + tile, left : left + tile]
    below, right = tile - cut.shape[0], tile - cut.shape[1]
    if below or right:
        cut = np.pad(cut, [(0, below), (0, right), *[(0, 0)] * (cut.ndim - 2)], mode="symmetric")
    return cut


def per_image(values_MC: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """Return the mean over the tiles of each image: [N, C] from [M, C], in the order of the images.

    Args:
        values_MC: probabilities (a mean of logits would let one loud tile outvote the others).
        parents: int64 [M], the image of each tile; N is the number of different ones.
    """
    images, place = np.unique(parents, return_inverse=True)
    sums = np.zeros((len(images), *np.shape(values_MC)[1:]), np.float64)
    np.add.at(sums, place, values_MC)
    return sums / np.bincount(place)[:, None]


@dataclass(frozen=True)
class Whole:
    """What a split's figures are counted on: its images, with their tiles put together again where it has any.

    Attributes:
        names: [N] of the images.
        classes: names of the classes.
        targets: of them.
        groups: int64 [N], or None.
        parents: int64 [M], the image of each tile; None where images are whole.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    targets: Any
    groups: np.ndarray | None
    parents: np.ndarray | None

    def per_image(self, values: np.ndarray) -> np.ndarray:
        """Return a network's answers [N, C] on the images from those [M, C] on what it was shown."""
        return values if self.parents is None else per_image(values, self.parents).astype(np.float32)


def whole(source: Source) -> Whole:
    """Return the images of a split, tiled or not."""
    names, first = tuple(map(str, source.names)), np.arange(len(source))
    if source.parents is not None:
        _, first = np.unique(source.parents, return_index=True)
        names = tuple(names[tile].rpartition("#")[0] for tile in first)
    groups = None if source.groups is None else source.groups[first]
    return Whole(names, source.classes, source.targets[first], groups, source.parents)


def independent(source: Source) -> int:
    """Return how many independent images a split has: tiles of one, and images of one group, count once."""
    images = whole(source)
    return len(images.names) if images.groups is None else len(np.unique(images.groups))


def starts(side: int, tile: int) -> list[int]:
    """Return where tiles begin along a side: the fewest that cover it, evenly spread."""
    count = -(-side // tile)
    return [0] if count <= 1 else [index * (side - tile) // (count - 1) for index in range(count)]


def sides_of(source: Source) -> np.ndarray:
    """Return int64 [N, 2], height and width of each image."""
    if source.size is not None:
        return np.tile(np.array(source.size, np.int64), (len(source), 1))
    return source.described()[0][:, :2].astype(np.int64)


def _ids(parents: np.ndarray, boxes: np.ndarray, tile: int) -> np.ndarray:
    def one(parent: int, top: int, left: int) -> int:
        text = f"{parent}\0{tile}\0{top},{left}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")

    return np.array([one(int(parent), *box) for parent, box in zip(parents, boxes.tolist(), strict=True)], np.uint64)
