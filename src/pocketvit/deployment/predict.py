"""Answers for pictures: files, folders, videos, PIL images and arrays."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import PocketError
from ..files import atomic
from ..sources.checks import NOT_NUMBERS
from ..sources.decode import SUFFIXES, BrokenImage, decode
from ..sources.folders import find_files, images_among
from ..sources.objects import as_pixels, pixels_of
from ..tasks import Answer
from ..views.parallel import spread
from .model import Model
from .opening import open_model
from .video import frames, is_video

log = logging.getLogger("pocketvit")

Picture = Path | str | Image.Image | np.ndarray
Given = tuple[str, Picture | PocketError]
"""The name of a picture, and it, or why there is none."""

_BATCH = 64  # pictures answered at once
_HELD = 1 << 28  # bytes of frames held at once
_FRAME = re.compile(r"\.\w+#(\d+)$")


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
    save: Path | None = None,
) -> list[Prediction]:
    """Label pictures, in the order given; what cannot be read is reported and the others go on.

    Args:
        model: an opened model, or what `open_model` opens.
        images: files and folders (searched through and through, in sorted order, hidden files left out), videos (each
            frame is a picture), PIL images, arrays [H, W] or [H, W, C] of any depth; one of them or many.
        window: intensities that become black and white, in place of the model's own, for what is not 8-bit.
        top: how many classes are listed.
        save: a folder to write the pictures into, with the answers drawn on them.

    Raises:
        PocketError: a path that does not exist, a folder without pictures, or a model that cannot be opened.
    """
    return list(predictions(model, images, window=window, top=top, save=save))


def predictions(
    model: Model | Path | str,
    images: Picture | Sequence[Picture],
    *,
    window: tuple[float, float] | None = None,
    top: int = 1,
    save: Path | None = None,
) -> Iterator[Prediction]:
    """Yield what `predict_images` returns, as it is found."""
    many = isinstance(images, (list, tuple, Iterator))
    given = list_pictures(images if many else [images])  # type: ignore[list-item, arg-type]
    opened = model if isinstance(model, Model) else open_model(model)
    about = opened.preprocessing
    # Files that are not written: those of this call, and the user's own pictures, whatever folder they lie in.
    taken = {Path(picture).expanduser().resolve() for _, picture in given if isinstance(picture, (str, Path))}
    if window is not None:
        about = dataclasses.replace(about, window=(float(window[0]), float(window[1])))

    def read(name: str, picture: Picture | PocketError) -> tuple[Any, tuple[int, int], Prediction]:
        """Return what the model takes of one picture (of a large one a small part), its size, and what is known."""
        try:
            if isinstance(picture, PocketError):
                raise picture
            pixels = _pixels(name, picture)
            known = Prediction(name, warning=about.doubts(pixels) or "")
            return opened.prepare(about.to_rgb8(pixels)), pixels.shape[:2], known
        except BrokenImage as error:
            return None, (0, 0), Prediction(name, error=error.why)
        except PocketError as error:
            return None, (0, 0), Prediction(name, error=str(error))

    for batch in _batches(_unrolled(given)):
        found: list[tuple[Any, tuple[int, int], Prediction]] = [(None, (0, 0), Prediction(name)) for name, _ in batch]

        def work(place: int, batch: Any = batch, found: Any = found) -> None:
            found[place] = read(*batch[place])

        spread(work, range(len(batch)))
        usable = [(prepared, size) for prepared, size, _ in found if prepared is not None]
        answers = iter(opened.answer([prepared for prepared, _ in usable], [size for _, size in usable]))
        for (prepared, _, prediction), (name, picture) in zip(found, batch, strict=True):
            if prepared is None or isinstance(picture, PocketError):
                yield prediction
                continue
            if prediction.warning:
                log.warning("warning  %s %s", prediction.file, prediction.warning)
            answer = next(answers)
            if save is not None:
                drawn = opened.task.draw(about.to_rgb8(_pixels(name, picture)), answer, opened.classes, top)
                _write(drawn, save, _stem(name), taken)
            yield dataclasses.replace(prediction, answer=opened.task.answer(answer, opened.classes, top))


def _unrolled(given: Iterable[tuple[str, Picture]]) -> Iterator[Given]:
    """Yield pictures with the frames of videos in place of these."""
    for name, picture in given:
        if not isinstance(picture, (str, Path)) or not is_video(picture):
            yield name, picture
            continue
        try:
            yield from frames(Path(picture))
        except PocketError as error:
            yield name, error


def _batches(given: Iterable[Given]) -> Iterator[list[Given]]:
    """Yield them in lists that fit into memory."""
    batch: list[Given] = []
    held = 0
    for name, picture in given:
        batch.append((name, picture))
        held += picture.nbytes if isinstance(picture, np.ndarray) else 0
        if len(batch) == _BATCH or held > _HELD:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _stem(name: str) -> str:
    """Return what the file of a drawn picture is called; of a video's frame, with its number."""
    stem, frame = Path(name).stem, _FRAME.search(name)
    return f"{stem}-{frame[1]}" if frame else stem


def _write(picture: np.ndarray, folder: Path, stem: str, taken: set[Path]) -> None:
    """Write a picture under a name that none of these files has."""
    names = (f"{stem}-{number}.jpg" if number > 1 else f"{stem}.jpg" for number in itertools.count(1))
    path = next(one for name in names if (one := (folder / name).resolve()) not in taken)
    taken.add(path)
    with atomic(path) as temporary:
        Image.fromarray(picture).save(temporary, "JPEG", quality=92)


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
            files = find_files(path)
            pictures = images_among(files)
            inside = [file for name, file in files.items() if name in pictures or is_video(name)]
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


def _pixels(name: str, picture: Picture) -> np.ndarray:
    """Return [H, W] or [H, W, C] in native depth; anything that is no picture is a `BrokenImage`."""
    if isinstance(picture, (str, Path)):
        pixels = decode(picture)
    else:
        try:
            pair = isinstance(picture, (tuple, Mapping))  # an item of a dataset: (image, label)
            pixels = pixels_of(picture, name) if pair else as_pixels(picture, name)
        except PocketError:
            raise
        except Exception as error:  # whatever an object's own code meets
            raise BrokenImage(name, f"is no picture ({type(picture).__name__})") from error
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise BrokenImage(name, NOT_NUMBERS)
    return pixels
