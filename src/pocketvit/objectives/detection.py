"""Losses of a detector that answers on a grid: with true boxes, with a teacher's boxes, with a teacher's own grid.

(Of one that answers a set see `sets`; `compare` takes either.)

Assignment of places to boxes and the GIoU loss are torchvision's. With true boxes the loss is torchvision's FCOS loss;
with soft classes its focal part becomes the quality focal loss, which is the same for classes that are 0 or 1.

Shape legend: B images, P places, C classes, M boxes of all images.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.fcos import FCOS
from torchvision.ops import batched_nms, generalized_box_iou_loss

from ..errors import PocketError
from ..sources.boxes import Boxes
from ..teachers.fusion import Found
from .logits import Objective
from .sets import Queries, set_loss

if TYPE_CHECKING:
    from ..models.detector import Grid

Terms = dict[str, Tensor]

RADIUS = 1.5  # a box is looked for within so many sides of a place's own box from its middle
ALPHA = 0.25  # weight of what is there; of what is not, 1 - ALPHA (Lin et al., "Focal Loss", ICCV 2017)
SURE, UNSURE = 0.5, 0.2  # a teacher's boxes of at least SURE are learned; between the two nothing is
FAINT = 0.05  # probability up to which a box is not fused: there are many, and they change little
SAME = 0.6  # overlap from which two boxes of one class are one
_WORTH = 0.05  # weight from which a teacher's place is asked for its box
_DENSE_CLASSES = 4.0  # weight of the classes in `dense_loss`, which has no ALPHA


class Dense(NamedTuple):
    """What a detector answers at each place: logits [B, P, C], distances [B, P, 4], centre logits [B, P, 1]."""

    logits: Tensor
    distances: Tensor
    middles: Tensor

    @property
    def scores(self) -> Tensor:
        """[B, P, C]: the root of a class's probability times that of being in the middle, as FCOS ranks its boxes."""
        return (self.logits.sigmoid() * self.middles.sigmoid()).sqrt()


@dataclass
class BoxTargets:
    """What B images are to be answered with, on one device.

    Attributes:
        offsets: int64 [B + 1], image b has the boxes offsets[b] to offsets[b + 1]; always on the processor.
        corners: float32 [M, 4] in pixels of the view.
        classes: float32 [M, C], how much each class is there.
        weights: float32 [M], how much each box counts.
        ignored: bool [M]: nothing is learned where these are.
        known: bool [B], whether anybody looked.
        side: Of the view in pixels.
    """

    offsets: Tensor
    corners: Tensor
    classes: Tensor
    weights: Tensor
    ignored: Tensor
    known: Tensor
    side: int

    @classmethod
    def of(cls, boxes: Boxes, num_classes: int, side: int) -> BoxTargets:
        """Return true boxes in the frame of a view."""
        return cls(
            torch.from_numpy(boxes.offsets),
            torch.from_numpy(boxes.corners),
            torch.eye(num_classes)[torch.from_numpy(boxes.labels)],
            torch.ones(len(boxes.labels)),
            torch.from_numpy(boxes.ignored),
            torch.from_numpy(np.array(boxes.known)),
            side,
        )

    def __len__(self) -> int:
        return len(self.known)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> BoxTargets:
        """Move to a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> BoxTargets:
        """Copy to page-locked memory, from where transfers do not block."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Any) -> BoxTargets:
        moved = {name: function(getattr(self, name)) for name in ("corners", "classes", "weights", "ignored", "known")}
        return dataclasses.replace(self, **moved)


class _Assigner:
    """Stands in for torchvision's FCOS, which assigns places to boxes in the method that then calls its head's loss.

    Each place gets the smallest box whose middle is near and whose size is of the place's map, or -1.
    """

    center_sampling_radius = RADIUS

    def __init__(self) -> None:
        self.head = self

    def compute_loss(self, targets: Any, outputs: Any, places: Any, matched: list[Tensor]) -> list[Tensor]:
        return matched


_ASSIGNER = _Assigner()


def assign(corners: list[Tensor], grid: Grid) -> list[Tensor]:
    """Return the box that each place answers for, int64 [P] per image, -1 for none.

    Args:
        corners: float32 [m, 4] of each image, in pixels of the grid.
        grid: The places.
    """
    targets: Any = [{"boxes": boxes} for boxes in corners]
    places = [grid.places] * len(corners)
    return FCOS.compute_loss(_ASSIGNER, targets, {}, places, list(grid.counts))


def quality_focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """``|sigmoid(x) - y|^2 BCE(x, y)``, elementwise: Li et al., "Generalized Focal Loss", NeurIPS 2020."""
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (logits.sigmoid() - wanted).square() * entropy


def boxes_loss(
    answers: Dense, targets: BoxTargets, grid: Grid, class_weights: Tensor | None = None
) -> tuple[Tensor, Terms]:
    """Compare a detector's answers with boxes: FCOS, Tian et al., ICCV 2019; images that nobody looked at are left out.

        classes = sum of alpha |sigmoid(x) - y|^2 BCE(x, y) over places and classes
        boxes   = sum of 1 - GIoU over the places that answer for a box
        middles = sum of BCE with sqrt(min(l, r) / max(l, r) min(t, b) / max(t, b)) over them

    each weighted by its box and divided by the weights of those places. Where only an ignored box is, nothing is asked;
    nor at the place nearest to a box that no place answers for, as small ones between two places are.

    Args:
        answers: Of the detector.
        targets: Boxes in the frame of a view.
        grid: The detector's.
        class_weights: float32 [C], how much each class counts, and the boxes of it; None for all alike.

    Returns:
        The sum of the three, and they, detached.
    """
    scale = grid.size / targets.side
    pieces = targets.offsets.tolist()
    rows = [torch.arange(start, stop) for start, stop in itertools.pairwise(pieces)]
    corners_M4 = targets.corners * scale
    ignored = targets.ignored.cpu()  # once: each copy waits for the device
    learned = [row[~ignored[row]] for row in rows]
    matched = assign([corners_M4[row] for row in learned], grid)
    places = torch.stack([_global(row, match) for row, match in zip(learned, matched, strict=True)])  # [B, P], -1: none
    there = places >= 0
    owner = places[there]
    wanted = torch.zeros_like(answers.logits)
    wanted[there] = targets.classes[owner]
    weight_BP = torch.ones_like(places, dtype=wanted.dtype)
    weight_BP[there] = targets.weights[owner]
    for image, row in enumerate(rows):
        blind = row[ignored[row]]
        if len(blind):
            weight_BP[image, _covered(grid, corners_M4[blind]) & ~there[image]] = 0
    answered = targets.ignored.clone()
    answered[owner] = True
    images, nearest = _nearest(grid, corners_M4, targets.offsets, ~answered)
    weight_BP[images, nearest] *= there[images, nearest]
    weight_BP = weight_BP * targets.known[:, None]
    total = (weight_BP * there).sum().clamp_min(1)
    balance = ALPHA * wanted + (1 - ALPHA) * (1 - wanted)
    asked = balance * quality_focal(answers.logits, wanted)
    box_weights = weight_BP[there]
    if class_weights is not None:
        asked = asked * class_weights
        box_weights = box_weights * class_weights[targets.classes.argmax(1)][owner]
    classes = (weight_BP[..., None] * asked).sum() / total
    found = grid.boxes(answers.distances)[there]
    boxes = (box_weights * generalized_box_iou_loss(found, corners_M4[owner])).sum() / total
    place_boxes = grid.places.expand(len(places), -1, -1)[there]
    centred = _middle(place_boxes, corners_M4[owner])
    middles = F.binary_cross_entropy_with_logits(answers.middles[..., 0][there], centred, reduction="none")
    middles = (box_weights * middles).sum() / total
    return _summed(classes, boxes, middles)


def dense_loss(student: Dense, teacher: Dense, grid: Grid) -> tuple[Tensor, Terms]:
    """Compare two detectors on the same grid, place by place, each as far as the teacher sees something there.

        w = max over classes of sigmoid(t) sigmoid(middle of t),  N = max(1, sum of w)
        classes = 4 / N sum |sigmoid(s) - sigmoid(t)|^2 BCE(s, sigmoid(t))
        boxes   = 1 / N sum over w > .05 of w (1 - GIoU)
        middles = 1 / N sum of w BCE(middle of s, sigmoid(middle of t))

    Returns:
        The sum of the three, and they, detached.
    """
    wanted, centred = teacher.logits.sigmoid(), teacher.middles.sigmoid()
    weight_BP = (wanted * centred).amax(2)
    total = weight_BP.sum().clamp_min(1)
    classes = _DENSE_CLASSES * quality_focal(student.logits, wanted).sum() / total
    there = weight_BP > _WORTH
    found, true = (grid.boxes(one.distances)[there] for one in (student, teacher))
    boxes = (weight_BP[there] * generalized_box_iou_loss(found, true)).sum() / total
    middles = F.binary_cross_entropy_with_logits(student.middles, centred, reduction="none")[..., 0]
    return _summed(classes, boxes, (weight_BP * middles).sum() / total)


def pseudo_targets(offsets: Tensor, corners: Tensor, probabilities: Tensor, side: int) -> BoxTargets:
    """Turn a teacher's boxes into targets: the sure ones are learned, as soft as they are; the unsure ones are ignored.

    A box's sureness is its largest probability: it is learned from `SURE` on, and is background below `UNSURE`. Of
    boxes that show the same (non-maximum suppression) the surest is kept.

    Args:
        offsets: int64 [B + 1], as in `BoxTargets`.
        corners: float32 [M, 4] in pixels of the view.
        probabilities: float32 [M, C].
        side: Of the view in pixels.
    """
    sureness, labels = probabilities.max(1)
    images = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff()).to(corners.device)
    rows = (sureness >= UNSURE).nonzero()[:, 0]
    groups = images[rows] * probabilities.shape[1] + labels[rows]
    rows = rows[batched_nms(corners[rows], sureness[rows], groups, SAME)].sort().values
    counts = torch.bincount(images[rows].cpu(), minlength=len(offsets) - 1)
    return BoxTargets(
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        corners[rows],
        probabilities[rows],
        sureness[rows],
        sureness[rows] < SURE,
        torch.ones(len(offsets) - 1, dtype=torch.bool, device=corners.device),
        side,
    )


@dataclass(frozen=True)
class BoxObjective(Objective):
    """An `Objective` of detectors.

    Attributes:
        fuses: Whether several teachers' boxes are merged and then learned (see `fuse_boxes`), not each by itself.
    """

    fuses: bool = False


def compare(
    answers: Dense | Queries, targets: BoxTargets, grid: Grid | None, class_weights: Tensor | None = None
) -> tuple[Tensor, Terms]:
    """Compare what either kind of detector answers with boxes: `boxes_loss`, or `set_loss` where there is no grid."""
    if isinstance(answers, Queries):
        return set_loss(answers, targets, class_weights)
    assert grid is not None
    return boxes_loss(answers, targets, grid, class_weights)


def learn_boxes(answers: Dense | Queries, labels: Found, *, grid: Grid | None, side: int) -> tuple[Tensor, Terms]:
    """Learn a teacher's (or fused) boxes of the same views, shares of their side: `pseudo_targets`, `compare`."""
    corners, weights = labels.corners * side, None
    if labels.unknown:  # it says nothing of these, which is not to say that there are none
        weights = answers.logits.new_ones(answers.logits.shape[-1])
        weights[list(labels.unknown)] = 0
    return compare(answers, pseudo_targets(labels.offsets.cpu(), corners, labels.probabilities, side), grid, weights)


def learn_grid(answers: Dense | Queries, labels: Dense, *, grid: Grid | None, side: int) -> tuple[Tensor, Terms]:
    """Learn a live teacher's answers at the same places: `dense_loss`."""
    if isinstance(answers, Queries) or grid is None:
        raise PocketError(
            "--objective grid compares detectors place by place, and a student of --detector detr has no places. Use "
            "--objective boxes."
        )
    if labels.logits.shape != answers.logits.shape:
        raise PocketError(
            f"the teacher answers at {labels.logits.shape[1]} places and the student at {answers.logits.shape[1]}: "
            "--objective grid needs detectors of one picture size and stride. Use --objective boxes."
        )
    return dense_loss(answers, labels, grid)


# For boxes. "boxes" and "apart" take any detectors', stored; "grid" a live teacher on the student's own places.
OBJECTIVES: dict[str, BoxObjective] = {
    "boxes": BoxObjective("boxes", learn_boxes, needs="topk", fuses=True),  # type: ignore[arg-type]
    "apart": BoxObjective("apart", learn_boxes, needs="topk"),  # type: ignore[arg-type]
    "grid": BoxObjective("grid", learn_grid, needs="full"),  # type: ignore[arg-type]
}


def _global(rows: Tensor, matched: Tensor) -> Tensor:
    """Turn numbers within an image's boxes into rows of all boxes, -1 staying -1."""
    if not len(rows):
        return torch.full_like(matched, -1)
    return torch.where(matched < 0, -1, rows.to(matched.device)[matched.clamp_min(0)])


def _covered(grid: Grid, corners: Tensor) -> Tensor:
    """Whether the middle of each place lies in one of the boxes [m, 4]: bool [P]."""
    middle = (grid.places[:, None, :2] + grid.places[:, None, 2:]) / 2
    return ((middle > corners[:, :2]) & (middle < corners[:, 2:])).all(2).any(1)


def _nearest(grid: Grid, corners: Tensor, offsets: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Return the image of boxes [M, 4], where bool [M] is true, and the place of the finest map nearest to each."""
    rows = which.nonzero()[:, 0]
    images = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff()).to(corners.device)
    middles, places = ((one[:, :2] + one[:, 2:]) / 2 for one in (corners[rows], grid.places[: grid.counts[0]]))
    return images[rows], torch.cdist(middles, places.to(middles)).argmin(1)


def _middle(places: Tensor, corners: Tensor) -> Tensor:
    """How near each place [n, 4] is to the middle of its box [n, 4], 0 to 1."""
    middle = (places[:, :2] + places[:, 2:]) / 2
    before, behind = middle - corners[:, :2], corners[:, 2:] - middle
    return (torch.minimum(before, behind) / torch.maximum(before, behind)).prod(1).clamp_min(0).sqrt()


def _summed(classes: Tensor, boxes: Tensor, middles: Tensor) -> tuple[Tensor, Terms]:
    terms = {"classes": classes.detach(), "boxes": boxes.detach(), "middles": middles.detach()}
    return classes + boxes + middles, terms
