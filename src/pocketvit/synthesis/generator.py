"""A generator with replay: it learns to make what the teacher knows and the student does not yet; both learn at once.

A round: a copy of the generator takes a few steps for a batch of balanced classes, and the generator follows the sum of
their gradients (Fast-DataFree, Fang et al. 2022); what the copy makes goes into a class-balanced memory; the student
takes its steps on the memory, the generator's and its weight average's pictures (MAD, Do et al. 2022), augmented hard.
After a warm-up the generator also looks for what teacher and student disagree on, where their answers are the same.
Collapse is looked for in every round, and remedied: the generator's first layer starts afresh.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..config import LossConfig, TrainConfig, ViewConfig, to_dict
from ..errors import PocketError
from ..labels import SoftLabels
from ..tasks import task_named
from ..teachers import Teacher
from ..training import Batch, Input, Stepper
from ..training.checkpoint import read_checkpoint, save_checkpoint
from ..views import Views
from .arrays import PictureArray
from .bank import Bank, BankFolder, class_names, near_duplicates, open_bank, thumbnails
from .check import check_teacher
from .drawn import teacher_record
from .inversion import balanced_labels, moved
from .loop import hard_views
from .memory import Memory
from .networks import Generator
from .priors import PriorConfig, Priors, disagreement, student_answers
from .statistics import Card

log = logging.getLogger("pocketvit")

ORIGINS = ("generated",)
_CHECKPOINT = "generator.safetensors"
_LEAST_ENTROPY = 0.9  # of the mean prediction, in units of log C: below, the generator makes few classes only
_MOST_ALIKE = 0.05  # of new pictures, near duplicates of each other or of the newest in memory
_ALARM_EVERY = 8  # rounds that an alarm looks back on


@dataclass(frozen=True)
class GeneratorConfig:
    """How a generator and a student learn together."""

    rounds: int = 300
    batch: int = 64  # pictures that the generator makes a round
    inner: int = 3  # steps of the copy
    rate: float = 4e-3  # of the copy's Adam, and of its noise
    meta_rate: float = 2e-3  # of the generator's own
    latent: int = 64
    width: int = 32
    average: float = 0.99  # decay a round of the generator's weight average
    adversarial: float = 1.0  # weight of the student's disagreement
    warm_up: float = 0.2  # share of the rounds before that counts
    student_steps: int = 10  # a round
    memory: int = 20_000  # pictures that are replayed, and make the bank in the end
    confidence: float = 0.3  # that the teacher must have in a remembered picture's class
    save_every: int = 20  # rounds that a kill can cost
    priors: PriorConfig = PriorConfig()  # noqa: RUF009 (frozen)
    view: ViewConfig | None = None  # what the student sees; None for `loop.hard_views`
    loss: LossConfig = LossConfig(weight=1.0)  # noqa: RUF009
    train: TrainConfig = TrainConfig(  # noqa: RUF009
        batch_size=64, optimizer="sgd", learning_rate=0.1, weight_decay=5e-4
    )
    seed: int = 0


@dataclass
class Alarm:
    """What recent rounds made, and what was done about it.

    Attributes:
        entropy: of the teacher's mean prediction, of log C.
        alike: share of pictures that look like another of the same rounds.
        smallest: share of the rarest class.
    """

    entropy: float
    alike: float
    smallest: float

    @property
    def collapsed(self) -> bool:
        return self.entropy < _LEAST_ENTROPY or self.alike > _MOST_ALIKE


def generate_bank(
    folder: Path | str,
    teacher: Teacher,
    student: nn.Module,
    config: GeneratorConfig = GeneratorConfig(),
    *,
    input: Input,
    card: Card | None = None,
    progress: bool = True,
) -> Bank:
    """Train a generator and, in place, a student; the memory in the end is the bank. Resumes where it was killed.

    Args:
        folder: of the bank and the checkpoint.
        teacher: is imitated.
        student: on the teacher's device; has its final weights afterwards.
        config: how.
        input: what the student is fed.
        card: a statistics card: then the result is not data-free.
        progress: show a bar.

    Raises:
        PocketError: the teacher cannot be used or differentiated through, the folder holds another bank, or the
            generator collapsed for good.
    """
    provenance = {
        "method": "generated",
        "config": to_dict(config),
        **teacher_record(teacher),
        "statistics_card_images": 0 if card is None else card.images,
    }
    place = BankFolder(folder, provenance, bytes=2 * config.memory * 3 * teacher.input_size**2)
    if place.finished:
        student.load_state_dict(_part(read_checkpoint(place.folder / _CHECKPOINT)[0], "student.model"))
        return open_bank(folder)
    check = check_teacher(teacher)
    log.info("%s", check.words)
    if not check.differentiable:
        raise PocketError(
            f"no gradient passes through {teacher.name}: no generator can learn from it. Use drawn images."
        )
    with Priors(teacher, config.priors, card) as priors:
        log.info("priors   %s", "; ".join(priors.words))
        game = Game(place.folder / _CHECKPOINT, teacher, student, config, input, priors)
        game.resume()
        for _ in tqdm(range(game.round, config.rounds), "generating", disable=None if progress else True):
            game.play()
            if game.round % config.save_every == 0 or game.round == config.rounds:
                game.save()
    teacher.check_unchanged()
    if not len(game.memory):
        raise PocketError(
            f"the generator made nothing that {teacher.name} is confident of in {config.rounds} rounds. Use more "
            "rounds, or another method (--method drawn)."
        )
    student.eval()
    pixels = game.memory.images
    logits = torch.cat([teacher.logits(part).cpu() for part in pixels.split(256)]).half().numpy()
    parts = iter([(pixels.numpy(), logits, np.zeros(len(pixels), np.int8))])
    made = {"priors": list(priors.words), "alarms": game.alarms, "rounds": game.round}
    size, width = teacher.input_size, teacher.num_outputs
    return place.finish(parts, len(pixels), size, width, class_names(teacher), ORIGINS, made)


class Game:
    """Generator, copy, student and memory: everything that a checkpoint holds."""

    def __init__(
        self, path: Path, teacher: Teacher, student: nn.Module, config: GeneratorConfig, input: Input, priors: Priors
    ) -> None:
        self.path, self.teacher, self.student = path, teacher, student
        self.config, self.priors = config, priors
        self.view = config.view or hard_views(teacher.input_size)
        device, classes = teacher.device, teacher.num_outputs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.generator = Generator(teacher.input_size, classes, config.latent, config.width).to(device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=config.meta_rate, betas=(0.5, 0.999))
        self.memory = Memory(config.memory, teacher.input_size)
        train = _rounds_as_epochs(config)
        loss = task_named("classification").loss(config.loss)
        self.stepper = Stepper(student, input, loss, train, config.student_steps)
        self.adversary = student_answers(student, input)
        self.adversarial = config.adversarial
        self.round = 0
        self.alarms: list[dict[str, Any]] = []
        self._recent: list[tuple[Tensor, Tensor]] = []  # (pictures, mean prediction) of the last rounds

    def play(self) -> None:
        """Play one round."""
        config = self.config
        random = torch.Generator().manual_seed(config.seed * 1_000_003 + self.round)
        targets, _ = balanced_labels(config.seed, self.round * config.batch, config.batch, self.teacher.num_outputs)
        images, logits = self._generate(targets.to(self.teacher.device), random)
        self._remember(images, logits, targets)
        if len(self.memory):
            for step in range(config.student_steps):
                self._teach(step, random)
        self.round += 1
        if self.round % _ALARM_EVERY == 0:
            self._watch(random)

    def _generate(self, targets: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Let a copy learn to make a batch, and the generator follow: uint8 pictures and the teacher's logits."""
        config, device = self.config, self.teacher.device
        noise = torch.randn(len(targets), config.latent, generator=random).to(device).requires_grad_()
        worker = copy.deepcopy(self.generator)
        inner = torch.optim.Adam([*worker.parameters(), noise], lr=config.rate, betas=(0.5, 0.999))
        weights = list(worker.parameters())
        total = [torch.zeros_like(weight) for weight in weights]
        warm = self.round < config.warm_up * config.rounds
        self.student.eval()
        for _ in range(config.inner):
            images = worker(noise, targets)
            shown = moved(images, 0.125, random)
            logits = self.teacher.differentiable(shown)
            loss, _ = self.priors(images, logits, targets)
            if self.adversarial and not warm:
                loss = loss - self.adversarial * disagreement(logits, self.adversary(shown)).mean()
            inner.zero_grad(set_to_none=True)
            gradients = torch.autograd.grad(loss, [*weights, noise])
            for parameter, gradient in zip([*weights, noise], gradients, strict=True):
                parameter.grad = gradient
            torch._foreach_add_(total, list(gradients[:-1]))
            inner.step()
        self.optimizer.zero_grad(set_to_none=True)
        for parameter, gradient in zip(self.generator.parameters(), total, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(self.generator.parameters(), 10.0)
        self.optimizer.step()
        with torch.no_grad():
            averages: list[Tensor] = list(self.average.parameters())
            current: list[Tensor] = list(self.generator.parameters())
            torch._foreach_lerp_(averages, current, 1 - min(config.average, (1 + self.round) / (10 + self.round)))
            pixels = _uint8(worker(noise, targets))
        return pixels, self.teacher.logits(pixels).cpu()

    def _remember(self, images: Tensor, logits: Tensor, targets: Tensor) -> None:
        chances = logits.softmax(1)
        good = (chances.argmax(1) == targets) & (chances.gather(1, targets[:, None])[:, 0] >= self.config.confidence)
        good &= torch.from_numpy(~near_duplicates(thumbnails(images.numpy())))
        self.memory.add(images[good], targets[good])
        self._recent = [*self._recent[1 - _ALARM_EVERY :], (images, chances.mean(0))]

    def _teach(self, step: int, random: torch.Generator) -> None:
        """Take a student's step: half of the batch from memory, a quarter each from the generator and its average."""
        size = self.config.train.batch_size
        fresh = [self._made(network, size // 4, random) for network in (self.generator, self.average)]
        images = torch.cat([*fresh, self.memory.sample(size - sum(map(len, fresh)), random)])
        number = self.round * self.config.student_steps + step
        positions = np.arange(len(images))
        views = Views(PictureArray(images.numpy(), positions), self.view, self.config.seed)
        pixels = views.render(views.order(number), number).pixels.to(self.teacher.device)
        logits = self.teacher.logits(pixels)
        unknown = torch.full((len(pixels),), -1, device=pixels.device)
        batch = Batch(
            pixels=pixels,
            targets=unknown,
            partner_targets=unknown,
            ratio=torch.ones(len(pixels), device=pixels.device),
            soft=(SoftLabels(logits=logits, num_classes=logits.shape[1]),),
            positions=torch.from_numpy(positions),
            total=len(pixels),
        )
        sums = self.stepper.take([batch])
        if not math.isfinite(float(sums["loss"])):
            raise PocketError("the student's loss is no longer finite: use a smaller learning rate.")

    def _made(self, network: Generator, count: int, random: torch.Generator) -> Tensor:
        device = self.teacher.device
        noise = torch.randn(count, self.config.latent, generator=random).to(device)
        classes = torch.randint(0, self.teacher.num_outputs, (count,), generator=random).to(device)
        with torch.no_grad():
            return _uint8(network(noise, classes))

    def _watch(self, random: torch.Generator) -> None:
        """Look for collapse in the last rounds, and remedy it."""
        images, predictions = (torch.stack(part) for part in zip(*self._recent, strict=True))
        alarm = look(images.flatten(0, 1), predictions.mean(0))
        if not alarm.collapsed:
            return
        self.generator.renew(random)
        self.optimizer.state.clear()
        self.adversarial /= 2
        self.alarms.append({"round": self.round, **{k: round(v, 4) for k, v in vars(alarm).items()}})
        log.warning(
            "warning  the generator collapses (entropy %.2f, %.0f %% alike, rarest class %.1f %%): its first layer "
            "starts afresh, and the adversarial weight is now %.3g",
            alarm.entropy, 100 * alarm.alike, 100 * alarm.smallest, self.adversarial,
        )  # fmt: skip

    def save(self) -> None:
        """Write the checkpoint."""
        tensors = {f"generator.{name}": value for name, value in self.generator.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= {f"memory.{name}": value for name, value in self.memory.tensors().items()}
        tensors |= {f"student.{name}": value for name, value in self.stepper.tensors().items()}
        for number, parameter in enumerate(self.generator.parameters()):
            state = self.optimizer.state.get(parameter, {})
            tensors |= {f"adam.{number}.{name}": value for name, value in state.items()}
        for number, (images, prediction) in enumerate(self._recent):
            tensors |= {f"recent.{number}.images": images, f"recent.{number}.prediction": prediction}
        state = {
            "round": self.round,
            "adversarial": self.adversarial,
            "alarms": self.alarms,
            "student": self.stepper.state(),
        }
        save_checkpoint(self.path, tensors, state)

    def resume(self) -> None:
        """Go back to the checkpoint, if there is one."""
        if not self.path.exists():
            return
        tensors, state = read_checkpoint(self.path)
        self.generator.load_state_dict(_part(tensors, "generator"))
        self.average.load_state_dict(_part(tensors, "average"))
        self.memory.restore(_part(tensors, "memory"))
        self.stepper.restore(_part(tensors, "student"), state["student"])
        adam = _part(tensors, "adam")
        for number, parameter in enumerate(self.generator.parameters()):
            own = _part(adam, str(number))
            if own:
                self.optimizer.state[parameter] = own
        recent = _part(tensors, "recent")
        count = len(recent) // 2
        self._recent = [(recent[f"{n}.images"], recent[f"{n}.prediction"]) for n in range(count)]
        self.round, self.adversarial, self.alarms = state["round"], state["adversarial"], state["alarms"]


def look(images: Tensor, prediction: Tensor) -> Alarm:
    """Judge recent pictures.

    Args:
        images: uint8 [n, 3, S, S].
        prediction: float [C], the teacher's mean over them.
    """
    classes = len(prediction)
    entropy = float(-(prediction * prediction.clamp_min(1e-12).log()).sum()) / math.log(classes)
    alike = float(near_duplicates(thumbnails(images.numpy())).mean())
    return Alarm(entropy, alike, float(prediction.min()))


def _rounds_as_epochs(config: GeneratorConfig) -> TrainConfig:
    return dataclasses.replace(config.train, epochs=config.rounds, precision="fp32", warmup_epochs=0.05 * config.rounds)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(prefix + ".")}


def _uint8(images: Tensor) -> Tensor:
    return (images * 255).round_().clamp_(0, 255).to(torch.uint8).cpu()
