"""Counting floating-point operations and parameters of a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters (shared ones once, buffers not)."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_bytes(model: nn.Module) -> int:
    """Return the bytes of a network's weights and buffers; quantized layers hold tuples of tensors, and types."""
    held = (part for value in model.state_dict().values() for part in (value if isinstance(value, tuple) else (value,)))
    return sum(part.numel() * part.element_size() for part in held if isinstance(part, torch.Tensor))


def count_flops(model: nn.Module, image_size: int) -> int:
    """Return the floating-point operations of one image's forward pass: two for each multiply-accumulate.

    PyTorch's counter sees matrix products, convolutions and (fused) attention. What an involution does with its
    generated kernels is elementwise to that counter, or not, depending on how it is written, so it is replaced by the
    formula 2 K^2 C H W (Li et al., "Involution", CVPR 2021, section 3).

    Args:
        model: any network that takes one float tensor [1, 3, image_size, image_size].
        image_size: side of the square input in pixels.
    """
    generated: dict[nn.Module, int] = {}

    def note(module: Any, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        size = module.kernel_size
        area = size * size if isinstance(size, int) else size[0] * size[1]
        generated[module] = generated.get(module, 0) + 2 * area * output.numel()

    parameter = next(model.parameters(), torch.empty(0))
    pixels = torch.zeros(1, 3, image_size, image_size, device=parameter.device, dtype=torch.float32)
    names = {name: module for name, module in model.named_modules() if type(module).__name__ == "Involution"}
    hooks = [module.register_forward_hook(note) for module in names.values()]
    training, learning = model.training, [one for one in model.parameters() if one.requires_grad]
    model.eval()
    counter = FlopCounterMode(display=False)
    try:
        for one in learning:  # the counter looks for the gradients of what a module is given, as of queries
            one.requires_grad_(False)
        with torch.no_grad(), counter:
            model(pixels)
    finally:
        model.train(training)
        for one in learning:
            one.requires_grad_(True)
        for hook in hooks:
            hook.remove()
    total = counter.get_total_flops()
    if names:
        by_module = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
        root = type(model).__name__
        for name, module in names.items():
            full = f"{root}.{name}" if name else root
            children = sum(by_module.get(f"{full}.{child}", 0) for child, _ in module.named_children())
            total += generated[module] - (by_module.get(full, 0) - children)
    return int(total)
