"""The protocol of a task."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from ..config import LossConfig
from ..errors import PocketError
from ..labels import FullLabels
from ..metrics import OperatingPoint
from ..models import create_model, create_student
from ..objectives import Gate, Objective
from ..sources.targets import to_columns
from ..teachers import Teacher, align
from ..teachers.finetune import new_head
from ..teachers.teacher import InOurClasses
from ..views.drawing import with_caption

if TYPE_CHECKING:
    from ..config import DetectorKind, NetworkConfig, ViewConfig
    from ..sources.base import Dataset, Source
    from ..training.feed import Batch
    from ..training.step import Loss


@dataclass(frozen=True)
class Answer:
    """What a network says of one image, for people and for programs.

    Attributes:
        text: One line: "disc 98.1 %".
        data: JSON-like fields, as ``pocketvit predict --json`` prints them beside "file".
    """

    text: str
    data: dict[str, Any]


def refuse_one_class(settings: Any, here: str) -> None:
    """Refuse objectives on features that compare softmaxes over the classes; ``here`` says what there is instead."""
    match = getattr(settings, "match", None) or ""
    for name in ("cskd", "mean_teacher"):
        if name in match:
            raise PocketError(f"--match {name} compares answers of one class, and {here}. Choose another.")


class Task(ABC):
    """One kind of label, from the target on disk to the figure in the table. Stateless: the same object serves all.

    Attributes:
        name: As datasets, student folders and exported files write it down.
        kind: What makes answers of outputs, and so what a store's records are: "softmax", "sigmoid" or "boxes".
        objectives: Distillation losses by name.
        score: The field of `validate` by which the best checkpoint is kept.
        smoothing: Of the labels that networks are trained on without a teacher.
        unit: What an accuracy counts, in words: "images" or "labels".
        compares: Whether `compare` knows methods for it.
        exclusive: Whether an image has one answer, so that one class can be taken for another.
        calibrates: Whether heads get a temperature that is fitted on validation images.
        finetunes: Whether a classifier's published weights learn it under a new linear head, on finished features too.
        batch: Images of a step at most, and ``steps``: at least so many, where nothing is asked for.
        figure: The field of a row by which files are compared: "accuracy", "auc", "map".
        output: What a network's exported file calls its output.
        hub: What the Hugging Face hub calls it.
        explains: Whether maps of where a network looks belong to one answer.
        pools: Whether answers of several folds can be judged together.
        light: Networks that are trained on the user's labels where no teacher is named, and ``light_side``: the most
            pixels that they see, None for all.
        shown: How many images a student sees by default, over those that a classifier sees.
        decided: When a label is called there, in words for people; "" where the likeliest class is the answer.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    objectives: ClassVar[Mapping[str, Objective]]
    score: ClassVar[str] = "val_accuracy"
    smoothing: ClassVar[float] = 0.0
    unit: ClassVar[str] = "images"
    compares: ClassVar[bool] = True
    exclusive: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True
    finetunes: ClassVar[bool] = True
    batch: ClassVar[int] = 128
    steps: ClassVar[int] = 0
    figure: ClassVar[str] = "accuracy"
    output: ClassVar[str] = "logits"
    hub: ClassVar[str] = "image-classification"
    explains: ClassVar[bool] = True
    pools: ClassVar[bool] = True
    light: ClassVar[tuple[str, ...]] = ("cifar_resnet20", "cifar_rednet20")  # a convolution and an involution
    light_side: ClassVar[int | None] = 64  # photographs: at 32 they are 5 points worse, and hold their student back
    shown: ClassVar[float] = 1.0
    decided: ClassVar[str] = ""

    # What is asked for

    def refuse(self, settings: Any, classes: int) -> None:
        """Refuse settings that do not fit this task, before anything is computed.

        Args:
            settings: Of a verb; looked at are those of ``objective``, ``teacher_weights``, ``balance``, ``tokens``,
                ``top_k``, ``match`` and ``detector`` that it has.
            classes: How many there are.

        Raises:
            PocketError: Names the setting, why, and what to do.
        """
        detector = getattr(settings, "detector", "fcos")
        if detector != "fcos":
            raise PocketError(f"--detector {detector} finds boxes, and these images have none. Leave it away.")

    @abstractmethod
    def default_objective(self, classes: int, *, whole: bool) -> tuple[str, float]:
        """Return the objective and temperature where none is asked for.

        Args:
            classes: How many there are.
            whole: Whether all logits are stored.
        """

    def objective(self, name: str) -> Objective:
        """Return an objective of this task.

        Raises:
            PocketError: There is none of that name here.
        """
        if name in self.objectives:
            return self.objectives[name]
        near = difflib.get_close_matches(name, self.objectives, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise PocketError(
            f"--objective {name} cannot be used for {self.name} images.{hint} Use {', '.join(self.objectives)}, or "
            "leave --objective away."
        )

    def reads(self, kind: str) -> bool:
        """Whether outputs that were trained as another kind mean something to this task."""
        return kind == self.kind

    def aligned(self, teacher: Teacher, dataset: Dataset) -> Teacher | None:
        """Return a teacher with its class map onto a dataset's classes; None where it has to learn them first.

        Raises:
            PocketError: It answers another kind of question, and cannot learn this one.
        """
        if teacher.kind == "boxes":
            raise PocketError(
                f"the teacher {teacher.name} is a detector, and these images have no boxes. Name a classifier, or give "
                "images with boxes (COCO JSON, Pascal VOC XML, or YOLO txt with data.yaml)."
            )
        return align(teacher, dataset.classes)

    def in_our_classes(self, teacher: Teacher) -> nn.Module:
        """Return a teacher's network with its class map: normalized pictures in, outputs of this task out."""
        return InOurClasses(teacher)

    def light_network(self, name: str, *, classes: int, side: int) -> nn.Module:
        """Make one of the untrained networks of `light`."""
        return create_model(name, num_classes=classes, image_size=side)

    def side(self, side: int) -> int:
        """Return the side of views, in pixels, as near to ``side`` as networks of this task can take."""
        return side

    def view(self, view: ViewConfig) -> ViewConfig:
        """Return training views that targets of this task can follow, as near to ``view`` as that allows."""
        return view

    def network(
        self, config: NetworkConfig, *, classes: int, side: int, tokens: int = 0, drop_path: float = 0.0
    ) -> nn.Module:
        """Make an untrained network whose outputs answer this task.

        Args:
            config: Its name, patches, stem and attention.
            classes: How many there are.
            side: Of its square input in pixels.
            tokens: Distillation tokens, for tasks that have them.
            drop_path: Of networks that have it.
        """
        return create_student(
            config.name, num_classes=classes, image_size=side, patch_size=config.patch, tokens=tokens,
            stem=config.stem, attention=config.attention, drop_path=drop_path, cut=config.cut,
        )  # fmt: skip

    def started(self, teacher: Teacher, *, classes: int, side: int, detector: DetectorKind = "fcos") -> nn.Module:
        """Make a network that starts from a loaded one's weights, under a new head where its classes are others.

        Args:
            teacher: As loaded.
            classes: How many there are.
            side: Of the views in pixels.
            detector: Its kind, for tasks that have them.

        Raises:
            PocketError: Its network cannot have such a head.
        """
        return new_head(teacher, classes) if teacher.num_outputs != classes else teacher.module

    def warnings(self, source: Source, view: ViewConfig) -> list[str]:
        """Return what is to be said of training images before views of them are learned."""
        return []

    # Learning

    def collate(self, targets: Any, positions: np.ndarray, views: Any, view: int) -> Any:
        """Return the targets of a training batch, for `Batch.targets`: a tensor [B, ...], or what has its methods.

        Args:
            targets: Of the whole source.
            positions: int64 [B], positions in the source.
            views: The `Views` that render it: targets that lie in the picture follow it.
            view: Which view.
        """
        return torch.from_numpy(np.ascontiguousarray(targets[positions]))

    def live(self, teacher: Any, pixels: torch.Tensor) -> Any:
        """Return what a teacher says of a batch's pixels, for `Batch.soft`, where nothing is stored."""
        return FullLabels(teacher.logits(pixels))

    @abstractmethod
    def truth(self, logits: torch.Tensor, batch: Batch, config: LossConfig) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss [B] of one head with the (mixed) ground truth, and 1 where that is known, else 0, [B]."""

    @abstractmethod
    def loss(
        self,
        config: LossConfig,
        *,
        model: nn.Module | None = None,
        gate: Gate | None = None,
        approximate_tail: bool = False,
    ) -> Loss:
        """Return what `training.fit` minimizes: distillation where batches have soft labels, else the truth.

        Args:
            config: Objective and weights.
            model: The network that learns, for tasks where it says itself what its outputs stand for.
            gate: What the validation split taught about the teachers.
            approximate_tail: Stand in for logits that are not stored.
        """

    @abstractmethod
    def plain_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits [B, C] with unmixed, known targets, one per image or per label."""

    @abstractmethod
    def right(self, logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return how many images of a training batch are answered rightly, and of how many that is known.

        Sums, on the device; None where this task does not count.
        """

    # Answers

    def classes_in(self, outputs: Any) -> int | None:
        """Return of how many classes a network's outputs [B, ...] are; None where they are of another form."""
        return outputs.shape[1] if isinstance(outputs, torch.Tensor) and outputs.ndim == 2 else None

    def class_scores(self, answer: np.ndarray, classes: int) -> np.ndarray:
        """Return float [C], how sure an image's answer is that each class is there."""
        return answer

    @abstractmethod
    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the answers of a network's outputs ``model(x)``: the probabilities [B, C] of logits [B, C].

        Answers of any task are one array per image, so that they are joined, stored and compared alike; what stands in
        it is the task's affair.
        """

    def graph(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return what a file with the preprocessing inside answers, of a network's outputs."""
        return self.probabilities(outputs)

    def from_graph(self, given: np.ndarray) -> np.ndarray:
        """Return the answers of what such a file gave."""
        return given

    def placed(self, answers: np.ndarray, view: ViewConfig, sizes: np.ndarray | None) -> np.ndarray:
        """Return answers to plain views as answers to their pictures; only answers that lie in the picture differ.

        Args:
            answers: [N, ...] of `probabilities`.
            view: Whose ``plain()`` part was seen.
            sizes: int [N, 2], heights and widths of the pictures, where they are known.
        """
        return answers

    def reordered(self, answers: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return answers [N, ...] of which class c is the class ``places[c]`` of another list of the same classes."""
        result = np.empty_like(answers)
        result[:, places] = answers
        return result

    def merged(self, answers: Sequence[np.ndarray], unknown: Sequence[Sequence[int]] = ()) -> np.ndarray:
        """Return one answer per image of several networks' answers: the teachers as one.

        Args:
            answers: Of each.
            unknown: Classes that each does not know; () where all know all.
        """
        return np.mean(answers, axis=0)

    @abstractmethod
    def combine(self, heads: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return one [B, C] of logits of several heads' [B, C], as the exported network combines them."""

    @abstractmethod
    def fit_temperature(self, logits: Any, targets: Any) -> float:
        """Return the temperature of one head, fitted on images that the network was not trained on."""

    @abstractmethod
    def answer(self, probabilities: np.ndarray, classes: Sequence[str], top: int) -> Answer:
        """Say the answer to one image.

        Args:
            probabilities: float32 [C].
            classes: Names; () for numbers.
            top: Classes to list.
        """

    @abstractmethod
    def named(self, target: Any, classes: Sequence[str]) -> str:
        """Return a target (or an answer in the form of one) in words, "" where it is unknown."""

    @abstractmethod
    def answered(self, probabilities: np.ndarray) -> Any:
        """Return answers [N] (or [N, C]) in the form of targets, of probabilities [N, C]."""

    def draw(self, picture: np.ndarray, answer: np.ndarray, classes: Sequence[str], top: int = 1) -> np.ndarray:
        """Return a picture uint8 [H, W, 3] with the answer to it written (or drawn) on it."""
        return with_caption(picture, self.answer(answer, classes, top).text)

    def samples(self, pixels: np.ndarray, targets: Any, classes: Sequence[str]) -> dict[str, np.ndarray]:
        """Return what ``samples.npz`` keeps of some training views uint8 [n, S, S, 3]: pictures, and words to each."""
        return {"views": pixels, "labels": np.asarray(targets)}

    def compared(self, source: Source, answers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what ``samples.npz`` keeps of a scored split to show answers side by side with the truth.

        Args:
            source: The split.
            answers: By title: "teacher", "student".
        """
        return {}

    # Figures

    @abstractmethod
    def validate(self, probabilities: Any, targets: Any) -> dict[str, float]:
        """Return what an epoch's line of metrics says of the validation split: `score` and more.

        Args:
            probabilities: Answers, as arrays or tensors.
            targets: As the source has them.
        """

    @abstractmethod
    def judge(
        self,
        probabilities: Any,
        targets: Any,
        classes: Sequence[str],
        *,
        teacher: Any = None,
        groups: Any = None,
        point: OperatingPoint | None = None,
    ) -> Any:
        """Take all figures of a network's answers: a `Judgement`, or what else has its ``fields()``.

        Args:
            probabilities: floating [n, C], or what `probabilities` of this task is.
            targets: As the source has them, -1 where unknown.
            classes: Names of the C classes.
            teacher: The same by the teachers (see `merged`) of the same images, or None.
            groups: int [n], the patient, say, of each image.
            point: An operating point chosen on validation images.
        """

    def point(self, probabilities: Any, targets: Any, classes: Sequence[str]) -> OperatingPoint | None:
        """Return an operating point chosen on validation images; None where the task has none."""
        return None

    def screens(self, classes: Sequence[str]) -> bool:
        """Whether an operating point is chosen for these classes."""
        return False

    @abstractmethod
    def agreement(self, one: np.ndarray, other: np.ndarray) -> float:
        """Return the share of images (or labels) that two networks' probabilities [N, C] answer alike."""

    def kept(self, sure: np.ndarray, other: np.ndarray) -> float:
        """Return 1 less the share of right answers that ``other`` loses where ``sure`` says how likely each answer is.

        Where no image has a label: another answer costs what ``sure`` gives its own more than that one, much where it
        is certain, and next to nothing where it hesitates between both. Tasks without such probabilities count answers
        alike.
        """
        return self.agreement(sure, other)

    def chance(self, targets: np.ndarray) -> float | None:
        """Return the score of always giving the commonest answer; None where that says nothing."""
        return None

    def counted(self, images: str) -> str:
        """Return what an accuracy is a share of, in words: "360 images", "the labels of 360 images"."""
        return images if self.unit == "images" else f"the {self.unit} of {images}"

    def said(self, scores: Mapping[str, float]) -> str:
        """Return what `validate` found, in words."""
        return f"{scores['val_accuracy']:.1%}"

    def arrays(self, targets: Any) -> dict[str, np.ndarray]:
        """Return a source's targets as arrays by name, to be kept beside the answers."""
        return to_columns(targets)
