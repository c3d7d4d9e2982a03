"""A teacher: a frozen network with its own preprocessing, and a map from its classes to ours."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import PocketError
from ..models.innermost import channels_innermost
from ..models.inputs import config_of
from ..views.constants import constant
from ..views.resize import resize, to_input

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Teacher:
    """A network in evaluation mode, frozen, that labels uint8 views.

    Attributes:
        name: short, for tables and folders.
        module: the network.
        input_size: side of the square that it sees, in pixels.
        mean: of each channel in 0..1, and ``std``: what it was trained with.
        classes: names of its outputs (before the class map); None where unknown.
        columns: int64 [C], our class j is its output ``columns[j]``; None for all of them in their order.
        notes: what was assumed in loading it, to be printed.
        kind: of its outputs: "softmax" for one class an image, "sigmoid" for several labels, each there or not.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        input_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        raw_outputs: int,
        classes: Sequence[str] | None = None,
        columns: np.ndarray | None = None,
        precision: str = "fp32",
        notes: Sequence[str] = (),
        kind: str = "softmax",
    ) -> None:
        self.kind = kind
        self.module = channels_innermost(module.eval(), input_size)
        for parameter in module.parameters():  # TorchScript's modules have no requires_grad_
            parameter.requires_grad_(False)
        self.name, self.input_size = name, input_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.raw_outputs = raw_outputs
        self.classes = tuple(classes) if classes is not None else None
        self.columns = None if columns is None else np.asarray(columns, np.int64)
        self.precision, self.notes = precision, tuple(notes)
        self._weights = hash_tensors(self.module)
        self._buffers = hash_tensors(self.module, parameters=False)

    @property
    def num_outputs(self) -> int:
        """Width of `logits` after the class map; 0 for a network without classes, such as a self-supervised one."""
        return self.raw_outputs if self.columns is None else len(self.columns)

    @property
    def described(self) -> str:
        """Name and input, as logs and plans say it."""
        return f"{self.name}: input {self.input_size} px"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of `logits`, after the class map; () where they are unknown."""
        if self.classes is None:
            return ()
        return self.classes if self.columns is None else tuple(self.classes[column] for column in self.columns)

    @property
    def device(self) -> torch.device:
        tensor = next((t for t in (*self.module.parameters(), *self.module.buffers())), None)
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What its labels depend on: architecture, weights and buffers, preprocessing, precision, kind, class map."""
        parts: dict[str, Any] = {
            "architecture": config_of(self.module).get("architecture") or type(self.module).__qualname__,
            "weights": self._weights,
            "preprocessing": {"input_size": self.input_size, "mean": list(self.mean), "std": list(self.std)},
            "precision": self.precision,
        }
        # What is at its default stays out, so that a new option orphans no old store.
        if self.kind != "softmax":
            parts["kind"] = self.kind
        return parts if self.columns is None else parts | {"columns": self.columns.tolist()}

    def logits(self, pixels: Tensor) -> Tensor:
        """Label views.

        Args:
            pixels: uint8 [B, 3, S, S], of any size and on any device.

        Returns:
            float32 [B, num_outputs] on the teacher's device.

        Raises:
            PocketError: the network has no classes, or its logits are not finite.
        """
        if not self.raw_outputs:
            raise PocketError(
                f"the teacher {self.name} has no classes, it only makes features. Fine-tune it on labelled images "
                "(`pocketvit train IMAGES --model NAME`, with --freeze for a linear probe) and use the result."
            )
        with torch.no_grad(), self._autocast():
            out = first_logits(self.module(self._input(pixels))).float()
        if not bool(torch.isfinite(out).all()):
            raise PocketError(
                f"the teacher {self.name} gave logits that are not finite (NaN or infinite). Check its weights and its "
                f"normalization{'' if self.precision == 'fp32' else f'; with precision {self.precision} try fp32'}."
            )
        return self._in_our_classes(out)

    def differentiable(self, images: Tensor) -> Tensor:
        """Answer images in such a way that gradients flow back to their pixels; nothing in the network changes.

        Args:
            images: float32 [B, 3, S, S] in 0..1, of any size, on the teacher's device.

        Returns:
            float32 [B, num_outputs]; not looked at for NaN, so that nothing waits for the device.
        """
        return self._in_our_classes(first_logits(self.through(images)).float())

    def through(self, images: Tensor) -> Any:
        """Return what the network itself answers to such images."""
        shape = (1, -1, 1, 1)
        mean, std = (constant(tuple(map(float, part)), images.device).view(shape) for part in (self.mean, self.std))
        with self._autocast():
            return self.module((resize(images, (self.input_size,) * 2) - mean) / std)

    def features(self, pixels: Tensor) -> Tensor:
        """Return what the head sees of views: float32 [B, D].

        Raises:
            PocketError: the network does not tell its features from its head, as timm's do.
        """
        module: Any = self.module
        if not hasattr(module, "forward_features") or not hasattr(module, "forward_head"):
            raise PocketError(
                f"the teacher {self.name} has no forward_features() and forward_head(), so that its features cannot be "
                "taken. Use a timm model, or give your module these two methods."
            )
        with torch.no_grad(), self._autocast():
            return module.forward_head(module.forward_features(self._input(pixels)), pre_logits=True).float()

    def check_unchanged(self) -> None:
        """Raise `PocketError` if a buffer (such as a BatchNorm statistic) changed since the teacher was loaded."""
        if hash_tensors(self.module, parameters=False) != self._buffers:
            raise PocketError(
                f"the teacher {self.name} changed while it was labelling: its buffers are not what they were, so that "
                "its labels do not belong to one network. It writes to a buffer in forward() even in eval mode: fix "
                "that and label again."
            )

    def with_columns(self, columns: np.ndarray | None, *notes: str) -> Teacher:
        """Return the same network (shared) with another class map."""
        other = copy.copy(self)
        other.columns = None if columns is None else np.asarray(columns, np.int64)
        other.notes = (*self.notes, *notes)
        return other

    def with_kind(self, kind: str, *notes: str) -> Teacher:
        """Return the same network (shared) with its outputs read as another kind."""
        other = self.with_columns(self.columns, *notes)
        other.kind = kind
        return other

    def in_precision(self, precision: str) -> Teacher:
        """Return the same network (shared), answering in "fp32", or by "bf16" or "fp16" autocast."""
        other = self.with_columns(self.columns)
        other.precision = precision
        return other

    def seeing(
        self, *, input_size: int | None = None, norm: tuple[Sequence[float], Sequence[float]] | None = None
    ) -> Teacher:
        """Return the same network (shared) that is shown its pictures at another size, or with another (mean, std)."""
        other = self.with_columns(self.columns)
        other.input_size = input_size or self.input_size
        if norm is not None:
            other.mean, other.std = tuple(norm[0]), tuple(norm[1])
        return other

    def to(self, device: torch.device | str) -> Teacher:
        """Move the network, in place."""
        self.module.to(device)
        return self

    def _in_our_classes(self, out: Tensor) -> Tensor:
        return out if self.columns is None else out[:, constant(tuple(self.columns.tolist()), out.device)]

    def _input(self, pixels: Tensor) -> Tensor:
        return to_input(pixels.to(self.device), self.input_size, self.mean, self.std)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision not in _AUTOCAST:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=_AUTOCAST[self.precision])

    def __repr__(self) -> str:
        return f"Teacher({self.name}, {self.num_outputs} classes, {self.input_size} px, {self.precision})"


class InOurClasses(nn.Module):
    """A teacher's network with its class map."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.network = teacher.module
        self.columns = None if teacher.columns is None else torch.from_numpy(teacher.columns)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = first_logits(self.network(x))
        return logits if self.columns is None else logits[:, self.columns]


def first_logits(out: Any) -> Tensor:
    """Return the logits [B, C] out of what a network returns: a tensor, ``.logits``, or the first of several."""
    whole, out = out, getattr(out, "logits", out)
    if isinstance(out, dict):
        named = [name for name in ("logits", "out", "output") if name in out] or list(out)
        if len(named) > 1 and named[0] not in ("logits", "out", "output"):
            raise PocketError(f"a teacher must return logits, but this one returns {', '.join(map(str, out))} by name.")
        out = out[named[0]] if named else None
    if isinstance(out, (tuple, list)) and out:
        out = out[0]
    if not isinstance(out, Tensor) or out.ndim != 2:
        shape = f"a tensor of shape {list(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise PocketError(
            f"a teacher must return logits [images, classes], but this one returns {shape}.{_boxes_in(whole)}"
        )
    return out


def _boxes_in(out: Any) -> str:
    """What to do with a network that seems to be a detector; "" for another."""
    first = out[0] if isinstance(out, list | tuple) and out else out
    found = first if isinstance(first, dict) else vars(first) if hasattr(first, "__dict__") else {}
    if not any("boxes" in str(name) for name in found):
        return ""
    return (
        " A detector of your own becomes one by pocketvit.teachers.detector_teacher(module, activation=...), with "
        "`read` for another form than transformers': let the function return that."
    )


def hash_tensors(module: nn.Module, *, parameters: bool = True) -> str:
    """Return the hex SHA-256 of a network's buffers and parameters: names, types, shapes and bytes."""
    tensors: dict[str, Tensor] = dict(module.named_buffers())
    if parameters:
        tensors |= dict(module.named_parameters())
        tensors |= _packed(module)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _packed(module: nn.Module) -> dict[str, Tensor]:
    """Weights that are no parameters: of quantized layers, and the constants of a frozen TorchScript module."""
    if isinstance(module, torch.jit.RecursiveScriptModule):
        constants = (node for node in module.inlined_graph.nodes() if node.kind() == "prim::Constant")
        values = [node.output().toIValue() for node in constants]
        return {f"constant {number}": one for number, one in enumerate(values) if isinstance(one, Tensor)}
    found: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        for number, part in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(part, Tensor) and (isinstance(value, tuple) or part.is_quantized):
                found[f"packed {name} {number}"] = part.dequantize() if part.is_quantized else part
    return found


def has_classes(module: nn.Module) -> bool:
    """Whether a network ends in classes; timm's self-supervised ones are made with ``num_classes=0``."""
    count = getattr(module, "num_classes", None)
    return bool(config_of(module).get("num_classes", 1)) if count is None else count != 0
