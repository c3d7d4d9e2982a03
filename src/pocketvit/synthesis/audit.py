"""What a bank was made from, and what can be said of it without a real image: a figure and a sentence for each.

A teacher's accuracy on images made for it says nothing (it is near 100 % of the poorest ones), so that it is not among
them. Real images, where there are any for judging, come in at the end, and never in here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import PocketError
from ..teachers import Teacher
from .bank import Bank, near_duplicates, thumbnails
from .priors import head_path
from .statistics import Inputs

_SAMPLE = 1024  # images that networks look at


@dataclass(frozen=True)
class Audit:
    """Of one bank.

    Attributes:
        used: what the images depend on: real images, statistics, preprocessing, labels.
        images, classes: their numbers.
        smallest, largest: share of the rarest and of the commonest class, by the teacher's answers.
        entropy: of the teacher's mean prediction, of log C: 1 where all classes are equally likely.
        confidence: mean of the teacher's highest probability.
        alike: share of images that look like an earlier one.
        rank: effective number of directions in the teacher's features (Roy & Vetterli 2007), of a sample; None without.
        verified: share of a sample that an independent network answers as the teacher does; None without one.
        verifier: its name.
    """

    used: dict[str, Any]
    images: int
    classes: int
    smallest: float
    largest: float
    entropy: float
    confidence: float
    alike: float
    rank: float | None
    verified: float | None
    verifier: str | None

    @property
    def data_free(self) -> bool:
        """Whether no real image stands behind it, directly or by recorded statistics."""
        return self.used["real_images"] == 0 and self.used["card_images"] == 0

    @property
    def lines(self) -> list[str]:
        """A sentence for each."""
        used, equal = self.used, 1 / self.classes
        lines = [_what(used)]
        lines.append(
            f"{self.images:,} images: the rarest of {self.classes} classes has {self.smallest:.2%} of them, the "
            f"commonest {self.largest:.2%}; {equal:.2%} would be equal."
        )
        even = (
            "evenly spread"
            if self.entropy > 0.97
            else "uneven"
            if self.entropy > 0.9
            else "concentrated on few classes"
        )
        lines.append(
            f"The mean prediction is {even} (entropy {self.entropy:.2f} of 1); the teacher's highest probability is "
            f"{self.confidence:.2f} on average."
        )
        lines.append(
            f"{self.alike:.1%} of the images look like an earlier one."
            + (" That is many: a student sees fewer different images than there are." if self.alike > 0.05 else "")
        )
        if self.rank is not None:
            lines.append(f"They span {self.rank:.0f} effective directions of the teacher's features.")
        if self.verified is not None:
            lines.append(f"{self.verifier}, trained on its own, gives {self.verified:.1%} of them the teacher's class.")
        return lines


def _what(used: dict[str, Any]) -> str:
    if used["real_images"]:
        amount = "one real image" if used["real_images"] == 1 else f"{used['real_images']:,} real images"
        return f"NOT data-free: made from {amount}."
    if used["card_images"]:
        return f"Statistics-assisted, NOT data-free: feature moments of {used['card_images']:,} real images were used."
    kept = f", its statistics ({'; '.join(used['priors'])})" if used["priors"] else ""
    return f"Data-free: of real data, nothing but the teacher{kept}, and its preprocessing were used. No labels."


def audit_bank(bank: Bank, teacher: Teacher, verifier: Teacher | None = None, seed: int = 0) -> Audit:
    """Judge a bank.

    Args:
        bank: finished.
        teacher: that it was made from.
        verifier: a network of the same classes that had no part in it.
        seed: of the sample that networks look at.

    Raises:
        PocketError: the verifier has other classes.
    """
    if verifier is not None and verifier.num_outputs != teacher.num_outputs:
        raise PocketError(
            f"the verifier {verifier.name} has {verifier.num_outputs} classes and the teacher {teacher.num_outputs}: "
            "give a network of the same classes."
        )
    probabilities = bank.probabilities
    answers = probabilities.argmax(1)
    shares = np.bincount(answers, minlength=probabilities.shape[1]) / len(bank)
    rows = np.sort(np.random.Generator(np.random.Philox(seed)).permutation(len(bank))[:_SAMPLE])
    sample = torch.from_numpy(np.ascontiguousarray(bank.images[rows].transpose(0, 3, 1, 2)))
    verified = None
    if verifier is not None:
        said = torch.cat([verifier.logits(part).cpu() for part in sample.split(128)]).argmax(1).numpy()
        verified = float((said == answers[rows]).mean())
    features = head_features(teacher, sample)
    return Audit(
        used=what_was_used(bank),
        images=len(bank),
        classes=probabilities.shape[1],
        smallest=float(shares.min()),
        largest=float(shares.max()),
        entropy=entropy(probabilities.mean(0)),
        confidence=float(probabilities.max(1).mean()),
        alike=float(near_duplicates(_thumbnails(bank), answers).mean()),
        rank=None if features is None else effective_rank(features),
        verified=verified,
        verifier=None if verifier is None else verifier.name,
    )


def what_was_used(bank: Bank) -> dict[str, Any]:
    """Return what a bank's images depend on, through the banks it was started from as well."""
    record = bank.provenance["provenance"]
    return {
        "real_images": _most(record, "real_images"),
        "card_images": _most(record, "statistics_card_images"),
        "priors": bank.provenance.get("made", {}).get("priors", []),
        "preprocessing": record["teacher"]["preprocessing"],
        "labels": 0,
    }


def _most(record: Any, name: str) -> int:
    """The largest value of a field anywhere in a record: banks that start from others hold theirs."""
    if isinstance(record, dict):
        own = record.get(name, 0)
        return max([own if isinstance(own, int) else 0, *(_most(part, name) for part in record.values())])
    return max((_most(part, name) for part in record), default=0) if isinstance(record, list) else 0


def _thumbnails(bank: Bank, chunk: int = 4096) -> np.ndarray:
    parts = (bank.images[start : start + chunk].transpose(0, 3, 1, 2) for start in range(0, len(bank), chunk))
    return np.concatenate([thumbnails(part) for part in parts])


def entropy(prediction: np.ndarray) -> float:
    """Entropy of a distribution [C], of log C."""
    return float(-(prediction * np.log(np.clip(prediction, 1e-12, 1))).sum() / math.log(len(prediction)))


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the normalized singular values of centred features [N, D]."""
    values = torch.linalg.svdvals((features - features.mean(0)).double())
    share = values / values.sum().clamp_min(1e-12)
    return float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum()))


def head_features(teacher: Teacher, images: Tensor) -> Tensor | None:
    """Return what a teacher's head sees of uint8 [N, 3, S, S]: float32 [N, D]; None where it has no linear head."""
    path = head_path(teacher.module)
    if path is None:
        return None
    inputs = Inputs(teacher.module, [path])
    try:
        parts = []
        for part in images.split(128):
            teacher.logits(part)
            parts.append(inputs.take()[path].flatten(1).float().cpu())
        return torch.cat(parts)
    finally:
        inputs.remove()
