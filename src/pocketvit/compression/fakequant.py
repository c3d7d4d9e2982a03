"""A network that computes in floating point what its file will compute in integers: calibration and training see it.

`fake_quantize` makes such a network, with scales from a few views; as it stands it is post-training quantization, and
trained with the ordinary loop it is quantization-aware training. `grids_of` gives every layer's integers, for
`integers.write_integers`; `freeze` the plain network whose weights are exactly their values.

Rounding passes gradients straight through (Bengio et al., arXiv 1308.3432). Learned scales follow LSQ (Esser et al.,
ICLR 2020): with v = clamp(x / s, low, high) and round(v) s, the gradient of s is round(v) - x / s inside the range and
the bound outside, divided by sqrt(count * high). Their logarithms are what is learned: an optimizer that divides by the
size of gradients, as Adam and Muon do, moves every number by about the learning rate, whatever its own size, and a
scale of 8 bits is smaller than that: it would leave its row, or change its sign.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import NotSmaller, PocketError
from ..training.step import Input
from .calibration import Ranges, observe
from .cost import TABLE
from .grid import ACTIVATION_HIGH, ACTIVATION_LOW, Grid, key_of, round_evenly, weight_range

Activations = Literal["dynamic", "static"]
_TINY = torch.finfo(torch.float32).tiny
_LEAST_SCALE = 1e-4  # of a row, as a share of the largest in its layer


class _Given(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def round_through(x: Tensor) -> Tensor:
    """Round to the nearest integer; the gradient passes as if nothing had been done."""
    return _Given.apply(x, x.round())


def _slowed(logarithm: Tensor, count: int, high: int) -> Tensor:
    """Return the scale of a logarithm, with its gradient divided by sqrt(count * high), in proportion to weights'."""
    factor = (count * high) ** -0.5
    return ((logarithm - logarithm * factor).detach() + logarithm * factor).exp()


class _Quantized(nn.Module):
    """What a linear layer or a convolution has besides its own when it is quantized (its class is changed in place).

    Attributes:
        bits: of a weight.
        activations: "dynamic", "static", or None where only weights are rounded.
        log_weight_scale: [out], a parameter; None where scales follow the largest magnitude of each row.
        log_input_scale: [], of static activations; a parameter where scales are learned.
        input_zero: [], which integer stands for 0.
        rounds: whether it rounds; off, it is the plain layer.
    """

    bits: int
    activations: Activations | None
    weight: Tensor
    log_weight_scale: Tensor | None
    log_input_scale: Tensor
    input_zero: Tensor
    rounds: bool

    def rounded_weight(self) -> Tensor:
        integers, scale = self.integers()
        return integers * scale

    def integers(self) -> tuple[Tensor, Tensor]:
        """Return the rounded weights, whole numbers [out, ...], and their scale [out, 1, ...]."""
        low, high = weight_range(self.bits)
        shape = -1, *[1] * (self.weight.ndim - 1)
        if self.log_weight_scale is None:
            scale = (self.weight.detach().flatten(1).abs().amax(1) / high).clamp_min(_TINY).view(shape)
            exact = self.weight / scale
            even = round_evenly(exact.detach().float().cpu().numpy(), self.bits)
            return _Given.apply(exact, torch.from_numpy(even).to(exact)), scale
        scale = _slowed(self.log_weight_scale, self.weight[0].numel(), high).view(shape)
        return round_through(self.weight / scale).clamp(low, high), scale

    def rounded_input(self, x: Tensor) -> Tensor:
        if self.activations is None:
            return x
        if self.activations == "dynamic":  # image by image, as a device sees them
            with torch.no_grad():
                flat = x.flatten(1)
                low, high = flat.amin(1).clamp_max(0), flat.amax(1).clamp_min(0)
                scale = ((high - low) / 255).clamp_min(_TINY)
                zero = (ACTIVATION_LOW - low / scale).round()
                scale, zero = (value.view(-1, *[1] * (x.ndim - 1)) for value in (scale, zero))
        else:
            scale = _slowed(self.log_input_scale, x[0].numel(), ACTIVATION_HIGH)
            zero = self.input_zero
        return ((round_through(x / scale) + zero).clamp(ACTIVATION_LOW, ACTIVATION_HIGH) - zero) * scale


class QuantizedLinear(_Quantized, nn.Linear):
    """A linear layer whose weights, and perhaps inputs, are rounded."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.rounds:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            x = self.rounded_input(x.float())
            weight = self.rounded_weight()
        return F.linear(x, weight, self.bias)


class QuantizedConv2d(_Quantized, nn.Conv2d):
    """A convolution whose weights are rounded; its product stays in floating point, as in the file."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.rounds:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            weight = self.rounded_weight()
        return self._conv_forward(x, weight, self.bias)


_KINDS: dict[type[nn.Module], type[_Quantized]] = {nn.Linear: QuantizedLinear, nn.Conv2d: QuantizedConv2d}


def fake_quantize(
    model: nn.Module,
    pixels: Tensor,
    input: Input,
    *,
    bits: int | Mapping[str, int] = 8,
    activations: Activations = "static",
    learned: bool = True,
    keep: Collection[str] = (),
) -> nn.Module:
    """Return a copy of ``model`` that rounds as its quantized file will.

    Args:
        model: any network of linear layers and convolutions.
        pixels: uint8 views [N, 3, V, V] from which scales are taken, as of `calibration.calibration_views`.
        input: what the network is fed.
        bits: of weights: 8, 7, 4 or 2; for all layers, or by name (8 where it names none). Given as one number below
            7, the layers that see pixels and those that answer keep 7, as is usual (they are small, and what they lose
            nothing gives back). Convolutions, whose products stay in floating point, keep 8 for 7.
        activations: "static" for scales of inputs from ``pixels`` (see `calibration.Ranges`); "dynamic" for scales
            found while it runs.
        learned: whether training moves the scales (LSQ). If not, those of weights follow the largest magnitude of each
            row, and those of inputs stay.
        keep: names of layers that stay as they are.

    Raises:
        PocketError: a layer to keep does not exist.
        NotSmaller: there is none to quantize.
    """
    network = copy.deepcopy(model)
    layers = dict(quantizable(network))
    unknown = [name for name in (*keep, *(bits if isinstance(bits, Mapping) else ())) if name not in layers]
    if unknown:
        raise PocketError(f"{', '.join(unknown)}: there are no such layers. There are {', '.join(layers)}.")
    if not set(layers) - set(keep):
        raise NotSmaller(f"{type(model).__name__} has no layers that can be quantized.")
    edges = {next(iter(layers)), *(name for name in layers if name.startswith("head"))}
    ranges = observe(network, [n for n in layers if n not in keep], pixels, input) if activations == "static" else {}
    for name, layer in layers.items():
        if name in keep or (name in ranges and not ranges[name].values):  # or it runs in training alone
            continue
        if isinstance(bits, Mapping):
            wide = bits.get(name, 8)
        else:
            wide = max(bits, 7) if name in edges else bits
        _change(layer, wide, activations, ranges.get(name), learned)
    return network


def quantizable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and layer of all that can be quantized, shared ones once; small matrices are not worth it."""
    for name, module in model.named_modules():
        if type(module) in _KINDS and module.weight.numel() >= TABLE:
            yield name, module


def quantized(model: nn.Module) -> dict[str, _Quantized]:
    """Return the quantized layers of a network by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _Quantized)}


def _change(layer: Any, bits: int, activations: Activations, ranges: Ranges | None, learned: bool) -> None:
    """Make a quantized layer of a plain one, in place: whoever else refers to it (shared blocks do) sees it change."""
    layer.__class__ = _KINDS[type(layer)]
    if isinstance(layer, QuantizedConv2d) and bits == 7:
        bits = 8  # seven are for products that run in integers
    layer.bits, layer.rounds = bits, True
    layer.activations = activations if isinstance(layer, QuantizedLinear) else None
    found = best_scale(layer.weight.detach(), bits)
    layer.register_parameter("log_weight_scale", nn.Parameter(found.log()) if learned else None)
    if layer.activations == "static":
        assert ranges is not None
        scale, zero = ranges.scale()
        layer.register_buffer("input_zero", zero.to(found.device))
        if learned:
            layer.register_parameter("log_input_scale", nn.Parameter(scale.log().to(found.device)))
        else:
            layer.register_buffer("log_input_scale", scale.log().to(found.device))


def best_scale(weight: Tensor, bits: int) -> Tensor:
    """Return the scale [out] of each row of a weight [out, ...] whose rounding error is least, of 20 tried.

    With 7 or 8 bits that is the row's largest magnitude; with few bits, cutting the largest off pays.
    """
    low, high = weight_range(bits)
    rows = weight.flatten(1)
    largest = rows.abs().amax(1, keepdim=True) / high
    # A row of zeros has no scale, and next to none would make infinite gradients of its first step.
    largest = largest.clamp_min(max(_LEAST_SCALE * float(largest.max()), _TINY))
    if bits >= 7:
        return largest[:, 0]
    best, least = largest, torch.full_like(largest, torch.inf)
    for share in torch.linspace(0.2, 1.0, 20).tolist():
        scale = largest * share
        error = ((rows / scale).round().clamp(low, high) * scale - rows).square().sum(1, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best[:, 0]


@contextmanager
def only(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Let only the layers of these names round, for as long as it lasts."""
    layers = quantized(model)
    before = {name: layer.rounds for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.rounds = name in names
    try:
        yield
    finally:
        for name, layer in layers.items():
            layer.rounds = before[name]


@torch.no_grad()
def grids_of(model: nn.Module) -> dict[str, Grid]:
    """Return the integers of every quantized layer, by name."""
    grids = {}
    for name, layer in quantized(model).items():
        integers, scale = layer.integers()
        static = layer.activations == "static"
        grids[name] = Grid(
            layer.bits,
            integers.to(torch.int8).cpu().numpy(),
            scale.flatten().float().cpu().numpy(),
            key_of(layer.weight.cpu().numpy()),
            float(layer.log_input_scale.exp()) if static else None,
            int(layer.input_zero) if static else 0,
        )
    return grids


@torch.no_grad()
def freeze(model: nn.Module) -> nn.Module:
    """Return the plain network, in evaluation mode, whose weights are the rounded ones of ``model``."""
    network = copy.deepcopy(model).eval()
    for layer in quantized(network).values():
        layer.weight.copy_(layer.rounded_weight())
        for name in ("log_weight_scale", "log_input_scale", "input_zero"):
            layer._parameters.pop(name, None)
            layer._buffers.pop(name, None)
        for name in ("bits", "activations", "rounds"):
            del vars(layer)[name]
        module: nn.Module = layer
        module.__class__ = next(plain for plain, rounding in _KINDS.items() if isinstance(layer, rounding))
    return network
