"""What the layers of a network return: named, listed by a trial run, and recorded in a forward pass."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import PocketError


def find_layer(model: nn.Module, name: str) -> tuple[str, nn.Module]:
    """Return (module path, module) of a layer named by its path (``blocks.3``) or as timm's features (``stages_2``).

    Raises:
        PocketError: there is no such layer; names near ones.
    """
    known = dict(model.named_modules())
    del known[""]
    for candidate in (name, name.replace("_", ".")):
        if candidate in known:
            return candidate, known[candidate]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or [key for key in known if "." not in key][:6]
    raise PocketError(f"{type(model).__name__} has no layer {name!r}. Near ones: {', '.join(near)}.")


class Taps:
    """Records the outputs of named layers, until `remove` is called.

    Args:
        model: Gets a forward hook a layer.
        names: Module paths.
        training_only: Record nothing while the layer is in evaluation mode.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], *, training_only: bool = False) -> None:
        self.outputs: dict[str, Tensor] = {}
        self.training_only = training_only
        self._handles = [
            model.get_submodule(name).register_forward_hook(partial(self._record, name))
            for name in dict.fromkeys(names)
        ]

    def _record(self, name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        if module.training or not self.training_only:
            self.outputs[name] = output

    def take(self) -> dict[str, Tensor]:
        """Return what was recorded since the last call, and forget it."""
        outputs, self.outputs = self.outputs, {}
        return outputs

    def remove(self) -> None:
        """Take the hooks out again."""
        for handle in self._handles:
            handle.remove()


@dataclass(frozen=True)
class Layers:
    """The layers of a network that return feature maps or tokens, in the order in which they ran.

    Attributes:
        model: The network.
        shapes: Module path -> shape for one image: [C, H, W] of maps, [N, C] of tokens.
    """

    model: nn.Module
    shapes: dict[str, tuple[int, ...]]

    @property
    def prefix(self) -> int:
        """Tokens that stand for no patch (class and distillation tokens)."""
        return int(getattr(self.model, "num_prefix_tokens", 0))

    def named(self, name: str) -> str:
        """Return the module path of a layer that makes features.

        Raises:
            PocketError: no such layer, or it makes none.
        """
        path, _ = find_layer(self.model, name)
        if path not in self.shapes:
            raise PocketError(
                f"the layer {name!r} of {type(self.model).__name__} returns no feature map and no tokens. "
                f"Layers that do: {', '.join([*self.shapes][-6:])}."
            )
        return path

    def last(self) -> str:
        """The last layer that still has places: what global pooling or the class token's head sees."""
        names = [name for name, shape in self.shapes.items() if self._places(shape) > 1]
        if not names:
            raise PocketError(f"{type(self.model).__name__} has no layer with more than one place: it has no features.")
        return names[-1]

    def stages(self) -> list[str]:
        """The last layer of every grid size, first to last; a plain ViT has one grid, and so one."""
        by_grid = {grid: name for name in self.shapes if (grid := self.grid(name)) is not None and grid != (1, 1)}
        return [name for name in self.shapes if name in by_grid.values()]

    def blocks(self) -> list[str]:
        """The transformer blocks, first to last."""
        count = len(getattr(self.model, "blocks", ()))
        return [f"blocks.{number}" for number in range(count) if f"blocks.{number}" in self.shapes]

    def attentions(self) -> list[str]:
        """The layers that return queries, keys and values side by side, as timm's ``attn.qkv`` do."""
        return [name for name in self.shapes if name.endswith(".qkv")]

    def channels(self, name: str) -> int:
        """Width of a layer's features."""
        shape = self.shapes[name]
        return shape[0] if len(shape) == 3 else shape[1]

    def grid(self, name: str) -> tuple[int, int] | None:
        """(H, W) of a map or of the patches among the tokens; None where these make no square."""
        shape = self.shapes[name]
        if len(shape) == 3:
            return shape[1], shape[2]
        side = round(max(shape[0] - self.prefix, 0) ** 0.5)
        return (side, side) if side and side * side == shape[0] - self.prefix else None

    def map(self, name: str, features: Tensor) -> Tensor:
        """Bring a layer's recorded output into the form [B, C, H, W], float32, without class tokens."""
        features = features.float()
        if features.ndim == 4:
            return features.permute(0, 3, 1, 2) if channels_last(self.model) else features
        grid = self.grid(name)
        if grid is None:
            raise PocketError(
                f"the {features.shape[1]} tokens of the layer {name!r} of {type(self.model).__name__} make no square "
                "grid: name a layer that does, or one that returns a map."
            )
        return features[:, self.prefix :].transpose(1, 2).unflatten(2, grid)

    def _places(self, shape: tuple[int, ...]) -> int:
        return shape[1] * shape[2] if len(shape) == 3 else shape[0] - self.prefix


def list_layers(model: nn.Module, side: int) -> Layers:
    """Run ``model`` once on a black picture of ``side`` pixels and list what its layers return."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    names = [name for name, _ in model.named_modules() if name]
    shapes: dict[str, tuple[int, ...]] = {}
    handles = []

    def note(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim in (3, 4):
            shape = tuple(output.shape[1:])
            shapes.pop(name, None)  # a layer that runs twice counts where it ran last
            shapes[name] = (shape[2], shape[0], shape[1]) if len(shape) == 3 and channels_last(model) else shape

    was_training = model.training
    model.eval()
    try:
        handles = [model.get_submodule(name).register_forward_hook(partial(note, name)) for name in names]
        with torch.no_grad():
            model(torch.zeros(2, 3, side, side, device=device))  # two: a module may squeeze a batch of one
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return Layers(model, shapes)


def channels_last(model: nn.Module) -> bool:
    """Whether a network's maps are [B, H, W, C], as timm's Swin says of itself."""
    return str(getattr(model, "output_fmt", "NCHW")) == "NHWC"
