"""Banks of pictures that are drawn and chosen: the teacher looks at many, and as many of each class are kept."""

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

from ..errors import PocketError
from ..labels.plan import default_batch
from ..teachers import Teacher
from .bank import Bank, BankFolder, Piece, open_bank
from .candidates import Candidates
from .check import check_teacher
from .choose import choose, quotas, sees
from .procedural import Procedural
from .push import push
from .seen import LEAST, answers, likely

log = logging.getLogger("pocketvit")

ORIGINS = ("drawn", "pushed")
CHUNK_PIXELS = 1 << 21  # of a shard: minutes of work, and small in memory


@dataclass(frozen=True)
class DrawnConfig:
    """How a bank is drawn and chosen."""

    images: int = 20_000
    looked_at: float = 8.0  # pictures per kept one, at most; 1: the first ones are kept, whatever they show
    steps: int = 8  # of gradient, at most, for pictures that are not yet of the class they were chosen for (`moves`)
    confidence: float = 0.5  # that such a step may end with
    seed: int = 0

    @property
    def candidates(self) -> int:
        """Pictures that the teacher looks at, at most."""
        return max(self.images, round(self.images * self.looked_at))


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
        folder: Of the bank.
        teacher: Chooses, and answers.
        config: How many, and how they are chosen.
        candidates: What is drawn; None for `Procedural` pictures.
        progress: Show a bar.

    Raises:
        PocketError: The teacher cannot be used, or the folder holds another bank.
    """
    row = candidates or Procedural(config.seed, teacher.input_size)
    if row.size != teacher.input_size:
        raise PocketError(
            f"pictures of {row.size} px for a teacher that sees {teacher.input_size}: draw them so large."
        )
    if config.images < 1:
        raise PocketError(f"a bank needs images, not {config.images}: set --count.")
    about = {"method": "drawn", "config": dataclasses.asdict(config), "candidates": row.provenance}
    place = BankFolder(folder, about | teacher_record(teacher), bytes=bank_bytes(config.images, teacher))
    if place.finished:
        return open_bank(folder)
    check = check_teacher(teacher)
    log.info("         %s", check.words)
    if moves(teacher.kind, config) and not check.differentiable:
        log.info("         no gradient passes through %s: no picture is moved to a class it hardly sees", teacher.name)
        config = dataclasses.replace(config, steps=0)
    bank = _Drawing(place, teacher, config, row, progress).run()
    teacher.check_unchanged()
    return bank


def moves(kind: str, config: DrawnConfig) -> bool:
    """Whether pictures are moved: not for detectors, whose students learn less from them (.109 mAP, unmoved .136)."""
    return config.steps > 0 and kind != "boxes"


def teacher_record(teacher: Teacher) -> dict[str, Any]:
    """What a bank says of its teacher: name, fingerprint, and so the preprocessing."""
    return {"teacher": {"name": teacher.name, **teacher.fingerprint}}


def bank_bytes(images: int, teacher: Teacher) -> int:
    """Bytes on disk while a bank is made: its pieces, and the bank they become."""
    return 2 * images * (3 * teacher.input_size**2 + 2 * teacher.num_outputs)


class _Drawing:
    """The making of one drawn bank, from shard to shard."""

    def __init__(
        self, place: BankFolder, teacher: Teacher, config: DrawnConfig, row: Candidates, progress: bool
    ) -> None:
        self.place, self.teacher, self.config, self.row = place, teacher, config, row
        self.moves = moves(teacher.kind, config)
        self.hidden = None if progress else True  # of tqdm's bars
        self.chunk = max(32, CHUNK_PIXELS // teacher.input_size**2)
        self.batch = default_batch(teacher.input_size, [teacher])
        self.quota, self.least = quotas(config.images, teacher.num_outputs), LEAST[teacher.kind]

    def run(self) -> Bank:
        logits = self._scan()
        rows, classes = np.arange(self.config.images), logits[: self.config.images].argmax(1)
        if self.config.looked_at > 1:
            rows, classes = choose(likely(self.teacher.kind, logits), self.quota, self.least)
        order = np.argsort(rows, kind="stable")
        rows, classes = rows[order], classes[order]
        counts = self._found(logits)
        made = {
            "looked_at": len(logits),
            "natural_shares": _ends(counts / len(logits)),
            "as_asked": round(float((logits[rows].argmax(1) == classes).mean()), 4),
        }
        others = int((sees(likely(self.teacher.kind, logits[rows]), self.least) != classes).sum())
        if self.moves and others:
            made["moved"] = others
        size, width = self.teacher.input_size, self.teacher.num_outputs
        pieces = self._pieces(rows, classes, logits)
        return self.place.finish(pieces, len(rows), size, width, self.teacher.class_names, ORIGINS, made)

    def _scan(self) -> np.ndarray:
        """Show the teacher candidates until every class has its share, or all were seen: logits, float16 [n, C]."""
        shards, most = self.place.shards("scan"), self.config.candidates
        scanned: list[np.ndarray] = []
        found = np.zeros(self.teacher.num_outputs, np.int64)
        with tqdm(total=most, desc="drawing", unit=" images", disable=self.hidden) as bar:
            for number in range(-(-most // self.chunk)):
                if number not in shards:
                    indices = np.arange(number * self.chunk, min((number + 1) * self.chunk, most))
                    shards.write(number, logits=answers(self.teacher, self.row.take(indices), self.batch))
                scanned.append(np.array(shards.read(number)["logits"]))
                found += self._found(scanned[-1])
                bar.update(len(scanned[-1]))
                if self.config.looked_at > 1 and (found >= self.quota).all():
                    break
        return np.concatenate(scanned)

    def _found(self, logits: np.ndarray) -> np.ndarray:
        """Count the pictures of each class: int64 [C]."""
        given = sees(likely(self.teacher.kind, logits), self.least)
        return np.bincount(given[given >= 0], minlength=logits.shape[1])

    def _pieces(self, rows: np.ndarray, classes: np.ndarray, logits: np.ndarray) -> Iterator[Piece]:
        """Yield the chosen pictures, moved where that was asked for."""
        shards = self.place.shards("pushed")
        starts = range(0, len(rows), self.chunk)
        for number, start in enumerate(tqdm(starts, desc="pushing", disable=self.hidden if self.moves else True)):
            part = slice(start, start + self.chunk)
            if not self.moves:
                yield self.row.take(rows[part]), logits[rows[part]], np.zeros(len(rows[part]), np.int8)
                continue
            if number not in shards:
                shards.write(number, **self._pushed(rows[part], classes[part], logits[rows[part]]))
            piece = shards.read(number)
            yield piece["images"], piece["logits"], piece["origin"]

    def _pushed(self, rows: np.ndarray, classes: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
        """Move pictures to the class they were chosen for, where the teacher sees another one in them."""
        images, logits = self.row.take(rows), logits.copy()
        other = np.flatnonzero(sees(likely(self.teacher.kind, logits), self.least) != classes)
        for part in np.array_split(other, -(-len(other) // self.batch)) if len(other) else []:
            moved = push(
                self.teacher, torch.from_numpy(images[part]), torch.from_numpy(classes[part]),
                confidence=self.config.confidence, steps=self.config.steps,
            )  # fmt: skip
            images[part] = moved.images.numpy()
        if len(other):
            logits[other] = answers(self.teacher, images[other], self.batch)
        origin = np.isin(np.arange(len(rows)), other).astype(np.int8)
        return {"images": images, "logits": logits, "origin": origin}


def _ends(shares: np.ndarray) -> dict[str, float]:
    """Shares of the classes; of more than twenty the rarest ten and the commonest ten."""
    order = np.argsort(shares, kind="stable")
    shown = order if len(order) <= 20 else np.concatenate([order[:10], order[-10:]])
    return {str(label): round(float(shares[label]), 5) for label in sorted(shown)}
