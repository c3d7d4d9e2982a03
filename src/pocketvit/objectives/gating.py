"""How much each of several teachers counts for each sample: equally, or by what it says, or by what it was worth.

A teacher may be wrong on an image and confident. "confidence" then follows it. "agreement" turns it down where two
others contradict it, "per_class" where it was seen to fail on the class, and "learned" where its answers looked like
this one when it failed on the validation split. None of them has a state that trains along with the student.
Shape legend: B samples, T teachers, C classes, F features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import PocketError
from ..labels import SoftLabels, TopLabels, decode
from .batch import Batch

FROM_VALIDATION = ("per_class", "learned")  # weights that need a `Gate`
GATE_L2 = 0.01  # on standardized coefficients, beside a mean cross-entropy: few validation images move little
_PRIOR = 2.0  # images at the teacher's overall share that count in the share of each class it names


@dataclass(frozen=True)
class Gate:
    """What the validation split taught about the teachers, before the student trains.

    Attributes:
        by_class: float32 [T, C]. For "per_class": accuracy on the images of each class. For "learned": share of right
            answers among those in which the teacher named the class.
        coefficients: float32 [T, 1 + F], for "learned" alone: an offset and a factor for each of `gate_features`.
    """

    by_class: torch.Tensor
    coefficients: torch.Tensor | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The same in numbers, as JSON holds them."""
        return {name: None if value is None else value.tolist() for name, value in vars(self).items()}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Gate:
        """Return the gate of a `record`."""
        coefficients = record["coefficients"]
        return cls(torch.tensor(record["by_class"]), None if coefficients is None else torch.tensor(coefficients))


def teacher_weights(kind: str, soft: Sequence[SoftLabels], batch: Batch, gate: Gate | None = None) -> torch.Tensor:
    """Return how much each teacher counts for each sample: float32 [B, T], rows sum to 1.

    Top-k labels serve every kind: the classes that are not stored share what is left of the probability evenly.

    Args:
        kind: "fixed": equal.
            "confidence": by the probability of the teacher's own class, which needs no labels (a label-free form of
            CA-MKD, Zhang et al. 2022).
            "agreement": by `agreement` with the mean of the other teachers. Between two teachers that is symmetric and
            cannot say who is right, so it says instead how much confidence decides: they count equally as far as they
            agree, and by confidence as far as they do not.
            "per_class": by the teacher's validation accuracy on the sample's class, both classes of a mixed image
            counting by their share, and on the class that the teacher sees where the label is unknown.
            "learned": by the gate of `fit_gate`, which needs no labels here.
        soft: One record a teacher. A single teacher always counts fully.
        batch: Gives classes and mixing ratios.
        gate: For "per_class" and "learned".

    Raises:
        PocketError: There is no gate where one is needed.
    """
    if kind == "fixed" or len(soft) == 1:
        return torch.full((len(batch), len(soft)), 1 / len(soft), device=batch.ratio.device)
    if kind in FROM_VALIDATION and gate is None:
        raise PocketError(
            f"weights {kind!r} are made on labelled validation images, and there are none. Use --teacher-weights "
            "agreement, confidence or fixed."
        )
    if kind == "confidence":
        scores = torch.stack([_top_probability(labels) for labels in soft], 1)
    elif kind == "agreement":
        scores = agreement([_probabilities(labels) for labels in soft])
        if len(soft) == 2:
            sure = torch.stack([_top_probability(labels) for labels in soft], 1)
            scores = scores + (1 - scores) * sure
    elif kind == "per_class":
        assert gate is not None
        scores = _accuracy_on_class(soft, batch, gate.by_class.to(batch.ratio.device))
    elif kind == "learned":
        assert gate is not None
        return _gated([_probabilities(labels) for labels in soft], gate)
    else:
        raise PocketError(f"there are no teacher weights {kind!r}.")
    # Teachers that are all at zero count equally.
    scores = scores.float() + 1e-6
    return scores / scores.sum(1, keepdim=True)


def agreement(probabilities: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return how far each of at least two teachers agrees with the others: [B, T] in [0, 1].

    The cosine between a teacher's probabilities [B, C] and the mean of the *other* teachers', so that none vouches for
    itself. The mean is the usual consensus of several teachers (You et al., Learning from Multiple Teacher Networks,
    KDD 2017); the cosine, unlike a divergence, stays bounded where a teacher excludes a class.
    """
    p_BTC = torch.stack(list(probabilities), 1)
    others_BTC = (p_BTC.sum(1, keepdim=True) - p_BTC) / (p_BTC.shape[1] - 1)
    return F.cosine_similarity(p_BTC, others_BTC, dim=2)


def gate_features(probabilities: Sequence[torch.Tensor], named: torch.Tensor) -> torch.Tensor:
    """Return what the learned gate looks at: [B, T, 5], none of which needs a label.

    Top probability, entropy as a share of log C, margin between the two likeliest classes, `agreement` with the other
    teachers, and how often the teacher was right when it named this class (from ``named`` [T, C]). Only the last can
    tell a teacher that is wrong and confident from one that is right and confident where all else is equal.
    """
    columns = []
    for p_BC, right_C in zip(probabilities, named, strict=True):
        (first_B, second_B), ids = (both.unbind(1) for both in p_BC.topk(2, dim=1))
        entropy_B = torch.special.entr(p_BC).sum(1) / math.log(p_BC.shape[1])
        columns.append(torch.stack([first_B, entropy_B, first_B - second_B, right_C[ids[0]]], 1))
    seen_BTF = torch.stack(columns, 1)
    agreed_BT = agreement(probabilities)
    return torch.cat([seen_BTF[:, :, :3], agreed_BT[:, :, None], seen_BTF[:, :, 3:]], 2)


def fit_gate(soft: Sequence[SoftLabels], targets: torch.Tensor) -> Gate:
    """Fit the weights "learned" on labelled images that no teacher was trained on.

    Teacher t of sample i weighs ``softmax_t(a_t + b_t . f_it)`` with the features f of `gate_features`. Offsets a and
    factors b minimize the cross-entropy of the weighed mixture of probabilities with the truth, plus a small L2 term:
    the gate of a mixture of experts (Jacobs et al., Neural Computation 1991) with the experts frozen. L-BFGS in float64
    from zero (equal weights), so that the result depends on the images alone.

    Args:
        soft: At least two teachers' labels of N unaugmented images, encoded as the student will see them.
        targets: int64 [N], -1 where unknown (left out).
    """
    known = (targets >= 0).nonzero()[:, 0]
    p_TNC = torch.stack([_probabilities(labels)[known].double().cpu() for labels in soft])
    y_N = targets[known].cpu()
    # A share of right answers that counted the sample itself would promise more than it holds: every other image of a
    # class is shown the shares of the rest.
    order_N = y_N.argsort(stable=True)
    odd = torch.empty(len(y_N), dtype=torch.bool)
    odd[order_N] = torch.arange(len(y_N)) % 2 == 1
    features_NTF = torch.empty(len(y_N), len(soft), 5, dtype=torch.float64)
    for half in (odd, ~odd):
        named_TC = torch.stack([_right_when_named(p_NC[~half], y_N[~half]) for p_NC in p_TNC])
        features_NTF[half] = gate_features(list(p_TNC[:, half]), named_TC)
    mean_TF, std_TF = features_NTF.mean(0), features_NTF.std(0, correction=0).clamp_min(1e-6)
    inputs_NTF = (features_NTF - mean_TF) / std_TF
    truth_NT = p_TNC[:, torch.arange(len(y_N)), y_N].T.clamp_min(1e-12).log()
    theta = torch.zeros(len(soft), 6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [theta], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        log_weights_NT = (theta[:, 0] + (inputs_NTF * theta[:, 1:]).sum(2)).log_softmax(1)
        loss = -(log_weights_NT + truth_NT).logsumexp(1).mean() + GATE_L2 / 2 * theta.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    factors_TF = theta.detach()[:, 1:] / std_TF
    offsets_T1 = theta.detach()[:, :1] - (factors_TF * mean_TF).sum(1, keepdim=True)
    named_TC = torch.stack([_right_when_named(p_NC, y_N) for p_NC in p_TNC])
    return Gate(named_TC.float(), torch.cat([offsets_T1, factors_TF], 1).float())


def _gated(probabilities: Sequence[torch.Tensor], gate: Gate) -> torch.Tensor:
    assert gate.coefficients is not None
    device = probabilities[0].device
    coefficients_TF = gate.coefficients.to(device)
    features_BTF = gate_features(probabilities, gate.by_class.to(device))
    return (coefficients_TF[:, 0] + (features_BTF * coefficients_TF[:, 1:]).sum(2)).softmax(1)


def _right_when_named(p_NC: torch.Tensor, y_N: torch.Tensor) -> torch.Tensor:
    """Share [C] of right answers among those that name a class, drawn to the overall share for rarely named ones."""
    said_N, classes = p_NC.argmax(1), p_NC.shape[1]
    right_N = (said_N == y_N).to(p_NC.dtype)
    overall = (right_N.sum() + 1) / (len(y_N) + 2)
    named_C = torch.bincount(said_N, minlength=classes)
    right_C = torch.bincount(said_N, weights=right_N, minlength=classes)
    return (right_C + _PRIOR * overall) / (named_C + _PRIOR)


def _accuracy_on_class(soft: Sequence[SoftLabels], batch: Batch, accuracy_TC: torch.Tensor) -> torch.Tensor:
    columns = []
    for accuracy_C, labels in zip(accuracy_TC, soft, strict=True):
        seen = labels.top1
        own = accuracy_C[torch.where(batch.targets >= 0, batch.targets, seen)]
        partner = accuracy_C[torch.where(batch.partner_targets >= 0, batch.partner_targets, seen)]
        columns.append(batch.ratio * own + (1 - batch.ratio) * partner)
    return torch.stack(columns, 1)


def _probabilities(labels: SoftLabels) -> torch.Tensor:
    """Probabilities float32 [B, C] at temperature 1; the classes that are not stored share their total evenly."""
    return decode(labels).softmax(1)


def _top_probability(labels: SoftLabels) -> torch.Tensor:
    """Probability float32 [B] of the likeliest class at temperature 1."""
    if isinstance(labels, TopLabels):
        return torch.exp(-torch.logaddexp(labels.values.logsumexp(1), labels.lse_rest))
    return decode(labels).softmax(1).amax(1)
