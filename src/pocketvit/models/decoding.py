"""From what a detector says at every place (or of every query) to the boxes that it means.

Two forms, each one tensor per image, so that networks, files and teachers answer alike:

* *outputs* [B, P, 4 + C]: a box (left, top, right, bottom) as shares of the input's side, and the score of each class;
* *answers* [B, K, 6]: the K best boxes, best first: the same four, score and class; where there are fewer, score 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

MOST = 100  # boxes of an image, as COCO counts
LEAST = 0.01  # score below which nothing is kept: low ones cost little and are part of the average precision
OVERLAP = 0.6  # from which two boxes of one class are one, as in FCOS
_CANDIDATES = 1000  # boxes of an image that are compared


def outputs_of(boxes: Tensor, scores: Tensor) -> Tensor:
    """Return outputs [B, P, 4 + C] of boxes [B, P, 4] as shares of the side and scores [B, P, C]."""
    return torch.cat([boxes, scores], 2)


@torch.no_grad()
def best_boxes(outputs: Tensor, most: int = MOST) -> Tensor:
    """Return the answers [B, K, 6] of outputs [B, P, 4 + C]: confident boxes that no better one of their class covers.

    Args:
        outputs: See the module's docstring.
        most: K.
    """
    answers = outputs.new_zeros(len(outputs), most, 6)
    for row, image in zip(answers, outputs, strict=True):
        places, labels = best_places(image, most)
        row[: len(places), :4] = image[places, :4].clamp(0, 1)
        row[: len(places), 4] = image[places, 4 + labels]
        row[: len(places), 5] = labels.to(row.dtype)
    return answers


def best_places(outputs: Tensor, most: int = MOST) -> tuple[Tensor, Tensor]:
    """Return the places and classes, int64 [k] each, of the best boxes of one image's outputs [P, 4 + C]."""
    scores, classes = outputs[:, 4:].float().flatten(), outputs.shape[1] - 4
    best = scores.topk(min(_CANDIDATES, len(scores))).indices
    best = best[scores[best] > LEAST]
    places, labels = best // classes, best % classes
    kept = batched_nms(outputs[places, :4].float().clamp(0, 1), scores[best], labels, OVERLAP)[:most]
    return places[kept], labels[kept]
