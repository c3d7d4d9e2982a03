"""Kinds of images, and what may vary in each without changing what it shows.

A mirrored chest X-ray has its heart on the wrong side, a mirrored CT slice swaps the kidneys, and an inverted or
posterized radiograph is none; a section under the microscope has no up or down, but its stain differs from one
laboratory to the next. In all of them what is looked for may be small: nothing is erased, crops stay large, and where
images are mixed they are blended, because a pasted half may lack the finding that its label names.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..config import ViewConfig
from ..errors import PocketError

_MILD = {"light": 0.0, "medium": 5.0, "strong": 9.0}  # magnitude of the gentle operations
_CROP = (0.7, 1.0)  # share of the area that a random crop keeps


@dataclass(frozen=True)
class Kind:
    """What may vary in images of one kind.

    Attributes:
        mirrored: Left and right may change places.
        upended: So may top and bottom, and rows and columns.
        stained: Its colours are dyes, whose amounts vary.
        coloured: Its colours are light and skin, whose brightness and saturation vary.
        words: What is left out or added, for people.
    """

    mirrored: bool
    upended: bool = False
    stained: bool = False
    coloured: bool = False
    words: str = ""


KINDS = {
    "xray": Kind(False, words="never mirrored or turned over; intensities keep their order"),
    "ct": Kind(False, words="never mirrored or turned over; intensities keep their order"),
    "ultrasound": Kind(True, words="mirrored, never turned over; intensities keep their order"),
    "oct": Kind(True, words="mirrored, never turned over; intensities keep their order"),
    "fundus": Kind(True, words="mirrored, never turned over; colours keep their meaning"),
    "microscopy": Kind(True, True, stained=True, words="turned every way; amounts of stain vary"),
    "histology": Kind(True, True, stained=True, words="turned every way; amounts of stain vary"),
    "dermatoscopy": Kind(True, True, coloured=True, words="turned every way; light and skin tone vary a little"),
}
PHOTO = "photo"


def careful(config: ViewConfig, kind: str, augment: str, *, coloured: bool) -> ViewConfig:
    """Return training views for images of a kind, made from those that photographs would get.

    Args:
        config: What photographs get for ``augment``.
        kind: Of `KINDS`, or "photo", which changes nothing.
        augment: none, light, medium or strong.
        coloured: Whether the images have colours at all: grey ones have no stain to vary.

    Raises:
        PocketError: Nobody knows this kind.
    """
    if kind != PHOTO and kind not in KINDS:
        raise PocketError(f"--modality {kind}: the kinds of images are {', '.join((PHOTO, *KINDS))}.")
    if kind == PHOTO or augment == "none":
        return config
    about = KINDS[kind]
    strong = augment == "strong"
    return dataclasses.replace(
        config,
        flip=0.5 * about.mirrored,
        vertical_flip=0.5 * about.upended,
        transpose=0.5 * about.upended,
        crop_scale=_CROP if config.crop == "random_resized" else config.crop_scale,
        randaugment_set="gentle" if config.randaugment_ops else config.randaugment_set,
        randaugment_magnitude=_MILD[augment] if config.randaugment_ops else config.randaugment_magnitude,
        stain_jitter=(0.1 if strong else 0.05) * (about.stained and coloured),
        color_jitter=(0.2 if strong else 0.1) * about.coloured,
        erase=0.0,
        mixup=0.2 if strong else 0.0,
        cutmix=0.0,
    )
