"""What the layers of a network return: named, listed by a trial run, and recorded in a forward pass."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import PocketError

_PICTURES = 2  # of a trial run: a module may squeeze a batch of one


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
    def body(self) -> tuple[str, nn.Module]:
        """The part that makes features, and the beginning of its layers' paths: of our detectors the body, else all."""
        body = getattr(self.model, "body", None)
        if isinstance(body, nn.Module) and hasattr(body, "forward_features"):
            return "body.", body
        return "", self.model

    @property
    def prefix(self) -> int:
        """Tokens that stand for no patch (class and distillation tokens)."""
        return int(getattr(self.body[1], "num_prefix_tokens", 0))

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
        where, _ = self.body
        names = [name for name, shape in self.shapes.items() if name.startswith(where) and self._places(shape) > 1]
        if not names:
            raise PocketError(f"{type(self.model).__name__} has no layer with more than one place: it has no features.")
        return names[-1]

    def stages(self) -> list[str]:
        """The last layer of every grid that a picture becomes on its way through, first to last; a plain ViT has one.

        Of the parts that the network itself is made of (``layer3``, ``blocks.4``), not the insides of their blocks: the
        first layer of the next stage's first block may still be as fine, and attention has square maps of its own. What
        is no square, of a square picture, has its channels last.
        """
        found = {name: self.grid(name) for name in self.shapes}
        grids = {name: grid for name, grid in found.items() if grid is not None and 1 < grid[0] == grid[1]}
        outermost = min((name.count(".") for name in grids), default=0)
        ends: dict[int, str] = {}
        for name, (height, width) in grids.items():
            places = height * width
            if name.count(".") <= outermost + 1 and places <= min(ends, default=places):
                ends[places] = name
        return list(ends.values())

    def blocks(self) -> list[str]:
        """The transformer blocks, first to last."""
        where, body = self.body
        names = [f"{where}blocks.{number}" for number in range(len(getattr(body, "blocks", ())))]
        return [name for name in names if name in self.shapes]

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
        return _square(shape[0] - self.prefix_of(name))

    def prefix_of(self, name: str) -> int:
        """Tokens of a layer that stand for no patch: none where a network adds them behind it, as CaiT does."""
        tokens = self.shapes[name][0]
        whole = [count for count in (self.prefix, 0) if round(max(tokens - count, 0) ** 0.5) ** 2 == tokens - count]
        return whole[0] if whole else self.prefix

    def map(self, name: str, features: Tensor) -> Tensor:
        """Bring a layer's recorded output into the form [B, C, H, W], float32, without class tokens."""
        features = features.float()
        if features.ndim == 4:
            return features.permute(0, 3, 1, 2) if channels_last(self.model) else features
        patches = features[:, self.prefix_of(name) :]
        grid = _square(patches.shape[1])
        if grid is None:
            raise PocketError(
                f"the {features.shape[1]} tokens of the layer {name!r} of {type(self.model).__name__} make no square "
                "grid: name a layer that does, or one that returns a map."
            )
        return patches.transpose(1, 2).unflatten(2, grid)

    def _places(self, shape: tuple[int, ...]) -> int:
        return shape[1] * shape[2] if len(shape) == 3 else shape[0] - self.prefix


def list_layers(model: nn.Module, side: int) -> Layers:
    """Run ``model`` once on a black picture of ``side`` pixels and list what its layers return."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    names = [name for name, _ in model.named_modules() if name]
    shapes: dict[str, tuple[int, ...]] = {}
    handles = []

    def note(name: str, module: nn.Module, inputs: object, output: object) -> None:
        # Windows, and what a block folds into the batch, are no places of a picture.
        if isinstance(output, Tensor) and output.ndim in (3, 4) and len(output) == _PICTURES:
            shape = tuple(output.shape[1:])
            shapes.pop(name, None)  # a layer that runs twice counts where it ran last
            shapes[name] = (shape[2], shape[0], shape[1]) if len(shape) == 3 and channels_last(model) else shape

    was_training = model.training
    model.eval()
    try:
        handles = [model.get_submodule(name).register_forward_hook(partial(note, name)) for name in names]
        with torch.no_grad():
            model(torch.zeros(_PICTURES, 3, side, side, device=device))
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return Layers(model, shapes)


def _square(patches: int) -> tuple[int, int] | None:
    side = round(max(patches, 0) ** 0.5)
    return (side, side) if side and side * side == patches else None


def channels_last(model: nn.Module) -> bool:
    """Whether a network's maps are [B, H, W, C], as timm's Swin says of itself."""
    return str(getattr(model, "output_fmt", "NCHW")) == "NHWC"
