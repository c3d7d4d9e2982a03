"""What a network costs: parameters, floating-point operations, bytes of its weights as integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Measure = Literal["parameters", "flops", "bytes"]
TABLE = 1024  # elements; smaller tensors stay fp32 in a quantized file, because a scale and a node weigh as much


@dataclass(frozen=True)
class Cost:
    """What one network costs."""

    parameters: int  # shared ones once
    flops: int  # of one image, two for each multiply-accumulate
    bytes: int  # of the weights in a file of 8-bit integers; the graph itself is not counted


def cost_of(model: nn.Module, image_size: int) -> Cost:
    """Count what ``model`` costs, on any device (on ``meta`` a network takes no memory).

    Args:
        model: takes one float tensor [1, 3, image_size, image_size].
        image_size: side of the square input in pixels.
    """
    return Cost(**{name: measure(model, image_size) for name, measure in MEASURES.items()})


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, image_size: int) -> int:
    """Return what PyTorch's counter sees of one image: matrix products, convolutions, attention."""
    training = model.training
    device = next(model.parameters()).device
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    finally:
        model.train(training)
    return int(counter.get_total_flops())


def weight_bytes(weights: Mapping[str, Tensor], bits: Mapping[str, int] | int = 8) -> int:
    """Return the bytes of a network's weights in a quantized file.

    Matrices, kernels and tables are integers with one fp32 scale a row; the rest stays fp32.

    Args:
        weights: name -> tensor, each shared one once.
        bits: of an integer, for all tensors or by name (8 where it names none).
    """
    total = 0.0
    for name, weight in weights.items():
        if weight.ndim < 2 or weight.numel() < TABLE:
            total += 4 * weight.numel()
            continue
        wide = bits if isinstance(bits, int) else bits.get(name, 8)
        total += weight.numel() * wide / 8 + 4 * weight.shape[0]
    return round(total)


MEASURES: dict[Measure, Callable[[nn.Module, int], int]] = {
    "parameters": lambda model, image_size: count_parameters(model),
    "flops": count_flops,
    "bytes": lambda model, image_size: weight_bytes(dict(model.named_parameters())),
}
