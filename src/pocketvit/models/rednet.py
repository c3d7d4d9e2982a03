"""RedNet (Li et al., CVPR 2021, arXiv 2103.06255): ResNet with an involution where the bottleneck's 3x3 was.

``rednet26`` .. ``rednet152`` are the published ImageNet networks (their parameter counts are tested); ``cifar_rednet*``
are the same bottlenecks in the three-stage layout of the CIFAR ResNets, for images of 8 to 64 pixels. The
checkpoints of the paper's authors (github.com/d-li14/involution, in MMClassification's names) load.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from .cifar_resnet import small_cfg
from .involution import Involution
from .norms import Norm, norm_layer

_EXPANSION = 4
_PUBLISHED_MARK = "layer1.0.conv2.conv1.conv.weight"  # a bottleneck whose conv2 is an involution
_STEM = {
    "stem.0.conv": "stem.0",
    "stem.0.bn": "stem.1",
    "stem.1.conv1.conv": "stem.3.reduce",
    "stem.1.conv1.bn": "stem.3.norm",
    "stem.1.conv2": "stem.3.span",
    "stem.2": "stem.4",
    "stem.4.conv": "stem.6",
    "stem.4.bn": "stem.7",
    "head.fc": "fc",
}
_BLOCK = {
    "bn1": "norm1",
    "conv2.conv1.conv": "involution.reduce",
    "conv2.conv1.bn": "involution.norm",
    "conv2.conv2": "involution.span",
    "bn2": "norm2",
    "bn3": "norm3",
    "downsample.0": "shortcut.0",
    "downsample.1": "shortcut.1",
}


class InvolutionBottleneck(nn.Module):
    """1x1 convolution, involution, 1x1 convolution; a projected shortcut where shapes change."""

    def __init__(self, in_channels: int, channels: int, stride: int, kernel_size: int, norm: Norm) -> None:
        super().__init__()
        make_norm = norm_layer(norm)
        out_channels = channels * _EXPANSION
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.norm1 = make_norm(channels)
        self.involution = Involution(channels, kernel_size, stride, norm=norm)
        self.norm2 = make_norm(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.norm3 = make_norm(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), make_norm(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = F.relu(self.norm2(self.involution(out)), inplace=True)
        return F.relu(self.norm3(self.conv3(out)).add_(self.shortcut(x)), inplace=True)


class RedNet(nn.Module):
    """See the module's docstring.

    Args:
        depths: bottlenecks a stage; every stage after the first halves the resolution.
        num_classes: 0 for no head.
        width: bottleneck width of the first stage, a multiple of 16; doubled by every stage.
        kernel_size: of the involutions.
        stem: "imagenet": convolution of stride 2, 3x3 involution, convolution, max-pool (a quarter of the
            resolution); "half": two 3x3 convolutions, the second of stride 2; "small": one at full resolution.
        norm: "batch" or "group".
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        num_classes: int = 1000,
        in_chans: int = 3,
        width: int = 64,
        kernel_size: int = 7,
        stem: str = "imagenet",
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        make_norm = norm_layer(norm)
        self.num_classes = num_classes
        if stem == "imagenet":
            channels = 64
            self.stem = nn.Sequential(
                nn.Conv2d(in_chans, 32, 3, 2, 1, bias=False),
                make_norm(32),
                nn.ReLU(inplace=True),
                Involution(32, 3, norm=norm),
                make_norm(32),
                nn.ReLU(inplace=True),
                nn.Conv2d(32, channels, 3, 1, 1, bias=False),
                make_norm(channels),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, 2, 1),
            )
        elif stem == "half":
            channels = 64
            self.stem = nn.Sequential(
                nn.Conv2d(in_chans, 32, 3, 1, 1, bias=False),
                make_norm(32),
                nn.ReLU(inplace=True),
                nn.Conv2d(32, channels, 3, 2, 1, bias=False),
                make_norm(channels),
                nn.ReLU(inplace=True),
            )
        else:
            channels = width
            self.stem = nn.Sequential(
                nn.Conv2d(in_chans, channels, 3, 1, 1, bias=False), make_norm(channels), nn.ReLU(inplace=True)
            )
        stages = []
        for index, depth in enumerate(depths):
            blocks = []
            for block in range(depth):
                stride = 2 if index > 0 and block == 0 else 1
                blocks.append(InvolutionBottleneck(channels, width << index, stride, kernel_size, norm))
                channels = (width << index) * _EXPANSION
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.num_features = self.head_hidden_size = channels
        self.fc = nn.Linear(channels, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, InvolutionBottleneck):
                nn.init.zeros_(module.norm3.weight)  # type: ignore[arg-type]  # a block starts as its shortcut

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, num_features, h, w]."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def checkpoint_filter_fn(state: Mapping[str, Tensor], model: nn.Module | None = None) -> dict[str, Tensor]:
    """Rename a published RedNet checkpoint's weights to ours; any other state is returned as it is.

    Args:
        state: keys such as ``backbone.layer1.0.conv2.conv1.conv.weight``, with or without ``backbone.``.
        model: not used; timm gives it.
    """
    bare = {key.removeprefix("backbone."): value for key, value in state.items()}
    return {_our_name(key): value for key, value in bare.items()} if _PUBLISHED_MARK in bare else dict(state)


def _our_name(published: str) -> str:
    place, _, parameter = published.rpartition(".")
    if block := re.fullmatch(r"layer(\d+)\.(\d+)\.(.+)", place):
        stage, index, part = block.groups()
        return f"stages.{int(stage) - 1}.{index}.{_BLOCK.get(part, part)}.{parameter}"
    return f"{_STEM.get(place, place)}.{parameter}"


_IMAGENET = {
    "rednet26": (1, 2, 4, 1),
    "rednet38": (2, 3, 5, 2),
    "rednet50": (3, 4, 6, 3),
    "rednet101": (3, 4, 23, 3),
    "rednet152": (3, 8, 36, 3),
}
# 9n+2 layers, n bottlenecks in each of three stages. From 20 up the stem halves the picture (as RedNet's own quarters
# it): bottlenecks at the full 32 px would take four times as long on a processor.
_SMALL = {
    "cifar_rednet11": {"depths": (1, 1, 1), "width": 16, "kernel_size": 5, "stem": "small"},
    "cifar_rednet20": {"depths": (2, 2, 2), "width": 32, "stem": "half"},
    "cifar_rednet29": {"depths": (3, 3, 3), "width": 32, "stem": "half"},
    "cifar_rednet56": {"depths": (6, 6, 6), "width": 32, "stem": "half"},
}
_imagenet_cfg: dict[str, Any] = {
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    "first_conv": "stem.0",
}
_cfgs: dict[str, Any] = {name: {**small_cfg("fc", "stem.0"), **_imagenet_cfg} for name in _IMAGENET} | {
    name: small_cfg("fc", "stem.0") for name in _SMALL
}
default_cfgs = generate_default_cfgs(_cfgs)


def _create(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    args: dict[str, Any] = {"depths": _IMAGENET[name]} if name in _IMAGENET else _SMALL[name]
    return build_model_with_cfg(
        RedNet, name, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **{**args, **kwargs}
    )


@register_model
def rednet26(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """9.2 M parameters, 1.7 GMACs at 224 px."""
    return _create("rednet26", pretrained, **kwargs)


@register_model
def rednet38(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """12.4 M parameters, 2.2 GMACs at 224 px."""
    return _create("rednet38", pretrained, **kwargs)


@register_model
def rednet50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """15.5 M parameters, 2.7 GMACs at 224 px."""
    return _create("rednet50", pretrained, **kwargs)


@register_model
def rednet101(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """25.7 M parameters, 4.7 GMACs at 224 px."""
    return _create("rednet101", pretrained, **kwargs)


@register_model
def rednet152(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """34 M parameters, 6.8 GMACs at 224 px."""
    return _create("rednet152", pretrained, **kwargs)


@register_model
def cifar_rednet11(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """0.08 M parameters, 5x5 kernels: for digits of 8 to 16 pixels."""
    return _create("cifar_rednet11", pretrained, **kwargs)


@register_model
def cifar_rednet20(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """0.55 M parameters, 28 MMACs at 32 px; trains at about half the speed of cifar_resnet20 on a processor."""
    return _create("cifar_rednet20", pretrained, **kwargs)


@register_model
def cifar_rednet29(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """0.75 M parameters."""
    return _create("cifar_rednet29", pretrained, **kwargs)


@register_model
def cifar_rednet56(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """1.3 M parameters."""
    return _create("cifar_rednet56", pretrained, **kwargs)
