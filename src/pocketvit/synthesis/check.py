"""Whether a teacher can be synthesized from, found out in seconds: one message says what is wrong and what to do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..errors import PocketError
from ..teachers import Teacher
from ..teachers.loading import only_logits
from .candidates import Noise
from .choose import sees
from .procedural import Procedural
from .push import push
from .seen import LEAST, likely, seen, seen_through

_DRAWN, _NOISE, _PUSHED = 48, 16, 8
_CONFIDENT = 0.5


@dataclass(frozen=True)
class TeacherCheck:
    """What was found out about a teacher that can be used.

    Attributes:
        differentiable: whether gradients reach the pixels; without, pictures can be chosen but not optimized.
        confident: share of drawn pictures that it gives a class at least a probability of a half.
        answered: classes that it gave to them.
        classes: it has.
    """

    differentiable: bool
    confident: float
    answered: int
    classes: int

    @property
    def words(self) -> str:
        text = (
            f"the teacher gives {self.answered} of its {self.classes} classes to {_DRAWN + _NOISE} drawn pictures and "
            f"is confident of {self.confident:.0%} of them"
        )
        return text if self.differentiable else f"{text}; no gradient passes through it, so pictures are only chosen"


def check_teacher(teacher: Teacher) -> TeacherCheck:
    """Try a teacher on drawn pictures and noise.

    Raises:
        PocketError: it gives no classes, a single class, NaN, probabilities, the same for everything, answers that
            depend on the other pictures or on chance (train mode), cannot take pictures of its size, or is so weak
            that nothing can be synthesized from it.
    """
    name = teacher.name
    one_of_all = teacher.kind == "softmax"
    if teacher.num_outputs == 1 and one_of_all:
        raise PocketError(
            f"{name} has a single class, which every picture belongs to: there is nothing to learn. Give a teacher of "
            "two classes or more (a single score becomes two: z and 0)."
        )
    training = next(
        (path for path, module in teacher.module.named_modules() if getattr(module, "training", False)), None
    )
    if training is not None:
        raise PocketError(
            f"{name} is in training mode{f' (its layer {training})' if training else ''}, where its answers depend on "
            "the batch and on chance. Call .eval() on it, and do not override train() or eval()."
        )
    pixels = torch.from_numpy(
        np.concatenate(
            [row(0, teacher.input_size).take(np.arange(n)) for row, n in ((Procedural, _DRAWN), (Noise, _NOISE))]
        )
    )
    logits = _answers(teacher, pixels)
    _check_repeats(teacher, pixels, logits)
    _check_varied(teacher, logits)
    if teacher.kind != "boxes":  # whose scores are probabilities, by their form
        _check_logits(teacher, logits if teacher.columns is None else _answers(teacher.with_columns(None), pixels))
    differentiable = _differentiable(teacher, pixels[:2])
    probabilities = likely(teacher.kind, logits.numpy())
    confident = float((probabilities.max(1) >= _CONFIDENT).mean())
    answers = sees(probabilities, LEAST[teacher.kind])
    answered = len(np.unique(answers[answers >= 0]))
    one = one_of_all and answered == 1
    if differentiable and (one or confident < 0.02):
        _check_reaches(teacher, pixels[:_PUSHED], logits[:_PUSHED], one=one)
    elif one:
        raise _one_class(teacher, logits)
    elif confident < 0.02 and not answered:
        raise _weak(teacher, tried=False)
    return TeacherCheck(differentiable, confident, answered, teacher.num_outputs)


def require_gradient(check: TeacherCheck, teacher: Teacher) -> None:
    """Refuse a teacher that pictures cannot be optimized for.

    Raises:
        PocketError: No gradient passes through it.
    """
    if not check.differentiable:
        raise PocketError(
            f"no gradient passes through {teacher.name}, so images cannot be optimized for it (is it quantized?). "
            "Choose pictures instead: --method drawn."
        )


def _answers(teacher: Teacher, pixels: torch.Tensor) -> torch.Tensor:
    try:
        return torch.cat([seen(teacher, part) for part in pixels.split(16)]).cpu()
    except PocketError:
        raise
    except Exception as error:  # whatever a network says of a size that it cannot take
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise PocketError(
            f"{teacher.name} cannot take pictures of {teacher.input_size} x {teacher.input_size} pixels "
            f"({first[:200]}). Set the size that it was trained with, with --teacher-size."
        ) from error


def _check_repeats(teacher: Teacher, pixels: torch.Tensor, logits: torch.Tensor) -> None:
    """Compare with the same pictures alone, and again."""
    scale = float(logits.std()) + 1e-6
    again = seen(teacher, pixels[:4]).cpu()
    if float((again - seen(teacher, pixels[:4]).cpu()).abs().max()) > 0.02 * scale:
        raise PocketError(
            f"{teacher.name} gives other answers when asked again: something random is on, such as dropout in training "
            "mode. Call .eval() on it, and make its forward() honour that."
        )
    if float((again - logits[:4]).abs().max()) > 0.1 * scale:
        raise PocketError(
            f"{teacher.name} answers a picture otherwise when others stand beside it: it normalizes over the batch "
            "(BatchNorm in training mode, or with track_running_stats=False). Give it running statistics and .eval()."
        )
    teacher.check_unchanged()


def _check_varied(teacher: Teacher, logits: torch.Tensor) -> None:
    if float((logits - logits.mean(0)).abs().max()) <= 1e-4 * max(1.0, float(logits.abs().max())):
        raise PocketError(
            f"{teacher.name} says the same of every picture: its weights, its normalization (--teacher-norm) or its "
            f"input size ({teacher.input_size}, --teacher-size) are not those it was trained with."
        )


def _check_logits(teacher: Teacher, logits: torch.Tensor) -> None:
    """Look at all answers, also those to classes that are not asked for."""
    shares = bool((logits >= 0).all()) and bool((logits <= 1).all())
    if shares and (logits.shape[1] > 2 or bool(((logits.sum(1) - 1).abs() < 1e-3).all())):
        raise PocketError(only_logits(teacher.name))


def _differentiable(teacher: Teacher, pixels: torch.Tensor) -> bool:
    x = (pixels.to(teacher.device).float() / 255).requires_grad_()
    try:
        (gradient,) = torch.autograd.grad(seen_through(teacher, x).square().sum(), x, allow_unused=True)
    except RuntimeError:  # nothing of the graph needs a gradient: quantized, or run without autograd
        return False
    return gradient is not None and bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) > 0


def _check_reaches(teacher: Teacher, pixels: torch.Tensor, logits: torch.Tensor, *, one: bool) -> None:
    """Take a few steps towards each picture's runner-up: a network that knows its classes gives way."""
    pushed = push(teacher, pixels, logits.topk(min(2, logits.shape[1])).indices[:, -1], confidence=_CONFIDENT, steps=20)
    if not bool(pushed.reached.any()):
        raise _one_class(teacher, logits) if one else _weak(teacher, tried=True)


def _one_class(teacher: Teacher, logits: torch.Tensor) -> PocketError:
    number = int(logits[0].argmax())
    label = teacher.classes[number] if teacher.classes and teacher.columns is None else f"number {number}"
    return PocketError(
        f"{teacher.name} gives one class ({label}) to whatever it is shown: it has collapsed, or its normalization "
        "(--teacher-norm) or input size (--teacher-size) is wrong. Check its accuracy on a few real images."
    )


def _weak(teacher: Teacher, *, tried: bool) -> PocketError:
    steps = ", not even after some steps towards it" if tried else ""
    return PocketError(
        f"{teacher.name} is confident of nothing: no drawn picture gets a class with a probability of "
        f"{_CONFIDENT:.0%}{steps}. It is untrained or very weak, or its normalization "
        "(--teacher-norm) or input size (--teacher-size) is wrong. Check its accuracy on a few real images."
    )
