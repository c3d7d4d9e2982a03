"""What a process does that a test kills: walk the road up to the trained students, saving after every step.

A slowed run waits before its last steps, however fast the machine: what is to be killed never ends first.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import torch
from walk_fakes import CHOICES, Own

import pocketvit
from pocketvit.road import ship
from pocketvit.training import Stepper, loop

LAST_STEP = 22  # of the 24 that both students take


class Trained(Exception):
    """Both students are trained; what follows is not the matter here."""


def stop(*_: object, **__: object) -> None:
    raise Trained


def go(photos: Path, runs: Path, pause: float, resume: bool) -> None:
    torch.set_num_threads(1)
    loop.SAVE_SECONDS = 0.0
    take, taken = Stepper.take, itertools.count(1)

    def slow_take(self, batches):
        time.sleep(600 if pause and next(taken) >= LAST_STEP else pause)
        return take(self, batches)

    Stepper.take = slow_take
    ship.calibrate = stop
    (runs / "started").touch()
    try:
        pocketvit.distill(str(photos), teacher=Own(), out=str(runs), resume=resume, **CHOICES)
    except Trained:
        (runs / "trained").touch()
