"""What is asked of a synthetic image besides its class: priors that fit what the teacher is made of.

BatchNorm layers keep the moments of the data, and images are asked to match them (DeepInversion, Yin et al. 2020); a
statistics card has them for other networks. Without either, normalized channels are asked to carry about equal shares,
and features to be strongly active (DAFL, Chen et al. 2019). The patches of a ViT are asked to differ as those of
photographs do (PSAQ-ViT, Li et al. 2022). Every prior says what it holds on to, and one that finds nothing is an error:
a sum over no layers would be a zero that nobody notices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import PocketError
from ..teachers import Teacher
from .card import StatisticsCard
from .statistics import Inputs, Moments, channelled, is_2d, kept_moments, moments_of, norm_layers

_BINS = 24  # of the density of patch similarities
_ROWS = 16  # patches of an image whose similarities to all others are looked at
_BANDWIDTH = 0.08
_EPSILON = 1e-5


@dataclass(frozen=True)
class PriorConfig:
    """What each prior weighs beside the cross-entropy with the wanted class, where the teacher has a hold for it."""

    statistics: float = 1.0  # moments of BatchNorm
    patches: float = 0.5  # similarity entropy of a ViT's patches
    channels: float = 0.05  # equal shares of LayerNorm's and GroupNorm's channels, in all depths
    activation: float = 0.05  # of what the head sees
    variation: float = 0.02  # total variation, at 32 px; wider pictures have less
    range: float = 1.0  # pixels that leave what can be shown, mean and contrast that no photograph has
    diversity: float = 0.2  # likeness of features within a class
    soften: float = 0.1  # share of the wanted answer that is spread over all classes


class FeaturePrior(Protocol):
    """A prior on what layers are fed; it keeps a hook in the teacher until it is removed."""

    name: str
    words: str

    def loss(self) -> Tensor:
        """Scalar, of the teacher's last forward pass."""
        ...

    def remove(self) -> None: ...


class StatisticsPrior:
    """The divergence of the batch's moments from those that are kept, averaged over channels and layers.

    Per channel KL(N(m, v) || N(m', v')) = (v + (m - m')^2) / (2 v') - 1/2 - log(v / v') / 2: unlike a norm of the
    differences it has no scale of its own, so that its weight fits any teacher and any depth.
    """

    name = "statistics"

    def __init__(self, module: nn.Module, kept: Mapping[str, Moments], words: str = "") -> None:
        if not kept:
            raise PocketError(
                f"{type(module).__name__} keeps no BatchNorm statistics: this prior has nothing to hold on to."
            )
        self.kept, self.words = kept, words or f"moments of {len(kept)} BatchNorm layers"
        self._layers = {path: module.get_submodule(path) for path in kept}
        self._inputs = Inputs(module, kept)

    def loss(self) -> Tensor:
        seen = self._inputs.take()
        return torch.stack([self._of(path, x) for path, x in seen.items()]).mean()

    def _of(self, path: str, x: Tensor) -> Tensor:
        kept = self.kept[path]
        apart = len(kept.mean) - 1 if kept.mean.ndim == 2 else 0
        return self._divergence(moments_of(channelled(self._layers[path], x), apart), kept)

    @staticmethod
    def _divergence(found: Moments, kept: Moments) -> Tensor:
        var, wanted = found.var + _EPSILON, kept.var + _EPSILON
        ratio = var / wanted
        # Channels that are almost dead in the data have ratios in the thousands: beyond e^2 the slope stays.
        far = (found.mean - kept.mean).square() / wanted
        return (0.5 * (_soft(ratio) + _soft(far) - 1 - ratio.log())).mean()

    def remove(self) -> None:
        self._inputs.remove()


def _soft(x: Tensor, knee: float = 8.0) -> Tensor:
    """x up to the knee, then growing as its logarithm."""
    return torch.where(x < knee, x, knee * (1 + (x.clamp_min(knee) / knee).log()))


class PatchPrior:
    """The entropy of how alike an image's patches are, which photographs have and noise has not (PSAQ-ViT).

    Looked at is what each block's attention gives before its output projection, so that fused attention serves as well.
    For a photograph similarities spread widely, for noise all patches are alike: the entropy of their density (a
    Gaussian kernel estimate on -1..1) is to be high. The loss is 1 - entropy / log(bins), averaged over images, blocks.
    """

    name = "patches"

    def __init__(self, module: nn.Module) -> None:
        paths = attention_projections(module)
        if not paths:
            raise PocketError(
                f"{type(module).__name__} has no attention with an output projection (`attn.proj`): the patch prior "
                "has nothing to hold on to."
            )
        self.prefix = int(getattr(module, "num_prefix_tokens", 0))
        self.words = f"similarity entropy of patches in {len(paths)} attention layers"
        self._inputs = Inputs(module, paths)

    def loss(self) -> Tensor:
        return torch.stack([1 - _spread(x, self.prefix) for x in self._inputs.take().values()]).mean()

    def remove(self) -> None:
        self._inputs.remove()


def _spread(tokens: Tensor, prefix: int) -> Tensor:
    """Entropy, of its most, of the similarities of patches [B, N, D], averaged over images."""
    patches = F.normalize(tokens.float().flatten(1, -2)[:, prefix:], dim=-1)
    count = patches.shape[1]
    rows = patches[:, :: max(1, count // _ROWS)]
    alike = (rows @ patches.transpose(1, 2)).flatten(1)
    grid = torch.linspace(-1, 1, _BINS, device=alike.device)
    density = torch.exp(-0.5 * ((alike[..., None] - grid) / _BANDWIDTH) ** 2).sum(1)
    share = density / density.sum(1, keepdim=True)
    return -(share * (share + 1e-12).log()).sum(1).mean() / math.log(_BINS)


class ChannelPrior:
    """Normalized channels carry about equal shares over a batch, in every LayerNorm and GroupNorm.

    Such a layer keeps no moments of the data, but over many images no channel of its output, before scale and shift,
    should be always on or always off: its mean is drawn to 0 and its variance to 1, by the divergence of
    `StatisticsPrior`. Weaker than real moments, and weighted so; it is what "batch alignment" comes to for them.
    """

    name = "channels"

    def __init__(self, module: nn.Module) -> None:
        self._layers = {path: module.get_submodule(path) for path in norm_layers(module)}
        if not self._layers:
            raise PocketError(
                f"{type(module).__name__} has no LayerNorm or GroupNorm for the channel prior to hold on to."
            )
        self.words = f"equal shares of channels in {len(self._layers)} LayerNorm or GroupNorm layers"
        self._inputs = Inputs(module, self._layers)

    def loss(self) -> Tensor:
        return torch.stack([self._share(self._layers[path], x) for path, x in self._inputs.take().items()]).mean()

    @staticmethod
    def _share(layer: nn.Module, x: Tensor) -> Tensor:
        x = x.float()
        if isinstance(layer, nn.LayerNorm):
            x = x.movedim(1, -1).flatten(1, -2) if is_2d(layer) else channelled(layer, x)
            x = F.layer_norm(x, layer.normalized_shape)
        elif isinstance(layer, nn.GroupNorm):
            x = F.group_norm(x, layer.num_groups)
        found = moments_of(x)
        zero = Moments(torch.zeros_like(found.mean), torch.ones_like(found.var))
        return StatisticsPrior._divergence(found, zero)

    def remove(self) -> None:
        self._inputs.remove()


class HeadPrior:
    """What the head sees: to be strongly active, and to differ between images of a class.

    Activation: minus log of the features' mean size over its first value. Diversity: mean cosine of two images of a
    class.
    """

    name = "head"

    def __init__(self, module: nn.Module, path: str) -> None:
        self.words = f"activity and diversity of what {path} sees"
        self._inputs = Inputs(module, [path])
        self._path = path
        self.features = torch.empty(0)

    def take(self) -> None:
        seen = self._inputs.take()
        self.features = seen[self._path].float().flatten(1)

    def activation(self) -> Tensor:
        return -self.features.abs().mean().clamp_min(1e-8).log()

    def diversity(self, targets: Tensor) -> Tensor:
        direction = F.normalize(self.features, dim=1)
        same = (targets[:, None] == targets).float().fill_diagonal_(0)
        return ((direction @ direction.T) * same).sum() / same.sum().clamp_min(1)

    def remove(self) -> None:
        self._inputs.remove()


def attention_projections(module: nn.Module) -> list[str]:
    """Paths of the output projections of attention layers, as timm names them; in windows (Swin) too."""
    return [
        path for path, layer in module.named_modules() if path.endswith("attn.proj") and isinstance(layer, nn.Linear)
    ]


def layers_called(teacher: Teacher) -> list[str]:
    """Return the paths of the layers that the teacher's answer goes through, in the order in which they are called."""
    called: dict[str, None] = {}
    handles = [
        layer.register_forward_pre_hook(lambda *_, path=path: called.setdefault(path))
        for path, layer in teacher.module.named_modules()
    ]
    try:
        with torch.no_grad():
            side = teacher.input_size
            teacher.differentiable(torch.full((1, 3, side, side), 0.5, device=teacher.device))
    finally:
        for handle in handles:
            handle.remove()
    return list(called)


def head_path(module: nn.Module, called: Sequence[str]) -> str | None:
    """Path of the last linear layer that is called, or 1 x 1 convolution that makes classes; None without."""
    found = [path for path, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    own = getattr(module, "get_classifier", None)
    head = own() if callable(own) else None
    if isinstance(head, nn.Module):
        named = [path for path, layer in module.named_modules() if layer is head]
        found = named if named and not isinstance(head, nn.Identity) else found
    return next((path for path in reversed(called) if path in found), None)


class Priors:
    """All that is asked of images, chosen by what the teacher is made of.

    Args:
        teacher: gets hooks until `remove` is called (also a context manager).
        config: weights; a prior of weight 0 is left out.
        card: moments of the teacher's training images, which then stand beside or in place of BatchNorm's.

    Attributes:
        words: what each holds on to, for the log and the provenance.
    """

    def __init__(
        self, teacher: Teacher, config: PriorConfig = PriorConfig(), card: StatisticsCard | None = None
    ) -> None:
        module = teacher.module
        if isinstance(module, torch.jit.ScriptModule):
            raise PocketError(
                f"{teacher.name} is TorchScript, whose layers nobody can listen to. Choose pictures for it instead: "
                "--method drawn."
            )
        self.config = config
        detects = teacher.kind == "boxes"  # has no one answer for features to be looked at for; its boxes are a hold
        self.parts: dict[str, tuple[float, FeaturePrior]] = {}
        kept = kept_moments(module)
        if card is not None:
            card.check(teacher)
            kept = {path: moments.to(teacher.device) for path, moments in card.moments.items()}
        called = layers_called(teacher)  # an unused head, or one whose weights alone are used, holds nothing
        kept = {path: moments for path, moments in kept.items() if path in called}
        if config.statistics and kept:
            self._add(config.statistics, StatisticsPrior(module, kept, card.words if card is not None else ""))
        if config.patches and attention_projections(module):
            self._add(config.patches, PatchPrior(module))
        if config.channels and "statistics" not in self.parts and norm_layers(module):
            self._add(config.channels, ChannelPrior(module))
        path = head_path(module, called) if not detects and (config.activation or config.diversity) else None
        self.head = HeadPrior(module, path) if path is not None else None
        if not self.parts and self.head is None and not detects:
            raise PocketError(
                f"{teacher.name} has neither BatchNorm, LayerNorm, GroupNorm, attention nor a linear head that a prior "
                "could hold on to. Choose pictures for it instead: --method drawn."
            )
        lines = [prior.words for _, prior in self.parts.values()]
        self.words = tuple(lines + ([self.head.words] if self.head else []))

    def _add(self, weight: float, prior: FeaturePrior) -> None:
        self.parts[prior.name] = (weight, prior)

    def __call__(self, images: Tensor, confidence: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the images just shown to the teacher, and its parts (detached).

        Args:
            images: float [B, 3, S, S] about 0..1, before augmentation.
            confidence: scalar, how far the teacher is from seeing what is wanted (`surprise`, `unlike`).
            targets: int64 [B], the wanted classes.
        """
        config = self.config
        parts = {"confidence": confidence}
        weights = {"confidence": 1.0}
        for name, (weight, prior) in self.parts.items():
            parts[name], weights[name] = prior.loss(), weight
        if self.head is not None:
            self.head.take()
            # Where moments are kept, they say how active features are.
            if config.activation and "statistics" not in self.parts:
                parts["activation"], weights["activation"] = self.head.activation(), config.activation
            if config.diversity:
                parts["diversity"], weights["diversity"] = self.head.diversity(targets), config.diversity
        if config.variation:
            parts["variation"] = total_variation(images)
            weights["variation"] = config.variation
        if config.range:
            parts["range"], weights["range"] = out_of_range(images), config.range
        total = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
        return total, {name: value.detach() for name, value in parts.items()}

    def remove(self) -> None:
        """Take all hooks out of the teacher."""
        for _, prior in self.parts.values():
            prior.remove()
        if self.head is not None:
            self.head.remove()

    def __enter__(self) -> Priors:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def total_variation(images: Tensor) -> Tensor:
    """Mean difference of neighbours, in the unit of 32 px: at twice the size a scene has half of it per pixel."""
    across = (images[..., 1:] - images[..., :-1]).abs().mean()
    along = (images[..., 1:, :] - images[..., :-1, :]).abs().mean()
    return (across + along) * (images.shape[-1] / 32)


def out_of_range(images: Tensor) -> Tensor:
    """How far pixels leave 0..1, an image's mean leaves .15...85, and its contrast .08...4; 0 for ordinary images."""
    pixels = F.relu(-images) + F.relu(images - 1)
    flat = images.flatten(1)
    mean, std = flat.mean(1), flat.std(1)
    mean = F.relu(0.15 - mean) + F.relu(mean - 0.85)
    std = F.relu(0.08 - std) + F.relu(std - 0.4)
    return pixels.mean() + mean.mean() + std.mean()
