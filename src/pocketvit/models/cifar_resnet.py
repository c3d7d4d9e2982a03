"""Residual networks for small images: the CIFAR family (He et al. 2015, arXiv 1512.03385, section 4.2).

6n+2 layers in three stages of widths 16, 32, 64; shortcuts without parameters (option A). Names of layers are those of
the published CIFAR checkpoints (``linear`` is the head), so that these load.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from .norms import Norm, norm_layer

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def small_cfg(classifier: str, first_conv: str, size: int = 32) -> dict[str, Any]:
    """A timm ``pretrained_cfg`` of a network for small images."""
    return {
        "url": "",
        "num_classes": 10,
        "input_size": (3, size, size),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "fixed_input_size": False,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": first_conv,
        "classifier": classifier,
    }


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut that takes every second pixel and pads channels with zeros."""

    def __init__(self, in_channels: int, channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        make_norm = norm_layer(norm)
        self.stride, self.padding = stride, (channels - in_channels) // 2
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = make_norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = make_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride > 1 or self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], [0, 0, 0, 0, self.padding, self.padding])
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """See the module's docstring.

    Args:
        blocks: a stage (n of 6n+2).
        num_classes: 0 for no head.
        width: of the first stage.
        norm: of `norms.Norm`; with any but "batch" the last norm of a block starts at zero (Wu & He 2018).
    """

    def __init__(
        self, blocks: int, num_classes: int = 10, in_chans: int = 3, width: int = 16, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, 4 * width
        self.head_hidden_size = self.num_features
        self.conv1 = nn.Conv2d(in_chans, width, 3, 1, 1, bias=False)
        self.bn1 = norm_layer(norm)(width)
        self.layer1 = self._stage(width, width, blocks, 1, norm)
        self.layer2 = self._stage(width, 2 * width, blocks, 2, norm)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, 2, norm)
        self.linear = nn.Linear(4 * width, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, BasicBlock) and norm != "batch":
                nn.init.zeros_(module.bn2.weight)  # type: ignore[arg-type]

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int, norm: Norm) -> nn.Sequential:
        first = BasicBlock(in_channels, channels, stride, norm)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1, norm) for _ in range(blocks - 1)))

    def get_classifier(self) -> nn.Module:
        return self.linear

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.linear = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 4 * width, H/4, W/4]."""
        x = F.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3))
        return x if pre_logits else self.linear(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


_DEPTHS = (8, 20, 32, 44, 56, 110)
default_cfgs = generate_default_cfgs(
    {f"cifar_resnet{name}": small_cfg("linear", "conv1") for name in (*_DEPTHS, "20x2")}
)


def _create(depth: int, pretrained: bool, wide: str = "", **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        CifarResNet, f"cifar_resnet{depth}{wide}", pretrained, **{"blocks": (depth - 2) // 6, **kwargs}
    )


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """0.08 M parameters."""
    return _create(8, pretrained, **kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """0.27 M parameters."""
    return _create(20, pretrained, **kwargs)


@register_model
def cifar_resnet20x2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Twice as wide: 1.08 M parameters."""
    return _create(20, pretrained, "x2", **{"width": 32, **kwargs})


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """0.46 M parameters."""
    return _create(32, pretrained, **kwargs)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """0.66 M parameters."""
    return _create(44, pretrained, **kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """0.85 M parameters."""
    return _create(56, pretrained, **kwargs)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """1.7 M parameters."""
    return _create(110, pretrained, **kwargs)
