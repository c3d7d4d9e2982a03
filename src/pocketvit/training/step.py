"""One optimizer step: forward, loss, backward, clipping, update, weight average. All of a run's mutable state."""

from __future__ import annotations

import copy
import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..config import TrainConfig
from ..errors import PocketError
from ..models import forward_heads
from ..models.taps import Taps
from ..objectives.terms import FeatureTerms
from ..views.resize import to_input
from .feed import Batch
from .optim import build_optimizer
from .precision import autocast
from .schedule import Schedule

Input = tuple[int, Sequence[float], Sequence[float]]
"""What a network is fed: side of the square in pixels, and the mean and standard deviation of each channel (of 1)."""

Loss = Callable[[tuple[torch.Tensor, ...], Batch], tuple[torch.Tensor, dict[str, torch.Tensor]]]
"""From the heads' float32 logits and a batch to the scalar that is minimized and its detached parts."""


class FromPixels(nn.Module):
    """A network with its resizing and normalization: uint8 [B, 3, S, S] to the logits of every head."""

    def __init__(self, model: nn.Module, input: Input) -> None:
        super().__init__()
        self.model = model
        self.size, self.mean, self.std = input

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return forward_heads(self.model, to_input(pixels, self.size, self.mean, self.std))


class WithFeatures(nn.Module):
    """`FromPixels` that also returns the features that terms compare, projected.

    One module, so that several processes share the gradients of the projections too.
    """

    def __init__(self, network: FromPixels, terms: FeatureTerms) -> None:
        super().__init__()
        self.network, self.terms = network, terms
        self.taps = Taps(network.model, terms.student_layers, training_only=True)

    def forward(self, pixels: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], list[list[torch.Tensor]]]:
        heads = self.network(pixels)
        return heads, self.terms(self.taps.take())


class Stepper:
    """Takes optimizer steps; everything that they change is in ``tensors`` and ``state``.

    Args:
        model: Is trained in place, on the device it is on.
        input: What it is fed.
        loss: See `Loss`.
        config: With a resolved precision.
        steps_per_epoch: Optimizer steps of an epoch.
        terms: Objectives on features, added to the loss; their projections learn with the model.
        rank, world: This process and their number; the process group must exist when ``world > 1``.
    """

    def __init__(
        self,
        model: nn.Module,
        input: Input,
        loss: Loss,
        config: TrainConfig,
        steps_per_epoch: int,
        *,
        terms: FeatureTerms | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.model, self.loss, self.config, self.rank, self.world = model, loss, config, rank, world
        self.terms = terms
        self.device = next(model.parameters()).device
        self.steps_per_epoch = steps_per_epoch
        self.step = 0
        self.schedule = Schedule(config, config.epochs * steps_per_epoch)
        self.optimizer = build_optimizer(model, config, terms)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.average = copy.deepcopy(model).requires_grad_(False).eval() if config.ema > 0 else None
        if self.average is not None:
            pairs = list(zip(model.state_dict().values(), self.average.state_dict().values(), strict=True))
            floats = [pair for pair in pairs if pair[0].dtype.is_floating_point]
            self._averaged, self._averages = [list(side) for side in zip(*floats, strict=True)]
            self._counters = [pair for pair in pairs if not pair[0].dtype.is_floating_point]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        forward: nn.Module = FromPixels(model, input)
        self._average_forward = None if self.average is None else FromPixels(self.average, input)
        self._taps = None
        if terms is not None:
            if terms.needs_average and self.average is None:
                raise PocketError(
                    "mean_teacher learns from the average of the student's weights, which is not kept: give it a "
                    "decay, as in --ema 0.999."
                )
            forward = WithFeatures(forward, terms)  # type: ignore[arg-type]
            self._taps = forward.taps
        if world > 1:
            forward = DistributedDataParallel(forward, device_ids=None)
        self.forward = torch.compile(forward) if config.compile else forward
        self._synchronizes = forward.no_sync if isinstance(forward, DistributedDataParallel) else None
        # The first step whose loss was not finite; kept on the device, because asking for it would wait for the step.
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=self.device)

    @property
    def evaluated(self) -> nn.Module:
        """The network that counts: the weight average where there is one."""
        return self.model if self.average is None else self.average

    def take(self, batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
        """Take one optimizer step on one or several (accumulated) batches of equal weight.

        Returns:
            Detached sums over the images of all batches of this rank, on the device and not waited for: "loss", the
            loss's terms, "correct" (images whose likeliest class is the own or the partner's, whichever weighs more;
            of several labels, the share of an image's that are right at 0.5) and "images".
        """
        factor = self.schedule.factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]
        self.model.train()
        sums: dict[str, torch.Tensor] = {}
        for number, batch in enumerate(batches):
            self._reseed(number)
            last = number + 1 == len(batches)
            if self._synchronizes is None or last:
                self._backward(batch, len(batches), sums)
            else:
                with self._synchronizes():
                    self._backward(batch, len(batches), sums)
        if self.config.clip > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip, foreach=True)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._update_average()
        self.step += 1
        return sums

    def _backward(self, batch: Batch, count: int, sums: dict[str, torch.Tensor]) -> None:
        projected: list[list[torch.Tensor]] = []
        with autocast(self.config.precision, self.device):
            heads = self.forward(batch.pixels)
            if self.terms is not None:
                heads, projected = heads
        heads = tuple(head.float() for head in heads)
        loss, terms = self.loss(heads, batch)
        if self.terms is not None:
            batch.progress = self.step / (self.config.epochs * self.steps_per_epoch)
            if self.terms.needs_average:
                batch.average = self._averaged_heads(batch)
            matched, more = self.terms.compare(projected, heads, batch)
            loss, terms = loss + matched, {**terms, **more}
        # Ranks may hold one pair more or less; their average must still be the mean over the images of the batch.
        share = len(batch) * self.world / batch.total if self.world > 1 else 1.0
        self.scaler.scale(loss * (share / count)).backward()
        with torch.no_grad():
            bad = (self.first_bad < 0) & ~torch.isfinite(loss.detach())
            self.first_bad = torch.where(bad, self.step, self.first_bad)
            several = batch.targets.ndim == 2
            own = batch.ratio >= 0.5
            heaviest = torch.where(own[:, None] if several else own, batch.targets, batch.partner_targets)
            parts = {"loss": loss.detach(), **terms}
            counted = {name: value.detach() * len(batch) for name, value in parts.items()}
            answers = heads[0].detach()
            counted["correct"] = (
                ((answers >= 0) == heaviest).float().mean(1).sum() if several else (answers.argmax(1) == heaviest).sum()
            )
            counted["images"] = torch.tensor(len(batch))
            for name, value in counted.items():
                sums[name] = sums[name] + value if name in sums else value

    def _averaged_heads(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        assert self._average_forward is not None
        with torch.no_grad(), autocast(self.config.precision, self.device):
            return tuple(head.float() for head in self._average_forward(batch.pixels))

    def close(self) -> None:
        """Take the hooks out of the model, which others go on to use."""
        if self._taps is not None:
            self._taps.remove()

    def _reseed(self, number: int) -> None:
        """Key dropout and drop-path by (seed, step, rank), so that a resumed run draws what an unbroken one draws."""
        key = struct.pack("<qqqq", self.config.seed, self.step, self.rank, number)
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(seed)

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average is None:
            return
        # A young average follows quickly, or a short run would evaluate its random start (as TensorFlow's EMA does).
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self._averages, self._averaged, 1 - decay)
        for source, target in self._counters:
            target.copy_(source)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a checkpoint must hold as tensors."""
        result = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.average is not None:
            result |= {f"ema.{name}": value for name, value in self.average.state_dict().items()}
        if self.terms is not None:
            result |= {f"terms.{name}": value for name, value in self.terms.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            result |= {f"optimizer.{index}.{name}": value for name, value in values.items() if value is not None}
        return result

    def state(self) -> dict[str, Any]:
        """Everything else that a checkpoint must hold, JSON-like."""
        return {"step": self.step, "scaler": self.scaler.state_dict()}

    def restore(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Go back to what ``tensors()`` and ``state()`` returned."""
        parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "ema": {}, "terms": {}, "optimizer": {}}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            parts[kind][rest] = value
        self.model.load_state_dict(parts["model"])
        if self.average is not None:
            self.average.load_state_dict(parts["ema"])
        if self.terms is not None:
            self.terms.load_state_dict(parts["terms"])
        saved = self.optimizer.state_dict()
        saved["state"] = {}
        for name, value in parts["optimizer"].items():
            index, _, key = name.partition(".")
            if value.ndim:  # fused optimizers walk through memory: the layout must be the parameter's
                value = torch.empty_like(self.parameters[int(index)], device=value.device).copy_(value)
            saved["state"].setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(saved)
        self.step = state["step"]
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
