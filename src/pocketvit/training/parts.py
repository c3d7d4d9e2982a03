"""State that composes: named modules and optimizers as one dictionary of tensors, and the average of a network."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Parts:
    """Modules and optimizers by name, saved and restored together.

    Args:
        parts: Such as {"model": student, "optimizer": its optimizer, "generator": ...}; None for a part that this run
            does not have. A network that is to be loaded by `load_weights` is called "model", its average "ema".
    """

    def __init__(self, parts: Mapping[str, nn.Module | Optimizer | None]) -> None:
        self.parts = {name: part for name, part in parts.items() if part is not None}

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors as ``PART.NAME``."""
        found: dict[str, Tensor] = {}
        for part, thing in self.parts.items():
            values = _optimizer_tensors(thing) if isinstance(thing, Optimizer) else thing.state_dict()
            found |= {f"{part}.{name}": value for name, value in values.items()}
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` returned.

        Raises:
            KeyError: There is a part that this run does not have.
            RuntimeError: A network has other weights.
        """
        values: dict[str, dict[str, Tensor]] = {name: {} for name in self.parts}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            values[part][rest] = value
        for name, thing in self.parts.items():
            if isinstance(thing, Optimizer):
                _restore_optimizer(thing, values[name])
            else:
                thing.load_state_dict(values[name])


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    states = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value for i, state in states.items() for name, value in state.items() if value is not None}


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    saved = optimizer.state_dict()
    saved["state"] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        if value.ndim:  # fused optimizers walk through memory: the layout must be the parameter's
            value = torch.empty_like(parameters[int(index)], device=value.device).copy_(value)
        saved["state"].setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(saved)


class WeightAverage:
    """An exponential moving average of a network's weights and statistics, as a network of its own.

    Weights that are shared in the network are shared, and averaged once, in the average too.

    Args:
        model: Is copied.
        decay: A step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(model).requires_grad_(False).eval()
        sides = ([*one.parameters(), *one.buffers()] for one in (model, self.module))
        pairs = list(zip(*sides, strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the network, after ``step`` steps before this one."""
        # A young average follows quickly, or a short run would evaluate its random start (as TensorFlow's EMA does).
        decay = min(self.decay, (1 + step) / (10 + step))
        sources, targets = zip(*self._floats, strict=True)
        torch._foreach_lerp_(targets, sources, 1 - decay)
        for source, target in self._counters:
            target.copy_(source)
