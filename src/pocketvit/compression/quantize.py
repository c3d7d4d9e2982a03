"""Quantized files that keep what they promise: which layers suffer, who gets how many bits, and who stays fp32."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from torch import Tensor, nn

from ..errors import NotSmaller, PocketError
from ..files import counted
from ..training.step import Input
from ..views.resize import to_input
from .cost import TABLE, weight_bytes
from .fakequant import grids_of, only, quantized
from .grid import Grid, key_of
from .integers import write_integers

_SCANNED = 64  # views that layers are put in order by: there is a pass over them for every layer


@torch.inference_mode()
def answers(model: nn.Module, pixels: Tensor, input: Input, batch_size: int = 64) -> Tensor:
    """Return the logits of a network for uint8 views [N, 3, V, V], float32 [N, C]."""
    size, mean, std = input
    device = next(model.parameters()).device
    model.eval()
    return torch.cat([model(to_input(p.to(device), size, mean, std)).float().cpu() for p in pixels.split(batch_size)])


def sensitivity(model: nn.Module, pixels: Tensor, input: Input) -> dict[str, float]:
    """Return what each layer's rounding, by itself, does to the answers: most harmful layer first.

    Args:
        model: of `fake_quantize`.
        pixels: uint8 views [N, 3, V, V], some hundred.
        input: what the network is fed.

    Returns:
        Layer name -> mean square change of the logits, relative to their variance over images.
    """
    with only(model, ()):
        plain = answers(model, pixels, input)
    spread = float((plain - plain.mean(0)).square().mean()) or 1.0
    changes = {}
    for name in quantized(model):
        with only(model, (name,)):
            changes[name] = float((answers(model, pixels, input) - plain).square().mean()) / spread
    return dict(sorted(changes.items(), key=lambda item: -item[1]))


def mixed_bits(model: nn.Module, changes: Mapping[int, Mapping[str, float]], limit: float) -> dict[str, int]:
    """Choose the bits of every layer's weights so that all weights take at most ``limit`` bytes.

    Greedy: of all layers the one goes down next that saves most bytes for the change it brings.

    Args:
        model: the plain network.
        changes: bits -> `sensitivity` of the network with that many everywhere, of 8 and fewer bits.
        limit: in bytes, of all weights (`weight_bytes`).

    Raises:
        PocketError: even the fewest bits take more.
    """
    ladder = sorted(changes, reverse=True)
    weights = dict(model.named_parameters())
    bits = dict.fromkeys(changes[ladder[0]], ladder[0])

    def size() -> int:
        return weight_bytes(weights, {f"{name}.weight": count for name, count in bits.items()})

    def price(name: str) -> float:
        now = bits[name]
        lower = ladder[ladder.index(now) + 1]
        saved = weights[f"{name}.weight"].numel() * (now - lower) / 8
        return max(changes[lower][name] - changes[now][name], 0.0) / saved

    while size() > limit:
        open_ = [name for name in bits if bits[name] != ladder[-1]]
        if not open_:
            raise PocketError(
                f"with {ladder[-1]} bits everywhere the weights still take {size()} bytes, more than {limit:.0f}. "
                "Prune the student or take a smaller one."
            )
        chosen = min(open_, key=price)
        bits[chosen] = ladder[ladder.index(bits[chosen]) + 1]
    return bits


@dataclass(frozen=True)
class Quantized:
    """A quantized graph, and what it costs."""

    model: onnx.ModelProto
    drop: float  # in points, as ``score`` measured it
    kept: tuple[str, ...]  # layers that stayed fp32
    products: int | None = None  # layers whose products run in integers; None where nobody counted

    def text(self, where: str = "") -> str:
        """Return one line for a person; ``where`` says on what it was measured."""
        lost = (f"{self.drop:.2f} points below fp32" if self.drop > 0 else "nothing lost") + where
        stay = f"{counted(len(self.kept), 'layer')} stay{'s' * (len(self.kept) == 1)} fp32"
        kept = f"; {stay}: {', '.join(self.kept)}" if self.kept else ""
        stored = "; no product runs in integers: weights are stored in 8 bits" if self.products == 0 else ""
        return lost + kept + stored


def points_lost(before: float, after: float) -> float:
    """Return how many points (1/100) a score in 0..1 fell; 5 of 1,000 are 0.5, and not a little more."""
    return round(100 * (before - after), 6)


def _convolutions(exported: onnx.ModelProto, grids: Mapping[str, Grid]) -> dict[str, np.ndarray]:
    """Return the weights of convolutions that no layer is rounded for, by their names in the graph.

    Their norms are folded into them, so that no layer of the network has these weights; they are stored in 8 bits.
    """
    known = {key for grid in grids.values() for key in (grid.of, key_of(grid.weight()))}
    found = {}
    for tensor in exported.graph.initializer:
        if len(tensor.dims) == 4 and math.prod(tensor.dims) >= TABLE:
            weight = onnx.numpy_helper.to_array(tensor)
            if weight.dtype == np.float32 and key_of(weight) not in known:
                found[tensor.name] = weight
    return found


def quantize(
    model: nn.Module,
    exported: onnx.ModelProto,
    score: Callable[[onnx.ModelProto], float],
    pixels: Tensor,
    input: Input,
    *,
    max_drop: float = 0.5,
) -> Quantized:
    """Write integers into an exported network, and take back layers until its file is as good as was asked.

    The score is that of the file under its runtime. Layers go back to fp32 from the most sensitive one on, as few as
    are needed.

    Args:
        model: of `fake_quantize`.
        exported: the plain network's graph; left as it is.
        score: share of right answers (or another score in 0..1) of a graph, on data that the scales have not seen.
        pixels: uint8 views [N, 3, V, V] for the scan of layers.
        input: what the network is fed.
        max_drop: points (1/100) that the score may fall below the fp32 graph's.

    Raises:
        NotSmaller: not even with all layers in fp32 the file is good enough, or layers were not found in the graph.
    """
    before = score(exported)
    weights = {name: layer.weight.detach().cpu().numpy() for name, layer in quantized(model).items()}
    grids = grids_of(model)
    found: dict[tuple[str, ...], Quantized] = {}
    there: list[str] = []  # layers that stand in the graph: others run nowhere, or the exporter changed their weights
    folded = _convolutions(exported, grids)

    def attempt(kept: tuple[str, ...]) -> Quantized:
        if kept not in found:
            graph = copy.deepcopy(exported)
            chosen = {name: grid for name, grid in grids.items() if name not in kept}
            keep = [folded[name] for name in kept if name in folded]
            for name in set(kept) & set(grids):
                keep += [weights[name], grids[name].weight()]  # trained, or rounded
            done = write_integers(graph, chosen, keep=keep)
            there[:] = there or done
            products = sum(grids[name].integers.ndim == 2 for name in done)  # those of convolutions stay fp32
            found[kept] = Quantized(graph, points_lost(before, score(graph)), kept, products)
        return found[kept]

    def fewest(always: tuple[str, ...], order: list[str]) -> Quantized:
        """Keep as few of the first layers of an order as are enough; all of them where nothing is."""
        low, high = 1, len(order)
        while low < high:
            middle = (low + high) // 2
            if attempt((*always, *order[:middle])).drop <= max_drop:
                high = middle
            else:
                low = middle + 1
        return attempt((*always, *order[:high]))

    whole = attempt(())
    if not there:
        raise NotSmaller("none of the network's layers was found in its exported graph, to be made integers.")
    if whole.drop <= max_drop:
        return whole
    some = pixels[:: max(1, len(pixels) // _SCANNED)]
    order = [name for name in sensitivity(model, some, input) if name in there]
    best = fewest((), order)
    if best.drop > max_drop and folded:  # they are rounded where they are stored, with a norm in them
        best = attempt(tuple(folded))
        best = best if best.drop <= max_drop else fewest(tuple(folded), order)
    if best.drop > max_drop:
        raise NotSmaller(
            f"the int8 file is {whole.drop:.2f} points below fp32, and still {best.drop:.2f} with every layer in fp32 "
            f"and only tables (positions, for example) in 8 bits; at most {max_drop:g} is let pass."
        )
    return best
