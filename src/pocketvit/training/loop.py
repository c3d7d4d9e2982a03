"""The one loop: `run` takes a learner's steps, and can be stopped at any moment.

A checkpoint is written at every epoch's end and every two minutes within one. What follows a step depends on the
checkpoint and the config alone, so a resumed run equals an unbroken one to the bit (eager mode, the same machine,
threads and number of processes; on CUDA as far as torch has deterministic kernels, and it warns where not). Of a run
by the clock that holds for the steps that were planned: the plan is in the checkpoint, and is made again as it goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import nn

from ..config import TrainConfig
from ..errors import PocketError
from ..files import human_time, locked, require_space
from ..models.norms import small_batch_warning
from .batches import Batches, Learner
from .budget import FIRST_STEPS, Clock, next_look, steps_left
from .checkpoint import read_checkpoint, save_checkpoint
from .distributed import barrier, from_rank_zero, sum_over_ranks
from .failures import explained
from .interrupt import Interrupt, deterministic
from .metrics import append_metrics, cut_metrics, read_metrics, stuck_terms
from .precision import autocast
from .progress import Progress

log = logging.getLogger("pocketvit")

SAVE_SECONDS = 120.0  # the most work that a kill can cost
_SHOW_SECONDS = 2.0  # between refreshes of loss and accuracy: each waits for the device
_LENGTHS = ("epochs", "seconds")  # fields of the config in which an extended run differs


def run(
    learner: Learner,
    batches: Batches,
    config: TrainConfig,
    folder: Path,
    *,
    precision: str = "fp32",
    score: str = "val_accuracy",
    evaluate: Callable[[nn.Module], dict[str, Any]] | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Take the steps of a run, or those that are left.

    Args:
        learner: What takes them.
        batches: What they are taken on.
        config: As it was asked for; gives the length of the run, and is compared on resuming. With the schedule "wsd" a
            run may be resumed with more epochs or seconds: it goes on from before the decay.
        folder: Of the run; receives ``checkpoints/{last,best}.safetensors`` (and ``stable``, from before a decay),
            ``metrics.jsonl``, and in ``extended.jsonl`` the last line of metrics of each length that was extended.
        precision: Of the arithmetic, in which the evaluation runs too.
        score: The field of an evaluation whose highest value keeps its weights as ``best``.
        evaluate: Called after each epoch on rank 0 with the network that counts; its result joins the epoch's line of
            metrics.
        resume: Continue from ``checkpoints/last`` if there is one.
        on_epoch: Called on rank 0 with each line of ``metrics.jsonl``: epoch (from 1), step, loss, terms, lr,
            train_accuracy, images_per_second, seconds (of the epoch), elapsed (of the run), smaller, and what
            ``evaluate`` returned.

    Raises:
        PocketError: The loss is no longer finite, the checkpoint does not belong to this run, the disk is full, or the
            budget is too short for an epoch.
        KeyboardInterrupt: After Ctrl-C, when the state has been saved.
    """
    with deterministic(batches.device, config), Interrupt() as interrupt:
        loop = _Run(learner, batches, config, Path(folder), precision, score, evaluate, on_epoch, interrupt)
        waiting = f"         another process trains in {folder}: waiting for it"
        try:
            # Two that write the same checkpoints would both be lost; the later one finds what the first has made.
            with locked(loop.last.parent, waiting=waiting) if loop.lead else contextlib.nullcontext():
                loop.start(resume)
                loop.train()
        finally:
            batches.close()
            learner.close()
            loop.progress.close()


class _Run:
    """A training run between two checkpoints: where it is, and how it gets on."""

    def __init__(
        self, learner: Learner, batches: Batches, config: TrainConfig, folder: Path, precision: str, score: str,
        evaluate: Callable[[nn.Module], dict[str, Any]] | None, on_epoch: Callable[[dict[str, Any]], None] | None,
        interrupt: Interrupt,
    ) -> None:  # fmt: skip
        self.learner, self.batches, self.config, self.folder = learner, batches, config, folder
        self.precision, self.score, self.evaluate, self.on_epoch = precision, score, evaluate, on_epoch
        self.interrupt = interrupt
        self.asked = dataclasses.asdict(config)
        self.lead = batches.rank == 0
        self.steps = -(-batches.steps_per_epoch // config.accumulate)  # optimizer steps of an epoch
        # A run by the clock has no plan before its first steps.
        learner.schedule.replan(0, 100 * FIRST_STEPS if config.seconds else config.epochs * self.steps)
        self.epoch = 0  # finished ones: trained, evaluated and written to metrics.jsonl
        self.told = 0  # steps taken when the last epoch was finished
        self.best: float | None = None
        self.sums: dict[str, float | torch.Tensor] = {}  # of the epoch under way, this rank's
        self.clock = Clock()
        self.last, self.stable = (folder / "checkpoints" / f"{name}.safetensors" for name in ("last", "stable"))
        self.decaying = False  # `stable` is written
        self.look_at = FIRST_STEPS  # the step at which the plan of a budget is made (again)
        self.progress = Progress(learner.schedule.total, self.lead)

    # Beginning and going on

    def start(self, resume: bool) -> None:
        """Begin a new run, go back to the last checkpoint, or to the one from which a longer run goes on."""
        metrics = self.folder / "metrics.jsonl"
        if not self.last.exists():
            if self.lead:
                size = sum(tensor.nbytes for tensor in self.learner.model.state_dict().values())
                require_space(self.folder, 6 * size, "training (its checkpoints)")
                cut_metrics(metrics, 0)
            barrier(self.batches.world)
            return
        if not resume:
            raise PocketError(
                f"{self.folder} already holds a training run. Continue it with --resume or choose another folder."
            )
        path = self.last
        tensors, state = read_checkpoint(path)
        if "schedule" not in state:
            raise PocketError(f"{path} was written by an older version of pocketvit: train into a new folder.")
        extended = self._check_same(state)
        if extended:
            path, tensors, state = self._extend(tensors, state)
        try:
            self.learner.restore(tensors, state)
        except (RuntimeError, KeyError, ValueError) as error:
            raise PocketError(f"{path} belongs to another network: {error}") from error
        self.epoch, self.told, self.best = state["epoch"], state["told"], state["best"]
        self.clock.total, self.clock.epoch, self.clock.evaluation = state["clock"]
        # The sums of other ranks are not kept: they only inform, and averages stay averages without them.
        self.sums = state["sums"] if self.lead else {}
        step, schedule = self.learner.step, self.learner.schedule
        if extended:
            self._lengthen(step)
        self.decaying = self.stable.exists() and schedule.decays(step)
        self.look_at = step + (FIRST_STEPS if self.config.seconds and step < schedule.total else 0)
        if self.lead:
            if extended:  # before its metrics go, the shorter run is no longer the last: a kill between loses neither
                self._write(self.last)
            cut_metrics(metrics, self.epoch)
        barrier(self.batches.world)
        self.progress.goto(step, schedule.total)

    def _check_same(self, state: dict[str, Any]) -> bool:
        """Refuse to go on with another configuration; return whether this one is the same, but longer."""
        before = dataclasses.asdict(TrainConfig()) | state["config"]  # an older version knew fewer options
        changed = {name: value for name, value in self.asked.items() if before[name] != value}
        longer = all(name in _LENGTHS and value > before[name] > 0 for name, value in changed.items())
        differing = [] if longer else [f"{name} was {before[name]}, now {value}" for name, value in changed.items()]
        if state["feed"] != self.batches.fingerprint():
            differing.append("the images, views, teachers or their number differ")
        if differing:
            raise PocketError(
                f"{self.folder} cannot be resumed with another configuration: {'; '.join(differing)}. "
                "Use the same one, or train into a new folder."
            )
        if changed and self.config.schedule != "wsd":
            raise PocketError(
                f"{self.folder} was trained with the schedule {self.config.schedule}, whose learning rate has gone "
                "down for the length that was planned: it cannot be extended. Train anew, with --hours."
            )
        return bool(changed)

    def _extend(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> tuple[Path, dict, dict]:
        """Return the checkpoint from which a longer run goes on: the last one from before the decay."""
        path = self.last
        schedule = self.learner.schedule
        schedule.restore(state["schedule"])
        if schedule.decays(state["step"]) and self.stable.exists():  # else no step was taken at a lower rate
            path = self.stable
            lines = read_metrics(self.folder / "metrics.jsonl")
            if self.lead and lines and state["step"] >= schedule.total:
                append_metrics(self.folder / "extended.jsonl", lines[-1])
            tensors, state = read_checkpoint(path)
        return path, tensors, state

    def _lengthen(self, step: int) -> None:
        """Spread the rest of a longer run over what it now has."""
        schedule, clock, seconds = self.learner.schedule, self.clock, self.config.seconds
        if seconds:
            done = clock.total / seconds
            schedule.replan(step, max(step + 1, round(step / max(done, 1e-9))), done=done)
        else:
            schedule.replan(0, self.config.epochs * self.steps, done=0.0)

    # Going through epochs

    def train(self) -> None:
        """Run the remaining epochs."""
        self._began, self._began_at = time.monotonic(), self.learner.step
        try:
            while self.learner.step < self.learner.schedule.total or self.told < self.learner.step:
                self._train_epoch()
                self._finish_epoch()
        except (KeyboardInterrupt, SystemExit):  # what a program makes of SIGTERM
            if not self.interrupt.cut:
                self.clock.other()
                self.save()
            raise

    def _train_epoch(self) -> None:
        self.clock.other()
        self._saved = self._shown_at = time.monotonic()
        learner, schedule = self.learner, self.learner.schedule
        done = learner.step - self.epoch * self.steps
        stream = self.batches.epoch(self.epoch, done * self.config.accumulate) if done < self.steps else iter(())
        with self.interrupt.postponed():
            while learner.step < schedule.total:
                self._keep_stable()
                group = list(itertools.islice(stream, self.config.accumulate))
                if not group:
                    break
                if learner.step == 0:
                    self._warn_of_small_batches(len(group[0]))
                try:
                    for name, value in learner.take(group).items():
                        self.sums[name] = self.sums.get(name, 0.0) + value
                except (RuntimeError, ValueError) as error:
                    if self.interrupt.wanted and self.batches.world > 1:  # the other ranks have already left
                        break
                    told = explained(error, self.config, self.batches)
                    if told is None:
                        raise
                    raise told from error
                self.clock.stepped()
                self._plan()
                self._between_steps()
                if self.interrupt.wanted:
                    break
        self._check_finite()
        self.clock.trained()
        if self.interrupt.wanted:
            self.interrupt.stop()

    def _between_steps(self) -> None:
        self.progress.goto(self.learner.step, self.learner.schedule.total)
        if self.batches.device.type == "cpu":
            self._check_finite()
        now = time.monotonic()
        if now - self._shown_at > _SHOW_SECONDS:
            self._show()
            self._shown_at = now
        if now - self._saved > SAVE_SECONDS:
            self.clock.trained()
            self.save()
            self.clock.other()
            self._saved = now

    def _plan(self) -> None:
        """Of a run by the clock: find out how many steps are left, on all ranks after the same step."""
        step, schedule, seconds = self.learner.step, self.learner.schedule, self.config.seconds
        if not seconds or step < self.look_at:
            return
        each = self.clock.step()
        left = steps_left(seconds - self.clock.total, each, self.clock.evaluation, self.steps)
        left = from_rank_zero(left, self.batches.world)
        if step <= FIRST_STEPS and step + left < self.steps:
            raise PocketError(
                f"{human_time(seconds)} are too short: one epoch takes about {human_time(self.steps * each)} here. "
                "Give more time, fewer images or a smaller student."
            )
        schedule.replan(step, step + left)
        self.look_at = step + next_look(left)

    def _keep_stable(self) -> None:
        """Write the checkpoint from which a longer run will go on."""
        if self.decaying or not self.learner.schedule.decays(self.learner.step):
            return
        self.decaying = True
        if self.lead:
            self._check_finite()
            self.clock.trained()
            self._write(self.stable)
            self.clock.other()

    def _warn_of_small_batches(self, images: int) -> None:
        asked = self.config.batch_size // self.batches.world
        if 4 * images > 3 * asked:  # an epoch's batches are made alike: one image less of sixteen is no surprise
            images = asked
        warning = small_batch_warning(self.learner.model.train(), images, self.batches.world)
        if warning is not None and self.lead:
            log.warning("warning  %s", warning)

    def _finish_epoch(self) -> None:
        sums = sum_over_ranks({name: float(value) for name, value in self.sums.items()}, self.batches.world)
        line: dict[str, Any] = {}
        score = None
        if self.lead:
            line = self._line(sums)
            evaluated = self.learner.evaluated
            if self.evaluate is not None:
                evaluated.eval()
                with autocast(self.precision, self.batches.device):
                    line |= self.evaluate(evaluated)
                self.clock.evaluated()
            line["elapsed"] = round(self.clock.total, 3)
            score = line.get(self.score)
        with self.interrupt.postponed():
            self._keep_epoch(line, score)
        if self.interrupt.wanted:
            self.interrupt.stop()
        if self.lead:
            ended = self.learner.step >= self.learner.schedule.total
            if self.epoch == 3 or ended:
                for warning in stuck_terms(read_metrics(self.folder / "metrics.jsonl")):
                    log.warning("warning  %s", warning)
            self.progress.epoch(self.epoch, line, score, ended, self.score)
            if self.on_epoch is not None:
                self.on_epoch(line)
        barrier(self.batches.world)

    def _keep_epoch(self, line: dict[str, Any], score: float | None) -> None:
        """Count an epoch and write what it came to: all of it, or a resumed run would lack the rest."""
        if self.lead and score is not None and (self.best is None or score > self.best):
            weights = {f"model.{name}": value for name, value in self.learner.evaluated.state_dict().items()}
            state = {"epoch": self.epoch + 1, "step": self.learner.step, "score": score}
            save_checkpoint(self.last.with_name("best.safetensors"), weights, state)
            self.best = score
        self.epoch += 1
        self.told = self.learner.step
        self.sums, self.clock.epoch = {}, 0.0
        if self.lead:  # a kill between the two leaves a line of metrics that is cut and written again
            append_metrics(self.folder / "metrics.jsonl", line)
            self._write(self.last)

    def _line(self, sums: dict[str, float]) -> dict[str, Any]:
        images = sums.pop("images")
        right, known = sums.pop("correct", None), sums.pop("known", 0.0)
        seen = self.batches.world * float(self.sums["images"])  # a resumed run has forgotten what other ranks had seen
        return {
            "epoch": self.epoch + 1,
            "step": self.learner.step,
            "loss": sums.pop("loss") / images,
            "terms": {name: value / images for name, value in sums.items()},
            "lr": self.config.learning_rate * self.learner.schedule.factor(self.learner.step - 1),
            **({"train_accuracy": right / known} if right is not None and known else {}),
            "images_per_second": round(seen / self.clock.epoch, 1),
            "seconds": round(self.clock.epoch, 3),
            **({"smaller": True} if self.learner.smaller else {}),
        }

    # Keeping it

    def save(self) -> None:
        """Write the last checkpoint in the middle of an epoch, unless the state is not worth keeping."""
        if self.lead:
            self._check_finite()
            self._write(self.last)

    def _write(self, path: Path) -> None:
        state = self.learner.state() | {
            "epoch": self.epoch,
            "told": self.told,
            "best": self.best,
            "sums": {name: float(value) for name, value in self.sums.items()},
            "clock": [self.clock.total, self.clock.epoch, self.clock.evaluation],
            "config": self.asked,
            "feed": self.batches.fingerprint(),
        }
        save_checkpoint(path, self.learner.tensors(), state)

    def _show(self) -> None:
        """Refresh the live figures."""
        if self.lead:
            images = float(self.sums["images"])
            known = float(self.sums.get("known", 0))
            right = float(self.sums["correct"]) / known if known else None
            step, total = self.learner.step, self.learner.schedule.total
            left = (time.monotonic() - self._began) / max(1, step - self._began_at) * (total - step)
            loss = float(self.sums["loss"]) / images
            self.progress.within(self.epoch + 1, step, total, left, loss, right)
            self._check_finite()

    def _check_finite(self) -> None:
        first_bad = int(self.learner.first_bad)
        if first_bad < 0:
            return
        epoch, step = divmod(first_bad, self.steps)
        kept = f"What was finished is kept in {self.last}." if self.last.exists() else "No checkpoint was written yet."
        rate = self.config.learning_rate
        raise PocketError(
            f"the loss is not a finite number any more: epoch {epoch + 1}, step {step + 1} of {self.steps} "
            f"(in {self.folder}). Most often the learning rate ({rate:g}) is too high, the arithmetic "
            f"({self.precision}) overflows, or pretrained weights hold NaN. Train anew with --lr {rate / 3:.2g} "
            f"or --precision fp32. {kept}"
        )
