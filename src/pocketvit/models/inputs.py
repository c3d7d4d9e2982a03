"""What a network expects to see: its input size, and the mean and standard deviation it was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import PocketError

NORMS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


_INPUT = ("mean", "std", "input_size", "crop_pct", "interpolation")  # in timm's ``pretrained_cfg``


@dataclass(frozen=True)
class InputStats:
    """Mean and standard deviation of each channel, of values in 0..1, and the side of the square input in pixels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: int

    def __iter__(self):
        return iter((self.mean, self.std, self.input_size))


def config_of(model: nn.Module) -> dict[str, Any]:
    """Return timm's ``pretrained_cfg`` of a model as a dictionary; empty for modules that have none."""
    cfg: Any = getattr(model, "pretrained_cfg", None)
    return dict(cfg.to_dict() if hasattr(cfg, "to_dict") else cfg or {})


def tell_input(model: nn.Module, like: nn.Module) -> None:
    """Let a network's config say of the pictures that it is fed what another's does: for one that was made of that."""
    told = config_of(like)
    vars(model)["pretrained_cfg"] = config_of(model) | {key: told[key] for key in _INPUT if key in told}


def input_stats(model: nn.Module) -> InputStats:
    """Return (mean, std, input_size) from a model's ``pretrained_cfg``; ImageNet's and 224 where it has none.

    What is said of one channel holds for all three (see `grey`).
    """
    cfg = config_of(model)
    mean, std = (tuple(cfg.get(key) or usual) for key, usual in zip(("mean", "std"), NORMS["imagenet"], strict=True))
    channels = 3 // max(1, min(len(mean), 3))
    return InputStats(mean * channels, std * channels, int((cfg.get("input_size") or (3, 224))[-1]))


def parse_norm(norm: str | tuple[Sequence[float], Sequence[float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (mean, std) of ``"imagenet"``, ``"half"``, ``"none"``, or of a given pair of three numbers each.

    Raises:
        PocketError: the name is unknown or the numbers cannot be a mean and a standard deviation.
    """
    if isinstance(norm, str):
        if norm not in NORMS:
            raise PocketError(f"unknown normalization {norm!r}: choose {', '.join(NORMS)}, or give (mean, std).")
        return NORMS[norm]
    try:
        mean, std = (tuple(float(value) for value in part) for part in norm)
    except (TypeError, ValueError):
        raise PocketError(
            f"a normalization is a name or a pair (mean, std) of three numbers each, not {norm!r}."
        ) from None
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise PocketError(f"mean and std need three numbers each and std above 0, not {mean} and {std}.")
    return mean, std
