"""Banks that need no optimization: pictures are drawn, the teacher looks at them, and those it needs are kept.

Candidates are drawn until every class has its share of confidently seen pictures, or enough have been looked at. What
is then missing is bred (crops, mirror images and CutMix pairs of the class's likeliest candidates, again chosen by the
teacher), and what is still missing is pushed there by a few steps of gradient (`push`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..config import ViewConfig, to_dict
from ..errors import PocketError
from ..labels.plan import default_batch
from ..teachers import Teacher
from ..views import Views
from .arrays import PictureArray
from .bank import Bank, BankFolder, class_names, near_duplicates, open_bank, softmax, thumbnails
from .candidates import Candidates
from .check import check_teacher
from .choose import Choice, choose, likeliest, quotas
from .procedural import Procedural
from .push import push

log = logging.getLogger("pocketvit")

ORIGINS = ("drawn", "bred", "pushed")
_CHUNK_PIXELS = 1 << 21  # of a shard: minutes of work, and small in memory
_PARENTS = 64  # likeliest candidates that a class is bred from
_BREED = ViewConfig(crop="random_resized", crop_scale=(0.4, 1.0), flip=0.5, color_jitter=0.2, cutmix=1.0)


@dataclass(frozen=True)
class DrawnConfig:
    """How a bank is drawn and chosen."""

    images: int = 20_000
    candidates: int = 200_000  # looked at, at most
    confidence: float = 0.5  # that the teacher must have in a kept picture
    chosen: bool = True  # by the teacher, balanced; else the first ones, whatever they are (a control)
    pushed: float = 0.0  # share of every class that is pushed there, even where enough are drawn
    tries: int = 8  # pictures bred for each that is missing, at most
    steps: int = 10  # of gradient for what is missing even so; 0: none
    seed: int = 0


def draw_bank(
    folder: Path | str,
    teacher: Teacher,
    config: DrawnConfig = DrawnConfig(),
    *,
    candidates: Candidates | None = None,
    progress: bool = True,
) -> Bank:
    """Make a bank of drawn pictures, or go on making it, or open it when it is made.

    Args:
        folder: of the bank.
        teacher: chooses, and answers.
        config: how many, and how they are chosen.
        candidates: what is drawn; None for `Procedural` pictures.
        progress: show a bar.

    Raises:
        PocketError: the teacher cannot be used, or the folder holds another bank.
    """
    row = candidates or Procedural(config.seed, teacher.input_size)
    if row.size != teacher.input_size:
        raise PocketError(
            f"pictures of {row.size} px for a teacher that sees {teacher.input_size}: draw them so large."
        )
    if config.images < 1:
        raise PocketError(f"a bank needs images, not {config.images}: set --count.")
    provenance = {"method": "drawn", "config": to_dict(config), "candidates": row.provenance, **teacher_record(teacher)}
    size = config.images * (3 * teacher.input_size**2 + 2 * teacher.num_outputs)
    place = BankFolder(folder, provenance, bytes=2 * size)
    if place.finished:
        return open_bank(folder)
    log.info("%s", check_teacher(teacher).words)
    work = _Drawing(place, teacher, config, row, progress)
    return work.run()


def teacher_record(teacher: Teacher) -> dict[str, Any]:
    """What a bank says of its teacher: name, fingerprint, and that its preprocessing was used."""
    return {"teacher": {"name": teacher.name, **teacher.fingerprint}}


class _Drawing:
    """The making of one drawn bank, from shard to shard."""

    def __init__(
        self, place: BankFolder, teacher: Teacher, config: DrawnConfig, row: Candidates, progress: bool
    ) -> None:
        self.place, self.teacher, self.config, self.row, self.progress = place, teacher, config, row, progress
        self.chunk = max(32, _CHUNK_PIXELS // teacher.input_size**2)
        self.batch = default_batch(teacher.input_size, [teacher])

    def run(self) -> Bank:
        config = self.config
        logits = self._scan()
        if config.chosen:
            choice = self._choose(logits)
            drawn = choice.missing.copy()
            bred = self._breed(logits, choice.missing)
            pushed = self._push(logits, choice, bred)
        else:
            rows = np.arange(min(config.images, len(logits)))
            choice = Choice(rows, logits[rows].argmax(1), np.zeros(self.teacher.num_outputs, np.int64))
            drawn, bred, pushed = choice.missing, _Pieces.none(), _Pieces.none()
        missing = drawn - bred.counts(len(drawn)) - pushed.counts(len(drawn))
        made = {
            "candidates_seen": len(logits),
            "natural_shares": _shares(logits),
            "drawn": len(choice.rows),
            "bred": len(bred),
            "pushed": len(pushed),
            "missing": {str(label): int(n) for label, n in enumerate(missing) if n > 0},
        }
        if missing.sum() > 0:
            log.warning(
                "warning  %d pictures of %d classes are missing: the teacher sees them in nothing that was drawn or "
                "moved towards them",
                missing.sum(),
                (missing > 0).sum(),
            )
        order = np.argsort(choice.rows, kind="stable")
        count = len(order) + len(bred) + len(pushed)
        parts = self._parts(choice.rows[order], logits, bred, pushed)
        size, width = self.teacher.input_size, self.teacher.num_outputs
        return self.place.finish(parts, count, size, width, class_names(self.teacher), ORIGINS, made)

    def _parts(
        self, rows: np.ndarray, logits: np.ndarray, bred: _Pieces, pushed: _Pieces
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for start in range(0, len(rows), self.chunk):
            part = rows[start : start + self.chunk]
            yield self.row.take(part), logits[part], np.zeros(len(part), np.int8)
        for how, pieces in ((1, bred), (2, pushed)):
            for images, answers, _ in pieces.parts:
                yield images, answers, np.full(len(images), how, np.int8)

    def _answers(self, images: np.ndarray) -> np.ndarray:
        """Ask the teacher: float16 [n, C]."""
        pixels = torch.from_numpy(images)
        parts = [self.teacher.logits(part).cpu() for part in pixels.split(self.batch)]
        return torch.cat(parts).numpy().astype(np.float16)

    def _scan(self) -> np.ndarray:
        """Show the teacher candidates until there are enough: its logits, float16 [n, C]."""
        config, shards = self.config, self.place.shards("scan")
        quota = self._drawn_quota()
        seen: list[np.ndarray] = []
        most = config.candidates if config.chosen else config.images
        with tqdm(total=most, desc="drawing", unit=" images", disable=None if self.progress else True) as bar:
            for number in range(-(-most // self.chunk)):
                if number not in shards:
                    indices = np.arange(number * self.chunk, min((number + 1) * self.chunk, most))
                    shards.write(number, logits=self._answers(self.row.take(indices)))
                seen.append(np.array(shards.read(number)["logits"]))
                bar.update(len(seen[-1]))
                if config.chosen and self._enough(np.concatenate(seen), quota):
                    break
        return np.concatenate(seen)

    def _drawn_quota(self) -> np.ndarray:
        quota = quotas(self.config.images, self.teacher.num_outputs)
        return quota - np.floor(quota * self.config.pushed).astype(np.int64)

    def _enough(self, logits: np.ndarray, quota: np.ndarray) -> bool:
        return not choose(softmax(logits.astype(np.float32)), quota, self.config.confidence).missing.any()

    def _choose(self, logits: np.ndarray) -> Choice:
        """Choose among the candidates; near duplicates are replaced once by the next ones."""
        probabilities = softmax(logits.astype(np.float32))
        quota = self._drawn_quota()
        choice = choose(probabilities, quota, self.config.confidence)
        rows = choice.rows
        thumbs = [thumbnails(self.row.take(rows[i : i + self.chunk])) for i in range(0, len(rows), self.chunk)]
        alike = near_duplicates(np.concatenate(thumbs), choice.classes) if len(rows) else np.zeros(0, bool)
        probabilities[rows[alike]] = 0
        choice = choose(probabilities, quota, self.config.confidence)
        return dataclasses.replace(choice, missing=choice.missing + self._reserved())

    def _reserved(self) -> np.ndarray:
        """Pictures of each class that are to be pushed even where enough are drawn."""
        return quotas(self.config.images, self.teacher.num_outputs) - self._drawn_quota()

    def _breed(self, logits: np.ndarray, missing: np.ndarray) -> _Pieces:
        """Breed what is missing of each class from its likeliest candidates."""
        pieces, shards = _Pieces([]), self.place.shards("bred")
        wanted = missing - self._reserved()
        if self.config.tries == 0 or not (wanted > 0).any():
            return pieces
        probabilities = softmax(logits.astype(np.float32))
        for label in tqdm(np.flatnonzero(wanted > 0), desc="breeding", disable=None if self.progress else True):
            if int(label) not in shards:
                images, answers = self._bred(probabilities, int(label), int(wanted[label]))
                shards.write(int(label), images=images, logits=answers)
            pieces.add(shards.read(int(label)), int(label))
        return pieces

    def _bred(self, probabilities: np.ndarray, label: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        parents = likeliest(probabilities, label, _PARENTS)
        size = self.teacher.input_size
        views = Views(
            PictureArray(self.row.take(parents), parents), dataclasses.replace(_BREED, view_size=size), self.config.seed
        )
        kept, kept_answers, found, tried, view = [], [], 0, 0, 0
        while found < wanted and tried < self.config.tries * wanted:
            images = views.render(np.arange(len(parents)), view).pixels.numpy()
            answers = self._answers(images)
            chances = softmax(answers.astype(np.float32))
            good = (chances.argmax(1) == label) & (chances[:, label] >= self.config.confidence)
            good &= np.cumsum(good) <= wanted - found
            kept.append(images[good])
            kept_answers.append(answers[good])
            found, tried, view = found + int(good.sum()), tried + len(images), view + 1
            if tried >= 4 * _PARENTS and found == 0:
                break  # nothing there to breed from
        return np.concatenate(kept), np.concatenate(kept_answers)

    def _push(self, logits: np.ndarray, choice: Choice, bred: _Pieces) -> _Pieces:
        """Push what is still missing of each class there, starting with the likeliest pictures that are not taken."""
        pieces, shards = _Pieces([]), self.place.shards("pushed")
        missing = choice.missing - bred.counts(len(choice.missing))
        if self.config.steps == 0 or not (missing > 0).any():
            return pieces
        probabilities = softmax(logits.astype(np.float32))
        taken = np.zeros(len(logits), bool)
        taken[choice.rows] = True
        jobs = [
            (label, start) for label in np.flatnonzero(missing > 0) for start in range(0, missing[label], self.chunk)
        ]
        for label, start in tqdm(jobs, desc="pushing", disable=None if self.progress else True):
            number = int(label) * 1000 + start // self.chunk
            if number not in shards:
                images, answers = self._pushed(probabilities, taken, int(label), start, int(missing[label]))
                shards.write(number, images=images, logits=answers)
            pieces.add(shards.read(number), int(label))
        return pieces

    def _pushed(
        self, probabilities: np.ndarray, taken: np.ndarray, label: int, start: int, missing: int
    ) -> tuple[np.ndarray, np.ndarray]:
        wanted = min(self.chunk, missing - start)
        # Where candidates run out, those taken for other classes serve too.
        free = likeliest(probabilities, label, start + wanted, taken)[start:]
        rows = np.concatenate(
            [free, likeliest(probabilities, label, start + wanted)[-(wanted - len(free)) or wanted :]]
        )
        rows = rows[:wanted]
        moved = []
        for part in np.array_split(rows, -(-len(rows) // self.batch)):
            pixels = torch.from_numpy(self.row.take(part))
            result = push(
                self.teacher,
                pixels,
                torch.full((len(part),), label),
                confidence=self.config.confidence,
                steps=self.config.steps,
            )
            moved.append(result.images[result.reached].numpy())
        images = np.concatenate(moved)
        return images, self._answers(images) if len(images) else np.empty((0, self.teacher.num_outputs), np.float16)


@dataclass
class _Pieces:
    """Pictures that were made rather than drawn: (images, logits, class) by shard."""

    parts: list[tuple[np.ndarray, np.ndarray, int]]

    @classmethod
    def none(cls) -> _Pieces:
        return cls([])

    def add(self, arrays: dict[str, np.ndarray], label: int) -> None:
        self.parts.append((arrays["images"], arrays["logits"], label))

    def counts(self, classes: int) -> np.ndarray:
        result = np.zeros(classes, np.int64)
        for images, _, label in self.parts:
            result[label] += len(images)
        return result

    def __len__(self) -> int:
        return sum(len(images) for images, _, _ in self.parts)


def _shares(logits: np.ndarray) -> dict[str, float]:
    """Share of the candidates that the teacher gives to each class, unchosen; the rarest ten and commonest ten."""
    counts = np.bincount(logits.argmax(1), minlength=logits.shape[1]) / len(logits)
    order = np.argsort(counts, kind="stable")
    shown = order if len(order) <= 20 else np.concatenate([order[:10], order[-10:]])
    return {str(label): round(float(counts[label]), 5) for label in sorted(shown)}
