"""Answers drawn on pictures: a line of text, or boxes with their classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's colours, which people with any colour vision tell apart (jfly.uni-koeln.de/color).
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


def with_caption(picture: np.ndarray, text: str) -> np.ndarray:
    """Return a picture uint8 [H, W, 3] with a line of text in its upper left corner."""
    image = Image.fromarray(picture)
    _written(ImageDraw.Draw(image), (0, 0), text, _font(image.size), "#222222")
    return np.asarray(image)


def with_boxes(
    picture: np.ndarray, corners: np.ndarray, labels: np.ndarray, scores: np.ndarray | None, classes: Sequence[str]
) -> np.ndarray:
    """Return a picture with boxes in the colours of their classes, edged so that they are seen on any ground.

    Args:
        picture: uint8 [H, W, 3].
        corners: [m, 4], left, top, right, bottom in its pixels.
        labels: int [m].
        scores: [m], written behind the class; None for boxes without: then nothing is written.
        classes: Names; () for numbers.
    """
    image = Image.fromarray(picture)
    drawing, font = ImageDraw.Draw(image), _font(image.size)
    width = max(1, round(max(image.size) / 240))
    for row, (box, label) in enumerate(zip(corners.tolist(), labels.tolist(), strict=True)):
        colour = COLOURS[int(label) % len(COLOURS)]
        left, top, right, bottom = min(box[0], box[2]), min(box[1], box[3]), box[2], box[3]
        drawing.rectangle([left - 1, top - 1, right + 1, bottom + 1], outline=_against(colour), width=width + 2)
        drawing.rectangle([left, top, right, bottom], outline=colour, width=width)
        if scores is not None:
            name = classes[int(label)] if classes else str(int(label))
            _written(drawing, (box[0], box[1]), f"{name} {scores[row]:.0%}", font, colour)
    return np.asarray(image)


def _font(size: tuple[int, int]) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(max(9.0, max(size) / 50))


def _written(drawing: ImageDraw.ImageDraw, place: tuple[float, float], text: str, font: object, colour: str) -> None:
    """Write on a ground of the given colour, in black or white, whichever can be read."""
    left, top, right, bottom = drawing.textbbox(place, text, font=font)  # type: ignore[arg-type]
    shift = bottom - place[1] + 1 if place[1] > bottom - place[1] + 1 else 0  # above the place where there is room
    drawing.rectangle([left - 1, top - 1 - shift, right + 1, bottom + 1 - shift], fill=colour)
    drawing.text((place[0], place[1] - shift), text, fill=_against(colour), font=font)  # type: ignore[arg-type]


def _against(colour: str) -> str:
    """Return black or white, whichever stands out from a colour."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "black"
