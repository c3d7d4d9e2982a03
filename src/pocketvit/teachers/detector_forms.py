"""The forms in which detectors answer, brought into one: ours, torchvision's, those of transformers, the user's own.

Every detector becomes boxes [B, Q, 4] (centre x, centre y, width, height, as shares of the picture's sides) and logits
[B, Q, C] before their activation: "sigmoid", a class each; or "softmax", with "no object" as one more class at the end.
Reading one by the other's rule goes wrong without a word, so that the activation is declared per family, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models._meta import _COCO_CATEGORIES

from ..errors import PocketError
from ..models.detector import Detector
from ..models.inputs import config_of, input_stats

Activation = Literal["sigmoid", "softmax"]
Answers = tuple[Tensor, Tensor]
"""Boxes [B, Q, 4] as (centre x, centre y, width, height) in shares of the sides, and logits [B, Q, C or C + 1]."""

# transformers' model_type -> activation, as each model's own post-processing has it.
FAMILIES: dict[str, Activation] = {
    **dict.fromkeys(("detr", "yolos", "table-transformer"), "softmax"),
    **dict.fromkeys(
        (
            *("conditional_detr", "dab-detr", "deformable_detr", "rt_detr", "rt_detr_v2", "d_fine", "lw_detr"),
            *("rf_detr", "deimv2"),
        ),
        "sigmoid",
    ),
}
UNNORMALIZED = ("rt_detr", "rt_detr_v2", "d_fine")  # trained on plain 0 to 1, as their image processors have it
NOTHING = -20.0  # logit of what a detector gives no score for
_SURE = 1e-6  # a score is kept so far from 0 and 1, whose logits are infinite
_BOXES = 300  # of an image that torchvision's own detectors may find
_SIDE = 640  # of the picture where one of transformers' does not say its size


@dataclass(frozen=True)
class Form:
    """How to feed a detector and how to read it.

    Attributes:
        network: Takes normalized pictures [B, 3, S, S].
        read: From what it returns to boxes and logits.
        activation: Of the logits; None where that must be said.
        suppress: Whether it answers at many places for one object, so that only the best of them count.
        size: Side of its input in pixels; ``sized``: whether it says so itself.
        mean, std: Of its input; ``normed``: whether it says so itself.
        classes: Names, where they are known.
        background: Whether the first class may be the background, as torchvision counts.
    """

    network: nn.Module
    read: Callable[[Any], Answers]
    activation: Activation | None
    suppress: bool
    size: int
    sized: bool
    mean: Sequence[float]
    std: Sequence[float]
    classes: Sequence[str] | None = None
    normed: bool = True
    background: bool = False


def is_detector(module: Any) -> bool:
    """Whether a network is a detector of a kind that `form_of` knows by itself."""
    name = type(module).__name__
    return (
        isinstance(module, Detector)
        or _is_torchvision(module)
        or (type(module).__module__.startswith("transformers.") and name.endswith("ForObjectDetection"))
    )


def form_of(module: nn.Module) -> Form:
    """Return the form of a detector: ours, torchvision's, or else that of transformers."""
    if isinstance(module, Detector):
        mean, std, size = input_stats(module)
        return Form(module, _read_ours, "sigmoid", module.grid is not None, size, True, mean, std)
    return _of_torchvision(module) if _is_torchvision(module) else _of_transformers(module)


def _is_torchvision(module: Any) -> bool:
    return type(module).__module__.startswith("torchvision.models.detection")


def _of_torchvision(module: nn.Module) -> Form:
    outputs = _torchvision_outputs(module)
    classes = tuple(_COCO_CATEGORIES) if outputs == len(_COCO_CATEGORIES) else None
    # they resize and normalize by themselves
    size = _torchvision_side(module)
    network = _ListInput(module, outputs)
    return Form(
        network, _read_torchvision, "sigmoid", False, size, True, (0.0,) * 3, (1.0,) * 3, classes, background=True
    )


def _of_transformers(module: nn.Module) -> Form:
    mean, std, size = input_stats(module)
    config = getattr(module, "config", None)
    family, labels = getattr(config, "model_type", None), getattr(config, "id2label", None)
    classes = tuple(str(labels[key]) for key in sorted(labels)) if labels and family else None
    own = _transformers_side(config)
    side = own or (_SIDE if config is not None else size)
    if family in UNNORMALIZED:
        mean, std = (0.0,) * 3, (1.0,) * 3
    normed = "mean" in config_of(module)
    return Form(module, _read_set, FAMILIES.get(str(family)), False, side, own is not None, mean, std, classes, normed)


class _ListInput(nn.Module):
    """A detector of torchvision's, fed a batch: its pictures one by one."""

    def __init__(self, network: nn.Module, outputs: int) -> None:
        super().__init__()
        self.network, self.outputs = network, outputs

    def forward(self, x: Tensor) -> tuple[list[dict[str, Tensor]], int, int]:
        """Return what it found in each picture, the side of the pictures, and the number of classes."""
        return self.network(list(x)), x.shape[-1], self.outputs


def _read_torchvision(out: tuple[list[dict[str, Tensor]], int, int]) -> Answers:
    """Boxes with one scored class each: the others have none."""
    found, side, outputs = out
    boxes, logits = [], []
    for one in found:
        corners = one["boxes"][:_BOXES] / side
        count = len(corners)
        box = corners.new_zeros(_BOXES, 4)
        box[:count] = _centred(corners)
        row = corners.new_full((_BOXES, outputs), NOTHING)
        row[torch.arange(count), one["labels"][:_BOXES]] = torch.logit(one["scores"][:_BOXES].clamp(_SURE, 1 - _SURE))
        boxes.append(box)
        logits.append(row)
    return torch.stack(boxes), torch.stack(logits)


def _read_ours(out: Tensor) -> Answers:
    """Scores of places as the logits that a sigmoid makes them of."""
    return _centred(out[..., :4].clamp(0, 1)), torch.logit(out[..., 4:].clamp(_SURE, 1 - _SURE))


def _read_set(out: Any) -> Answers:
    """transformers' output, or a dictionary of the same names."""
    get = out.get if isinstance(out, dict) else lambda name: getattr(out, name, None)
    boxes, logits = get("pred_boxes"), get("logits")
    if not isinstance(boxes, Tensor) or not isinstance(logits, Tensor):
        raise PocketError(
            "a detector must return `logits` [images, boxes, classes] and `pred_boxes` [images, boxes, 4] (centre x, "
            f"centre y, width, height in shares of the sides), but this one returns {type(out).__name__}. Give a "
            "function `read` to pocketvit.teachers.detector_teacher that makes them of it."
        )
    return boxes, logits


def _torchvision_side(module: nn.Module) -> int:
    transform: Any = getattr(module, "transform", None)
    fixed = getattr(transform, "fixed_size", None)
    if fixed:
        return int(fixed[0])
    sizes = getattr(transform, "min_size", (800,))
    return int(sizes[-1] if isinstance(sizes, tuple | list) else sizes)


def _torchvision_outputs(module: Any) -> int:
    """How many classes, background included, a detector of torchvision's has."""
    heads = getattr(module, "roi_heads", None)
    if heads is not None:
        return int(heads.box_predictor.cls_score.out_features)
    head = module.head.classification_head
    if hasattr(head, "num_classes"):
        return int(head.num_classes)
    return int(getattr(head, "num_columns", len(_COCO_CATEGORIES)))


def _transformers_side(config: Any) -> int | None:
    for place in (config, getattr(config, "backbone_config", None)):
        size = getattr(place, "image_size", None)
        if size:
            return int(size if isinstance(size, int) else size[0])
    return None


def _centred(corners: Tensor) -> Tensor:
    """Left, top, right, bottom to centre, width and height."""
    low, high = corners[..., :2], corners[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def corners_of(boxes: Tensor) -> Tensor:
    """Centre, width and height to left, top, right, bottom."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], 2)
