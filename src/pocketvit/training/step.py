"""One optimizer step of one network: forward, loss, backward, clipping, update, weight average."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..config import TrainConfig
from ..errors import PocketError
from ..models import forward_heads
from ..models.innermost import layout_of, planes_for_group_norm
from ..models.taps import Taps
from ..objectives.terms import FeatureTerms
from ..tasks import Task
from ..views.preprocessing import Input
from ..views.resize import to_input
from .optim import build_optimizer
from .parts import Parts, WeightAverage
from .precision import autocast, few_tokens, training
from .progressive import Progressive, smaller_side
from .schedule import Schedule

if TYPE_CHECKING:
    from .feed import Batch

Loss = Callable[[tuple[torch.Tensor, ...], "Batch"], tuple[torch.Tensor, dict[str, torch.Tensor]]]
"""From the heads' float32 logits and a batch to the scalar that is minimized and its detached parts."""


class FromPixels(nn.Module):
    """A network with its resizing and normalization: uint8 [B, 3, S, S] to the logits of every head."""

    def __init__(self, model: nn.Module, input: Input) -> None:
        super().__init__()
        self.model = model
        self.size, self.mean, self.std = input
        self.layout = layout_of(model)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        images = to_input(pixels, self.size, self.mean, self.std)
        return forward_heads(self.model, images.contiguous(memory_format=self.layout))


class WithFeatures(nn.Module):
    """`FromPixels` that also returns the features that terms compare, projected.

    One module, so that several processes share the gradients of the projections too.
    """

    def __init__(self, network: FromPixels | Progressive, terms: FeatureTerms) -> None:
        super().__init__()
        self.network, self.terms = network, terms
        self.taps = Taps(network.model, terms.student_layers, training_only=True)

    def forward(self, pixels: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], list[list[torch.Tensor]]]:
        heads = self.network(pixels)
        return heads, self.terms(self.taps.take())


class Stepper:
    """Takes optimizer steps with one network: a `batches.Learner`.

    Args:
        model: Is trained in place, as it is and on the device it is on; weights may be shared or frozen.
        input: What it is fed.
        loss: See `Loss`.
        config: With a resolved precision.
        steps: Optimizer steps of the run; `loop.run` plans its own.
        task: Says which answers are right.
        terms: Objectives on features, added to the loss; their projections learn with the model.
        rank, world: This process and their number; the process group must exist when ``world > 1``.
    """

    def __init__(
        self,
        model: nn.Module,
        input: Input,
        loss: Loss,
        config: TrainConfig,
        steps: int = 0,
        *,
        task: Task,
        terms: FeatureTerms | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.model, self.loss, self.config, self.task = model, loss, config, task
        self.terms, self.rank, self.world = terms, rank, world
        self.device = next(model.parameters()).device
        self.step = 0
        self.schedule = Schedule(config, steps)
        self.optimizer = build_optimizer(model, config, terms)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.average = WeightAverage(model, config.ema) if config.ema > 0 else None
        averaged = None if self.average is None else self.average.module
        self.parts = Parts({"model": model, "ema": averaged, "terms": terms, "optimizer": self.optimizer})
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        forward: Any = FromPixels(model, input)
        shrinks = config.progressive and (terms is None or terms.any_size)
        smaller = smaller_side(model, input[0]) if shrinks else None
        self._progressive = None if smaller is None else Progressive(forward, smaller)
        forward = self._progressive or forward
        self._average_forward = None if averaged is None else FromPixels(averaged, input)
        self._apart = few_tokens(model)
        plain = self.device.type == "cpu" and not config.compile  # which lays maps out itself
        self._hooks = planes_for_group_norm(model) if plain else []
        self._taps = None
        if terms is not None:
            if terms.needs_average and self.average is None:
                raise PocketError(
                    "mean_teacher learns from the average of the student's weights, which is not kept: give it a "
                    "decay, as in --ema 0.999."
                )
            forward = WithFeatures(forward, terms)
            self._taps = forward.taps
        if world > 1:
            forward = DistributedDataParallel(forward, device_ids=None)
        self.forward = torch.compile(forward) if config.compile else forward
        self._synchronizes = forward.no_sync if isinstance(forward, DistributedDataParallel) else None
        # Kept on the device, because asking for it would wait for the step.
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=self.device)

    @property
    def evaluated(self) -> nn.Module:
        """The network that counts: the weight average where there is one."""
        return self.model if self.average is None else self.average.module

    @property
    def smaller(self) -> bool:
        """Whether the last step was taken in smaller pictures."""
        return self._progressive is not None and self._progressive.small

    def take(self, batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
        """Take one optimizer step on one or several (accumulated) batches of equal weight.

        Returns:
            Detached sums over the images of all batches of this rank, on the device and not waited for: "loss", the
            loss's terms, "images", and "correct" where the task counts that.
        """
        factor = self.schedule.factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]
        if self._progressive is not None:
            self._progressive.small = self.schedule.progress(self.step) < self.config.progressive
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
        self._update()
        if self.average is not None:
            self.average.update(self.step)
        self.step += 1
        return sums

    def _update(self) -> None:
        if self.config.clip > 0:
            self.scaler.unscale_(self.optimizer)
        # Of float16 the scaler leaves out steps that are not finite, and goes on.
        if self.config.clip > 0 or not self.scaler.is_enabled():
            norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None], foreach=True)
            if self.config.clip > 0:
                nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip, norm, foreach=True)
            if not self.scaler.is_enabled():
                self._note(norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _backward(self, batch: Batch, count: int, sums: dict[str, torch.Tensor]) -> None:
        projected: list[list[torch.Tensor]] = []
        with training(self.config.precision, self.device, apart=self._apart):
            heads = self.forward(batch.pixels)
            if self.terms is not None:
                heads, projected = heads
        heads = tuple(head.float() for head in heads)
        batch.progress = self.schedule.progress(self.step)
        loss, terms = self.loss(heads, batch)
        if self.terms is not None:
            if self.terms.needs_average:
                batch.average = self._averaged_heads(batch)
            matched, more = self.terms.compare(projected, heads, batch)
            loss, terms = loss + matched, {**terms, **more}
        # Ranks may hold one pair more or less; their average must still be the mean over the images of the batch.
        share = len(batch) * self.world / batch.total if self.world > 1 else 1.0
        self.scaler.scale(loss * (share / count)).backward()
        with torch.no_grad():
            self._note(loss.detach())
            counted = {name: value.detach() * len(batch) for name, value in {"loss": loss, **terms}.items()}
            right = self.task.right(heads[0].detach(), batch)
            if right is not None:
                counted["correct"], counted["known"] = right
            counted["images"] = torch.tensor(len(batch))
            for name, value in counted.items():
                sums[name] = sums[name] + value if name in sums else value

    def _note(self, value: torch.Tensor) -> None:
        """Remember this step if ``value`` is not finite, without waiting for it."""
        bad = (self.first_bad < 0) & ~torch.isfinite(value)
        self.first_bad = torch.where(bad, self.step, self.first_bad)

    def _averaged_heads(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        assert self._average_forward is not None
        with torch.no_grad(), autocast(self.config.precision, self.device):
            return tuple(head.float() for head in self._average_forward(batch.pixels))

    def close(self) -> None:
        """Take the hooks out of the model, which others go on to use."""
        for hook in self._hooks:
            hook.remove()
        if self._taps is not None:
            self._taps.remove()

    def _reseed(self, number: int) -> None:
        """Key dropout and drop-path by (seed, step, rank), so that a resumed run draws what an unbroken one draws."""
        key = struct.pack("<qqqq", self.config.seed, self.step, self.rank, number)
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(seed)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a checkpoint must hold as tensors."""
        return self.parts.tensors()

    def state(self) -> dict[str, Any]:
        """Everything else that a checkpoint must hold, JSON-like."""
        return {"step": self.step, "schedule": self.schedule.state(), "scaler": self.scaler.state_dict()}

    def restore(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Go back to what ``tensors()`` and ``state()`` returned."""
        self.parts.restore(tensors)
        self.step = state["step"]
        self.schedule.restore(state["schedule"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
