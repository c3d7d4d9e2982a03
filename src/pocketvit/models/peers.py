"""Two networks side by side as one, so that they are trained, saved and resumed together."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .heads import forward_heads
from .inputs import config_of


class Peers(nn.Module):
    """Two networks that see the same pictures; the heads are the class head of each.

    Args:
        first, second: Without distillation tokens. Their names of first layers and heads, and of what is spared weight
            decay, hold here too, so that an optimizer treats each as it would alone.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.pretrained_cfg: dict[str, Any] = {
            key: [
                f"{side}.{name}" for side, network in self.named_children() for name in _names(config_of(network), key)
            ]
            for key in ("first_conv", "classifier")
        }

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, as timm's networks tell them."""
        found: set[str] = set()
        for side, network in self.named_children():
            own: Any = getattr(network, "no_weight_decay", set)
            found |= {f"{side}.{name}" for name in own()}
        return found

    def forward_heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits [B, C] of each."""
        return tuple(forward_heads(network, x)[0] for network in (self.first, self.second))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.forward_heads(x)


def _names(told: Any, key: str) -> tuple[str, ...]:
    names = told.get(key) or ()
    return (names,) if isinstance(names, str) else tuple(names)
