"""Moving pictures a little until the teacher sees a wanted class in them: to classes that no picture shows, and to
the border between two classes.

A few signed steps of gradient, as an attack takes them (Madry et al. 2018). What a network has learnt of a class is in
the direction of these steps, so that a student learns it from them (Ilyas et al. 2019; moving proxy pictures to the
border takes one from 11 to 88 % in arXiv 2411.12817).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..teachers import Teacher
from .seen import seen_through, surprise

_STEP = 2  # grey levels: whole ones, so that what the teacher saw is what is stored


@dataclass(frozen=True)
class Pushed:
    """Pictures after some steps.

    Attributes:
        images: uint8 [n, 3, S, S].
        reached: bool [n], whether the teacher gives the wanted class at least the wanted probability.
    """

    images: torch.Tensor
    reached: torch.Tensor


def push(
    teacher: Teacher,
    images: torch.Tensor,
    targets: torch.Tensor,
    *,
    confidence: float = 0.5,
    steps: int = 10,
) -> Pushed:
    """Move pictures towards classes; each stops as soon as the teacher is confident enough.

    Args:
        teacher: is differentiated through.
        images: uint8 [n, 3, S, S].
        targets: int64 [n], the wanted classes.
        confidence: wanted probability; about 0.5 ends just behind the border.
        steps: the most.
    """
    pixels = images.to(teacher.device).float()
    targets = targets.to(teacher.device)
    left = torch.arange(len(pixels), device=pixels.device)
    for number in range(steps + 1):
        more = number < steps
        x, wanted = pixels[left].requires_grad_(more), targets[left]
        with torch.set_grad_enabled(more):
            losses = surprise(teacher.kind, seen_through(teacher, x / 255), wanted)
        # A NaN never counts as reached.
        moving = ~(losses.detach() <= -math.log(confidence))
        if more and bool(moving.any()):
            (gradient,) = torch.autograd.grad(losses.sum(), x)
            pixels[left] = (x.detach() - _STEP * moving[:, None, None, None] * gradient.sign()).clamp_(0, 255)
        left = left[moving]
        if not len(left):
            break
    reached = torch.ones(len(pixels), dtype=torch.bool)
    reached[left.cpu()] = False
    return Pushed(pixels.to(torch.uint8).cpu(), reached)
