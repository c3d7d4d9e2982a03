"""Several detectors' boxes as those of one.

Shape legend: B images, M boxes of all of them, F fused boxes, C classes, T detectors; a group is the boxes of one class
in one image, there are G, of at most R boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from ..models.decoding import OVERLAP


class Found(Protocol):
    """What a detector found in B images, as `SoftBoxes` and stored `labels.BoxLabels` have it."""

    @property
    def offsets(self) -> Tensor: ...
    @property
    def corners(self) -> Tensor: ...
    @property
    def probabilities(self) -> Tensor: ...
    @property
    def unknown(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class SoftBoxes:
    """Boxes of B images, any number of each.

    Attributes:
        offsets: int64 [B + 1], image b has the boxes offsets[b] to offsets[b + 1].
        corners: float32 [M, 4]: left, top, right, bottom, in any unit.
        probabilities: float32 [M, C].
        unknown: Classes that nothing is said of.
    """

    offsets: Tensor
    corners: Tensor
    probabilities: Tensor
    unknown: tuple[int, ...] = ()


@torch.no_grad()
def fuse_boxes(found: Sequence[Found], least: float = 0.0) -> SoftBoxes:
    """Merge what several detectors found: weighted boxes fusion, Solovyev et al., 2021 (arXiv 1910.13302).

    In each image and class, the surest box first, a box joins the fused box that it overlaps most, if by more than
    `OVERLAP`, or else begins one. Of the n boxes b_i in one, with probabilities p_i and sureness s_i = max p_i,

        box = sum of s_i b_i / sum of s_i,    probability of class c = sum of p_ic / max(n_c, N_c)

    where N_c detectors know class c, n_c of the boxes among theirs: the mean, where all of them see it, and for what
    one of two sees a half of that. Before, of boxes of one detector that show the same the surest is kept (non-maximum
    suppression; the paper takes detectors that have done so), so that what a single one found stays as it is.

    Args:
        found: By each detector, in the same B images, classes and unit.
        least: Boxes whose likeliest class has no more than this probability are left out.

    Returns:
        The fused boxes, of each image the surest first.
    """
    images, teachers = (torch.cat(parts) for parts in zip(*map(_owners, found, range(len(found))), strict=True))
    corners, probabilities = (torch.cat([getattr(one, name) for one in found]) for name in ("corners", "probabilities"))
    count, classes = len(found[0].offsets) - 1, probabilities.shape[1]
    knows_TC = torch.ones(len(found), classes, device=corners.device)
    for row, one in zip(knows_TC, found, strict=True):
        row[list(one.unknown)] = 0
    sureness, labels = probabilities.max(1)
    rows = (sureness > least).nonzero()[:, 0]
    apart = (teachers[rows] * count + images[rows]) * classes + labels[rows]
    rows = rows[batched_nms(corners[rows], sureness[rows], apart, OVERLAP)]  # the surest first
    groups = images[rows] * classes + labels[rows]
    cluster, middle = _clusters(corners[rows], sureness[rows], groups)
    shape = (len(middle), classes)
    asked = knows_TC.new_zeros(shape).index_add_(0, cluster, knows_TC[teachers[rows]]).maximum(knows_TC.sum(0))
    merged = probabilities.new_zeros(shape).index_add_(0, cluster, probabilities[rows]) / asked.clamp_min(1)
    whose = images.new_empty(len(middle)).scatter_(0, cluster, images[rows])
    order = merged.amax(1).argsort(descending=True, stable=True)
    order = order[whose[order].argsort(stable=True)]
    counts = torch.bincount(whose, minlength=count)
    return SoftBoxes(
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        middle[order],
        merged[order],
        tuple((knows_TC.sum(0) == 0).nonzero()[:, 0].tolist()),
    )


def _owners(one: Found, number: int) -> tuple[Tensor, Tensor]:
    """Return the image of each box of detector ``number``, and its number, int64 [M] each."""
    offsets = one.offsets.to(one.corners.device)
    images = torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff())
    return images, torch.full_like(images, number)


def _clusters(corners: Tensor, sureness: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Put boxes of which the surest come first into clusters, within each group.

    All groups take their next box at once: a step per box of the largest group, not one per box.

    Returns:
        The cluster of each box, int64 [M], and the weighted mean of each cluster's boxes, float32 [F, 4].
    """
    _, groups, sizes = groups.unique(return_inverse=True, return_counts=True)
    large_first = sizes.argsort(descending=True)
    groups, sizes = large_first.argsort()[groups], sizes[large_first]  # those that still have boxes come first
    rows = groups.argsort(stable=True)
    starts = sizes.cumsum(0) - sizes
    most = int(sizes.max()) if len(sizes) else 0
    means_GR4, weights_GR = corners.new_zeros(len(sizes), most, 4), sureness.new_zeros(len(sizes), most)
    made_G, place_M = torch.zeros_like(sizes), torch.zeros_like(rows)
    for rank, open_ in enumerate((sizes > torch.arange(most, device=sizes.device)[:, None]).sum(1).tolist()):
        now, here = rows[starts[:open_] + rank], torch.arange(open_, device=rows.device)
        overlap, place = overlaps(corners[now][:, None], means_GR4[:open_, : rank + 1]).max(1)
        place = torch.where(overlap > OVERLAP, place, made_G[:open_])
        made_G[:open_] = torch.maximum(made_G[:open_], place + 1)
        weights_GR[here, place] += sureness[now]
        share = sureness[now] / weights_GR[here, place]
        means_GR4[here, place] += share[:, None] * (corners[now] - means_GR4[here, place])
        place_M[now] = place
    there = torch.arange(most, device=sizes.device) < made_G[:, None]
    return (made_G.cumsum(0) - made_G)[groups] + place_M, means_GR4[there]


def overlaps(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes [..., 4], of what broadcasts; 0 where neither has an area."""
    inner = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp_min(0)
    common = inner.prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (one, other)]
    return common / (areas[0] + areas[1] - common).clamp_min(torch.finfo(common.dtype).tiny)
