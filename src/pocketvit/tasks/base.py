"""The protocol of a task, and the tasks by name."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from ..config import LossConfig
from ..errors import PocketError
from ..metrics import Judgement, OperatingPoint
from ..objectives import Gate, Objective

if TYPE_CHECKING:
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


class Task(ABC):
    """One kind of label, from the target on disk to the figure in the table. Stateless: the same object serves all.

    Attributes:
        name: As datasets, student folders and exported files write it down.
        kind: What makes probabilities of outputs, and so what a store's records are: "softmax" or "sigmoid".
        objectives: Distillation losses by name.
        score: The field of `validate` by which the best checkpoint is kept.
        smoothing: Of the labels that networks are trained on without a teacher.
        unit: What an accuracy counts, in words: "images" or "labels".
        compares: Whether `compare` knows methods for it.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["softmax", "sigmoid"]]
    objectives: ClassVar[Mapping[str, Objective]]
    score: ClassVar[str] = "val_accuracy"
    smoothing: ClassVar[float] = 0.0
    unit: ClassVar[str] = "images"
    compares: ClassVar[bool] = True

    # What is asked for

    @abstractmethod
    def refuse(self, settings: Any, classes: int) -> None:
        """Refuse settings that do not fit this task, before anything is computed.

        Args:
            settings: Of a verb; looked at are those of ``objective``, ``teacher_weights``, ``balance``, ``tokens``,
                ``top_k`` and ``match`` that it has.
            classes: How many there are.

        Raises:
            PocketError: Names the setting, why, and what to do.
        """

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

    # Learning

    @abstractmethod
    def truth(self, logits: torch.Tensor, batch: Batch, config: LossConfig) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss [B] of one head with the (mixed) ground truth, and 1 where that is known, else 0, [B]."""

    @abstractmethod
    def loss(self, config: LossConfig, *, gate: Gate | None = None, approximate_tail: bool = False) -> Loss:
        """Return what `training.fit` minimizes: distillation where batches have soft labels, else the truth."""

    @abstractmethod
    def plain_loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits [B, C] with unmixed, known targets, one per image or per label."""

    @abstractmethod
    def right(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return how many images of a training batch are answered rightly (a sum, on the device)."""

    # Answers

    @abstractmethod
    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the probabilities [B, C] of a network's logits [B, C]."""

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

    # Figures

    @abstractmethod
    def validate(self, probabilities: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Return what an epoch's line of metrics says of the validation split: "val_accuracy" and more."""

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
    ) -> Judgement:
        """Take all figures of a network's answers.

        Args:
            probabilities: floating [n, C].
            targets: As the source has them, -1 where unknown.
            classes: Names of the C classes.
            teacher: floating [n, C], the teachers' mean probabilities on the same images, or None.
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

    def chance(self, targets: np.ndarray) -> float | None:
        """Return the score of always giving the commonest answer; None where that says nothing."""
        return None

    def counted(self, images: str) -> str:
        """Return what an accuracy is a share of, in words: "360 images", "the labels of 360 images"."""
        return images if self.unit == "images" else f"the {self.unit} of {images}"

    def said(self, scores: Mapping[str, float]) -> str:
        """Return what `validate` found, in words."""
        return f"{scores['val_accuracy']:.1%}"


_TASKS: dict[str, Task] = {}


def register(task: type[Task]) -> type[Task]:
    """Make a task known by its name (a decorator)."""
    _TASKS[task.name] = task()
    return task


def task_named(name: str) -> Task:
    """Return the task of a name.

    Raises:
        PocketError: There is none.
    """
    known = {"multi-label": "multilabel"}.get(name, name)  # as versions before 0.2 wrote it
    if known not in _TASKS:
        raise PocketError(f"there is no task {name!r}; there are {', '.join(_TASKS)}.")
    return _TASKS[known]
