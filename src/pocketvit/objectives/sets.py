"""The loss of a detector that answers a set: matched to boxes in every decoder layer, true ones or a teacher's.

With true boxes it is the loss of LW-DETR (Chen et al., 2024, arXiv 2406.03459). A teacher's boxes are matched likewise
in every layer, as in DETRDistill (Chang et al., ICCV 2023, arXiv 2211.10156), but they come from a store, of any
detector, and what it is unsure of is left out on both sides. (DETRDistill and KD-DETR, Wang et al., CVPR 2024, run a
teacher with queries of its own beside the student.)

Shape legend: S sets (see `models.set_detector`), B images, N queries of all groups, C classes, m boxes of an image, K
matched pairs.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss

from ..teachers.fusion import overlaps

if TYPE_CHECKING:
    from .detection import BoxTargets, Terms

# As in LW-DETR.
CLASSES, SIDES, GIOU = 1.0, 5.0, 2.0  # weights in the loss
CLASSES_COST = 2.0  # of the classes in the matching; the others weigh as in the loss
ALPHA = 0.25  # of the focal cost; and how much of a target is the score itself
_LEAST = 0.01  # target of what is there, however bad its box still is


class Queries(NamedTuple):
    """What a set detector answers: logits [S, B, N, C], boxes [S, B, N, 4] (centre, width, height in shares).

    ``each`` is the number of queries of a group; each group is to find everything.
    """

    logits: Tensor
    boxes: Tensor
    each: int


def set_loss(answers: Queries, targets: BoxTargets, class_weights: Tensor | None = None) -> tuple[Tensor, Terms]:
    """Compare sets with boxes; images that nobody looked at are left out.

    In each set, image and group, queries are matched one to one with boxes (Hungarian algorithm) at the least cost
    ``2 focal + 5 L1 + 2 (1 - GIoU)``. With y how much a class is there (0 or 1, or a teacher's probability; 0 where a
    query has no match), p its score and u the IoU of a query's box with its match,

        t = y^(1 - a) max(p^a u^(1 - a), .01),  a = 1/4         how good an answer it is, not to be learned from
        classes = sum of (y + (1 - y) |p - t|^2) BCE(p, t)      over all queries
        sides   = 5 sum of |box - match|                        over the matched ones,
        giou    = 2 sum of 1 - GIoU                             weighted by how much their boxes count

    each divided by the number of matches that count, and summed over the sets. For y of 0 and 1 the classes are the
    IoU-aware BCE of LW-DETR (Cai et al., "Align-DETR", 2023), between them the quality focal loss (Li et al., 2020).

    An ignored box is not matched, and a query whose middle lies in one and that has no match is not asked what it is.

    Args:
        answers: Of the detector.
        targets: Boxes in the frame of a view.
        class_weights: float32 [C], how much each class counts, and the boxes of it; None for all alike.

    Returns:
        The sum of the three, and they, detached.
    """
    corners_M4 = targets.corners / targets.side
    centred_M4 = box_convert(corners_M4, "xyxy", "cxcywh")
    ignored, known = targets.ignored.cpu(), targets.known.tolist()  # once: each copy waits for the device
    asked = torch.ones_like(answers.logits[..., 0])
    pairs = []
    for image, (start, stop) in enumerate(itertools.pairwise(targets.offsets.tolist())):
        row = torch.arange(start, stop)
        learned, blind = row[~ignored[row]], row[ignored[row]].to(corners_M4.device)
        if not known[image]:
            asked[:, image] = 0
            continue
        middle = answers.boxes[:, image, :, None, :2]
        in_blind = ((middle > corners_M4[blind, :2]) & (middle < corners_M4[blind, 2:])).all(-1).any(-1)
        asked[:, image].masked_fill_(in_blind, 0)
        here = learned.to(corners_M4.device)
        sets, queries, boxes = _matched(answers, image, targets.classes[here], centred_M4[here])
        pairs.append(torch.stack([sets, torch.full_like(sets, image), queries, learned[boxes]]))
    at_K = torch.cat(pairs, 1) if pairs else torch.zeros(4, 0, dtype=torch.int64)
    at, owner = tuple(at_K[:3].to(corners_M4.device)), at_K[3].to(corners_M4.device)
    asked[at] = 1
    weight_K = targets.weights[owner]
    total = weight_K.sum().div(len(answers.logits)).clamp_min(1)
    found = answers.boxes[at]
    found_corners = box_convert(found, "cxcywh", "xyxy")

    wanted = torch.zeros_like(answers.logits)
    wanted[at] = targets.classes[owner]
    with torch.no_grad():
        share = overlaps(found_corners, corners_M4[owner])[:, None]
        good = answers.logits[at].sigmoid() ** ALPHA * share ** (1 - ALPHA)
        target = torch.zeros_like(answers.logits)
        target[at] = wanted[at] ** (1 - ALPHA) * good.clamp_min(_LEAST)
    entropy = F.binary_cross_entropy_with_logits(answers.logits, target, reduction="none")
    away = (answers.logits.sigmoid() - target).square()
    classes = (wanted + (1 - wanted) * away) * entropy * asked[..., None]
    if class_weights is not None:
        classes = classes * class_weights
        weight_K = weight_K * class_weights[targets.classes.argmax(1)][owner]
    sides = (weight_K * (found - centred_M4[owner]).abs().sum(1)).sum()
    giou = (weight_K * generalized_box_iou_loss(found_corners, corners_M4[owner])).sum()
    parts = {"classes": CLASSES * classes.sum(), "sides": SIDES * sides, "giou": GIOU * giou}
    parts = {name: value / total for name, value in parts.items()}
    return torch.stack(list(parts.values())).sum(), {name: value.detach() for name, value in parts.items()}


@torch.no_grad()
def _matched(answers: Queries, image: int, classes: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return set, query and box, int64 [K] each on the processor, of the matches in an image.

    Args:
        answers: Of the detector.
        image: Which.
        classes: float32 [m, C].
        boxes: float32 [m, 4]: centre, width and height.
    """
    logits, found = answers.logits[:, image], answers.boxes[:, image]
    there = F.softplus(-logits) * (1 - logits.sigmoid()) ** 2 * ALPHA
    nothing = F.softplus(logits) * logits.sigmoid() ** 2 * (1 - ALPHA)
    focal = (there - nothing) @ classes.T
    corners = (box_convert(one, "cxcywh", "xyxy") for one in (found.flatten(0, 1), boxes))
    giou = generalized_box_iou(*corners)
    cost = CLASSES_COST * focal + SIDES * torch.cdist(found, boxes, p=1) - GIOU * giou.view(focal.shape)
    cost = cost.nan_to_num(nan=1e6, posinf=1e6, neginf=1e6).cpu().numpy()  # a loss that is not finite is told later
    result = []
    for number, one in enumerate(cost):
        for first in range(0, one.shape[0], answers.each):
            queries, columns = linear_sum_assignment(one[first : first + answers.each])
            result += [(number, first + query, column) for query, column in zip(queries, columns, strict=True)]
    return tuple(torch.tensor(result, dtype=torch.int64).reshape(-1, 3).T)
