"""The methods of making images that users choose by name, what each costs, and what is said of the result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import PocketError
from ..sources import Source
from ..teachers import Teacher
from .bank import Bank, provenance
from .candidates import Candidates, Mixed, Noise, RealImages, sample_photograph
from .card import StatisticsCard
from .check import check_teacher, require_gradient
from .choose import sees
from .contest import GenerationConfig
from .drawn import DrawnConfig, bank_bytes, draw_bank, moves
from .generation import generate_bank, generation_bytes, generation_seconds
from .generator import Network
from .inversion import InversionConfig, invert_bank
from .priors import Priors
from .procedural import Procedural
from .pruning import cost_share, why_dense
from .rival import Rival
from .seen import LEAST, answers, likely

METHODS = {
    "drawn": "pictures drawn at random, chosen by the teacher, a few grey levels moved to classes it hardly sees",
    "inverted": "drawn and chosen, then optimized for what the teacher keeps of its data",
    "generated": "made out of noise by a generator that learns what the teacher is sure of and a student is not",
    "photograph": "crops of one photograph (a control, not data-free)",
    "noise": "independent random pixels (a control)",
}
SAID = {
    "drawn": "drawn pictures",
    "inverted": "inverted pictures",
    "generated": "generated pictures",
    "photograph": "one photograph",
    "noise": "noise",
}
BEST = {"boxes": "inverted"}  # what auto stands for, by kind of teacher: docs/datafree.md, "Measured"; else "drawn"
OPTIMIZED = ("inverted", "generated")  # for priors, which a statistics card can be one of
RARE = 0.1  # of a class's share
_STEPS = 30  # of gradient, for "inverted" pictures
_CAME = {
    "looked_at": "pictures looked at",
    "moved": "moved to a class that is hardly seen",
    "rejected": "not of their class and left out",
    "near_duplicates": "near duplicates left out",
    "alarms": "alarms of a generator that collapsed",
}
_VIEWS_OF_REAL = 200  # of a real image, at most, that the teacher looks at: more of them are alike
_PROBE = 32  # images of a measurement, fewer where they are large


@dataclass(frozen=True)
class Request:
    """A bank to be made.

    Attributes:
        method: A name of `METHODS`.
        images: How many.
        data: A few real images to start from; then the bank is not data-free.
        seed: Of everything random.
        generator: The network that "generated" learns.
        prune_ratio: Of a ViT's remaining patches, that "inverted" stops at each of four early steps.
        card: Moments of the teacher's training images, for what is optimized; then the bank is statistics-assisted.
        rival: A student that "inverted" pictures are to be answered otherwise by.
    """

    method: str = "drawn"
    images: int = 20_000
    data: Source | None = None
    seed: int = 0
    generator: Network = "conv"
    prune_ratio: float = 0.0
    card: StatisticsCard | None = None
    rival: Rival | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise PocketError(f"--method {self.method}: give auto or one of {', '.join(METHODS)}.")
        if self.card is not None and self.method not in OPTIMIZED:
            raise PocketError(
                f"--method {self.method} asks for no statistics, and takes no card of them. Add --method inverted or "
                "generated, or leave --statistics away."
            )
        if self.rival is not None and self.method != "inverted":
            raise PocketError(
                f"--method {self.method} optimizes nothing, and not against a student. Add --method inverted, or leave "
                "--rival away."
            )
        if self.data is not None and self.method in ("noise", "photograph"):
            raise PocketError(f"--method {self.method} is a control and takes no --data. Leave one of them away.")
        if self.data is not None and self.method == "generated":
            raise PocketError(
                "--method generated begins with noise and takes no --data. Leave one of them away, or use --method "
                "drawn or inverted, which begin with real images too."
            )

    @property
    def sparse(self) -> bool:
        """Whether patches are to be stopped."""
        return self.method == "inverted" and self.prune_ratio > 0

    def row(self, size: int) -> Candidates:
        """The pictures that the teacher chooses from."""
        if self.method == "noise":
            return Noise(self.seed, size)
        if self.method == "photograph":
            return sample_photograph(self.seed, size)
        drawn = Procedural(self.seed, size)
        if self.data is None:
            return drawn
        every = max(2, self.config().candidates // (_VIEWS_OF_REAL * len(self.data)))
        return Mixed(drawn, RealImages(self.data, self.seed, size), every)

    def generation(self) -> GenerationConfig:
        """How a generator learns."""
        return GenerationConfig(self.images, network=self.generator, seed=self.seed)

    def inversion(self, kind: str) -> InversionConfig:
        """How they are optimized for a teacher of a kind."""
        asked: dict[str, Any] = {"prune_ratio": self.prune_ratio, "seed": self.seed}
        if kind == "boxes":
            return InversionConfig.of_boxes(self.images, **asked)
        return InversionConfig(self.images, steps=_STEPS, **asked)

    def steps(self, kind: str) -> int:
        """Of gradient, for each picture."""
        if self.method == "inverted":
            return self.inversion(kind).steps
        config = self.config()
        return config.steps if moves(kind, config) else 0

    def config(self) -> DrawnConfig:
        """How they are chosen."""
        steps = DrawnConfig.steps if self.method == "drawn" else 0  # of the others nothing is left, or it is a control
        looked_at = 1.0 if self.method == "noise" else DrawnConfig.looked_at
        return DrawnConfig(self.images, looked_at=looked_at, steps=steps, seed=self.seed)


def check_request(teacher: Teacher, request: Request) -> None:
    """Try in seconds, and before anything is written, whether such images can be made from a teacher.

    Raises:
        PocketError: They cannot; the message says why.
    """
    check = check_teacher(teacher)
    if request.method in OPTIMIZED:
        require_gradient(check, teacher)
        chosen = request.generation() if request.method == "generated" else request.inversion(teacher.kind)
        with Priors(teacher, chosen.priors, request.card):
            pass


def make_bank(folder: Path | str, teacher: Teacher, request: Request, *, progress: bool = True) -> Bank:
    """Make the bank that is asked for, go on making it, or open it when it is made.

    Args:
        folder: Of the bank; what it starts from lies in ``start`` beside its files.
        teacher: Chooses, and is differentiated through where the method does that.
        request: What is asked for.
        progress: Show bars.

    Raises:
        PocketError: The teacher cannot be used so, or the folder holds another bank.
    """
    if request.method == "generated":
        return generate_bank(folder, teacher, request.generation(), card=request.card, progress=progress)
    row = request.row(teacher.input_size)
    if request.method != "inverted":
        return draw_bank(folder, teacher, request.config(), candidates=row, progress=progress)
    start = draw_bank(Path(folder) / "start", teacher, request.config(), candidates=row, progress=progress)
    return invert_bank(
        folder, teacher, request.inversion(teacher.kind),
        start=start, card=request.card, rival=request.rival, progress=progress,
    )  # fmt: skip


def bank_cost(teacher: Teacher, request: Request) -> tuple[float, int]:
    """Return seconds on this machine, after timing a few images, and bytes on disk; nothing is written."""
    if request.method == "generated":
        config = request.generation()
        return generation_seconds(teacher, config), generation_bytes(teacher, config)
    steps = request.steps(teacher.kind)
    optimized = [teacher, *([request.rival.student] if request.rival else [])] if steps else []
    drawing, asking, optimizing, unseen = _measure(teacher, request.row(teacher.input_size), optimized)
    chosen, count = request.config(), request.images
    seconds = chosen.candidates * (drawing + asking)
    size = bank_bytes(count, teacher) + chosen.candidates * teacher.num_outputs * 2
    optimizing *= count * steps * (unseen if request.method == "drawn" else 1)
    if request.sparse and not why_dense(teacher.module, teacher.input_size):
        optimizing *= cost_share(steps, request.prune_ratio)
    seconds += optimizing
    return seconds, size * (2 if request.method == "inverted" else 1)


def _measure(teacher: Teacher, row: Candidates, optimized: Sequence[Teacher]) -> tuple[float, float, float, float]:
    """Return seconds an image: drawing one, asking the teacher, and a gradient through each of ``optimized``.

    And about which share of the classes the teacher does not see in what is drawn, whose pictures will be moved.
    """
    count = max(4, min(_PROBE, _PROBE * 64**2 // teacher.input_size**2))
    images = row.take(np.arange(count))  # to warm up
    start = time.perf_counter()
    images = row.take(np.arange(count, 2 * count))
    drawing = time.perf_counter() - start
    pixels = torch.from_numpy(images)
    teacher.logits(pixels)
    start = time.perf_counter()
    logits = answers(teacher, images, count)
    asking = time.perf_counter() - start
    found = sees(likely(teacher.kind, logits), LEAST[teacher.kind])
    unseen = 1 - len(np.unique(found[found >= 0])) / min(count, logits.shape[1])
    return drawing / count, asking / count, sum(_gradient(one, pixels) for one in optimized) / count, unseen


def _gradient(teacher: Teacher, pixels: torch.Tensor) -> float:
    """Return seconds of a gradient through the teacher; 0 where none passes, which making the bank will refuse."""
    x = (pixels.to(teacher.device).float() / 255).requires_grad_()
    start = time.perf_counter()
    try:
        torch.autograd.grad(teacher.differentiable(x).sum(), x)[0].cpu()
    except RuntimeError:
        return 0.0
    return time.perf_counter() - start


def words(bank: Bank) -> list[str]:
    """Say what a bank was made from, and what came out, in sentences."""
    record, made = bank.provenance["provenance"], bank.provenance["made"]
    teacher, norm = record["teacher"], record["teacher"]["preprocessing"]
    counts = np.bincount(bank.logits.argmax(1), minlength=bank.logits.shape[1])
    shares = f"the teacher's rarest of {len(counts)} classes has {counts.min() / len(bank):.1%} of them"
    came = [f"{made[name]:,} {said}" for name, said in _CAME.items() if name in made]
    unseen = [bank.classes[label] if bank.classes else f"number {label}" for label in np.flatnonzero(counts == 0)]
    lines = [
        provenance(bank.provenance),
        f"teacher {teacher['name']}, {norm['input_size']} px, mean {_plain(norm['mean'])}, std {_plain(norm['std'])}; "
        f"weights {teacher['weights'][:12]}",
        f"{len(bank):,} images of {bank.images.shape[1]} px; {shares}, the commonest {counts.max() / len(bank):.1%}; "
        f"its highest probability is {bank.probabilities.max(1).mean():.2f} on average",
    ]
    if unseen:
        named = f"{', '.join(unseen[:5])}{', ...' if len(unseen) > 5 else ''}"
        lines.append(
            f"in no image does the teacher see {named} ({len(unseen)} of {len(counts)} classes) above all others, so "
            "that a student may miss these: a few real images, without labels, show them (--method drawn --data FOLDER)"
        )
    elif bank.kind == "softmax" and counts.min() < RARE * len(bank) / len(counts):
        rarest = bank.classes[counts.argmin()] if bank.classes else f"number {counts.argmin()}"
        lines.append(f"the teacher hardly sees {rarest} in them, which a student will know least")
    return lines + ([", ".join(came)] if came else [])


def _plain(values: list[float]) -> str:
    return "/".join(f"{value:.3g}" for value in values)
