"""Views: what a network sees of sample i at view v, a pure function of (config, seed, i, v).

The order of operations is: crop and resize, flips and transposition, stain and colour jitter, RandAugment, erasing,
mixing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from ..config import ViewConfig, changed
from ..errors import PocketError
from . import colour
from .boxes import BOX_DRAWS, ZOOM_DRAWS, random_boxes
from .framing import frame
from .mixing import MIX_DRAWS, Mix, mix_of, mix_pictures
from .parallel import cut, spread
from .philox import below, draw, happens
from .randaugment import randaugment
from .stain import DRAWS as STAIN_DRAWS
from .stain import stain_jitter

VERSION = 1  # raised by hand when any pixel changes: it is part of the fingerprint
_ERASE_SCALE = (0.02, 1 / 3)
_ERASE_RATIO = (0.3, 1 / 0.3)
_CHUNK_BYTES = 1 << 22  # of pictures a thread works on at a time: less, and threads wait for each other's turn
_READ_BYTES = 1 << 24  # of pictures that are read at a time: more, and ordinary photographs would fill the memory
_MAX_SIZE = 4096
_ORDERS_KEPT = 4


class ImageSource(Protocol):
    """What views need of a source.

    It may also have ``size``, the (height, width) that all pictures share, and ``bound``, the shorter side to which
    much larger pictures were brought: pixels of views depend on it.
    """

    ids: np.ndarray

    def rgb(self, positions: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """Return uint8 [n,H,W,3], or a list of [H,W,3] where sizes differ."""
        ...


@dataclass
class ViewBatch:
    """Rendered views.

    Attributes:
        pixels: uint8 [B,3,S,S].
        partner: int64 [B], the source position of the sample mixed in; the own position where nothing is.
        ratio: float32 [B], the weight of the own label; 1 where nothing is mixed.
    """

    pixels: torch.Tensor
    partner: np.ndarray
    ratio: np.ndarray


@dataclass
class _Pairs:
    """How one view pairs the samples."""

    order: np.ndarray  # int64 [N]
    slot: np.ndarray  # int64 [N], the inverse of order


class Views:
    """Renders any samples at any view, in any order and grouping, with the same result.

    Rendering many at once is faster: about a thousand small pictures, a few dozen large ones.

    Args:
        source: the images; ``ids`` and ``rgb`` are used.
        config: what is done to them.
        seed: of all random numbers.

    Raises:
        PocketError: a value of ``config`` is out of range.
    """

    def __init__(self, source: ImageSource, config: ViewConfig, seed: int = 0) -> None:
        _check(config)
        self.source = source
        self.config = config
        self.seed = seed
        self._ids = np.asarray(source.ids, np.uint64)
        self._pairs: dict[int, _Pairs] = {}
        self._noise = _noise(seed, config.view_size) if config.erase > 0 else np.empty(0, np.uint8)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything that pixels depend on besides the source; fields at their default are left out."""
        bound = getattr(self.source, "bound", None)
        bounded = {} if bound is None else {"bound": bound}
        return {"version": VERSION, "seed": self.seed, **changed(self.config), **bounded}

    def order(self, view: int) -> np.ndarray:
        """Return the positions in the order of a view: int64 [N]. Entries 2m and 2m + 1 are partners.

        Without mixing it is 0 to N - 1.
        """
        return self._pairing(view).order if self.config.mixes else np.arange(len(self._ids))

    def render(self, positions: np.ndarray, view: int) -> ViewBatch:
        """Render samples at a view.

        Args:
            positions: int64 [B] positions in the source; partners need not be among them.
            view: any integer.
        """
        positions = np.asarray(positions, np.int64)
        if not self.config.mixes:
            pixels = self._unmixed(positions, view)
            return ViewBatch(torch.from_numpy(pixels), positions.copy(), np.ones(len(positions), np.float32))
        pairs = self._pairing(view)
        slot = pairs.slot[positions]
        lonely = (slot ^ 1) >= len(self._ids)
        partner = pairs.order[np.where(lonely, slot, slot ^ 1)]
        mix = self._mix(pairs.order[slot & ~1], view)
        mix.ratio[lonely] = 1
        mix.level[lonely] = 256
        mix.box[lonely] = 0
        needed, rows = np.unique(np.concatenate((positions, partner)), return_inverse=True)
        pictures = self._unmixed(needed, view)
        pixels = mix_pictures(pictures[rows[: len(positions)]], pictures[rows[len(positions) :]], mix)
        return ViewBatch(torch.from_numpy(pixels), np.where(mix.ratio == 1, positions, partner), mix.ratio)

    def _mix(self, first: np.ndarray, view: int) -> Mix:
        """Return how the pairs of the given first members are mixed."""
        numbers = draw(self.seed, self._ids[first], view, {"mix": MIX_DRAWS})["mix"]
        return mix_of(numbers, self.config.view_size, self.config.mixup, self.config.cutmix, self.config.mix)

    def _pairing(self, view: int) -> _Pairs:
        pairs = self._pairs.get(view)
        if pairs is None:
            numbers = draw(self.seed, self._ids, view, {"order": 2})["order"].astype(np.uint64)
            order = np.lexsort((self._ids, numbers[:, 0] << np.uint64(32) | numbers[:, 1]))
            slot = np.empty_like(order)
            slot[order] = np.arange(len(order))
            pairs = _Pairs(order, slot)
            for old in list(self._pairs)[: 1 - _ORDERS_KEPT]:
                self._pairs.pop(old, None)
            self._pairs[view] = pairs
        return pairs

    def _unmixed(self, positions: np.ndarray, view: int) -> np.ndarray:
        """Render samples without their partners: uint8 [n,3,S,S]."""
        config = self.config
        numbers = draw(self.seed, self._ids[positions], view, draw_counts(config))
        pixels = self._framed(positions, numbers.get("crop"))
        if not numbers or (list(numbers) == ["crop"] and config.crop != "padded"):
            return pixels
        result = np.empty((len(pixels), 3, config.view_size, config.view_size), np.uint8)

        def work(part: slice) -> None:
            result[part] = augment(pixels[part], config, {name: rows[part] for name, rows in numbers.items()})

        spread(work, cut(len(pixels), max(1, _CHUNK_BYTES // (3 * config.view_size**2))))
        if config.erase > 0:
            _erase(result, config.erase, numbers["erase"], self._noise)
        return result

    def _framed(self, positions: np.ndarray, numbers: np.ndarray | None) -> np.ndarray:
        """Read samples and bring them to the view's size: a new uint8 [n,3,S,S].

        A thread reads and frames a few pictures before it takes the next ones: of photographs, one.
        """
        result = np.empty((len(positions), 3, self.config.view_size, self.config.view_size), np.uint8)
        size = getattr(self.source, "size", None)
        most = 1 if size is None else max(1, _READ_BYTES // (3 * size[0] * size[1]))

        def work(part: slice) -> None:
            some = None if numbers is None else numbers[part]
            result[part] = frame(self.source.rgb(positions[part]), self.config, some)

        spread(work, cut(len(positions), most))
        return result


def draw_counts(config: ViewConfig) -> dict[str, int]:
    """Return how many random numbers each operation of ``config`` draws for a sample, mixing aside."""
    counts = {
        "crop": {"none": 0, "padded": 2, "random_resized": BOX_DRAWS, "zoom": ZOOM_DRAWS}[config.crop],
        "flip": int(config.flip > 0),
        "vertical_flip": int(config.vertical_flip > 0),
        "transpose": int(config.transpose > 0),
        "stain_jitter": STAIN_DRAWS * (config.stain_jitter > 0),
        "color_jitter": 3 * (config.color_jitter > 0),
        "randaugment": 2 * config.randaugment_ops,
        "erase": (2 + BOX_DRAWS) * (config.erase > 0),
    }
    return {name: count for name, count in counts.items() if count}


def augment(pixels: np.ndarray, config: ViewConfig, numbers: dict[str, np.ndarray]) -> np.ndarray:
    """Apply everything that happens to a single framed picture before erasing.

    Args:
        pixels: uint8 [n,3,S,S].
        config: of the views.
        numbers: uint32 [n, ...] for each operation of `draw_counts`.

    Returns:
        uint8 [n,3,S,S].
    """
    pixels = _shift_and_flip(pixels, config, numbers)
    if config.transpose > 0:
        turned = np.flatnonzero(happens(numbers["transpose"][:, 0], config.transpose))
        pixels[turned] = pixels[turned].swapaxes(2, 3)
    if config.stain_jitter > 0:
        pixels = stain_jitter(pixels, numbers["stain_jitter"], config.stain_jitter)
    if config.color_jitter > 0:
        pixels = _jitter(pixels, config.color_jitter, numbers["color_jitter"])
    if config.randaugment_ops > 0:
        pixels = randaugment(pixels, numbers["randaugment"], config.randaugment_magnitude, config.randaugment_set)
    return pixels


def _shift_and_flip(pixels: np.ndarray, config: ViewConfig, numbers: dict[str, np.ndarray]) -> np.ndarray:
    """Copy each picture shifted within a frame of zeros (the padded crop) and mirrored: uint8 [n,3,S,S]."""
    count, _, size, _ = pixels.shape
    padding = config.crop_padding if config.crop == "padded" else 0
    shift = below(numbers["crop"], 2 * padding + 1) if padding else np.zeros((count, 2), np.int64)
    nothing = np.zeros(count, bool)
    mirrored = happens(numbers["flip"][:, 0], config.flip) if config.flip > 0 else nothing
    turned = happens(numbers["vertical_flip"][:, 0], config.vertical_flip) if config.vertical_flip > 0 else nothing
    start = np.maximum(shift - padding, 0).tolist()  # of what is kept
    place = np.maximum(padding - shift, 0).tolist()  # where that goes
    extent = (size - np.abs(shift - padding)).tolist()
    result = np.empty(pixels.shape, np.uint8)
    if padding:
        result[:] = 0
    targets = {
        (mirror, turn): result[:, :, :: -1 if turn else 1, :: -1 if mirror else 1]
        for mirror in (False, True)
        for turn in (False, True)
    }
    rows = zip(start, place, extent, mirrored.tolist(), turned.tolist(), strict=True)
    for i, ((top, left), (down, right), (height, width), mirror, turn) in enumerate(rows):
        targets[mirror, turn][i, :, down : down + height, right : right + width] = pixels[
            i, :, top : top + height, left : left + width
        ]
    return result


def _jitter(pixels: np.ndarray, amount: float, numbers: np.ndarray) -> np.ndarray:
    """Change brightness, then contrast, then saturation, each by a factor in 1 +- amount."""
    low, high = max(0, round(256 * (1 - amount))), round(256 * (1 + amount))
    brightness, contrast, saturation = (low + below(numbers, high - low + 1)).T
    pixels = colour.apply_tables(pixels, colour.blend_table(np.zeros_like(brightness), brightness))
    pixels = colour.apply_tables(pixels, colour.blend_table(colour.mean_luma(pixels), contrast))
    return colour.saturate(pixels, saturation)


def _erase(pixels: np.ndarray, probability: float, numbers: np.ndarray, noise: np.ndarray) -> None:
    """Fill a random box with noise, in place (Zhong et al. 2017; area and shape as timm's and torchvision's)."""
    chosen = np.flatnonzero(happens(numbers[:, 0], probability))
    numbers = numbers[chosen, 1:]
    sides = np.full(len(chosen), pixels.shape[-1])
    boxes, found = random_boxes(numbers[:, 1:], sides, sides, _ERASE_SCALE, _ERASE_RATIO)
    lengths = 3 * boxes[:, 2] * boxes[:, 3]
    starts = below(numbers[:, 0], len(noise) - lengths + 1)
    for i in np.flatnonzero(found):
        top, left, height, width = boxes[i]
        patch = noise[starts[i] : starts[i] + lengths[i]].reshape(3, height, width)
        pixels[chosen[i], :, top : top + height, left : left + width] = patch


def _noise(seed: int, size: int) -> np.ndarray:
    """Return the bytes that erased boxes show windows of: drawing them afresh for each would take longer."""
    blocks = np.arange(max(4096, size * size // 4), dtype=np.uint64)
    return draw(seed, blocks, 0, {"noise": 4})["noise"].astype("<u4", order="C").view(np.uint8).reshape(-1)


def _check(config: ViewConfig) -> None:
    """Refuse values that make no sense, by name."""

    def require(fine: bool, name: str, wanted: str) -> None:
        if not fine:
            raise PocketError(f"views: {name} must be {wanted}, got {getattr(config, name)!r}.")

    require(1 <= config.view_size <= _MAX_SIZE, "view_size", f"between 1 and {_MAX_SIZE}")
    require(config.resample in ("lanczos", "bicubic", "bilinear", "nearest"), "resample", "a known kernel")
    require(config.lobes >= 1, "lobes", "at least 1")
    require(config.fit in ("crop", "pad", "stretch"), "fit", "crop, pad or stretch")
    require(config.crop in ("none", "padded", "random_resized", "zoom"), "crop", "none, padded, random_resized or zoom")
    require(0 <= config.crop_padding <= config.view_size, "crop_padding", "between 0 and view_size")
    low, high = config.crop_scale
    require(0 < low <= high <= 1, "crop_scale", "two shares of the area, least first")
    low, high = config.zoom
    require(1 / 16 <= low <= high <= 16, "zoom", "two factors between 1/16 and 16, least first")
    low, high = config.crop_ratio
    require(0 < low <= high, "crop_ratio", "two positive ratios, least first")
    require(config.randaugment_set in ("all", "gentle"), "randaugment_set", "all or gentle")
    for name in ("flip", "vertical_flip", "transpose", "erase", "mix"):
        require(0 <= getattr(config, name) <= 1, name, "a probability between 0 and 1")
    require(0 <= config.randaugment_ops <= 16, "randaugment_ops", "between 0 and 16")
    require(0 <= config.randaugment_magnitude <= 10, "randaugment_magnitude", "between 0 and 10")
    require(0 <= config.color_jitter <= 4, "color_jitter", "between 0 and 4")
    require(0 <= config.stain_jitter <= 0.5, "stain_jitter", "between 0 and 0.5")
    for name in ("mixup", "cutmix"):
        require(0 <= getattr(config, name) <= 100, name, "between 0 and 100 (0: off)")
