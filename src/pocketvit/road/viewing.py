"""What a network sees of an image where nobody chose: the side of the views, and how much they vary."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..config import ViewConfig
from ..sources import Dataset, Source
from ..sources.listing import FileSource
from ..sources.targets import sizes_of
from ..views.kinds import PHOTO, careful
from ..views.preprocessing import Aspect
from ..views.synthetic import hard_views

LONG = 2.0  # times the short side that a long one may have for the middle to be most of an image


def view_size(source: Source) -> int:
    """Side of the rendered view: the images' own up to 64 px, then a multiple of 16 up to 224.

    Images under 16 px are doubled, so that their patches are more than single pixels.
    """
    sizes = _some_sizes(source)
    side = int(np.median(sizes.min(1)))
    if source.size is not None and max(source.size) <= 64:
        side = max(source.size)
    if side < 16:
        return 2 * side
    return side if side <= 64 else min(224, side // 16 * 16)


def usual_aspect(source: Source) -> Aspect:
    """Return how images become square where nobody says: of long ones, as spectrograms, the middle would be a part."""
    return "stretch" if _length(source) >= LONG else "crop"


def words_on_aspect(source: Source, view: ViewConfig) -> list[str]:
    """Say what long images become, which is nothing that a user would guess."""
    length = _length(source)
    if length < LONG or view.fit == "pad":
        return []
    done = "stretched to squares" if view.fit == "stretch" else f"seen in the middle {1 / length:.0%} of their length"
    others = "crop cuts the middle out" if view.fit == "stretch" else "stretch shows all of them"
    return [f"views    images {length:.1f} times as long as wide are {done} (--aspect {others}, pad adds borders)"]


def _length(source: Source) -> float:
    sizes = _some_sizes(source)
    return float(np.median(sizes.max(1) / np.maximum(sizes.min(1), 1)))


def _some_sizes(source: Source) -> np.ndarray:
    """Return the sizes of up to 64 images, int [n, 2]."""
    if source.size is not None:
        return np.array([source.size])
    some = np.unique(np.linspace(0, len(source) - 1, num=min(len(source), 64)).astype(int))
    known = sizes_of(source.targets)
    if known is None and isinstance(source, FileSource):
        known = source.findings.shapes[:, :2]
    return np.array([source[int(i)][0].shape[:2] for i in some]) if known is None else known[some]


def view_config(
    dataset: Dataset,
    *,
    size: int | None = None,
    augment: str = "medium",
    flip: bool | None = None,
    vertical_flip: bool | None = None,
    resample: str = "lanczos",
    aspect: str = "crop",
) -> ViewConfig:
    """Return the training views for ``augment`` in none, light, medium, strong, hard.

    Small images (up to 64 px), and all that are to be seen whole, are padded and cropped; others get the random resized
    crop. Strong adds Mixup and CutMix as in DeiT (Touvron et al. 2021); hard is for synthetic images (`hard_views`).
    What would change the label of an image of this kind is left out (`views.kinds`).

    Args:
        dataset: Its training images give the size; it may say its kind of images.
        size: Side of the views; None to choose.
        augment: How much views vary.
        flip, vertical_flip: None for what the kind of images allows.
        resample: Kernel of the resizing.
        aspect: How other shapes become square.
    """
    side = view_size(dataset.train) if size is None else size
    plain = ViewConfig(view_size=side, resample=resample, fit=aspect)  # type: ignore[arg-type]
    kind = dataset.modality or PHOTO
    coloured = any("grey" not in mode and "black" not in mode for mode in dataset.checks.modes)
    if augment == "none":
        plain = dataclasses.replace(plain, flip=0.5 * bool(flip), vertical_flip=0.5 * bool(vertical_flip))  # if asked
        return careful(plain, kind, augment, coloured=coloured)
    values = {**vars(plain), "flip": 0.5}
    whole = side <= 64 or aspect != "crop"
    values |= {"crop": "padded", "crop_padding": max(1, side // 8)} if whole else {"crop": "random_resized"}
    if augment in ("medium", "strong"):
        values |= {"randaugment_ops": 2, "randaugment_magnitude": 7.0, "erase": 0.25}
    if augment == "strong":
        values |= {"randaugment_magnitude": 9.0, "mixup": 0.8, "cutmix": 1.0}
    if augment == "hard":
        values = vars(dataclasses.replace(hard_views(side), resample=plain.resample, fit=plain.fit))
    view = careful(ViewConfig(**values), kind, augment, coloured=coloured)
    return dataclasses.replace(
        view,
        flip=view.flip if flip is None else 0.5 * flip,
        vertical_flip=view.vertical_flip if vertical_flip is None else 0.5 * vertical_flip,
        transpose=0.0 if flip is False or vertical_flip is False else view.transpose,  # a mirror is a mirror
    )
