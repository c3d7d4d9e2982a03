"""A teacher that does not know the user's classes learns them: a linear probe, then fine-tuning where it pays.

LP-FT (Kumar et al., "Fine-Tuning can Distort Pretrained Features", ICLR 2022): the new head is fitted on frozen
features first, so that fine-tuning starts from a sensible head and moves the features less. The better of the two on
the validation split is kept.
"""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from ..config import LossConfig, TrainConfig, ViewConfig
from ..errors import PocketError
from ..files import atomic, human_time, read_json, write_json
from ..objectives import student_loss
from ..sources.base import Source
from ..sources.targets import labelled
from ..tasks.screening import mean_auc
from ..teachers.finetune import new_head
from ..teachers.teacher import Teacher, first_logits
from ..views import Views
from ..views.resize import to_input
from .feed import Feed
from .loop import fit
from .predict import plain_pixels, predict_logits
from .step import Input

log = logging.getLogger("pocketvit")

PATIENCE = 900.0  # seconds; fine-tuning that would take longer is left out unless it is asked for
_DECAYS = (0.01, 0.1, 1.0)  # AdamW's, of the probe; the best on validation is taken
_PROBE_STEPS = 300


@dataclass(frozen=True)
class Adapted:
    """A network that now answers in the user's classes, and how it came to."""

    module: nn.Module
    method: str  # "linear probe" or "fine-tuned"
    accuracy: float | None  # on the validation split; of several labels an image, the mean AUC
    seconds: float
    reused: bool
    several: bool = False  # labels an image

    @property
    def score(self) -> str:
        """The score on the validation split for people, "" without one."""
        return "" if self.accuracy is None else _said(self.accuracy, self.several)


def adapt(
    teacher: Teacher,
    train: Source,
    val: Source | None,
    view: ViewConfig,
    folder: Path,
    *,
    fine_tune: bool | None = None,
    train_config: TrainConfig | None = None,
) -> Adapted:
    """Give a copy of the teacher's network a head for the source's classes and train it.

    Args:
        teacher: Its own network is left as it is.
        train: Labelled images (those with target -1 are left out).
        val: For choosing; the probe is kept when there is none.
        view: Training views; the probe uses their plain geometry.
        folder: Keeps the result, which a second call reuses.
        fine_tune: True to train all weights, False for the probe alone, None to fine-tune when that takes at most
            `PATIENCE` seconds on this machine.
        train_config: Of fine-tuning; by default five gentle epochs.

    Raises:
        PocketError: No labels, or a network without features that a head could stand on.
    """
    known = np.flatnonzero(labelled(train.targets))
    several = train.multilabel
    classes = len(train.classes)
    if not len(known) or classes < 2:
        raise PocketError(
            f"the teacher {teacher.name} does not know the classes of these images, and they have no labels to learn "
            "them from. Sort the images into one folder a class (or give --labels FILE.csv), or name a teacher that "
            "was trained on your classes."
        )
    note = folder / "adapted.json"
    if note.is_file():
        record = read_json(note)
        module = with_head(teacher, record["features"], classes)
        module.load_state_dict(load_file(folder / "adapted.safetensors"))
        module.to(teacher.device)
        return Adapted(module.eval(), record["method"], record["accuracy"], record["seconds"], True, several)
    batch = max(8, min(64, len(known) // 8))
    optimization = train_config or TrainConfig(
        epochs=5, batch_size=batch, learning_rate=1e-4, weight_decay=0.01, warmup=0.1
    )
    start = time.monotonic()
    features = _features(teacher, train, view, known)
    forward_seconds = time.monotonic() - start
    targets = torch.from_numpy(np.asarray(train.targets)[known])
    val_known = np.flatnonzero(labelled(val.targets)) if val is not None else np.empty(0, np.int64)
    val_features = _features(teacher, val, view, val_known) if val is not None and len(val_known) else None
    val_targets = torch.from_numpy(np.asarray(val.targets)[val_known]) if val is not None else None
    head, accuracy = _probe(features, targets, val_features, val_targets, classes, optimization.seed)
    module = with_head(teacher, features.shape[1], classes)
    _head_of(module).load_state_dict(head.state_dict())
    module.to(teacher.device)
    method = "linear probe"
    expected = 3.5 * forward_seconds * optimization.epochs  # a backward pass costs about twice the forward pass
    wanted = fine_tune if fine_tune is not None else expected <= PATIENCE and val_features is not None
    if wanted:
        log.info("         fine-tuning %s: about %s", teacher.name, human_time(expected))
        tuned, tuned_accuracy = _fine_tune(module, teacher, train, val, view, folder, optimization)
        if accuracy is None or tuned_accuracy is None or tuned_accuracy >= accuracy:
            module, method, accuracy = tuned, "fine-tuned", tuned_accuracy
        else:
            log.info(
                "         fine-tuned %s on validation, a linear probe %s: the probe is kept",
                _said(tuned_accuracy, several),
                _said(accuracy, several),
            )
    elif fine_tune is None:
        log.info("         fine-tuning would take about %s; --fine-tune asks for it", human_time(expected))
    seconds = time.monotonic() - start
    state = {name: value.cpu().contiguous().clone() for name, value in module.state_dict().items()}
    with atomic(folder / "adapted.safetensors") as temporary:
        save_file(state, temporary)
    record = {"method": method, "accuracy": accuracy, "seconds": seconds, "features": features.shape[1]}
    write_json(note, record)
    return Adapted(module.eval(), method, accuracy, seconds, False, several)


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
    module = copy.deepcopy(teacher.module).requires_grad_(True)
    if hasattr(module, "forward_head") and hasattr(module, "reset_classifier"):
        module = new_head(teacher, classes)
        head = module.get_classifier()  # type: ignore[operator]
        if isinstance(head, nn.Linear) and head.in_features == features:
            return module
    return HeadOnFeatures(copy.deepcopy(teacher.module).requires_grad_(True), features, classes)


def _head_of(module: nn.Module) -> nn.Linear:
    return module.get_classifier()  # type: ignore[operator]


def _features(teacher: Teacher, source: Source, view: ViewConfig, positions: np.ndarray) -> torch.Tensor:
    """Pooled features float32 [N, D] of unaugmented images."""
    views = Views(source, view.plain())
    parts = []
    for start in range(0, len(positions), 64):
        pixels = views.render(positions[start : start + 64], 0).pixels
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
    val_x: torch.Tensor | None,
    val_y: torch.Tensor | None,
    classes: int,
    seed: int,
) -> tuple[nn.Linear, float | None]:
    """Fit a linear head by AdamW on standardized features, which are then folded into it."""
    mean, std = x_ND.mean(0), x_ND.std(0).clamp_min(1e-6)
    z_ND = (x_ND - mean) / std
    best: tuple[float, nn.Linear] | None = None
    for decay in _DECAYS if val_x is not None else (0.1,):
        generator = torch.Generator().manual_seed(seed)
        head = nn.Linear(z_ND.shape[1], classes)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _PROBE_STEPS)
        for _ in range(_PROBE_STEPS):
            rows = torch.randint(len(z_ND), (min(512, len(z_ND)),), generator=generator)
            _probe_loss(head(z_ND[rows]), y_N[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        score = 0.0
        if val_x is not None and val_y is not None:
            with torch.no_grad():
                score = _score(head((val_x - mean) / std), val_y)
        if best is None or score > best[0]:
            best = score, head
    assert best is not None
    score, head = best
    with torch.no_grad():
        head.weight /= std
        head.bias.sub_(head.weight @ mean)
    return head, score if val_x is not None else None


def _probe_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if targets.ndim == 2:  # several labels: rare ones would drown in a smoothed target
        return F.binary_cross_entropy_with_logits(logits, targets.float())
    return F.cross_entropy(logits, targets, label_smoothing=0.05)


def _score(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of right answers; of several labels an image, the mean AUC (0.5 where no label can be ranked)."""
    if targets.ndim == 2:
        auc = mean_auc(logits.numpy(), targets.numpy())
        return 0.5 if auc is None else auc
    return float((logits.argmax(1) == targets).float().mean())


def _said(score: float, several: bool) -> str:
    return f"AUC {score:.3f}" if several else f"{score:.1%}"


def _fine_tune(
    module: nn.Module,
    teacher: Teacher,
    train: Source,
    val: Source | None,
    view: ViewConfig,
    folder: Path,
    config: TrainConfig,
) -> tuple[nn.Module, float | None]:
    """Train all weights gently; return the network and its validation accuracy."""
    tuned = copy.deepcopy(module)
    side: Input = (teacher.input_size, teacher.mean, teacher.std)
    views = Views(train, view, seed=config.seed)
    balance = config.balance == "sampling"
    feed = Feed(views, config.batch_size, balance=balance, seed=config.seed, device=teacher.device)
    loss = student_loss(LossConfig(label_smoothing=0.0 if train.multilabel else 0.05))
    fit(tuned, feed, loss, config, folder / "fine-tuning", evaluate=None, input=side, resume=True)
    if val is None:
        return tuned, None
    logits = predict_logits(tuned, plain_pixels(val, view), view, side)[0]
    targets = torch.from_numpy(np.asarray(val.targets))
    known = torch.from_numpy(labelled(val.targets))
    return tuned, _score(logits[known], targets[known])
