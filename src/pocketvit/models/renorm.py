"""Another normalization for a network with BatchNorm: replaced in an untrained one, converted in a trained one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PocketError
from .norms import Norm, batch_norms, check_norm, swap_norms
from .renormed import renormed_recipe
from .saving import recipe_of

_FLAT = 1e-5  # standard deviation of a normalized channel below which it carries nothing that could be scaled


@dataclass(frozen=True)
class Conversion:
    """What the conversion of a trained network cost.

    Attributes:
        kind: The new normalization.
        layers: Replaced ones.
        images: That the new affine weights were chosen on.
        before: Score of the network with BatchNorm; None where nothing was scored.
        replaced: With the BatchNorms' own affine weights.
        recalibrated: With those chosen on the images.
    """

    kind: str
    layers: int
    images: int
    before: float | None = None
    replaced: float | None = None
    recalibrated: float | None = None

    def text(self, score: str = "accuracy on validation") -> str:
        """One sentence; ``score`` names what was measured, a share of 1."""
        done = f"{self.layers} BatchNorms became {self.kind}, recalibrated on {self.images} images"
        if self.before is None or self.replaced is None or self.recalibrated is None:
            return done
        cost = 100 * (self.recalibrated - self.before)
        return (
            f"{done}: {score} {self.before:.1%} before, {self.replaced:.1%} replaced, {self.recalibrated:.1%} "
            f"recalibrated ({cost:+.1f} points)"
        )


def replace_norm(model: nn.Module, kind: Norm, *, groups: int = 32) -> nn.Module:
    """Replace every BatchNorm of a network in place, and return it.

    As ``nn.SyncBatchNorm.convert_sync_batchnorm``: use what is returned, since a lone BatchNorm is replaced itself. A
    network of timm's or ours stays one that `save_model` can save.

    Args:
        model: any network.
        kind: "group", "group-ws" (GroupNorm and standardized convolutions), "layer" (over C, H and W), "instance",
            "frozen" (BatchNorm that changes no more), or "batch" (as it is).
        groups: of GroupNorm; fewer where channels do not divide (see `norms.group_count`).

    Raises:
        PocketError: unknown kind, or no BatchNorm to replace.
    """
    check_norm(kind)
    if kind == "batch":
        return model
    try:
        recipe = recipe_of(model)
    except PocketError:  # not timm's: it can be used and trained, and `save_model` says that it cannot be saved
        recipe = None
    model = swap_norms(model, kind, groups)
    if recipe is not None:
        vars(model)["pocket_recipe"] = renormed_recipe(recipe, kind, groups)
    return model


def convert_norm(
    model: nn.Module,
    kind: Norm,
    images: Tensor,
    *,
    groups: int = 32,
    score: Callable[[nn.Module], float] | None = None,
) -> tuple[nn.Module, Conversion]:
    """Replace the BatchNorms of a *trained* network, which so starts close to what it was.

    The affine weights of each new normalization are chosen so that on ``images`` every channel of its output has the
    mean and the standard deviation that it had behind BatchNorm, layer by layer in forward order, each layer seeing
    the input that the layers before it now give. What BatchNorm took from the training set and the others take from
    the image itself is not restored by this: fine-tune afterwards. "frozen" needs no images; it changes no output.

    Args:
        model: trained, left as it is; a converted copy is returned.
        kind: see `replace_norm`.
        images: float [N, 3, H, W], normalized as the network is fed, run as one batch; some hundreds without labels.
        groups: of GroupNorm.
        score: of a network, a share of 1; called with it before, after replacing, and after recalibration.

    Raises:
        PocketError: see `replace_norm`; or no images.
    """
    if len(images) == 0:
        raise PocketError("the normalization of a trained network is converted on images, and there are none.")
    model = copy.deepcopy(model).eval()
    layers = [name for name, _ in batch_norms(model)]
    before = score(model) if score else None
    wanted = _output_statistics(model, layers, images)
    model = replace_norm(model, kind, groups=groups).eval()
    replaced = score(model) if score else None
    if kind not in ("batch", "frozen"):
        _recalibrate(model, wanted, images)
    recalibrated = score(model) if score else None
    return model, Conversion(kind, len(layers), len(images), before, replaced, recalibrated)


def _output_statistics(model: nn.Module, layers: list[str], images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Per channel, mean and standard deviation of what each BatchNorm gives, before a fused activation."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str, norm: Any, x: Tensor) -> None:
        mean, std = _per_channel(x)
        slope = torch.rsqrt(norm.running_var + norm.eps) * (1.0 if norm.weight is None else norm.weight)
        shift = 0.0 if norm.bias is None else norm.bias
        found.setdefault(name, ((mean - norm.running_mean) * slope + shift, std * slope))  # its sign is the slope's

    _run(model, layers, images, record)
    return found


def _recalibrate(model: nn.Module, wanted: dict[str, tuple[Tensor, Tensor]], images: Tensor) -> None:
    """Choose affine weights in one pass: a layer's are set just before it runs, so later ones see their effect."""
    done = set()

    def choose(name: str, norm: Any, x: Tensor) -> None:
        if name in done:
            return
        done.add(name)
        norm.weight.data.fill_(1.0)
        norm.bias.data.fill_(0.0)
        mean, std = _per_channel(_normalized(norm, x))
        target_mean, target_std = wanted[name]
        scale = torch.where(std > _FLAT, target_std / std.clamp_min(_FLAT), 0.0)
        norm.weight.data.copy_(scale)
        norm.bias.data.copy_(target_mean - scale * mean)

    _run(model, list(wanted), images, choose)


def _normalized(norm: Any, x: Tensor) -> Tensor:
    """What a normalization gives, without the activation that may be fused to it."""
    plain = nn.InstanceNorm2d if isinstance(norm, nn.InstanceNorm2d) else nn.GroupNorm
    return plain.forward(norm, x)


def _run(model: nn.Module, layers: list[str], images: Tensor, look: Callable[[str, Any, Tensor], None]) -> None:
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda norm, args, name=name: look(name, norm, args[0]))
        for name in layers
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()


def _per_channel(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] of [B, C, ...]."""
    variance, mean = torch.var_mean(x, [axis for axis in range(x.ndim) if axis != 1], correction=0)
    return mean, variance.sqrt()
