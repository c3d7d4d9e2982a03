"""Choosing the arithmetic of a run: bfloat16 where this processor is faster with it, found by one measurement."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..files import read_json, write_json
from ..models.innermost import planes_for_group_norm

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_IMAGES = {"cpu": 64, "cuda": 512}  # of the measurement, at most: enough for the matrices to be as wide as in training
_FEW = 128  # tokens; attention that is taken apart holds their square for the gradient
_GAIN = 1.15  # bf16 must be this much faster to give up fp32's digits; below, a busy machine would decide


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Return the autocast context of a precision, a null context for ``fp32``."""
    if precision == "fp32":
        return contextlib.nullcontext()
    # The weight cache only helps when a weight is used twice under one context; it costs memory and a stale-copy risk.
    return torch.autocast(device.type, dtype=DTYPES[precision], cache_enabled=False)


def few_tokens(model: nn.Module) -> bool:
    """Whether a network's attention is over few enough tokens to be taken apart; where nobody knows, it is not."""
    counts = [getattr(getattr(module, "patch_embed", None), "num_patches", None) for module in model.modules()]
    known = [count for count in counts if isinstance(count, int)]
    return bool(known) and max(known) <= _FEW


@contextlib.contextmanager
def training(precision: str, device: torch.device, *, apart: bool) -> Iterator[None]:
    """Be `autocast` for a forward pass whose gradients are wanted.

    The gradient of torch's fused attention is slow on a processor in bfloat16, where that has units of its own: five
    times slower over 64 tokens than the products that it is made of. Over 200 it is as fast, and holds less.

    Args:
        precision: See `autocast`.
        device: Where it runs.
        apart: Whether attention is taken apart there (`few_tokens`).
    """
    with autocast(precision, device):
        if apart and device.type == "cpu" and precision != "fp32":
            with sdpa_kernel(SDPBackend.MATH):
                yield
        else:
            yield


def choose_precision(forward: nn.Module, batch: int, view_size: int, folder: Path, device: torch.device) -> str:
    """Return "bf16" or "fp32", measured once and then read from ``folder/choices.json``.

    Args:
        forward: From uint8 pixels [B, 3, S, S] to a tuple of logits; a copy of it is run, forward and backward.
        batch: Images of a training batch on this rank.
        view_size: S.
        folder: Of the run.
        device: Where it trains.
    """
    path = folder / "choices.json"
    choices: dict[str, Any] = read_json(path) if path.exists() else {}
    if "precision" not in choices:
        trial = copy.deepcopy(forward).to(device)
        if device.type == "cpu":
            planes_for_group_norm(trial)
        seconds = pass_seconds(trial, min(batch, _IMAGES.get(device.type, 64)), view_size, device)
        faster = seconds.get("bf16", float("inf")) * _GAIN < seconds["fp32"]
        choices["precision"] = "bf16" if faster else "fp32"
        choices["precision_seconds"] = {name: round(value, 6) for name, value in seconds.items()}
        write_json(path, choices)
    return choices["precision"]


def pass_seconds(
    forward: nn.Module, batch: int, view_size: int, device: torch.device, names: Sequence[str] = ("fp32", "bf16")
) -> dict[str, float]:
    """Return the best of three times of a forward and backward pass in each precision, taken alternately.

    One that this device has no units for is left out.

    Args:
        forward: From uint8 pixels [B, 3, S, S] to a tuple of logits, on ``device``; its running statistics change.
        batch: B.
        view_size: S.
        device: Where it trains.
        names: Of the precisions.
    """
    forward.train()
    apart = few_tokens(forward)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch, 3, view_size, view_size), generator=generator, dtype=torch.uint8).to(device)

    def run(precision: str) -> float:
        start = time.perf_counter()
        with training(precision, device, apart=apart):
            heads = forward(pixels)
        sum(head.float().square().mean() for head in heads).backward()
        forward.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    names = list(names)
    if device.type == "cuda" and "bf16" in names and not torch.cuda.is_bf16_supported(including_emulation=False):
        names.remove("bf16")
    warm = {name: run(name) for name in names for _ in range(2)}
    # A processor without bf16 units emulates it many times slower: the warm-up already tells.
    if {"fp32", "bf16"} <= warm.keys() and warm["bf16"] > 2 * warm["fp32"]:
        names.remove("bf16")
    seconds = {name: float("inf") for name in names}
    for _ in range(3):
        for name in names:
            seconds[name] = min(seconds[name], run(name))
    return seconds
