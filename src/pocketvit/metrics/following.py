"""Which teacher does each head of a student follow? Paired over the images on which two teachers pull it apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import rel_entr
from scipy.stats import binomtest

from ..errors import PocketError


@dataclass(frozen=True)
class Pull:
    """One token between its own teacher and another: a sign test over the images where it agrees with one alone.

    McNemar 1947, in its exact form: were the token drawn to both alike, such an image would be a coin's toss. Images of
    one patient resemble each other, and all of them are one toss, which falls to the side that most of them are on.

    Attributes:
        own: Index of the token and of its teacher.
        other: Index of the other teacher.
        own_only: Images (or groups of them) where the token's class is its own teacher's and not the other's.
        other_only: Those where it is the other teacher's and not its own's.
        n: Images (or groups of them) in all.
        interval: 95 % interval (Clopper-Pearson, given how many such images there are) of the difference between the
            two agreements, a share of ``n``; None where there is no such image.
        unit: What was counted, in the plural.
    """

    own: int
    other: int
    own_only: int
    other_only: int
    n: int
    interval: tuple[float, float] | None
    unit: str = "images"

    @property
    def verdict(self) -> int:
        """1 where the token is seen to follow its own teacher more, -1 where the other, 0: no difference seen."""
        if self.interval is None:
            return 0
        return int(self.interval[0] > 0) - int(self.interval[1] < 0)


@dataclass(frozen=True)
class Following:
    """How far each head of a student says what each teacher says, over ``n`` images.

    Attributes:
        n: Images.
        agreement: float64 [1 + T, T], the share of images on which the head (class head, token 1, ...) and the teacher
            give the same class.
        kl: float64 [1 + T, T], the mean of KL(teacher || head) in nats.
        pulls: For every token, its own teacher against each other.
    """

    n: int
    agreement: np.ndarray
    kl: np.ndarray
    pulls: tuple[Pull, ...]

    def words(self, teachers: Sequence[str]) -> str:
        """Say in a sentence whether each token follows its own teacher more than the others."""
        tokens = self.agreement.shape[1]
        others = "the other" if tokens == 2 else "any other"
        own = {pull.own for pull in self.pulls} - {pull.own for pull in self.pulls if pull.verdict < 1}
        if len(own) == tokens:
            first = f"each token follows its own teacher more than {others}"
        elif own:
            names = " and ".join(f"token {t + 1}" for t in sorted(own))
            first = f"only {names} {'follows its' if len(own) == 1 else 'follow their'} own teacher more than {others}"
        elif any(pull.verdict < 0 for pull in self.pulls):
            first = f"no token follows its own teacher more than {others}"
        else:
            first = f"no difference seen between a token's own teacher and {others}"
        return f"{first}: {'; '.join(_say(pull, teachers) for pull in self.pulls)}"

    def data(self, teachers: Sequence[str]) -> dict[str, Any]:
        """Return everything as JSON-like values, with the teachers' names."""
        return {
            "n": self.n,
            "teachers": list(teachers),
            "heads": ["class head", *(f"token {t}" for t in range(1, len(self.agreement)))],
            "agreement": self.agreement.tolist(),
            "kl": self.kl.tolist(),
            "pulls": [asdict(pull) for pull in self.pulls],
            "words": self.words(teachers),
        }


def following(
    heads: Sequence[np.ndarray], teachers: Sequence[np.ndarray], groups: np.ndarray | None = None
) -> Following:
    """Compare every head of a student with every teacher.

    Args:
        heads: T + 1 arrays floating [n, C] of probabilities: the class head's, then token t's for teacher t.
        teachers: T arrays of the same shape, at least two.
        groups: int [n], which images belong together (a patient's, the tiles of a picture); None: each is on its own.

    Raises:
        PocketError: There are no images, or the numbers of heads, images or classes do not fit.
    """
    shapes = {np.shape(array) for array in (*heads, *teachers)}
    if len(teachers) < 2 or len(heads) != len(teachers) + 1 or len(shapes) != 1 or not np.shape(heads[0])[0]:
        raise PocketError(
            f"{len(heads)} heads and {len(teachers)} teachers with answers of {sorted(shapes)} cannot be compared: a "
            "class head, a token for each of at least two teachers, and the same images and classes are needed."
        )
    answers_HN = np.stack([np.argmax(head, 1) for head in heads])
    answers_TN = np.stack([np.argmax(teacher, 1) for teacher in teachers])
    same_HTN = answers_HN[:, None] == answers_TN[None]
    pulls = []
    for own in range(len(teachers)):
        for other in [t for t in range(len(teachers)) if t != own]:
            pulls.append(_pull(own, other, same_HTN[1 + own, own], same_HTN[1 + own, other], groups))
    kl = np.array([[_divergence(teacher, head) for teacher in teachers] for head in heads])
    return Following(same_HTN.shape[2], same_HTN.mean(2), kl, tuple(pulls))


def _pull(own: int, other: int, with_own_N: np.ndarray, with_other_N: np.ndarray, groups: np.ndarray | None) -> Pull:
    side = with_own_N.astype(np.int64) - with_other_N
    unit = "images"
    if groups is not None:
        _, group_N = np.unique(groups, return_inverse=True)
        side = np.bincount(group_N, weights=side)
        unit = "groups of images"
    own_only, other_only = int((side > 0).sum()), int((side < 0).sum())
    apart, n = own_only + other_only, len(side)
    if not apart:
        return Pull(own, other, 0, 0, n, None, unit)
    share = binomtest(own_only, apart).proportion_ci(0.95, method="exact")
    low, high = ((2 * float(bound) - 1) * apart / n for bound in (share.low, share.high))
    return Pull(own, other, own_only, other_only, n, (low, high), unit)


def _divergence(teacher_NC: np.ndarray, head_NC: np.ndarray) -> float:
    """Mean over images of KL(teacher || head); a head's probability that rounds to 0 counts as the least float32."""
    head_NC = np.clip(np.asarray(head_NC, np.float64), np.finfo(np.float32).tiny, None)
    return float(rel_entr(np.asarray(teacher_NC, np.float64), head_NC).sum(1).mean())


def _say(pull: Pull, teachers: Sequence[str]) -> str:
    own, other, token = teachers[pull.own], teachers[pull.other], f"token {pull.own + 1}"
    if pull.interval is None:
        return f"{token} agrees with {own} and {other} on the same of {pull.n:,} {pull.unit}"
    low, high = pull.interval
    verdict = {1: "", 0: "no difference seen, ", -1: f"it follows {other} more, "}[pull.verdict]
    return (
        f"{token} agrees with {own} alone on {pull.own_only:,} of {pull.n:,} {pull.unit} and with {other} alone on "
        f"{pull.other_only:,} ({verdict}{100 * (pull.own_only - pull.other_only) / pull.n:+.1f} points, 95 % interval "
        f"{100 * low:+.1f} to {100 * high:+.1f})"
    )
