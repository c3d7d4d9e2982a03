"""What a store keeps of one image: the arrays of a record, and how a teacher's outputs become them. One class per kind.

`record_of` finds the kind that a teacher names. A new one is a subclass of `Record` with `register_record` over it; it
may stand in any package, and the store treats it as it does its own.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import PocketError
from .soft import FullLabels, SoftLabels, TopLabels, topk_tensors

FULL_CLASSES = 256  # up to so many classes all logits are stored unless a k is asked for
DEFAULT_K = 100


@dataclass(frozen=True)
class Field:
    """One array of a record.

    Attributes:
        dtype: Of its numbers.
        shape: Of one image's, or of one item's where an image has any number of them.
        ragged: Whether it has.
    """

    dtype: type[np.generic]
    shape: tuple[int, ...] = ()
    ragged: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of one image, or of one item."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


class Labels(Protocol):
    """What a store gives back of some images."""

    def __len__(self) -> int: ...
    def index(self, rows: Any) -> Self: ...
    def to(self, device: Any, non_blocking: bool = False) -> Self: ...
    def pin_memory(self) -> Self: ...


@dataclass(frozen=True)
class Record(ABC):
    """One image's labels by one teacher.

    Fields that a kind adds to these must be numbers or texts: they are written into the store.

    Attributes:
        kind: As teachers, stores and tasks call it.
        per_class: Whether an image's outputs stand for the classes of its source, which must then not be more.
        format: Of the store's files: 1 is what versions before 0.2 can read.
        num_classes: Outputs of the teacher.
        k: The most that is kept of them; what that means is up to the kind, 0 is all.
    """

    kind: ClassVar[str]
    per_class: ClassVar[bool] = True
    format: ClassVar[int] = 2
    num_classes: int
    k: int = 0

    @classmethod
    @abstractmethod
    def of(cls, teacher: Any, k: int | None) -> Record:
        """Return the record for a teacher; ``k`` None leaves the number to the kind."""

    @abstractmethod
    def fields(self) -> dict[str, Field]:
        """The arrays, by name."""

    def ask(self, teacher: Any, pixels: Tensor) -> Any:
        """Return a teacher's outputs for uint8 views [B, 3, S, S], as `encode` takes them."""
        return teacher.logits(pixels)

    @abstractmethod
    def encode(self, outputs: Any, targets: Tensor) -> dict[str, np.ndarray]:
        """Return the arrays for a batch of B images; with "offsets" int64 [B + 1] where fields are ragged.

        Args:
            outputs: Of `ask`.
            targets: int64 [B, 2, ...], of each image and of the one it is mixed with.

        Raises:
            PocketError: The outputs have another form; the message goes on from "the teacher NAME".
        """

    @abstractmethod
    def empty(self, images: int, offsets: np.ndarray | None) -> tuple[Labels, dict[str, np.ndarray]]:
        """Return labels for ``images``, and their arrays by name for the store to fill (not all fields need be there).

        Args:
            images: B.
            offsets: int64 [B + 1] where fields are ragged, else None.
        """

    @abstractmethod
    def difference(self, stored: Any, outputs: Any) -> Tensor:
        """Return how far a teacher's outputs are from what is stored, [B], relative to their own size.

        Args:
            stored: Labels of B images.
            outputs: Of `ask`, for the same views.
        """

    @abstractmethod
    def text(self) -> str:
        """What is kept, in words."""

    @property
    def ragged(self) -> bool:
        """Whether an image has any number of something."""
        return any(field.ragged for field in self.fields().values())

    @property
    def bytes_per_image(self) -> int:
        """Bytes in a store, apart from what is ragged."""
        fixed = sum(field.nbytes for field in self.fields().values() if not field.ragged)
        return fixed + 8 * self.ragged  # an offset

    @property
    def bytes_per_item(self) -> int:
        """Bytes of all ragged fields of one item."""
        return sum(field.nbytes for field in self.fields().values() if field.ragged)

    def more(self) -> dict[str, Any]:
        """The fields that this kind adds, by name."""
        known = {"num_classes", "k"}
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in known}


_KINDS: dict[str, type[Record]] = {}
R = TypeVar("R", bound=type[Record])


def register_record(record: R) -> R:
    """Make a kind of record known by its name (a decorator)."""
    _KINDS[record.kind] = record
    return record


def record_kind(kind: str) -> type[Record]:
    """Return the class of a kind.

    Raises:
        PocketError: There is none.
    """
    if kind not in _KINDS:
        raise PocketError(
            f"there are no labels of the kind {kind!r} here, only {', '.join(_KINDS)}. Import the package that brings "
            "them, or update pocketvit."
        )
    return _KINDS[kind]


def record_of(teacher: Any, k: int | None = None) -> Record:
    """Return what a store would keep of a teacher, by the kind that it names (softmax where it names none)."""
    return record_kind(getattr(teacher, "kind", "softmax")).of(teacher, k)


def label(
    teacher: Any, record: Record, pixels: Tensor, targets: Tensor, where: tuple[Any, np.ndarray, int] | None = None
) -> dict[str, np.ndarray]:
    """Return a teacher's record arrays for uint8 views [B, 3, S, S] of images with these targets [B, 2, ...].

    Args:
        teacher: Live; or stored answers, which look up ``where`` instead of looking (``teachers.given``).
        record: What is kept.
        pixels: The views.
        targets: Of the images and of those they are mixed with.
        where: The `Views`, positions int64 [B] and number of the view that ``pixels`` are.
    """
    teacher = asked_where(teacher, where)
    outputs = record.ask(teacher, pixels)
    try:
        return record.encode(outputs, targets)
    except PocketError as error:
        raise PocketError(f"the teacher {teacher.name} {error}") from error


def asked_where(teacher: Any, where: tuple[Any, np.ndarray, int] | None) -> Any:
    """Return a teacher of stored answers bound to the views that it is asked about; any other as it is."""
    return teacher.at(*where) if where is not None and hasattr(teacher, "at") else teacher


@dataclass(frozen=True)
class Logits(Record):
    """One number per output: all of them in fp16, or (k > 0) the k largest with what stands in for the rest."""

    format = 1

    @classmethod
    def of(cls, teacher: Any, k: int | None) -> Logits:
        if k and k < teacher.num_outputs:
            raise PocketError(
                f"the {teacher.num_outputs} outputs of {teacher.name} are independent of each other ({cls.kind}): the "
                "largest say nothing of the others. Store all of them, with --top-k 0."
            )
        return cls(teacher.num_outputs)

    def fields(self) -> dict[str, Field]:
        if self.k == 0:
            return {"logits": Field(np.float16, (self.num_classes,))}
        ids = np.uint16 if self.num_classes <= 2**16 else np.int32
        numbers = ("maximum", "lse_rest", "mean_rest", "std_rest")
        return {
            "ids": Field(ids, (self.k,)),
            "values": Field(np.float16, (self.k,)),
            **{name: Field(np.float32) for name in numbers},
        }

    def encode(self, outputs: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
        if tuple(outputs.shape) != (len(targets), self.num_classes):
            raise PocketError(
                f"returned an output of shape {tuple(outputs.shape)}, not {(len(targets), self.num_classes)}. It must "
                "return one row of logits per image."
            )
        if self.k == 0:
            return {"logits": outputs.half().cpu().numpy()}
        tensors = topk_tensors(outputs, self.k, targets)
        return {name: _unsigned(tensor.cpu().numpy()) for name, tensor in tensors.items()}

    def empty(self, images: int, offsets: np.ndarray | None) -> tuple[SoftLabels, dict[str, np.ndarray]]:
        if self.k == 0:
            logits = torch.empty((images, self.num_classes), dtype=torch.float16)
            return FullLabels(logits), {"logits": logits.numpy()}
        labels = TopLabels.empty(images, self.num_classes, self.k)
        return labels, {name: _unsigned(column.numpy()) for name, column in labels.columns().items()}

    def difference(self, stored: SoftLabels, outputs: Tensor) -> Tensor:
        """Largest difference of each record over its scale; where only the top k is stored, over those and the rest."""
        logits = outputs.float().cpu()
        scale = logits.abs().amax(1).clamp_min(1)
        if isinstance(stored, FullLabels):
            return (stored.logits - logits).abs().amax(1) / scale
        assert isinstance(stored, TopLabels)
        live = topk_tensors(logits, stored.k, stored.ids)  # the same classes are kept: the rests can be compared
        kept = stored.values + stored.maximum[:, None] - logits.gather(1, stored.ids)
        return torch.maximum(kept.abs().amax(1), (stored.lse_rest - live["lse_rest"]).abs()) / scale

    def text(self) -> str:
        return f"top {self.k} of {self.num_classes} logits" if self.k else f"all {self.num_classes} logits"


@register_record
@dataclass(frozen=True)
class Softmax(Logits):
    """Logits of which a softmax makes probabilities: only here do the largest stand for all."""

    kind = "softmax"

    @classmethod
    def of(cls, teacher: Any, k: int | None) -> Softmax:
        if k is not None and (k < 0 or (k in (1, 2) and k < teacher.num_outputs)):
            raise PocketError(
                "--top-k must be 0 (all logits) or at least 3 (the class that the teacher sees, and the true ones of a "
                f"mixed pair), not {k}."
            )
        return cls(teacher.num_outputs, choose_k(teacher.num_outputs, k))


@register_record
@dataclass(frozen=True)
class Sigmoid(Logits):
    """Logits of which a sigmoid each makes probabilities."""

    kind = "sigmoid"


def choose_k(num_classes: int, k: int | None) -> int:
    """Resolve the ``k`` of a request: None is all logits up to 256 classes and the top 100 above; 0 is all logits.

    Returns:
        0 for all logits, also when the request leaves nothing out, else k.
    """
    if k is None:
        k = 0 if num_classes <= FULL_CLASSES else DEFAULT_K
    return 0 if k >= num_classes else k


def _unsigned(array: np.ndarray) -> np.ndarray:
    """16-bit ids are unsigned on disk; torch carries their bits as int16."""
    return array.view(np.uint16) if array.dtype == np.int16 else array
