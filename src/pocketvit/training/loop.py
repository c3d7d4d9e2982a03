"""The one loop: `fit` trains teachers and students alike, and can be stopped at any moment.

A checkpoint is written at every epoch's end and every two minutes within one. What follows a step depends on the
checkpoint and the config alone, so a resumed run equals an unbroken one to the bit (eager mode, the same machine,
threads and number of processes; on CUDA as far as torch has deterministic kernels, and it warns where not).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import nn
from tqdm import tqdm

from ..config import TrainConfig
from ..errors import PocketError
from ..files import require_space
from ..models.norms import small_batch_warning
from ..objectives.terms import FeatureTerms
from .checkpoint import read_checkpoint, save_checkpoint
from .distributed import barrier, from_rank_zero
from .feed import Feed
from .metrics import append_metrics, cut_metrics, read_metrics, stuck_terms
from .precision import choose_precision
from .step import FromPixels, Input, Loss, Stepper

log = logging.getLogger("pocketvit")

SAVE_SECONDS = 120.0  # the most work that a kill can cost
_SHOW_SECONDS = 2.0  # between refreshes of loss and accuracy: each waits for the device


def fit(
    model: nn.Module,
    feed: Feed,
    loss: Loss,
    config: TrainConfig,
    folder: Path,
    *,
    evaluate: Callable[[nn.Module], dict[str, Any]] | None,
    input: Input,
    terms: FeatureTerms | None = None,
    resume: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> nn.Module:
    """Train ``model`` in place and return it with its final weights (the weight average where there is one).

    Args:
        model: On the device where it is to be trained, the same as the feed's.
        feed: Gives the batches; also says which process this is and of how many.
        loss: From float32 logits of every head and a batch to a scalar and its parts (see `objectives.student_loss`).
        config: How to train. "auto" precision is measured once and written to ``choices.json``.
        folder: Of the run; receives ``checkpoints/{last,best}.safetensors``, ``metrics.jsonl`` and ``choices.json``.
        evaluate: Called after each epoch on rank 0 with the network that counts; its result joins the epoch's line of
            metrics, and the highest "val_auc" (of several labels an image; else "val_accuracy") keeps its weights as
            ``best``.
        input: Side, mean and standard deviation that the network is fed.
        terms: Objectives on features to add to the loss; the feed's batches must carry the teachers' features.
        resume: Continue from ``checkpoints/last`` if there is one.
        on_epoch: Called on rank 0 with each line of ``metrics.jsonl``: epoch (from 1), step, loss, terms, lr,
            train_accuracy, images_per_second, seconds, and what ``evaluate`` returned.

    Raises:
        PocketError: The loss is no longer finite, the checkpoint does not belong to this run, or the disk is full.
        KeyboardInterrupt: After Ctrl-C, when the state has been saved.
    """
    folder = Path(folder)
    device = next(model.parameters()).device
    # Convolutions are up to 1.4 times faster with channels innermost (CIFAR ResNet-56 on two AVX-512 cores).
    model.to(memory_format=torch.channels_last)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), _deterministic(device, config), _Interrupt() as interrupt:
        run = _Run(model, feed, loss, config, folder, input, terms, evaluate, on_epoch, interrupt)
        try:
            run.start(resume)
            run.train()
        finally:
            feed.close()
            run.stepper.close()
            run.bar.close()
    if run.stepper.average is not None:
        model.load_state_dict(run.stepper.average.state_dict())
    if feed.world > 1:  # BatchNorm statistics are per rank; what is returned is one network
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)
    return model.to(memory_format=torch.contiguous_format).eval()


class _Run:
    """A training run between two checkpoints: where it is, and how it gets on."""

    def __init__(self, model, feed, loss, config, folder, input, terms, evaluate, on_epoch, interrupt) -> None:
        self.feed, self.folder = feed, folder
        self.evaluate, self.on_epoch, self.interrupt = evaluate, on_epoch, interrupt
        self.asked = dataclasses.asdict(config)
        self.lead = feed.rank == 0
        if config.precision == "auto":
            config = dataclasses.replace(config, precision=self._precision(model, input))
        self.config = config
        self.steps = -(-feed.steps_per_epoch // config.accumulate)  # optimizer steps of an epoch
        self.stepper = Stepper(model, input, loss, config, self.steps, terms=terms, rank=feed.rank, world=feed.world)
        self.epoch = 0  # finished ones: trained, evaluated and written to metrics.jsonl
        self.best: float | None = None
        self.sums: dict[str, float | torch.Tensor] = {}  # of the epoch under way, this rank's
        self.seconds = 0.0  # spent in the epoch under way
        self.last = folder / "checkpoints" / "last.safetensors"
        self.bar = tqdm(total=config.epochs * self.steps, unit="step", disable=None if self.lead else True)
        self.shown: dict[str, str] = {}

    def _precision(self, model: nn.Module, input: Input) -> str:
        images = max(1, self.feed.batch_size // self.feed.world)
        chosen = ""
        if self.lead:
            side = self.feed.views.config.view_size
            chosen = choose_precision(FromPixels(model, input), images, side, self.folder, self.feed.device)
        return from_rank_zero(chosen, self.feed.world)

    def start(self, resume: bool) -> None:
        """Begin a new run or go back to the last checkpoint."""
        images = max(1, min(self.feed.batch_size, len(self.feed.source)) // self.feed.world)
        warning = small_batch_warning(self.stepper.model.train(), images, self.feed.world)
        if warning is not None and self.lead:
            log.warning("warning  %s", warning)
        metrics = self.folder / "metrics.jsonl"
        if not self.last.exists():
            if self.lead:
                size = sum(tensor.nbytes for tensor in self.stepper.model.state_dict().values())
                require_space(self.folder, 6 * size, "training (its checkpoints)")
                cut_metrics(metrics, 0)
            barrier(self.feed.world)
            return
        if not resume:
            raise PocketError(
                f"{self.folder} already holds a training run. Continue it with --resume or choose another folder."
            )
        tensors, state = read_checkpoint(self.last)
        self._check_same(state)
        try:
            self.stepper.restore(tensors, state)
        except (RuntimeError, KeyError, ValueError) as error:
            raise PocketError(f"{self.last} belongs to another network: {error}") from error
        self.epoch, self.best = state["epoch"], state["best"]
        self.seconds = state["seconds"]
        # The sums of other ranks are not kept: they only inform, and averages stay averages without them.
        self.sums = state["sums"] if self.lead else {}
        if self.lead:
            cut_metrics(metrics, self.epoch)
        barrier(self.feed.world)
        self.bar.update(self.stepper.step)

    def _check_same(self, state: dict[str, Any]) -> None:
        before = dataclasses.asdict(TrainConfig()) | state["config"]  # an older version knew fewer options
        differing = [
            f"{name} was {before[name]}, now {value}" for name, value in self.asked.items() if before[name] != value
        ]
        if state["feed"] != self.feed.fingerprint():
            differing.append("the images, views, teachers or their number differ")
        if differing:
            raise PocketError(
                f"{self.folder} cannot be resumed with another configuration: {'; '.join(differing)}. "
                "Use the same one, or train into a new folder."
            )

    def train(self) -> None:
        """Run the remaining epochs."""
        try:
            while self.epoch < self.config.epochs:
                self._train_epoch()
                self._finish_epoch()
        except KeyboardInterrupt:
            self.save()
            raise

    def _train_epoch(self) -> None:
        self._clock = time.monotonic()
        self._saved = self._shown_at = self._clock
        done = self.stepper.step - self.epoch * self.steps
        batches = self.feed.epoch(self.epoch, done * self.config.accumulate)
        with self.interrupt.postponed():
            while group := list(itertools.islice(batches, self.config.accumulate)):
                try:
                    for name, value in self.stepper.take(group).items():
                        self.sums[name] = self.sums.get(name, 0.0) + value
                except (RuntimeError, ValueError) as error:
                    if self.interrupt.wanted and self.feed.world > 1:  # the other ranks have already left
                        break
                    explained = self._explained(error)
                    if explained is None:
                        raise
                    raise explained from error
                self.bar.update(1)
                if self.feed.device.type == "cpu":
                    self._check_finite()
                now = time.monotonic()
                if now - self._shown_at > _SHOW_SECONDS:
                    self._show()
                    self._shown_at = now
                if now - self._saved > SAVE_SECONDS:
                    self.save()
                    self._saved = now
                if self.interrupt.wanted:
                    break
        self._check_finite()
        self._tick()
        if self.interrupt.wanted:
            raise KeyboardInterrupt

    def _explained(self, error: Exception) -> PocketError | None:
        """Say what a failure inside torch means, where that is known."""
        size = self.config.batch_size
        if "more than 1 value per channel" in str(error) or "more than 1 spatial element" in str(error):
            return PocketError(
                f"a normalization has a single value a channel to look at, in a batch of {size} of such small pictures."
                " Use --replace-norm group, which needs neither other images nor other positions, or a larger size."
            )
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return PocketError(
                f"a batch of {size} images does not fit into the memory of {self.feed.device}. Use --batch-size "
                f"{max(1, size // 2)} --accumulate {2 * self.config.accumulate}, which trains alike, or a smaller size."
            )
        if self.config.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = str(error).strip().splitlines()[0]
            return PocketError(f"torch.compile does not work here ({reason}). Train without --compile.")
        return None

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now

    def _finish_epoch(self) -> None:
        sums = self._total_sums()
        line: dict[str, Any] = {}
        if self.lead:
            images = sums.pop("images")
            correct = sums.pop("correct")
            line = {
                "epoch": self.epoch + 1,
                "step": self.stepper.step,
                "loss": sums.pop("loss") / images,
                "terms": {name: value / images for name, value in sums.items()},
                "lr": self.stepper.optimizer.param_groups[0]["lr"],
                "train_accuracy": correct / images,
                "images_per_second": round(images / self.seconds, 1),
                "seconds": round(self.seconds, 3),
            }
            evaluated = self.stepper.evaluated
            if self.evaluate is not None:
                evaluated.eval()
                line |= self.evaluate(evaluated)
            score = line.get("val_auc", line.get("val_accuracy"))
            if score is not None and (self.best is None or score > self.best):
                self.best = score
                weights = {f"model.{name}": value for name, value in evaluated.state_dict().items()}
                state = {"epoch": self.epoch + 1, "step": self.stepper.step, "score": score}
                save_checkpoint(self.last.with_name("best.safetensors"), weights, state)
        # Metrics before the checkpoint: a kill between the two leaves a line that is cut and written again.
        self.epoch += 1
        self.sums, self.seconds = {}, 0.0
        if self.lead:
            append_metrics(self.folder / "metrics.jsonl", line)
            self._write()
            if self.epoch in (3, self.config.epochs):
                for warning in stuck_terms(read_metrics(self.folder / "metrics.jsonl")):
                    log.warning("warning  %s", warning)
            if score is not None:
                self.shown["val"] = f"{score:.1%}"
            if self.on_epoch is not None:
                self.on_epoch(line)
        barrier(self.feed.world)

    def _total_sums(self) -> dict[str, float]:
        """Sums of the epoch over all ranks."""
        names = list(self.sums)
        values = torch.tensor([float(self.sums[name]) for name in names], dtype=torch.float64)
        if self.feed.world > 1:
            values = values.to(self.feed.device)
            torch.distributed.all_reduce(values)
        return dict(zip(names, values.tolist(), strict=True))

    def save(self) -> None:
        """Write the last checkpoint in the middle of an epoch, unless the state is not worth keeping."""
        if self.lead:
            self._check_finite()
            self._tick()
            self._write()

    def _write(self) -> None:
        state = self.stepper.state() | {
            "epoch": self.epoch,
            "best": self.best,
            "sums": {name: float(value) for name, value in self.sums.items()},
            "seconds": self.seconds,
            "config": self.asked,
            "feed": self.feed.fingerprint(),
        }
        save_checkpoint(self.last, self.stepper.tensors(), state)

    def _show(self) -> None:
        """Refresh the live figures beside the bar."""
        if self.lead:
            images = float(self.sums["images"])
            self.shown["loss"] = f"{float(self.sums['loss']) / images:.3f}"
            self.shown["train"] = f"{float(self.sums['correct']) / images:.1%}"
            self.bar.set_postfix(self.shown, refresh=False)
            self._check_finite()

    def _check_finite(self) -> None:
        first_bad = int(self.stepper.first_bad)
        if first_bad < 0:
            return
        epoch, step = divmod(first_bad, self.steps)
        kept = f"What was finished is kept in {self.last}." if self.last.exists() else "No checkpoint was written yet."
        rate = self.config.learning_rate
        raise PocketError(
            f"the loss is not a finite number any more: epoch {epoch + 1}, step {step + 1} of {self.steps} "
            f"(in {self.folder}). Most often the learning rate ({rate:g}) is too high, the arithmetic "
            f"({self.config.precision}) overflows, or pretrained weights hold NaN. Train anew with --lr {rate / 3:.2g} "
            f"or --precision fp32. {kept}"
        )


class _Interrupt:
    """Ctrl-C waits for the end of a step; a second one does not."""

    def __init__(self) -> None:
        self.wanted = False
        self._postpone = False

    def __enter__(self) -> _Interrupt:
        # Signals reach the main thread only; elsewhere the caller's own handling stays.
        self._previous = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, *_: object) -> None:
        if self.wanted or not self._postpone:
            raise KeyboardInterrupt
        self.wanted = True

    @contextlib.contextmanager
    def postponed(self) -> Iterator[None]:
        self._postpone = True
        try:
            yield
        finally:
            self._postpone = False


@contextlib.contextmanager
def _deterministic(device: torch.device, config: TrainConfig) -> Iterator[None]:
    """Ask CUDA for kernels that give the same bits each time; on the CPU torch's are."""
    if device.type != "cuda" or config.compile:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when first used
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    options: Any = torch.utils.deterministic
    fill = options.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    options.fill_uninitialized_memory = False  # costs a pass over every new tensor
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        options.fill_uninitialized_memory = fill
