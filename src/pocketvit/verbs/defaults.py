"""What `distill` and `train` choose where the user chose nothing. Every choice is printed and stands in config.yaml."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ..config import TrainConfig, ViewConfig
from ..errors import PocketError
from ..sources import Dataset, Source
from ..views.kinds import PHOTO, careful

# Images a student sees by default: a few minutes to half an hour on two processor cores.
IMAGE_BUDGET = 60_000


def view_size(source: Source) -> int:
    """Side of the rendered view: the images' own up to 64 px, then a multiple of 16 up to 224.

    Images under 16 px are doubled, so that their patches are more than single pixels.
    """
    if source.size is not None:
        side = min(source.size) if max(source.size) > 64 else max(source.size)
    else:
        some = np.linspace(0, len(source) - 1, num=min(len(source), 64)).astype(int)
        side = int(np.median([min(source[int(i)][0].shape[:2]) for i in np.unique(some)]))
    if side < 16:
        return 2 * side
    return side if side <= 64 else min(224, side // 16 * 16)


def view_config(
    dataset: Dataset,
    *,
    size: int | None,
    augment: str,
    flip: bool | None = None,
    vertical_flip: bool | None = None,
    resample: str = "lanczos",
    aspect: str = "crop",
    modality: str | None = None,
) -> ViewConfig:
    """Return the training views for ``augment`` in none, light, medium, strong.

    Small images (up to 64 px), and all that are to be seen whole, are padded and cropped; others get the random resized
    crop. Strong adds Mixup and CutMix as in DeiT (Touvron et al. 2021). What would change the label of an image of
    this kind is left out (`views.kinds`).

    Args:
        dataset: Its training images give the size; it may say its kind of images.
        size: Side of the views; None to choose.
        augment: How much views vary.
        flip, vertical_flip: None for what the kind of images allows.
        resample: Kernel of the resizing.
        aspect: How other shapes become square.
        modality: Kind of images; None for the dataset's own, else photographs.
    """
    side = view_size(dataset.train) if size is None else size
    if not 4 <= side <= 1024:
        raise PocketError(f"--size {side}: the side of a view lies between 4 and 1024 pixels.")
    plain = ViewConfig(view_size=side, resample=resample, fit=aspect)  # type: ignore[arg-type]
    kind = modality or dataset.modality or PHOTO
    coloured = any("grey" not in mode and "black" not in mode for mode in dataset.checks.modes)
    if augment == "none":
        return careful(plain, kind, augment, coloured=coloured)
    values = {**vars(plain), "flip": 0.5}
    whole = side <= 64 or aspect != "crop"
    values |= {"crop": "padded", "crop_padding": max(1, side // 8)} if whole else {"crop": "random_resized"}
    if augment in ("medium", "strong"):
        values |= {"randaugment_ops": 2, "randaugment_magnitude": 7.0, "erase": 0.25}
    if augment == "strong":
        values |= {"randaugment_magnitude": 9.0, "mixup": 0.8, "cutmix": 1.0}
    view = careful(ViewConfig(**values), kind, augment, coloured=coloured)
    return dataclasses.replace(
        view,
        flip=view.flip if flip is None else 0.5 * flip,
        vertical_flip=view.vertical_flip if vertical_flip is None else 0.5 * vertical_flip,
    )


def epochs_for(count: int) -> int:
    """Epochs over ``count`` training images within `IMAGE_BUDGET`, from 10 to 100."""
    return max(10, min(100, math.ceil(IMAGE_BUDGET / max(1, count))))


def batch_size_for(count: int) -> int:
    """A power of two from 8 to 128 that leaves at least eight steps an epoch where it can."""
    return 2 ** max(3, min(7, int(math.log2(max(8, count / 8)))))


def train_config(
    count: int, *, epochs: int | None, batch_size: int | None, learning_rate: float | None, **others: object
) -> TrainConfig:
    """Return the optimization for ``count`` training images; the rate follows the square root of the batch size."""
    epochs = epochs_for(count) if epochs is None else epochs
    batch = batch_size or batch_size_for(count)
    rate = learning_rate or 1e-3 * math.sqrt(batch / 128)
    return TrainConfig(
        epochs=epochs,
        batch_size=batch,
        learning_rate=rate,
        warmup_epochs=min(5.0, 0.1 * epochs),
        **others,  # type: ignore[arg-type]
    )


def class_weights(source: Source, balance: str) -> tuple[float, ...]:
    """Return N / (C n_c) for each class of n_c of the N labelled images, where ``balance`` is "weights"; else ().

    scikit-learn's "balanced" heuristic (King & Zeng 2001): the weights' mean over the images is 1.
    """
    if balance != "weights":
        return ()
    known = source.targets[source.targets >= 0]
    counts = np.bincount(known, minlength=len(source.classes))
    return tuple(float(len(known) / (len(counts) * max(count, 1))) for count in counts)
