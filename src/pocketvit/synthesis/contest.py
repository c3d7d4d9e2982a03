"""A generator against a student, a step at a time: what each asks of the other, and of the teacher."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..errors import PocketError
from ..teachers import Teacher
from ..training.optim import build_optimizer
from ..training.parts import Parts, WeightAverage
from .generator import Network, make_generator
from .inversion import balanced_labels
from .moving import moved
from .priors import PriorConfig, Priors
from .pupil import Pupil
from .seen import seen, seen_through, surprise

_PIXELS = 1 << 16  # of a step
_LEAST, _MOST = 16, 64  # pictures of a step: fewer have no moments to compare
_JUDGED = 64  # pictures of a round, at least: enough to hear alarms of
_PUPIL_RATE = 5e-3


@dataclass(frozen=True)
class GenerationConfig:
    """How a generator learns, and what is kept of it."""

    images: int = 20_000  # asked for; fewer where the teacher does not confirm them
    network: Network = "conv"
    rounds: int = 120
    steps: int = 10  # of the generator, a round
    replays: int = 10  # steps of the student, a round
    batch: int = 0  # pictures a step; 0: by size
    rate: float = 4e-3  # of the generator, with Muon
    average: float = 0.98  # decay of its weights' average, a step
    warmup: float = 0.25  # share of the rounds before the student has a say
    adversary: float = 1.0  # what it then weighs
    turnover: float = 1.5  # pictures made for each that is kept, so that those of the beginning go
    shift: float = 0.125  # of the side, by which pictures are rolled at every step
    confidence: float = 0.5  # that the teacher must have in the class of a picture that is kept
    renewal: int = 20  # rounds after which its first layers begin anew, as after an alarm; 0: only then
    patience: int = 10  # rounds after a beginning in which no alarm is heard
    priors: PriorConfig = PriorConfig(diversity=0.5)  # noqa: RUF009 (frozen)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.images, self.rounds, self.steps) < 1:
            raise PocketError(
                f"a generator of {self.images} images in {self.rounds} rounds of {self.steps} steps: each must be at "
                "least 1."
            )

    def pictures(self, size: int) -> int:
        """Of a step, of ``size`` pixels."""
        return self.batch or max(_LEAST, min(_MOST, _PIXELS // size**2))

    def harvest(self, size: int) -> int:
        """Pictures made a round."""
        return max(_JUDGED, -(-round(self.turnover * self.images) // self.rounds), self.pictures(size))


class Contest:
    """The generator, its average and the student, and a step of each: a pure function of state, number and config.

    Args:
        teacher: Differentiated through.
        priors: Whose hooks are in the teacher.
        config: How.
    """

    def __init__(self, teacher: Teacher, priors: Priors, config: GenerationConfig) -> None:
        self.teacher, self.priors, self.config = teacher, priors, config
        self.count = config.pictures(teacher.input_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            generator = make_generator(config.network, teacher.num_outputs, teacher.input_size)
            pupil = Pupil(teacher.kind, teacher.num_outputs)
        self.generator, self.pupil = generator.to(teacher.device), pupil.to(teacher.device)
        self.average = WeightAverage(self.generator, config.average)
        self.optimizer = _optimizer(self.generator, config.rate)
        self.pupil_optimizer = _optimizer(self.pupil, _PUPIL_RATE)
        self.parts = Parts(
            {
                "generator": self.generator, "average": self.average.module, "pupil": self.pupil,
                "optimizer": self.optimizer, "pupil_optimizer": self.pupil_optimizer,
            }
        )  # fmt: skip

    def random(self, *numbers: int) -> torch.Generator:
        """Random numbers that depend on the seed and these alone."""
        value = self.config.seed
        for number in numbers:
            value = (value * 1_000_003 + number + 1) % (1 << 63)
        return torch.Generator().manual_seed(value)

    def make(self, network: nn.Module, targets: Tensor, random: torch.Generator) -> Tensor:
        """Return pictures float [B, 3, S, S] in 0..1 of classes int64 [B]."""
        noise = torch.randn(len(targets), self.generator.noise, generator=random)
        return network(noise.to(self.teacher.device), targets.to(self.teacher.device))

    def step(self, number: int, adversary: float) -> Tensor:
        """Take a step of the generator against the student, which weighs ``adversary``; return the loss."""
        random = self.random(0, number)
        targets, _ = balanced_labels(self.config.seed, number * self.count, self.count, self.teacher.num_outputs)
        targets = targets.to(self.teacher.device)
        images = self.make(self.generator, targets, random)
        shown = moved(images, self.config.shift, random)
        told = seen_through(self.teacher, shown)
        wrong = surprise(self.teacher.kind, told, targets, self.config.priors.soften).mean()
        loss, _ = self.priors(images, wrong, targets)
        if adversary:
            loss = loss - adversary * self.pupil.surprised(shown, told, targets)
        _descend(loss, self.generator, self.optimizer)
        self.average.update(number)
        return loss.detach()

    def replay(self, pixels: Tensor, number: int) -> None:
        """Take a step of the student on pictures uint8 [B, 3, S, S], moved, and the teacher's answers to these."""
        shown = moved(pixels, self.config.shift, self.random(1, number)).to(self.teacher.device)
        loss = self.pupil.learned(shown.float() / 255, seen(self.teacher, shown))
        _descend(loss, self.pupil, self.pupil_optimizer)

    @torch.no_grad()
    def harvest(self, targets: Tensor, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return pictures uint8 [n, 3, S, S] of classes int64 [n], and int8 [n], which half is the average's."""
        random = self.random(2, number)
        halves = [targets[0::2], targets[1::2]]
        made = [
            (self.make(network, part, random) * 255).round().to(torch.uint8).cpu().numpy()
            for network, half in zip((self.generator, self.average.module), halves, strict=True)
            for part in half.split(self.count)
        ]
        order = np.argsort(np.concatenate([np.arange(0, len(targets), 2), np.arange(1, len(targets), 2)]))
        origin = np.repeat([0, 1], [len(half) for half in halves]).astype(np.int8)
        return np.concatenate(made)[order], origin[order]

    def renew(self, number: int) -> None:
        """Begin the generator's first layers anew: in its average and its optimizer too."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(1 << 62, (), generator=self.random(3, number))))
            for weight in self.generator.renew():
                self.optimizer.state.pop(weight, None)
        self.average.module.load_state_dict(self.generator.state_dict())


def _optimizer(network: nn.Module, rate: float) -> torch.optim.Optimizer:
    return build_optimizer(network, TrainConfig(optimizer="muon", learning_rate=rate, weight_decay=0.0))


def _descend(loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Take a step of one network alone: the other, which the loss has gone through, gets no gradient."""
    weights = list(network.parameters())
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        weight.grad = gradient
    nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
