"""Latency and memory of exported files and live networks, on the machine at hand.

Candidates take turns in one process, so that a busy moment hits all of them alike; one thread each; idle ONNX Runtime
threads sleep. Calls in which something else had the processor do not count where enough others are left: a student of
0.9 ms and its teacher of 3 were at 0.9 and 11 beside another program. Memory is read in a fresh process each.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import PocketError
from .run import open_session
from .runtimes import open_with, runtime_of

_UNDISTURBED, _ENOUGH = 0.8, 5  # of a call's time that it had the processor; such calls


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call."""

    p50: float
    p90: float
    best: float  # what a busy machine disturbs least
    cpu: float  # processor time at the median; more than p50 exposes hidden threads, less a busy machine
    runs: int  # that count


def measure(
    candidates: Mapping[str, Path | str | nn.Module],
    *,
    image_size: int | Mapping[str, int] | None = None,
    threads: int = 1,
    batch: int = 1,
    seconds: float = 2.0,
    min_runs: int = 20,
) -> dict[str, Latency]:
    """Time one forward pass of every candidate, in turns.

    Args:
        candidates: by name, an exported file or a live network (put into eval mode).
        image_size: side of the input of live networks and of files whose own input size is open; by name where they
            differ, so that networks of different input sizes take turns too.
        threads: of the files' runtimes and of PyTorch (restored afterwards).
        batch: images a call.
        seconds: about how long all candidates together are timed, after the warm-up.
        min_runs: calls of each candidate even if that takes longer.

    Returns:
        A `Latency` for each name.

    Raises:
        PocketError: a file cannot be opened, or ``image_size`` is needed and missing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        sides = image_size if isinstance(image_size, Mapping) else dict.fromkeys(candidates, image_size)
        calls = {name: _call(what, sides.get(name), threads, batch) for name, what in candidates.items()}
        for call in calls.values():
            for _ in range(5):
                call()
        wall: dict[str, list[float]] = {name: [] for name in calls}
        cpu: dict[str, list[float]] = {name: [] for name in calls}
        end = time.perf_counter() + seconds
        rounds = 0
        while calls and (rounds < min_runs or time.perf_counter() < end):
            for name, call in calls.items():
                cpu_start, start = time.process_time(), time.perf_counter()
                call()
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - cpu_start)
            rounds += 1
    finally:
        torch.set_num_threads(before)
    return {name: _latency(np.array(wall[name]), np.array(cpu[name])) for name in calls}


def _latency(wall: np.ndarray, cpu: np.ndarray) -> Latency:
    """Sum up the seconds that calls took, and what each had of the processor."""
    undisturbed = cpu >= _UNDISTURBED * wall
    if undisturbed.sum() >= _ENOUGH:
        wall, cpu = wall[undisturbed], cpu[undisturbed]
    p50, p90 = np.percentile(1e3 * wall, (50, 90))
    return Latency(float(p50), float(p90), 1e3 * float(wall.min()), 1e3 * float(np.percentile(cpu, 50)), len(wall))


def _call(what: Path | str | nn.Module, image_size: int | None, threads: int, batch: int) -> Callable[[], object]:
    """Return a function that runs ``what`` once on fixed random pixels."""
    generator = np.random.default_rng(0)
    if isinstance(what, nn.Module):
        if image_size is None:
            raise PocketError("image_size is needed to time a live network.")
        network = what.eval()
        parameter = next(network.parameters(), torch.empty(0))
        shape = (batch, 3, image_size, image_size)
        pixels = torch.from_numpy(generator.standard_normal(shape, dtype=np.float32)).to(parameter)
        if parameter.is_cuda:

            def run_on_gpu() -> None:
                with torch.inference_mode():
                    network(pixels)
                torch.cuda.synchronize(parameter.device)

            return run_on_gpu

        def run_torch() -> torch.Tensor:
            with torch.inference_mode():
                return network(pixels)

        return run_torch
    runtime = runtime_of(what)
    if runtime is not None:
        if batch != 1:
            raise PocketError(f"{what} takes 1 picture at a time, not {batch}.")
        opened = open_with(runtime, what, threads)
        side = opened.preprocessing.input_size
        return partial(opened.run, generator.standard_normal((1, 3, side, side), dtype=np.float32))
    session = open_session(what, threads)
    source = session.get_inputs()[0]
    sides: list[Any] = [side if isinstance(side, int) else image_size for side in source.shape[1:]]
    if None in sides:
        raise PocketError(f"{what} takes pictures of any size: say which with image_size.")
    if isinstance(source.shape[0], int) and source.shape[0] != batch:
        raise PocketError(f"{what} takes {source.shape[0]} picture(s) at a time, not {batch}.")
    feed = generator.standard_normal((batch, *sides), dtype=np.float32)
    if source.type == "tensor(uint8)":
        feed = np.clip(feed * 64 + 128, 0, 255).astype(np.uint8)
    name = source.name
    return lambda: session.run(None, {name: feed})


_PROBE = """
import sys
import numpy, onnxruntime
def high():  # the highest that the memory of this process ever was
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
imported = high()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
source = session.get_inputs()[0]
sides = [side if isinstance(side, int) else int(sys.argv[2]) for side in source.shape[1:]]
pixels = numpy.zeros([1, *sides], numpy.uint8 if source.type == "tensor(uint8)" else numpy.float32)
for _ in range(3):
    session.run(None, {source.name: pixels})
print(high() - imported)
"""


def peak_memory(path: Path | str, image_size: int = 224) -> float | None:
    """Return the memory in MB (1e6 bytes) that loading an ``.onnx`` file and running it at batch 1 takes at its peak.

    It is what a fresh process needs above Python, numpy and ONNX Runtime, which are there for any file. None ("not
    measured") for files of other runtimes, and where the system has no ``/proc/self/status`` (macOS, Windows). Read it
    as +-20 %.

    Raises:
        PocketError: the process could not run the file.
    """
    if not Path("/proc/self/status").exists() or runtime_of(path) is not None:
        return None
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE, str(path), str(image_size)], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        last = (probe.stderr.strip().splitlines() or ["no message"])[-1]
        raise PocketError(f"a fresh process could not run {path}: {last}")
    return int(probe.stdout) / 1e6
