"""What a network may cost, as pruning counts it: parameters, floating-point operations, bytes of its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor, nn

from ..models.flops import count_flops, count_parameters

Measure = Literal["parameters", "flops", "bytes"]
TABLE = 1024  # elements; smaller tensors stay fp32 in a quantized file, because a scale and a node weigh as much


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
