"""Boxes: any number of objects per image, each somewhere and of some class."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..config import DetectorKind, LossConfig, NetworkConfig, ViewConfig
from ..errors import PocketError
from ..metrics import OperatingPoint
from ..metrics.detection import SHOWN, DetectionScores, agreement, rounded, score_boxes
from ..models.decoding import best_boxes
from ..models.detector import create_detector, detector_of, finest_stride
from ..models.set_detector import SetDetector
from ..objectives import Gate
from ..objectives.detection import FAINT, OBJECTIVES, BoxTargets, Dense, compare
from ..objectives.sets import Queries
from ..sources.boxes import Boxes, Detections
from ..teachers import align, align_some
from ..teachers.fusion import fuse_boxes
from ..views.drawing import with_boxes
from ..views.geometry import carried, framed, inverse, mapped, placements
from .base import Answer, Task, refuse_one_class
from .boxes import BoxJudgement, detections, fused
from .registry import register
from .shown import boxes_side_by_side

if TYPE_CHECKING:
    from ..models.detector import Detector
    from ..objectives.batch import Batch
    from ..training.step import Loss

_FEW = 0.1  # share of boxes too small for the student from which that is said
_LARGEST = 1280  # pixels of a side that are advised at most
_SHOWN_CLASSES = 3  # in one line of text


@register
class Detection(Task):
    """Boxes with a class each: FCOS's loss or LW-DETR's, COCO's average precision.

    Answers are float32 [K, 6] per image, best first: left, top, right, bottom (shares of the view until they are
    `placed`, then pixels of the picture), score, class; rows of score 0 stand for nothing.
    """

    name = "detection"
    kind = "boxes"
    objectives = OBJECTIVES
    score = "val_map"
    unit = "boxes"
    figure = "map"
    output = "boxes_and_scores"
    hub = "object-detection"
    decided = f"a score of at least {SHOWN}"
    compares = False
    calibrates = False
    finetunes = False
    batch = 16  # a picture has thousands of places, and few images are all that most sets have
    steps = 300
    exclusive = False
    explains = False
    pools = False
    light = ("pocket_m",)
    light_side = None
    shown = 0.15  # a picture has many boxes, each seen at many places

    # What is asked for

    def refuse(self, settings: Any, classes: int) -> None:
        here = "these images have boxes"
        objective = getattr(settings, "objective", "auto")
        if objective != "auto":
            self.objective(objective)
        if objective == "grid":
            raise PocketError(
                "--objective grid asks a teacher about every batch, and labels are stored here: use --objective boxes. "
                "(In Python: train_network(..., live=True) with LossConfig(objective='grid').)"
            )
        refuse_one_class(settings, here)
        for name, usual, why in (
            ("balance", "none", "is for one class per image"),
            ("aspect", "stretch", "changes the shape of objects, which training views keep"),
            ("init", None, "is a classifier's (--model NAME.TAG or local-dir:FOLDER makes a detector of one)"),
            ("freeze", False, "trains one linear layer on finished features"),
            ("temperature", 1.0, "softens one distribution over classes"),
            ("label_smoothing", None, "is of one distribution over classes"),
        ):
            value = getattr(settings, name, usual)
            if (value == usual) if name == "aspect" else (value is not None and value != usual):
                option = name.replace("_", "-")
                said = option if value is True else f"{option} {value}"
                raise PocketError(f"--{said} {why}, and {here}. Leave it away.")
        weights = getattr(settings, "teacher_weights", "auto")
        if weights not in ("auto", "fixed"):
            raise PocketError(f"--teacher-weights {weights} looks at the one class of an image, and {here}. Use fixed.")
        if getattr(settings, "stem", "auto") == "teacher":
            raise PocketError(f"--stem teacher is made of a classifier's layers, and {here}. Choose another stem.")
        if getattr(settings, "tokens", 0):
            raise PocketError(f"--tokens: a detector has no class token to distil into, and {here}. Use --tokens 0.")
        size = getattr(settings, "size", None)
        step = 4 * finest_stride(size or 0)
        if size and size % step and getattr(settings, "patch", 0) is None:  # of a student whose patches we choose
            raise PocketError(
                f"--size {size}: a detector has maps of stride up to {step} there, which does not divide it. Give "
                f"--size {-(-size // step) * step}."
            )
        if getattr(settings, "tile", None):
            raise PocketError(f"--tile cuts boxes apart, and {here}. Leave it away.")

    def aligned(self, teacher: Any, dataset: Any) -> Any:
        """As far as its classes are ours: of the others the true boxes alone are learned."""
        if teacher.kind != self.kind:
            raise PocketError(
                f"the teacher {teacher.name} answers with one list of classes per image, and these images have boxes. "
                "Name a detector (of ours, torchvision's or transformers'), or none, to have one trained on your boxes."
            )
        found = align(teacher, dataset.classes, dataset.numbers)
        if found is None and teacher.classes is not None:
            found = align_some(teacher, dataset.classes)
        if found is None:
            own = ", ".join((teacher.classes or ())[:5]) or f"{teacher.num_outputs} without names"
            raise PocketError(
                f"the teacher {teacher.name} knows none of the images' classes ({', '.join(dataset.classes[:5])}): it "
                f"has {own}. Call your classes as the teacher does, or leave --teacher away to train one on your boxes."
            )
        return found

    def in_our_classes(self, teacher: Any) -> nn.Module:
        return Outputs(teacher)

    def light_network(self, name: str, *, classes: int, side: int) -> nn.Module:
        return create_detector(name, num_classes=classes, image_size=side, stem="hybrid")

    def default_objective(self, classes: int, *, whole: bool) -> tuple[str, float]:
        return "boxes", 1.0

    def side(self, side: int) -> int:
        """The nearest one below of which maps of three strides can be made."""
        step = 32 if side >= 160 else 16
        return max(32, side // step * step)

    def view(self, view: ViewConfig) -> ViewConfig:
        """The whole picture, letterboxed, and zoomed in place of cropped; nothing is mixed or turned."""
        varied = view != view.plain()
        view = dataclasses.replace(view, fit="pad" if view.fit == "crop" else view.fit, mixup=0.0, cutmix=0.0)
        if view.randaugment_ops:
            view = dataclasses.replace(view, randaugment_ops=0, color_jitter=max(view.color_jitter, 0.2))
        return dataclasses.replace(view, crop="zoom", erase=0.0) if varied else view

    def network(
        self, config: NetworkConfig, *, classes: int, side: int, tokens: int = 0, drop_path: float = 0.0
    ) -> nn.Module:
        return create_detector(
            config.name, num_classes=classes, image_size=side, patch_size=config.patch, stem=config.stem,
            attention=config.attention, drop_path=drop_path, kind=config.detector,
        )  # fmt: skip

    def started(self, teacher: Any, *, classes: int, side: int, detector: DetectorKind = "fcos") -> nn.Module:
        try:
            return detector_of(teacher.module, num_classes=classes, image_size=side, kind=detector)
        except PocketError as error:
            raise PocketError(
                f"{teacher.name} cannot become a detector of {side} pixels: {error} Name a ViT, or another network of "
                "timm's or ours that ends in a map."
            ) from error

    def warnings(self, source: Any, view: ViewConfig) -> list[str]:
        """How many boxes are smaller than the distance between two places, so that no place may see them."""
        truth, side = source.targets, view.view_size
        if not len(truth.labels):
            return []
        seen = mapped(truth.corners, framed(view, truth.sizes)[truth.images])
        least = (seen[:, 2:] - seen[:, :2]).min(1)[~truth.ignored]
        stride = finest_stride(side)
        small = float((least < stride).mean()) if len(least) else 0.0
        if small < _FEW:
            return []
        wanted = side * stride / max(float(np.quantile(least, _FEW)), 1e-3)
        wanted = min(_LARGEST, max(160, math.ceil(wanted / 32) * 32))
        advice = f": --size {wanted}" if wanted > side else ""
        return [f"boxes    {small:.0%} of them are under {stride} px in views of {side}{advice}"]

    # Learning

    def collate(self, targets: Boxes, positions: np.ndarray, views: Any, view: int) -> BoxTargets:
        boxes = targets[positions]
        maps = placements(views, positions, view, boxes.sizes)
        classes = len(views.source.classes)
        return BoxTargets.of(carried(boxes, maps, views.config.view_size), classes, views.config.view_size)

    def live(self, teacher: Any, pixels: torch.Tensor) -> Any:
        return Dense(*teacher.dense(pixels))

    def truth(self, logits: torch.Tensor, batch: Batch, config: LossConfig) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError("a detector's loss is not taken image by image: see `loss`")

    def loss(
        self,
        config: LossConfig,
        *,
        model: nn.Module | None = None,
        gate: Gate | None = None,
        approximate_tail: bool = False,
    ) -> Loss:
        assert model is not None
        detector: Detector = model  # type: ignore[assignment]
        # Where there are no teachers the config keeps the default of other tasks.
        objective = OBJECTIVES.get(config.objective, OBJECTIVES["boxes"])

        def loss(heads: Sequence[torch.Tensor], batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            answers, grid = _read(detector, heads), detector.grid
            targets: BoxTargets = batch.targets  # type: ignore[assignment]
            side = batch.pixels.shape[-1]
            terms: dict[str, torch.Tensor] = {}
            truth: Any = 0.0
            if not batch.soft:
                return compare(answers, targets, grid)
            untaught = set.intersection(*(set(getattr(soft, "unknown", ())) for soft in batch.soft))
            looked = bool(targets.known.any())
            if looked and (config.weight < 1 or untaught):  # what no teacher knows is learned from true boxes alone
                weights = torch.full((answers.logits.shape[-1],), 1 - config.weight, device=answers.logits.device)
                weights[list(untaught)] = 1.0
                truth, terms = compare(answers, targets, grid, weights)
            parts = []
            taught_by = {f"teacher_{number}": soft for number, soft in enumerate(batch.soft)}
            if objective.fuses and len(taught_by) > 1:
                taught_by = {"teachers": fuse_boxes(batch.soft, least=FAINT)}
            for who, soft in taught_by.items():
                part, found = objective.function(answers, soft, grid=grid, side=side)  # type: ignore[call-arg,arg-type]
                parts.append(part)
                terms |= {f"{who}_{name}": value for name, value in found.items()}
            taught = torch.stack(parts).mean()
            terms["distillation"] = taught.detach()
            return (config.weight * taught + truth if looked else taught), terms

        return loss

    def plain_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("a detector has no loss of logits alone: see `loss`")

    def right(self, logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor] | None:
        return None

    # Answers

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return best_boxes(logits)

    def graph(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs  # suppression takes as many boxes as there are: it stays outside

    def from_graph(self, given: np.ndarray) -> np.ndarray:
        return self.probabilities(torch.from_numpy(given)).numpy()

    def classes_in(self, outputs: Any) -> int | None:
        boxes = isinstance(outputs, torch.Tensor) and outputs.ndim == 3 and outputs.shape[2] > 4
        return outputs.shape[2] - 4 if boxes else None

    def class_scores(self, answer: np.ndarray, classes: int) -> np.ndarray:
        best = np.zeros(classes)
        np.maximum.at(best, answer[:, 5].astype(int), answer[:, 4])
        return best

    def combine(self, heads: Sequence[torch.Tensor]) -> torch.Tensor:
        raise NotImplementedError("the parts of a detector's answer are combined by the detector: call it")

    def fit_temperature(self, logits: Any, targets: Any) -> float:
        return 1.0

    def placed(self, answers: np.ndarray, view: ViewConfig, sizes: np.ndarray | None) -> np.ndarray:
        assert sizes is not None
        result, back = np.array(answers, np.float32), inverse(framed(view, sizes))
        count = result.shape[1]
        corners = mapped(result[..., :4].reshape(-1, 4) * view.view_size, np.repeat(back, count, axis=0))
        limits = np.repeat(np.asarray(sizes)[:, [1, 0, 1, 0]], count, axis=0)
        result[..., :4] = np.clip(corners, 0, limits).reshape(-1, count, 4)
        result[result[..., 4] <= 0] = 0
        return result

    def reordered(self, answers: np.ndarray, places: np.ndarray) -> np.ndarray:
        result = np.array(answers)
        result[..., 5] = places[answers[..., 5].astype(int)]
        return result

    def merged(self, answers: Sequence[np.ndarray], unknown: Sequence[Sequence[int]] = ()) -> np.ndarray:
        return fused(answers, unknown or [()] * len(answers)) if len(answers) > 1 else answers[0]

    def answer(self, probabilities: np.ndarray, classes: Sequence[str], top: int) -> Answer:
        shown = probabilities[probabilities[:, 4] >= SHOWN]
        rows: list[dict[str, Any]] = [
            {"label": _name(int(row[5]), classes), "score": float(row[4]), "box": [round(float(x), 2) for x in row[:4]]}
            for row in shown
        ]
        return Answer(_counted([row["label"] for row in rows]), {"boxes": rows})

    def draw(self, picture: np.ndarray, answer: np.ndarray, classes: Sequence[str], top: int = 1) -> np.ndarray:
        shown = answer[answer[:, 4] >= SHOWN][::-1]  # the best in front
        return with_boxes(picture, shown[:, :4], shown[:, 5], shown[:, 4], classes)

    def samples(self, pixels: np.ndarray, targets: Any, classes: Sequence[str]) -> dict[str, np.ndarray]:
        words = [self.named(targets[row], classes) for row in range(len(targets))]
        return {"views": pixels, "labels": np.array(words)}

    def compared(self, source: Any, answers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return boxes_side_by_side(source, {title: detections(one) for title, one in answers.items()})

    def named(self, target: Any, classes: Sequence[str]) -> str:
        if isinstance(target, Boxes) and not target.known[0]:
            return ""
        return _counted([_name(int(label), classes) for label in target.labels])

    def answered(self, probabilities: np.ndarray) -> Detections:
        found = detections(probabilities)
        return found.where(found.scores >= SHOWN)

    # Figures

    def validate(self, probabilities: Any, targets: Boxes) -> dict[str, float]:
        found = detections(np.asarray(probabilities))
        classes = 1 + max(int(targets.labels.max(initial=0)), int(found.labels.max(initial=0)))
        scores = score_boxes(found, targets, classes, interval=False)
        return {"val_map": scores.map or 0.0, "val_map_50": scores.map_50 or 0.0}

    def judge(
        self,
        probabilities: Any,
        targets: Boxes,
        classes: Sequence[str],
        *,
        teacher: Any = None,
        groups: Any = None,
        point: OperatingPoint | None = None,
    ) -> BoxJudgement:
        given = None if teacher is None else detections(teacher)
        if not targets.known.any():
            same = None if given is None else agreement(detections(probabilities), given)
            return BoxJudgement(DetectionScores.unknown(len(classes), same), tuple(classes))
        scores = score_boxes(detections(probabilities), targets, len(classes), teacher=given, groups=groups)
        return BoxJudgement(scores, tuple(classes))

    def agreement(self, one: np.ndarray, other: np.ndarray) -> float:
        return agreement(detections(one), detections(other))

    def said(self, scores: Mapping[str, float]) -> str:
        return f"mAP {rounded(scores['val_map'])} (AP50 {rounded(scores['val_map_50'])})"


def _read(detector: Detector, heads: Sequence[torch.Tensor]) -> Dense | Queries:
    """Return what a detector of either kind answered, as losses take it."""
    if isinstance(detector, SetDetector):
        logits, boxes = heads
        return Queries(logits, boxes, detector.queries)
    return Dense(*heads)


class Outputs(nn.Module):
    """A detector's network that answers outputs (see `models.decoding`) in our classes."""

    def __init__(self, teacher: Any) -> None:
        super().__init__()
        self.network, self._outputs = teacher.module, teacher.outputs_of

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._outputs(self.network(x))


def _name(label: int, classes: Sequence[str]) -> str:
    return classes[label] if classes else str(label)


def _counted(names: Sequence[str]) -> str:
    """Return "12 RBC, 1 WBC", the commonest first."""
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    more = [f"{len(ranked) - _SHOWN_CLASSES} more classes"] if len(ranked) > _SHOWN_CLASSES else []
    return ", ".join([f"{count} {name}" for name, count in ranked[:_SHOWN_CLASSES]] + more) or "nothing"
