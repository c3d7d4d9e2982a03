"""Answers for pictures: files, folders, PIL images and arrays."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import PocketError
from ..sources.decode import SUFFIXES, BrokenImage, decode
from ..sources.folders import find_files, is_image
from ..sources.objects import as_pixels
from ..tasks import Answer
from ..views.parallel import spread
from .model import Model
from .opening import open_model

log = logging.getLogger("pocketvit")

Picture = Path | str | Image.Image | np.ndarray
_BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture, or why it says nothing.

    Attributes:
        file: Its path, or "image 0" where it was given as pixels.
        answer: None where the picture cannot be used.
        error: Why it cannot.
        warning: Why the answer may be wrong.
    """

    file: str
    answer: Answer | None = None
    error: str = ""
    warning: str = ""

    @property
    def data(self) -> dict[str, Any]:
        """JSON-like fields: ``{"file", ...}`` with those of the answer, or ``{"file", "error"}``."""
        if self.answer is None:
            return {"file": self.file, "error": self.error}
        return {"file": self.file, **self.answer.data} | ({"warning": self.warning} if self.warning else {})

    def __str__(self) -> str:
        if self.answer is None:
            return f"{self.file}  could not be read: {self.error}"
        return f"{self.file}  {self.answer.text}" + (f"  (warning: it {self.warning})" if self.warning else "")


def predict_images(
    model: Model | Path | str,
    images: Picture | Sequence[Picture],
    *,
    window: tuple[float, float] | None = None,
    top: int = 1,
) -> list[Prediction]:
    """Label pictures, in the order given; what cannot be read is reported and the others go on.

    Args:
        model: an opened model, or what `open_model` opens.
        images: files and folders (searched through and through, in sorted order, hidden files left out), PIL images,
            arrays [H, W] or [H, W, C] of any depth; one of them or many.
        window: intensities that become black and white, in place of the model's own, for what is not 8-bit.
        top: how many classes are listed.

    Raises:
        PocketError: a path that does not exist, a folder without pictures, or a model that cannot be opened.
    """
    return list(predictions(model, images, window=window, top=top))


def predictions(
    model: Model | Path | str,
    images: Picture | Sequence[Picture],
    *,
    window: tuple[float, float] | None = None,
    top: int = 1,
) -> Iterator[Prediction]:
    """Yield what `predict_images` returns, as it is found."""
    given = list_pictures([images] if isinstance(images, (str, Path, Image.Image, np.ndarray)) else images)
    opened = model if isinstance(model, Model) else open_model(model)
    about = opened.preprocessing
    if window is not None:
        about = dataclasses.replace(about, window=(float(window[0]), float(window[1])))

    def read(name: str, picture: Picture) -> tuple[Any, Prediction]:
        """Return what the model takes of one picture (of a large one a small part), and what is known so far."""
        try:
            pixels = decode(picture) if isinstance(picture, (str, Path)) else as_pixels(picture, name)
            return opened.prepare(about.to_rgb8(pixels)), Prediction(name, warning=about.doubts(pixels) or "")
        except BrokenImage as error:
            return None, Prediction(name, error=error.why)
        except PocketError as error:
            return None, Prediction(name, error=str(error))

    for start in range(0, len(given), _BATCH):
        batch = given[start : start + _BATCH]
        found: list[tuple[Any, Prediction]] = [(None, Prediction(name)) for name, _ in batch]

        def work(place: int, batch: Any = batch, found: Any = found) -> None:
            found[place] = read(*batch[place])

        spread(work, range(len(batch)))
        usable = [prepared for prepared, _ in found if prepared is not None]
        answers = iter(opened.answer(usable))
        for prepared, prediction in found:
            if prepared is None:
                yield prediction
                continue
            if prediction.warning:
                log.warning("warning  %s %s", prediction.file, prediction.warning)
            yield dataclasses.replace(prediction, answer=opened.task.answer(next(answers), opened.classes, top))


def list_pictures(images: Sequence[Picture]) -> list[tuple[str, Picture]]:
    """Return the name of every picture that is given, or lies in a folder that is, and where it is.

    Raises:
        PocketError: a path does not exist, or a folder holds no picture.
    """
    found: list[tuple[str, Picture]] = []
    for number, item in enumerate(images):
        if not isinstance(item, (str, Path)):
            found.append((f"image {number}", item))
            continue
        path = Path(item).expanduser()
        if path.is_dir():
            inside = [file for name, file in find_files(path).items() if is_image(name)]
            if not inside:
                raise PocketError(f"the folder {path} holds no pictures ({', '.join(sorted(SUFFIXES)[:6])}, ...).")
            found += [(str(file), file) for file in inside]
        elif path.is_file():
            found.append((str(path), path))
        elif path.exists():
            raise PocketError(f"{path} is neither a file nor a folder. Give files and folders of pictures.")
        else:
            raise PocketError(f"there is no file or folder {path}.")
    return found
