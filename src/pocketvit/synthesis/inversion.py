"""Invert once, store, train many: drawn pictures or noise are optimized until the teacher's priors hold for them.

DeepInversion (Yin et al. 2020) with what has been learnt since: starts from pictures of the class instead of noise
where they can be had, half the size first where they cannot, balanced classes in every batch, softened targets, and of
a ViT no more than the patches that it looks at (`pruning`). What is stored has been through 8 bits, and is what the
teacher is asked.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..errors import PocketError
from ..files import read_json
from ..labels.plan import default_batch
from ..teachers import Teacher
from .bank import MANIFEST, Bank, BankFolder, Piece, near_duplicates, open_bank, thumbnails
from .candidates import Candidates
from .card import StatisticsCard
from .check import check_teacher, require_gradient
from .choose import shows
from .drawn import bank_bytes, teacher_record
from .layouts import Sizes, sample_layout, unlike
from .moving import Move
from .priors import PriorConfig, Priors
from .procedural import Procedural
from .pruning import PatchPruning, pruned, stops, why_dense
from .rival import Rival
from .seen import LEAST, answers, best_of, likely, surprise

log = logging.getLogger("pocketvit")

ORIGINS = ("inverted",)


@dataclass(frozen=True)
class InversionConfig:
    """How images are optimized."""

    images: int = 5_000  # asked for; rejected ones leave fewer
    batch: int = 0  # images optimized together, whose moments are compared; 0: by size and device
    steps: int = 60
    rate: float = 0.03  # of Adam, of pixels in 0..1
    coarse: float = 0.0  # share of the steps at half the size: worth it from noise, where nothing is yet
    shift: float = 0.125  # of the side, by which images are rolled at every step
    confidence: float = 0.5  # that the teacher must have in the class in the end
    prune_ratio: float = 0.0  # of a ViT's remaining patches, that are stopped at each of four early steps; 0: dense
    priors: PriorConfig = PriorConfig()  # noqa: RUF009 (frozen)
    seed: int = 0

    @classmethod
    def of_boxes(cls, images: int, **changes: Any) -> InversionConfig:
        """How pictures are optimized for layouts of boxes: objects have to be made where nothing was, coarse first."""
        usual: dict[str, Any] = {"steps": 40, "rate": 0.04, "coarse": 0.6, "priors": PriorConfig(variation=0.1)}
        return cls(images, **usual | changes)

    @property
    def record(self) -> dict[str, Any]:
        """What a bank says of it; what is new and at its default stays out, so that old banks are found."""
        about = dataclasses.asdict(self)
        if not self.prune_ratio:
            del about["prune_ratio"]
        return about


def invert_bank(
    folder: Path | str,
    teacher: Teacher,
    config: InversionConfig = InversionConfig(),
    *,
    start: Bank | Candidates | None = None,
    card: StatisticsCard | None = None,
    rival: Rival | None = None,
    progress: bool = True,
) -> Bank:
    """Make a bank of optimized images, or go on making it, or open it when it is made.

    Args:
        folder: of the bank.
        teacher: is inverted.
        config: how.
        start: a bank, whose images of the wanted class are optimized; candidates; None for procedural pictures.
        card: moments of the teacher's training images, to invert it with: the bank is then statistics-assisted.
        rival: a student; the images are also optimized until it answers otherwise than the teacher.
        progress: show a bar.

    Raises:
        PocketError: the teacher cannot be used or differentiated through, the folder holds another bank, no prior has
            a hold, or not one image was accepted.
    """
    if config.images < 1 or config.steps < 1:
        raise PocketError(f"inversion of {config.images} images in {config.steps} steps: both must be at least 1.")
    if not 0 <= config.prune_ratio < 1:
        raise PocketError(f"a prune_ratio of {config.prune_ratio}: give 0 for none, or a share below 1.")
    start = start if start is not None else Procedural(config.seed, teacher.input_size)
    folder = Path(folder)
    config = dataclasses.replace(config, batch=_batch(folder, teacher, config))
    provenance = {
        "method": "inverted",
        "config": config.record,
        "start": _start_record(start),
        **teacher_record(teacher),
        **(card.record if card is not None else {}),
        **(rival.record if rival is not None else {}),
    }
    place = BankFolder(folder, provenance, bytes=bank_bytes(config.images, teacher))
    if place.finished:
        return open_bank(folder)
    check = check_teacher(teacher)
    if not isinstance(start, Bank):  # else the bank's making has said it
        log.info("         %s", check.words)
    require_gradient(check, teacher)
    batch = config.batch
    shards = place.shards("inverted")
    with Priors(teacher, config.priors, card) as priors:
        log.info("priors   %s", "; ".join(priors.words))
        if config.prune_ratio:
            log.info("patches  %s", pruning_words(teacher, config.prune_ratio))
        bank = start if isinstance(start, Bank) else None
        sizes = Sizes.seen(teacher, bank) if teacher.kind == "boxes" else None
        inverter = Inverter(teacher, priors, config, sizes, rival)
        starts = _Starts(start, teacher.num_outputs, config.seed)
        for number in tqdm(range(-(-config.images // batch)), "inverting", disable=None if progress else True):
            if number not in shards:
                count = min(batch, config.images - number * batch)
                targets, turns = balanced_labels(config.seed, number * batch, count, teacher.num_outputs)
                result = inverter.run(starts.take(number * batch, targets, turns), targets, number)
                logits = answers(teacher, result.numpy(), batch)
                shards.write(number, images=result.numpy(), logits=logits, targets=targets.numpy())
    teacher.check_unchanged()
    return _finish(place, teacher, config, priors)


def _batch(folder: Path, teacher: Teacher, config: InversionConfig) -> int:
    """How many images are optimized at once, as a bank that is begun has it: a device decides only at its start."""
    if not config.batch and (folder / MANIFEST).is_file():
        begun = read_json(folder / MANIFEST)["provenance"].get("config", {}).get("batch")
        if begun:
            return int(begun)
    batch = config.batch or min(256, 2 * default_batch(teacher.input_size, [teacher]))
    return max(2, min(batch, config.images))


def _finish(place: BankFolder, teacher: Teacher, config: InversionConfig, priors: Priors) -> Bank:
    """Keep what survived 8 bits: the teacher sees the wanted class, and no earlier image looks the same."""
    shards = place.shards("inverted")
    pieces = [shards.read(number) for number in shards.numbers()]
    targets = np.concatenate([piece["targets"] for piece in pieces])
    chances = likely(teacher.kind, np.concatenate([piece["logits"] for piece in pieces]))
    if teacher.kind == "boxes":  # others may be surer, where a picture shows several
        wrong = chances[np.arange(len(targets)), targets] < LEAST["boxes"]
    else:
        wrong = ~shows(chances, targets, config.confidence)
    alike = near_duplicates(np.concatenate([thumbnails(piece["images"]) for piece in pieces]), targets)
    kept = ~(wrong | alike)
    if not kept.any():
        raise PocketError(
            f"of {len(kept)} images inverted for {teacher.name} not one is confidently of its class: use more --steps, "
            "or choose pictures instead (--method drawn)."
        )
    made = {
        "priors": list(priors.words), "rejected": int(wrong.sum()), "near_duplicates": int((alike & ~wrong).sum()),
    }  # fmt: skip
    log.info(
        "kept     %d of %d images (%d not of their class, %d alike)", kept.sum(), len(kept), *list(made.values())[1:]
    )

    def parts() -> Iterator[Piece]:
        begin = 0
        for piece in pieces:
            rows = np.flatnonzero(kept[begin : begin + len(piece["targets"])])
            begin += len(piece["targets"])
            yield piece["images"][rows], piece["logits"][rows], np.zeros(len(rows), np.int8)

    size, width = teacher.input_size, teacher.num_outputs
    return place.finish(parts(), int(kept.sum()), size, width, teacher.class_names, ORIGINS, made)


class Inverter:
    """Optimizes batches of images; batch ``number`` is a pure function of its start, its targets and the config.

    Args:
        teacher: differentiated through.
        priors: whose hooks are in the teacher.
        config: how.
        sizes: of objects; of a detector, which layouts of boxes are wanted from.
        rival: that is to answer otherwise.
    """

    def __init__(
        self,
        teacher: Teacher,
        priors: Priors,
        config: InversionConfig,
        sizes: Sizes | None = None,
        rival: Rival | None = None,
    ) -> None:
        self.teacher, self.priors, self.config, self.sizes, self.rival = teacher, priors, config, sizes, rival

    def run(self, images: Tensor, targets: Tensor, number: int) -> Tensor:
        """Optimize images.

        Args:
            images: uint8 [B, 3, S, S] to start from.
            targets: int64 [B], the wanted classes.
            number: of the batch; keys its random shifts.

        Returns:
            uint8 [B, 3, S, S] on the CPU.
        """
        config, device = self.config, self.teacher.device
        generator = torch.Generator().manual_seed((config.seed * 1_000_003 + number) % (1 << 63))
        size = images.shape[-1]
        x = images.to(device).float() / 255
        targets = targets.to(device)
        wrong = self._wrong(targets, size, number)
        coarse = round(config.coarse * config.steps) if size >= 16 else 0
        if coarse:
            x = F.interpolate(x, (size // 2, size // 2), mode="bilinear", antialias=True)
            x = self._optimize(x, targets, wrong, size, range(coarse), generator)
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        with pruned(self.teacher.module, size, len(x), device, config.prune_ratio) as pruning:
            x = self._optimize(x, targets, wrong, size, range(coarse, config.steps), generator, pruning)
        return (x * 255).round_().clamp_(0, 255).to(torch.uint8).cpu()

    def _wrong(self, targets: Tensor, side: int, number: int) -> Callable[[Tensor, Move], Tensor]:
        """Return what tells how far moved pictures are from what a batch is to show the teacher, and not the rival."""
        kind, soften, rival = self.teacher.kind, self.config.priors.soften, self.rival
        if self.sizes is None:

            def of_class(pictures: Tensor, move: Move) -> Tensor:
                answered = best_of(kind, self.teacher.differentiable(pictures))
                loss = surprise(kind, answered, targets, soften).mean()
                return loss if rival is None else loss + rival.agreement(pictures, answered)

            return of_class
        random = np.random.Generator(np.random.Philox(key=[self.config.seed, number]))
        layouts = [sample_layout(label, self.sizes, random) for label in targets.tolist()]

        def of_layout(pictures: Tensor, move: Move) -> Tensor:
            loss = unlike(self.teacher.differentiable(pictures), layouts, move, side)
            return loss if rival is None else loss + rival.sees(pictures, layouts, move, side)

        return of_layout

    def _optimize(
        self,
        began: Tensor,
        targets: Tensor,
        wrong: Callable[[Tensor, Move], Tensor],
        size: int,
        steps: range,
        generator: torch.Generator,
        pruning: PatchPruning | None = None,
    ) -> Tensor:
        """Take steps from pictures [B, 3, s, s], which the teacher sees at ``size`` pixels."""
        config, x = self.config, began.clone().requires_grad_()
        optimizer = torch.optim.Adam([x], lr=config.rate, betas=(0.5, 0.9))
        stopping = {steps[step] for step in stops(len(steps))} if pruning else set()
        for step in steps:
            for group in optimizer.param_groups:
                group["lr"] = config.rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
            shown = F.interpolate(x, (size, size), mode="bilinear", align_corners=False) if x.shape[-1] != size else x
            move = Move.draw(shown, config.shift, generator)
            if pruning:
                pruning.look(move, listen=step in stopping)
            loss, _ = self.priors(x, wrong(move(shown), move), targets)
            (x.grad,) = torch.autograd.grad(loss, x)
            optimizer.step()
            if pruning and step in stopping:
                pruning.stop(config.prune_ratio)
            mask = pruning.mask() if pruning else None
            with torch.no_grad():
                x.clamp_(0, 1)
                if mask is not None:  # priors on pixels see stopped patches, too, and momentum would go on
                    x.copy_(torch.where(mask, x, began))
        return x.detach()


def pruning_words(teacher: Teacher, ratio: float) -> str:
    """Say whether a teacher is inverted with fewer and fewer patches."""
    dense = why_dense(teacher.module, teacher.input_size)
    if dense:
        return f"all of them, in every step: {teacher.name} cannot be shown a part ({dense})"
    return f"sparse: {ratio:.0%} of those that are left are stopped at each of four early steps"


def balanced_labels(seed: int, first: int, count: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return the classes of images ``first`` and on, int64 [count], and how many of a class came before each.

    Over consecutive batches every class comes as often as any other; within a batch the order is random.
    """
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    within = torch.Generator().manual_seed((seed * 1_000_003 + first) % (1 << 63))
    slots = first + torch.randperm(count, generator=within)
    return order[slots % classes], slots // classes


class _Starts:
    """What images begin as: the bank's images of the wanted class in turn, or candidates one after the other."""

    def __init__(self, start: Bank | Candidates, classes: int, seed: int) -> None:
        self.start = start
        if isinstance(start, Bank):
            answers = start.logits.argmax(1)
            self._rows = [np.flatnonzero(answers == label) for label in range(classes)]
            self._all = np.random.Generator(np.random.Philox(seed)).permutation(len(start))

    def take(self, first: int, targets: Tensor, turns: Tensor) -> Tensor:
        """Return uint8 [B, 3, S, S] for images ``first`` and on, of classes and turns int64 [B]."""
        if not isinstance(self.start, Bank):
            return torch.from_numpy(self.start.take(first + np.arange(len(targets))))
        rows = []
        for label, turn in zip(targets.tolist(), turns.tolist(), strict=True):
            own = self._rows[label] if len(self._rows[label]) else self._all
            rows.append(own[turn % len(own)])
        return self.start.pixels(np.array(rows))


def _start_record(start: Bank | Candidates) -> dict:
    return {"bank": start.provenance["provenance"]} if isinstance(start, Bank) else dict(start.provenance)
