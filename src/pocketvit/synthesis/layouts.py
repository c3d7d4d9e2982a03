"""Where which objects are wanted in a picture, and how far a detector is from seeing them there.

Layouts are sampled, as nobody knows the images: every class as often as any other, sizes as the teacher sees them in
pictures that it was shown, or of any kind where it saw none. They are what pictures are optimized for, and are never
taken for the truth: a student learns what the teacher sees in the finished picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou_loss

from ..models.decoding import best_boxes
from ..teachers import Teacher
from .bank import Bank
from .moving import Move

MOST = 10  # objects of a picture
PLACES = 4  # of a detector that are asked for an object
_SEEN = 0.15  # score from which a box tells how large a class is
_LOOKED_AT = 200  # pictures at most, that tell it
_ANY_SIZE = 0.3  # share of the objects whose size is any
_SMALLEST, _LARGEST = 0.08, 0.6  # of those, shares of the picture's side
_APART = 0.15  # overlap that two objects of a picture may have
_TRIES = 20  # to find a place for one
_BACKGROUND = 0.4  # overlap up to which a place is background
_TINY = 1e-4


@dataclass(frozen=True)
class Layout:
    """What one picture is to show.

    Attributes:
        corners: float32 [m, 4], left, top, right and bottom as shares of the side.
        labels: int64 [m].
    """

    corners: Tensor
    labels: Tensor

    def seen_after(self, right: float, down: float, flip: bool) -> Layout:
        """Return what is whole in the picture after a roll by shares of the side, and perhaps a mirror."""
        corners = self.corners + self.corners.new_tensor([right, down, right, down])
        if flip:
            corners = torch.stack([1 - corners[:, 2], corners[:, 1], 1 - corners[:, 0], corners[:, 3]], 1)
        whole = ((corners >= 0) & (corners <= 1)).all(1)
        return Layout(corners[whole], self.labels[whole])


class Sizes:
    """Widths and heights of objects, class by class.

    Args:
        found: float [n, 2] of each class, as shares of the side; empty where none is known.
    """

    def __init__(self, found: Sequence[np.ndarray]) -> None:
        self.found = found

    @classmethod
    def seen(cls, teacher: Teacher, bank: Bank | None) -> Sizes:
        """Return those of the boxes that a detector sees in some of a bank's pictures; without a bank, none."""
        found: list[list[np.ndarray]] = [[] for _ in range(teacher.num_outputs)]
        if bank is not None:
            rows = np.unique(np.linspace(0, len(bank) - 1, min(_LOOKED_AT, len(bank))).astype(np.int64))
            for part in np.array_split(rows, max(1, len(rows) // 8)):
                for answer in best_boxes(teacher.logits(bank.pixels(part))).cpu().numpy():
                    for box in answer[answer[:, 4] >= _SEEN]:
                        found[int(box[5])].append(box[2:4] - box[:2])
        least = _SMALLEST / 4  # what is left of a box at the picture's edge is no size
        told = [np.array(one).reshape(-1, 2) for one in found]
        return cls([one[one.min(1, initial=1) >= least] for one in told])

    def draw(self, label: int, random: np.random.Generator) -> np.ndarray:
        """Return a width and a height."""
        known = self.found[label]
        if len(known) and random.random() >= _ANY_SIZE:
            size = known[random.integers(len(known))] * np.exp(0.2 * random.standard_normal(2))
        else:
            side, shape = _SMALLEST * (_LARGEST / _SMALLEST) ** random.random(), np.exp(0.4 * (random.random() - 0.5))
            size = np.array([side * shape, side / shape])
        return np.minimum(size, 0.9)


def sample_layout(label: int, sizes: Sizes, random: np.random.Generator) -> Layout:
    """Draw a layout whose first object is of a class; the others are of the classes after it, in turn."""
    classes, wanted = len(sizes.found), int(random.integers(1, MOST + 1))
    corners, labels = np.zeros((0, 4), np.float32), []
    for number in range(wanted):
        own = (label + number) % classes
        for _ in range(_TRIES):
            size = sizes.draw(own, random)
            corner = random.random(2) * (1 - size)
            box = np.concatenate([corner, corner + size]).astype(np.float32)[None]
            others = box_iou(torch.from_numpy(box), torch.from_numpy(corners))
            if not others.numel() or float(others.max()) < _APART:
                corners = np.concatenate([corners, box])
                labels.append(own)
                break
    return Layout(torch.from_numpy(corners), torch.tensor(labels))


def unlike(outputs: Tensor, layouts: Sequence[Layout], move: Move, side: int) -> Tensor:
    """Return how far a detector is from seeing layouts, a scalar averaged over pictures.

    A detection loss made of what every detector answers, on a grid or as a set: for each object the few places that fit
    it best (by overlap, distance of the middles and score) are asked for its class and its box, and places away from
    all objects to see nothing.

        2 (1 - GIoU) - log score of the class - log(1 - score of others), over the places asked
        - score^2 log(1 - score), over all others, by the number of objects

    Args:
        outputs: float [B, P, 4 + C] (see `models.decoding`), of the moved pictures.
        layouts: Of the B pictures before they were moved.
        move: How.
        side: Of the pictures, in pixels.
    """
    losses = []
    for image, layout, flip in zip(outputs, layouts, move.flip.tolist(), strict=True):
        wanted = layout.seen_after(move.right / side, move.down / side, flip)
        losses.append(_unlike(image, wanted.corners.to(image), wanted.labels.to(image.device)))
    return torch.stack(losses).mean()


def _unlike(outputs: Tensor, corners: Tensor, labels: Tensor) -> Tensor:
    """Return the same of one picture: outputs [P, 4 + C], boxes [m, 4], classes [m]."""
    boxes, scores = outputs[:, :4], outputs[:, 4:].clamp(_TINY, 1 - _TINY)
    nothing = -(scores.square() * (1 - scores).log())
    if not len(labels):
        return nothing.sum()
    with torch.no_grad():
        overlap = box_iou(corners, boxes.clamp(0, 1))
        away = torch.cdist(_middles(corners), _middles(boxes)) / (corners[:, 2:] - corners[:, :2]).norm(dim=1)[:, None]
        cost = 2 * (1 - overlap) + away - 0.5 * scores[:, labels].log().T
        asked = cost.topk(min(PLACES, len(boxes)), dim=1, largest=False).indices
        background = overlap.amax(0) < _BACKGROUND
        background[asked.flatten()] = False
    own = F.one_hot(labels, scores.shape[1])[:, None]
    found = scores[asked]
    right = F.binary_cross_entropy(found, own.expand_as(found).to(found), reduction="none").sum(2).mean()
    fit = generalized_box_iou_loss(boxes[asked].flatten(0, 1), corners.repeat_interleave(asked.shape[1], 0)).mean()
    return right + 2 * fit + nothing[background].sum() / len(labels)


def _middles(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2
