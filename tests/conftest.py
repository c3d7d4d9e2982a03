"""Photographs, and one walk down the whole road that many tests look at. Every test runs torch on one core.

Small networks gain nothing from a team of threads, and can lose a lot; and sums depend on their number to the last bit.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands that tests start

import pytest
import torch
from torch import nn

import pocketvit

if os.name == "posix":  # processes that tests start, here and in tests/training, import torch once for all of them
    multiprocessing.set_forkserver_preload(["timm", "pocketvit.training", "pocketvit.road.begin"])


torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def operators_read_once():
    """Let the ONNX exporter read its thousand operators once, instead of before each of hundreds of exports."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session", autouse=True)
def timed_briefly():
    """Let files be timed for twenty calls instead of a second each: dozens of walks measure theirs."""
    from pocketvit.road import measuring, score

    measure = measuring.measure_latency
    with pytest.MonkeyPatch.context() as patch:
        for module in (measuring, score):
            patch.setattr(
                module, "measure_latency", lambda *given, **named: measure(*given, **{**named, "seconds": 0.0})
            )
        yield


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """What a test, or what it runs, does to logging ends with it: the next test reads what is said, too."""
    loggers = logging.getLogger(), logging.getLogger("pocketvit")
    before = logging.root.manager.disable, [(one.level, one.propagate) for one in loggers]
    yield
    logging.disable(before[0])
    for one, (level, propagate) in zip(loggers, before[1], strict=True):
        one.setLevel(level)
        one.propagate = propagate


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    from walk_fakes import draw_photos

    return draw_photos(tmp_path_factory.mktemp("drawn") / "photos")


@pytest.fixture
def road(photos, tmp_path):
    """Opened photographs and their plain views."""
    from walk_fakes import run_config

    from pocketvit.road.images import open_road

    return open_road(str(photos), run_config().view, tmp_path / "shared", device="cpu")


@dataclass
class Walked:
    run: pocketvit.Run
    module: nn.Module  # the user's, as it is afterwards
    said: list[str]


@pytest.fixture(scope="session")
def walked(photos, tmp_path_factory) -> Walked:
    """A finished run: images, a module of the user's as teacher, a student."""
    from walk_fakes import CHOICES, Own

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("pocketvit")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    module = Own().train()
    try:
        run = pocketvit.distill(str(photos), teacher=module, out=str(tmp_path_factory.mktemp("runs")), **CHOICES)
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
    return Walked(run, module, said)
