"""What a process does that the tests kill: train, saving after every step.

A step takes a little longer than it must, so that a random moment falls anywhere: inside a step, while a checkpoint is
written, during evaluation, between epochs. A slowed run waits in its last epoch, however fast the machine: what is to
be killed never ends first.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from training_fakes import train

from pocketvit.training import Stepper, loop

LAST_STEP = 16  # of the 18 that `train` takes


def run(folder: Path, pause: float) -> None:
    torch.set_num_threads(1)
    loop.SAVE_SECONDS = 0.0
    take = Stepper.take

    def slow_take(self, batches):
        time.sleep(600 if pause and self.step >= LAST_STEP else pause)
        return take(self, batches)

    Stepper.take = slow_take
    (folder / "started").touch()
    model = train(folder, resume=True)
    torch.save(model.state_dict(), folder / "final.pt")
