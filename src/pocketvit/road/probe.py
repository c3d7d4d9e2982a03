"""A network that does not know the user's classes learns them: a linear probe, then fine-tuning where it pays.

LP-FT (Kumar et al., "Fine-Tuning can Distort Pretrained Features", ICLR 2022): the new head is fitted on frozen
features first, so that fine-tuning starts from a sensible head and moves the features less. The better of the two on
the validation split is kept.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save_file
from torch import nn

from ..config import LossConfig, RunConfig, TrainConfig
from ..errors import PocketError
from ..files import atomic, human_time, locked, read_json, write_json
from ..models.norms import keep_where_few
from ..sources.base import Source
from ..sources.subset import Subset
from ..sources.targets import labelled
from ..tasks import Task
from ..teachers.finetune import new_head
from ..teachers.teacher import Teacher, first_logits
from ..training.distributed import Processes, barrier, from_rank_zero
from ..training.feed import class_shares
from ..training.predict import predict_logits
from ..training.step import Input
from ..views import Views
from ..views.resize import to_input
from .answering import batches
from .images import Road, known
from .train import train_network

log = logging.getLogger("pocketvit")

PATIENCE = 900.0  # seconds; fine-tuning that would take longer is left out unless it is asked for
# Of fine-tuning: epochs, and steps that few images are seen in again as long as all take at most so many seconds.
EPOCHS, STEPS, ENOUGH = 5, 200, 120.0
# Of the deviation that features have in the mean: one that hardly moves in training is not blown up to as much as the
# others. Blood cells, MobileNetV2: 53.7 -> 61.7 % from 60 images, 80.9 -> 81.4 % from 800; with the head in 8 bits
# 16.7 -> 61.1 % and 53.7 -> 80.7 %, since no weight dwarfs the others. CIFAR's ResNet-20: 65.1 -> 65.7, 77.2 -> 77.3 %.
_FLOOR = 0.5
_DECAYS = (0.01, 0.1, 1.0)  # AdamW's, of the probe; the best on validation is taken
_STEPS = 300
WEIGHTS = "adapted.safetensors"
_ANEW = "the teacher is then adapted anew."


@dataclass(frozen=True)
class Adapted:
    """A network that now answers in the user's classes, and how it came to.

    Attributes:
        module: In evaluation mode.
        method: "linear probe" or "fine-tuned".
        scores: Of the validation split, as the task gives them; None without one.
        score: The same in words, "" without.
        seconds: What it took when it was made.
        reused: Whether that was earlier.
    """

    module: nn.Module
    method: str
    scores: dict[str, float] | None
    score: str
    seconds: float
    reused: bool


def adapt(
    teacher: Teacher,
    road: Road,
    folder: Path,
    *,
    fine_tune: bool | None = None,
    train: TrainConfig | None = None,
    loss: LossConfig | None = None,
) -> Adapted:
    """Give a copy of the teacher's network a head for the road's classes and train it.

    Args:
        teacher: Its own network is left as it is.
        road: Its labelled images are learned from; the probe is kept where there are no validation images to choose by.
        folder: Keeps the result, which a second call reuses.
        fine_tune: True to train all weights, False for the probe alone, None to fine-tune when that takes at most
            `PATIENCE` seconds on this machine (found out once, and written down).
        train: Of fine-tuning; by default five gentle epochs. The probe is balanced where it is.
        loss: With the ground truth, of fine-tuning; by default half of the task's smoothing.

    Raises:
        PocketError: No labels, or a network without features that a head could stand on.
    """
    task, source, classes = road.task, road.dataset.train, len(road.dataset.classes)
    rows = np.flatnonzero(labelled(source.targets))
    if not len(rows) or classes < 2:
        raise PocketError(
            f"the teacher {teacher.name} does not know the classes of these images, and they have no labels to learn "
            "them from. Sort the images into one folder per class (or give --table FILE.csv), or name a teacher that "
            "was trained on your classes."
        )
    note, who = folder / "adapted.json", road.processes
    waiting = f"         another run is at it: waiting for {folder}"
    with locked(folder, waiting=waiting) if who.rank == 0 else contextlib.nullcontext():
        reused = from_rank_zero(_made(note, fine_tune, train), who.world)
        if not reused:
            _learn(teacher, road, folder, rows, fine_tune, train, loss or gentle_loss(task))
            barrier(who.world)
    record = read_json(note)  # what the first process wrote, in every process
    module = with_head(teacher, record["features"], classes)
    module.load_state_dict(_read(folder, record))
    scores = record["scores"]
    said = task.said(scores) if scores else ""
    return Adapted(module.to(teacher.device).eval(), record["method"], scores, said, record["seconds"], reused)


def gentle_loss(task: Task) -> LossConfig:
    """Return the loss of a network that has learned already."""
    return LossConfig(label_smoothing=task.smoothing / 2)


def _made(note: Path, fine_tune: bool | None, train: TrainConfig | None) -> bool:
    """Whether it was made already, in the time that is allowed now: with more of it, fine-tuning goes on."""
    if not note.is_file():
        return False
    if fine_tune is False or train is None or not train.seconds:
        return True
    return read_json(note).get("allowed") == train.seconds


def _learn(
    teacher: Teacher,
    road: Road,
    folder: Path,
    rows: np.ndarray,
    fine_tune: bool | None,
    train: TrainConfig | None,
    loss: LossConfig,
) -> None:
    """Make what `adapt` gives, in all processes together; the first one writes it down."""
    task, source, classes, who = road.task, road.dataset.train, len(road.dataset.classes), road.processes
    batch = tuning_batch(len(rows))
    optimization = train or TrainConfig(
        epochs=EPOCHS, batch_size=batch, learning_rate=3e-4, weight_decay=0.01, warmup=0.1
    )
    start = time.monotonic()
    features = _features(teacher, source, road, rows)
    forward_seconds = time.monotonic() - start
    val = road.dataset.val if known(road.dataset.val) else None
    checked = None
    if val is not None:
        val_rows = np.flatnonzero(labelled(val.targets))
        checked = _features(teacher, val, road, val_rows), _targets(val, val_rows)
    balance = bool(loss.class_weights) or optimization.balance == "sampling"
    head, scores = _probe(features, _targets(source, rows), checked, task, classes, optimization.seed, balance)
    module = with_head(teacher, features.shape[1], classes)
    for own in _heads_of(module):  # their mean is the probe
        own.load_state_dict(head.state_dict())
    module.to(teacher.device)
    method = "linear probe"
    each = 3.5 * forward_seconds
    epochs = optimization.epochs if train else tuning_epochs(len(rows), each)
    chosen, epochs = _wanted(folder, fine_tune, epochs, each, val is not None, teacher.name, who)
    if chosen:
        optimization = optimization if train else dataclasses.replace(optimization, epochs=epochs)
        tuned, tuned_scores = _fine_tune(module, teacher, road, folder, optimization, loss)
        if scores is None or tuned_scores is None or tuned_scores[_key(task, scores)] >= scores[_key(task, scores)]:
            module, method, scores = tuned, "fine-tuned", tuned_scores
        else:
            told = task.said(tuned_scores), task.said(scores)
            log.info("         fine-tuned %s on validation, a linear probe %s: the probe is kept", *told)
    if who.rank > 0:
        return
    state = {name: value.cpu().contiguous().clone() for name, value in module.state_dict().items()}
    with atomic(folder / WEIGHTS) as temporary:
        save_file(state, temporary)
    record = {
        "sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        "method": method,
        "scores": scores,
        "seconds": time.monotonic() - start,
        "features": features.shape[1],
        "allowed": optimization.seconds,  # of a training by the clock
    }
    write_json(folder / "adapted.json", record)


def _read(folder: Path, record: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Read what `_learn` wrote; a teacher with a wrong byte would teach something else without a word."""
    try:
        data = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise PocketError(f"could not read {folder / WEIGHTS} ({error.strerror}). Delete {folder}: {_ANEW}") from error
    if record.get("sha256") not in (None, hashlib.sha256(data).hexdigest()):
        raise PocketError(f"{folder / WEIGHTS} is damaged: its checksum is wrong. Delete {folder}: {_ANEW}")
    return load(data)


def _key(task: Task, scores: dict[str, float]) -> str:
    return task.score if task.score in scores else "val_accuracy"


def tuning_batch(images: int) -> int:
    """Return how many images fine-tuning takes at once."""
    return max(8, min(64, images // 8))


def tuning_epochs(images: int, each: float) -> int:
    """Return the epochs of fine-tuning where nobody says: `EPOCHS`, of few images as many as `STEPS` take.

    BreastMNIST (546 images), a CIFAR-10 ResNet-56: 79.5 % after 5 epochs at a rate of 0.0001, which is its linear
    probe; after 20 at 0.0001 83.3, at 0.0005 87.8; unasked now 85.9 (n = 156).

    Args:
        images: Labelled ones.
        each: Seconds of an epoch; `ENOUGH` of them in all are not passed for more of them.
    """
    steps = -(-images // tuning_batch(images))
    return max(EPOCHS, min(-(-STEPS // steps), int(ENOUGH / max(each, 1e-9))))


def _wanted(
    folder: Path, asked: bool | None, epochs: int, each: float, can_choose: bool, name: str, who: Processes
) -> tuple[bool, int]:
    """Whether to fine-tune, and for how many epochs of ``each`` so many seconds.

    What a stopwatch decides is decided once: a resumed run must not choose otherwise.
    """
    choice = folder / "choice.json"
    if who.rank == 0 and not choice.is_file():
        expected = epochs * each
        write_json(
            choice,
            {"fine_tune": expected <= PATIENCE and can_choose, "expected_seconds": expected, "epochs": epochs},
        )
    barrier(who.world)
    decided = read_json(choice)
    if asked is not None:
        return asked, decided.get("epochs", epochs)  # which older versions did not write
    seconds = human_time(decided["expected_seconds"])
    if decided["fine_tune"]:
        log.info("         fine-tuning %s: about %s", name, seconds)
    else:
        log.info("         fine-tuning would take about %s; --fine-tune asks for it", seconds)
    return decided["fine_tune"], decided.get("epochs", epochs)


class HeadOnFeatures(nn.Module):
    """Any network that answers with pooled features [B, D], and a linear head on them."""

    def __init__(self, body: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(features, classes)

    def get_classifier(self) -> nn.Linear:
        return self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(_pooled(self.body, x))


def with_head(teacher: Teacher, features: int, classes: int) -> nn.Module:
    """Return a trainable copy of the teacher's network with a fresh linear head: its own where it is timm's."""
    if hasattr(teacher.module, "forward_head") and hasattr(teacher.module, "reset_classifier"):
        module = new_head(teacher, classes)
        heads = _heads_of(module)
        if heads and all(isinstance(head, nn.Linear) and head.in_features == features for head in heads):
            return module
    return HeadOnFeatures(copy.deepcopy(teacher.module).requires_grad_(True), features, classes)


def has_linear_head(teacher: Teacher) -> bool:
    """Whether a probe on its features can become its own head, as of most of timm's networks."""
    pixels = torch.zeros(1, 3, teacher.input_size, teacher.input_size, device=teacher.device)
    with torch.no_grad():
        features = _pooled(teacher.module, pixels).shape[1]
    return not isinstance(with_head(teacher, features, 2), HeadOnFeatures)


def _heads_of(module: nn.Module) -> list[nn.Linear]:
    """Return a network's classifier; of one with distillation tokens a head for each."""
    head: Any = module.get_classifier()  # type: ignore[operator]
    several: bool = isinstance(head, tuple | list | nn.ModuleList)
    return list(head) if several else [head]


def _targets(source: Source, rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(source.targets)[rows])


def _features(teacher: Teacher, source: Source, road: Road, rows: np.ndarray) -> torch.Tensor:
    """Pooled features float32 [N, D] of some unaugmented images."""
    parts = []
    for pixels in batches(Subset(source, rows), road.view):
        inputs = to_input(pixels.to(teacher.device), teacher.input_size, teacher.mean, teacher.std)
        with torch.no_grad():
            parts.append(_pooled(teacher.module, inputs).float().cpu())
    return torch.cat(parts)


def _pooled(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a head stands on, [B, D]: timm's pooled features; of any other network, its output."""
    if hasattr(module, "forward_features") and hasattr(module, "forward_head"):
        network: Any = module
        return network.forward_head(network.forward_features(x), pre_logits=True)
    return first_logits(module(x))


def _probe(
    x_ND: torch.Tensor,
    y_N: torch.Tensor,
    checked: tuple[torch.Tensor, torch.Tensor] | None,
    task: Task,
    classes: int,
    seed: int,
    balance: bool = False,
) -> tuple[nn.Linear, dict[str, float] | None]:
    """Fit a linear head by AdamW on standardized features, which are then folded into it; every class alike if so."""
    weights_N = torch.from_numpy(len(y_N) * class_shares(y_N.numpy())).float() if balance else None
    mean, std = x_ND.mean(0), x_ND.std(0)
    std = std.clamp_min(max(1e-6, _FLOOR * float(std.square().mean().sqrt())))
    z_ND = (x_ND - mean) / std
    best: tuple[float, nn.Linear, dict[str, float] | None] | None = None
    for decay in _DECAYS if checked is not None else (0.1,):
        generator = torch.Generator().manual_seed(seed)
        head = nn.Linear(z_ND.shape[1], classes)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
        for _ in range(_STEPS):
            rows = torch.randint(len(z_ND), (min(512, len(z_ND)),), generator=generator)
            loss_B = task.plain_loss(head(z_ND[rows]), y_N[rows])
            (loss_B if weights_N is None else weights_N[rows] * loss_B).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        scores = None
        if checked is not None:
            with torch.no_grad():
                scores = task.validate(task.probabilities(head((checked[0] - mean) / std)), checked[1])
        value = scores[_key(task, scores)] if scores else 0.0
        if best is None or value > best[0]:
            best = value, head, scores
    assert best is not None
    _, head, scores = best
    with torch.no_grad():
        head.weight /= std
        head.bias.sub_(head.weight @ mean)
    return head, scores


def _fine_tune(
    module: nn.Module, teacher: Teacher, road: Road, folder: Path, train: TrainConfig, loss: LossConfig
) -> tuple[nn.Module, dict[str, float] | None]:
    """Train all weights gently; return the network and its scores on validation."""
    side: Input = (teacher.input_size, teacher.mean, teacher.std)
    config = RunConfig(view=road.view, loss=loss, train=train)
    source = road.dataset.train
    rows = np.flatnonzero(labelled(source.targets))
    learned = source if len(rows) == len(source) else Subset(source, rows)
    views = Views(learned, road.view, seed=train.seed)
    unwatched = dataclasses.replace(road, dataset=dataclasses.replace(road.dataset, val=None))
    tuned = copy.deepcopy(module)
    kept = keep_where_few(tuned, train.batch_size // road.processes.world)
    if kept:
        log.info("         %s", kept)
    tuned = train_network(unwatched, config, folder / "fine-tuning", model=tuned, input=side, views=views)
    val = road.dataset.val
    if val is None or not known(val):
        return tuned, None
    heads = predict_logits(tuned, road.pixels(val), road.view, side)
    targets = torch.from_numpy(np.asarray(val.targets))
    return tuned, road.task.validate(road.task.probabilities(road.task.combine(heads)), targets)
