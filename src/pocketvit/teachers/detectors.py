"""Detectors as teachers: ours, torchvision's, those of transformers, and the user's own; see `detector_forms`."""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from ..errors import PocketError
from ..models.checkpoint import load_weights, read_weights
from ..models.decoding import best_places, outputs_of
from ..models.detector import GridDetector
from .detector_forms import NOTHING, Activation, Answers, Form, corners_of, form_of
from .hugging_face import open_saved
from .teacher import Teacher

TORCHVISION = "torchvision:"


class DetectorTeacher(Teacher):
    """A detector in evaluation mode, frozen.

    Attributes:
        activation: What makes probabilities of its logits.
        suppress: Whether it answers at many places for one object, so that only the best of them count.
        background: Whether its first class may be the background.

    For the others see `Teacher`; ``kind`` is "boxes".
    """

    def __init__(
        self, form: Form, *, name: str, outputs: int, precision: str = "fp32", notes: Sequence[str] = ()
    ) -> None:
        super().__init__(
            form.network, name=name, input_size=form.size, mean=form.mean, std=form.std, raw_outputs=outputs,
            classes=form.classes, precision=precision, notes=notes, kind="boxes",
        )  # fmt: skip
        self.read, self.suppress = form.read, form.suppress
        self.activation, self.background = form.activation, form.background

    @property
    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint | {"activation": self.activation}

    def answers(self, pixels: Tensor) -> Answers:
        """Return boxes and logits for uint8 views [B, 3, S, S], in the classes of the class map.

        Raises:
            PocketError: They are of another form, or not finite.
        """
        with torch.no_grad(), self._autocast():
            boxes, logits = self.read(self.module(self._input(pixels)))
        boxes, logits = boxes.float(), logits.float()
        width = self.raw_outputs + (self.activation == "softmax")
        if boxes.shape[2:] != (4,) or logits.shape != (*boxes.shape[:2], width):
            raise PocketError(
                f"the teacher {self.name} answers boxes {list(boxes.shape)} with logits {list(logits.shape)}: [images, "
                f"boxes, 4] with [images, boxes, {width}] were expected of {self.raw_outputs} classes and a "
                f"{self.activation}."
            )
        if not bool(torch.isfinite(boxes).all()) or bool(torch.isnan(logits).any()):
            raise PocketError(
                f"the teacher {self.name} gave boxes or logits that are not finite (NaN or infinite). Check its "
                f"weights and its normalization; with precision {self.precision} try fp32."
            )
        return boxes, self._mapped(logits)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return outputs [B, Q, 4 + C] as `models.decoding` has them: what a student's network answers."""
        boxes, logits = self.answers(pixels)
        return outputs_of(corners_of(boxes), self._probabilities(logits))

    def outputs_of(self, answer: Any) -> Tensor:
        """Return the same of what the network itself returns, in a form that can be exported."""
        boxes, logits = self.read(answer)
        return outputs_of(corners_of(boxes), self._probabilities(self._mapped(logits)))

    def differentiable(self, images: Tensor) -> Tensor:
        return self.outputs_of(self.through(images)).float()

    @property
    def unknown(self) -> tuple[int, ...]:
        """Which of our classes it does not know."""
        return () if self.columns is None else tuple(map(int, (self.columns < 0).nonzero()[0]))

    def detect(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return boxes [n, 4] and logits [n, C or C + 1] of each image, as `labels.Boxes` stores them."""
        boxes, logits = self.answers(pixels)
        if not self.suppress:
            return list(zip(boxes, logits, strict=True))
        kept = [best_places(one)[0].unique() for one in outputs_of(corners_of(boxes), self._probabilities(logits))]
        return [(box[rows], logit[rows]) for box, logit, rows in zip(boxes, logits, kept, strict=True)]

    def dense(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return what one of our detectors says at each place (see `GridDetector.forward_heads`), in float32.

        Raises:
            PocketError: It is another kind of detector.
        """
        if not isinstance(self.module, GridDetector) or self.columns is not None:
            raise PocketError(
                f"--objective grid compares detectors place by place, and {self.name} is none of ours that has places "
                "(with these very classes). Use --objective boxes, which takes any detector's boxes."
            )
        with torch.no_grad(), self._autocast():
            return tuple(part.float() for part in self.module.forward_heads(self._input(pixels)))

    def features(self, pixels: Tensor) -> Tensor:
        raise PocketError(f"the teacher {self.name} is a detector: its features cannot be compared with a student's.")

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(2)[..., :-1]

    def _mapped(self, logits: Tensor) -> Tensor:
        """Bring logits into our classes; what a softmax gave to others counts as no object."""
        if self.columns is None:
            return logits
        columns = torch.from_numpy(self.columns).to(logits.device)
        known = columns >= 0
        if self.activation == "sigmoid":
            return torch.where(known, logits[..., columns.clamp_min(0)], NOTHING)
        likely = logits.softmax(2)
        ours = torch.where(known, likely[..., columns.clamp_min(0)], 0)
        nothing = (1 - ours.sum(2, keepdim=True)).clamp_min(torch.finfo(torch.float32).tiny)
        return torch.cat([ours.clamp_min(torch.finfo(torch.float32).tiny), nothing], 2).log()


def detector_teacher(
    module: nn.Module,
    *,
    name: str | None = None,
    input_size: int | None = None,
    norm: tuple[Sequence[float], Sequence[float]] | None = None,
    classes: Sequence[str] | None = None,
    activation: Activation | None = None,
    read: Callable[[Any], Answers] | None = None,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
) -> DetectorTeacher:
    """Make a teacher of any detector. The module is copied and left as it is.

    Args:
        module: One of ours, of torchvision's, of transformers', or any that takes normalized pictures [B, 3, S, S] and
            returns an object or a dictionary with ``logits`` and ``pred_boxes`` as transformers' do.
        name: For tables and folders.
        input_size: Side of the square that it sees; None for what it says itself.
        norm: Mean and standard deviation; None for what it says itself, else its family's, else
            ImageNet's.
        classes: Names of its classes, in order, without "no object".
        activation: Of its logits; needed where its family is not known.
        read: From what the module returns to boxes and logits (see the module's docstring), for a form of one's own.
        precision: "fp32", or "bf16" / "fp16" autocast.
        device: Where it runs.

    Raises:
        PocketError: The form or the activation is not known, or the number of classes is another.
    """
    if isinstance(module, DetectorTeacher):
        return module
    form = form_of(copy.deepcopy(module).to(device).eval())
    name = name or type(module).__name__
    notes = []
    if not form.sized and input_size is None:
        notes.append(f"{name}: input size not known; assumed {form.size} px (set it with --teacher-size).")
    if not form.normed and norm is None:
        assumed = "none (values of 0 to 1)" if set(form.std) == {1.0} else "ImageNet's mean and std"
        notes.append(f"{name}: normalization not known; assumed {assumed} (set it with --teacher-norm).")
    given: dict[str, Any] = {"size": input_size, "activation": activation, "read": read, "classes": classes}
    if norm is not None:
        given |= {"mean": norm[0], "std": norm[1]}
    form = dataclasses.replace(form, **{key: value for key, value in given.items() if value is not None})
    if form.activation not in ("sigmoid", "softmax"):
        raise PocketError(
            f"it is not known what makes probabilities of the logits of {name}: give activation='sigmoid' (a class "
            "each), or 'softmax' (with 'no object' as the last class), to pocketvit.teachers.detector_teacher."
        )
    width = _probed(form, name)[1].shape[2]
    outputs = width - (form.activation == "softmax")
    if form.classes is not None and len(form.classes) != outputs:
        nothing = ", the last for no object" if form.activation == "softmax" else ""
        raise PocketError(
            f"the teacher {name} answers {width} logits per box (a {form.activation}{nothing}), but "
            f"{len(form.classes)} class names were given."
        )
    return DetectorTeacher(form, name=name, outputs=outputs, precision=precision, notes=notes)


def _probed(form: Form, name: str) -> Answers:
    """Return what a detector says of a black picture."""
    module, size = form.network, form.size
    device = next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    try:
        with torch.no_grad():
            return form.read(module(torch.zeros(1, 3, size, size, device=device)))
    except PocketError as error:
        raise PocketError(f"the teacher {name}: {error}") from error
    except Exception as error:  # any shape or type that the network cannot take
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise PocketError(
            f"the teacher {name} cannot take a picture of 3 x {size} x {size} ({first[:200]}). Set its size with "
            "--teacher-size."
        ) from error


def load_detector(
    spec: str | Path,
    *,
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    **options: Any,
) -> DetectorTeacher:
    """Load a detector by name; see `detector_teacher` for ``options``.

    Args:
        spec: ``torchvision:NAME`` with ``weights``; a folder of transformers' (config.json and weights), or
            ``hf-hub:USER/NAME``. (A folder of ours is loaded by `load_teacher`.)
        weights: A file of weights for torchvision's, of which nothing is fetched.
        classes: Their names.

    Raises:
        PocketError: It cannot be had, or is no detector.
    """
    text = str(spec)
    if text.startswith(TORCHVISION):
        name = text.removeprefix(TORCHVISION)
        return detector_teacher(_torchvision(name, weights), **{"name": name, "classes": classes} | options)
    name, module, about = open_saved(text, "ObjectDetection")
    given = {"name": name, "classes": classes} | about
    return detector_teacher(module, **given | {key: value for key, value in options.items() if value is not None})


def _torchvision(name: str, weights: str | Path | None) -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models.detection)
    known = [one for one in known if "mask" not in one and "keypoint" not in one]
    if name not in known:
        near = difflib.get_close_matches(name, torchvision.models.list_models(module=torchvision.models), n=3)
        meant = f" Did you mean {' or '.join(TORCHVISION + one for one in near)}?" if near else ""
        raise PocketError(f"torchvision has no detector {name!r}; it has {', '.join(known)}.{meant}")
    if weights is None:
        raise PocketError(
            f"torchvision:{name} needs weights: download its file and give it as --weights FILE. (Nothing is fetched.)"
        )
    state = read_weights(weights)
    count = _classes_in(state)
    counted = {} if count is None else {"num_classes": count}
    # neither its own weights nor its backbone's are fetched
    module = torchvision.models.get_model(name, weights=None, weights_backbone=None, **counted)
    load_weights(module, state, weights, name)
    return module


def _classes_in(state: dict[str, Tensor]) -> int | None:
    """How many classes, background included, the head in a file of torchvision's weights has."""
    box = state.get("roi_heads.box_predictor.cls_score.bias")
    if box is not None:
        return len(box)
    heads = (("cls_logits.bias", "bbox_reg.bias"), *((f"module_list.0.{one}",) * 2 for one in ("bias", "1.bias")))
    for scores, boxes in heads:  # of FCOS and RetinaNet, of SSD, of SSDlite
        scored = state.get(f"head.classification_head.{scores}")
        placed = state.get(f"head.regression_head.{boxes}")
        if scored is not None and placed is not None:
            return 4 * len(scored) // len(placed)
    return None
