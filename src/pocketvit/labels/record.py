"""What a teacher said about one view of every image: all logits, or the top k of them with a summary of the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

FULL_CLASSES = 256  # up to so many classes all logits are stored unless a k is asked for
DEFAULT_K = 100
_TAIL = ("maximum", "lse_rest", "mean_rest", "std_rest")


class SoftLabels:
    """Teacher outputs for B samples: all logits, or the top k with what is needed to stand in for the rest.

    The tensors are held as they are stored (fp16 values, 16-bit ids) and become float32 and int64 when looked at, so
    that a gather and a transfer to the device move few bytes. With top-k labels, ``values`` and the three numbers of
    the rest are all relative to the maximum logit: the log-probability of class ``ids[b, j]`` at temperature 1 is
    ``values[b, j] - logaddexp(logsumexp(values[b]), lse_rest[b])``.

    Attributes:
        logits: float32 [B, C] when ``full``, else None.
        ids: int64 [B, k], the classes of ``values``, best first; None when ``full``.
        values: float32 [B, k], logit minus the sample's maximum logit, in falling order.
        maximum: float32 [B], the largest logit.
        lse_rest: float32 [B], log-sum-exp of (logit - maximum) over the other C - k classes.
        mean_rest: float32 [B], their mean (of logit - maximum).
        std_rest: float32 [B], their standard deviation (divided by their number).
        num_classes: C.
    """

    __slots__ = ("_packed", "_tensors", "num_classes")

    def __init__(
        self,
        logits: torch.Tensor | None = None,
        *,
        ids: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
        maximum: torch.Tensor | None = None,
        lse_rest: torch.Tensor | None = None,
        mean_rest: torch.Tensor | None = None,
        std_rest: torch.Tensor | None = None,
        num_classes: int | None = None,
    ):
        if (logits is None) == (ids is None):
            raise ValueError("SoftLabels hold either all logits or top-k ids with values")
        given = {
            "logits": logits, "ids": ids, "values": values,
            "maximum": maximum, "lse_rest": lse_rest, "mean_rest": mean_rest, "std_rest": std_rest,
        }  # fmt: skip
        self._tensors = {name: tensor for name, tensor in given.items() if tensor is not None}
        self._packed: Packed | None = None
        if ids is not None and (num_classes is None or len(self._tensors) != 6):
            raise ValueError("top-k SoftLabels need num_classes, values and the four numbers of the rest")
        self.num_classes = int(num_classes if num_classes is not None else logits.shape[1])  # type: ignore[union-attr]

    @classmethod
    def from_packed(cls, packed: Packed) -> SoftLabels:
        """Labels whose records lie in the rows of one matrix, so that a sample is gathered at once."""
        labels = cls.__new__(cls)
        labels._tensors, labels._packed, labels.num_classes = {}, packed, packed.layout.num_classes
        return labels

    def get(self, name: str) -> torch.Tensor:
        """Return one of the tensors by name, as float32 or int64; KeyError when these labels do not hold it."""
        tensor = self._tensors[name] if self._packed is None else self._packed.get(name)
        if name != "ids":
            return tensor.to(torch.float32)
        wide = tensor.to(torch.int64)
        # uint16 is carried as int16 because few torch operations know uint16: undo the sign
        return wide & 0xFFFF if tensor.dtype == torch.int16 and self.num_classes > 2**15 else wide

    @property
    def full(self) -> bool:
        """Whether the logits of all classes are here."""
        return "logits" in self._tensors

    @property
    def logits(self) -> torch.Tensor | None:
        return self.get("logits") if self.full else None

    @property
    def ids(self) -> torch.Tensor | None:
        return None if self.full else self.get("ids")

    @property
    def values(self) -> torch.Tensor | None:
        return None if self.full else self.get("values")

    @property
    def maximum(self) -> torch.Tensor | None:
        return None if self.full else self.get("maximum")

    @property
    def lse_rest(self) -> torch.Tensor | None:
        return None if self.full else self.get("lse_rest")

    @property
    def mean_rest(self) -> torch.Tensor | None:
        return None if self.full else self.get("mean_rest")

    @property
    def std_rest(self) -> torch.Tensor | None:
        return None if self.full else self.get("std_rest")

    @property
    def k(self) -> int:
        """Number of stored classes a sample."""
        if self._packed is not None:
            return self._packed.layout.k
        return self.num_classes if self.full else self._tensors["ids"].shape[1]

    @property
    def top1(self) -> torch.Tensor:
        """The teacher's class, int64 [B]."""
        return self._tensors["logits"].argmax(1) if self.full else self.get("ids")[:, 0]

    def stored(self) -> dict[str, torch.Tensor]:
        """The tensors as they are held, by name."""
        if self._packed is not None:
            return {name: self._packed.get(name) for name in self._packed.layout.tensors() if name != "position"}
        return dict(self._tensors)

    def index(self, rows: torch.Tensor | np.ndarray) -> SoftLabels:
        """Gather samples: ``rows`` is int64 [B]; the result is held in the stored types."""
        if self._packed is not None:
            return SoftLabels.from_packed(self._packed.index(rows))
        rows = torch.as_tensor(rows)
        return self._map(lambda tensor: _gather(tensor, rows))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SoftLabels:
        """Move to a device, in the stored types."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SoftLabels:
        """Page-locked copies, for transfers that do not block."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> SoftLabels:
        if self._packed is not None:
            return SoftLabels.from_packed(Packed(function(self._packed.matrix), self._packed.layout))
        tensors = {name: function(tensor) for name, tensor in self._tensors.items()}
        return SoftLabels(**tensors, num_classes=self.num_classes)

    def __len__(self) -> int:
        return len(self._packed.matrix if self._packed is not None else next(iter(self._tensors.values())))

    def __repr__(self) -> str:
        held = "all logits" if self.full else f"top {self.k}"
        return f"SoftLabels({len(self)} samples, {held} of {self.num_classes} classes)"


def _gather(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows of a tensor. On a processor by numpy: one thread, which shares the cores better with a training step."""
    if tensor.device.type == "cpu" and rows.device.type == "cpu":
        return torch.from_numpy(tensor.numpy().take(rows.numpy(), axis=0))
    return tensor.index_select(0, rows.to(tensor.device))


def encode_topk(logits: torch.Tensor, k: int, true_classes: torch.Tensor | None = None) -> SoftLabels:
    """Keep the k largest logits of each sample, the true classes always among them, and sum up the rest.

    Args:
        logits: floating [B, C].
        k: at least 2 (a mixed view has two true classes) and below C.
        true_classes: int64 [B, m] with m <= k, -1 where unknown; their ids are kept whatever their logits.

    Returns:
        ``SoftLabels`` in storage types: values fp16, ids 16-bit up to 65,536 classes and int32 above, the rest fp32.
    """
    logits = logits.float()
    classes = logits.shape[1]
    if not 2 <= k < classes:
        raise ValueError(f"k must lie between 2 and {classes - 1}, not {k}")
    rank_BC = logits
    if true_classes is not None:
        rank_BC = logits.clone()
        for column in true_classes.to(logits.device).unbind(1):
            known = (column >= 0).nonzero()[:, 0]
            rank_BC[known, column[known]] = math.inf
    ids_Bk = rank_BC.topk(k, dim=1).indices
    maximum_B1 = logits.amax(1, keepdim=True)
    shifted_BC = logits - maximum_B1
    values_Bk, place_Bk = shifted_BC.gather(1, ids_Bk).sort(dim=1, descending=True, stable=True)
    ids_Bk = ids_Bk.gather(1, place_Bk)
    kept_BC = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids_Bk, True)
    count = classes - k
    mean_B1 = shifted_BC.masked_fill(kept_BC, 0).sum(1, keepdim=True) / count
    variance_B = (shifted_BC - mean_B1).masked_fill(kept_BC, 0).square().sum(1) / count
    return SoftLabels(
        ids=_narrow_ids(ids_Bk, classes),
        values=values_Bk.clamp_min(torch.finfo(torch.float16).min).half(),
        maximum=maximum_B1[:, 0],
        lse_rest=shifted_BC.masked_fill(kept_BC, -math.inf).logsumexp(1),
        mean_rest=mean_B1[:, 0],
        std_rest=variance_B.sqrt(),
        num_classes=classes,
    )


def encode_full(logits: torch.Tensor) -> SoftLabels:
    """Keep all logits [B, C] in fp16."""
    return SoftLabels(logits.half())


def decode(soft: SoftLabels, temperature: float = 1.0) -> torch.Tensor:
    """Return logits float32 [B, C]; where only the top k is stored, the rest is one level a sample.

    That level is ``m + (l - m) / T`` with m the mean of the rest and l = lse_rest - log(C - k). At temperature 1 it is
    l, which gives the rest its exact total probability; at high temperatures it tends to the mean, which is exact
    there; between, it is exact when the rest is normal (log mean exp(z / T) = m / T + variance / (2 T^2)).
    """
    if soft.full:
        return soft.get("logits")
    mean = soft.get("mean_rest")
    even = soft.get("lse_rest") - math.log(soft.num_classes - soft.k)
    level = mean + (even - mean) / temperature
    logits = level[:, None].repeat(1, soft.num_classes).scatter_(1, soft.get("ids"), soft.get("values"))
    return logits + soft.get("maximum")[:, None]


def _narrow_ids(ids: torch.Tensor, classes: int) -> torch.Tensor:
    if classes > 2**16:
        return ids.to(torch.int32)
    return torch.where(ids >= 2**15, ids - 2**16, ids).to(torch.int16)


@dataclass(frozen=True)
class Layout:
    """The tensors of a shard: what each record (one sample's labels) is made of.

    ``k`` is 0 for all logits. ``ordered`` says that rows stand in the order of the source; otherwise (mixed views,
    where partners are neighbours) each record also carries its position in the source.
    """

    num_classes: int
    k: int
    ordered: bool

    def tensors(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Name -> (type, shape of one record)."""
        if self.k == 0:
            result: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
                "logits": (np.dtype(np.float16), (self.num_classes,)),
            }
        else:
            ids = np.uint16 if self.num_classes <= 2**16 else np.int32
            result = {"ids": (np.dtype(ids), (self.k,)), "values": (np.dtype(np.float16), (self.k,))}
            result |= {name: (np.dtype(np.float32), ()) for name in _TAIL}
        if not self.ordered:
            result["position"] = (np.dtype(np.uint32), ())
        return result

    @property
    def bytes_per_record(self) -> int:
        return sum(dtype.itemsize * math.prod(shape) for dtype, shape in self.tensors().values())

    def empty(self, rows: int) -> dict[str, np.ndarray]:
        """Uninitialized arrays for ``rows`` records."""
        return {name: np.empty((rows, *shape), dtype) for name, (dtype, shape) in self.tensors().items()}

    def encode(self, logits: torch.Tensor, true_classes: torch.Tensor | None) -> dict[str, np.ndarray]:
        """Encode logits [B, C] into the arrays of this layout (all but ``position``)."""
        soft = encode_topk(logits, self.k, true_classes) if self.k else encode_full(logits)
        arrays = {name: tensor.cpu().numpy() for name, tensor in soft.stored().items()}
        if "ids" in arrays and arrays["ids"].dtype == np.int16:
            arrays["ids"] = arrays["ids"].view(np.uint16)
        return arrays

    def soft_labels(self, arrays: dict[str, np.ndarray]) -> SoftLabels:
        """Wrap arrays of this layout, without copying."""
        tensors = {}
        for name, array in arrays.items():
            if name != "position":
                tensors[name] = torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array)
        return SoftLabels(**tensors, num_classes=self.num_classes)

    def columns(self) -> tuple[dict[str, tuple[torch.dtype, int, int]], int]:
        """Where each tensor stands in a row of `Packed`: (name -> (type, first, stop), width), in 16-bit words."""
        place, result = 0, {}
        specs = {name: spec for name, spec in self.tensors().items() if name != "position"}
        for name, (dtype, shape) in sorted(specs.items(), key=lambda item: -item[1][0].itemsize):  # stay aligned
            words = dtype.itemsize * math.prod(shape) // 2
            result[name] = (_TORCH[dtype.name], place, place + words)
            place += words
        return result, place + place % 2


_TORCH = {"uint16": torch.int16, "int32": torch.int32, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Packed:
    """Records side by side in memory: one gather of about 400 consecutive bytes is twice as fast as six small ones.

    Attributes:
        matrix: int16 [N, words].
        layout: What stands in which columns.
    """

    matrix: torch.Tensor
    layout: Layout

    @classmethod
    def empty(cls, rows: int, layout: Layout) -> Packed:
        """Room for ``rows`` records."""
        return cls(torch.empty((rows, layout.columns()[1]), dtype=torch.int16), layout)

    def get(self, name: str) -> torch.Tensor:
        """One tensor in its stored type (16-bit ids as int16), a view of the matrix."""
        dtype, first, stop = self.layout.columns()[0][name]
        tensor = self.matrix[:, first:stop].view(dtype)
        return tensor[:, 0] if self.layout.tensors()[name][1] == () else tensor

    def index(self, rows: torch.Tensor | np.ndarray) -> Packed:
        """Gather records."""
        return Packed(_gather(self.matrix, torch.as_tensor(rows)), self.layout)

    def arrays(self) -> dict[str, np.ndarray]:
        """All tensors as numpy views of the types that are stored, to be filled."""
        result = {}
        for name, (dtype, _) in self.layout.tensors().items():
            if name != "position":
                array = self.get(name).numpy()
                result[name] = array.view(np.uint16) if dtype == np.uint16 else array
        return result


def choose_k(num_classes: int, k: int | None) -> int:
    """Resolve the ``k`` of a request: None is all logits up to 256 classes and the top 100 above; 0 is all logits.

    Returns:
        0 for all logits, also when the request leaves nothing out, else k.
    """
    if k is None:
        k = 0 if num_classes <= FULL_CLASSES else DEFAULT_K
    return 0 if k >= num_classes else k
