"""A trained convolutional network's first layers in place of patches: a student that begins where its teacher began.

What a convolutional network learns first - edges, textures, parts - is what a small ViT is slowest to learn, and it
needs most images for it. So the student takes these layers as they are: up to the end of one of the teacher's stages,
frozen, in evaluation mode; each place of their map is normalized, because every network's have another size, one
convolution makes tokens of them, and the blocks behind it are trained. Hybrids of convolutions and a transformer are
those of Dosovitskiy et al. 2021 (arXiv 2010.11929, section 3.1); that first layers serve other tasks, too, is shown by
Yosinski et al. 2014 (arXiv 1411.1792).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.layers import LayerNorm2d, to_2tuple
from timm.models import create_feature_extractor
from torch import Tensor, nn
from torch.fx import GraphModule

from ..errors import PocketError
from .conv_stem import GridEmbed
from .inputs import NORMS
from .taps import channels_last, list_layers

MOST = 1_500_000  # weights that a stem may have, where the student itself has fewer


class TeacherStem(GridEmbed):
    """The stem, in the place of timm's ``PatchEmbed``.

    Args:
        img_size: Side of the picture in pixels, or (height, width).
        patch_size: Pixels a token stands for; best a multiple of those that a place of the map stands for.
        in_chans: Of the picture: 3, and of what the network sees.
        embed_dim: Of the tokens.
        architecture: Of the network that the layers are of, as timm or pocketvit registers it.
        model_args: It was made with.
        layer: Module path of the last layer that is taken.
        mean, std: Of each channel in 0..1: what the layers were trained with. Pictures come with ImageNet's.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 192,
        *,
        architecture: str,
        model_args: dict[str, Any],
        layer: str,
        mean: Sequence[float],
        std: Sequence[float],
        **_: Any,  # what timm hands to its own PatchEmbed: flexible sizes, which these students do not have
    ) -> None:
        super().__init__()
        if not timm.is_model(architecture):
            raise PocketError(f"a stem is of a network that timm knows, and {architecture!r} is none.")
        if in_chans != 3 or model_args.get("in_chans", 3) != 3:
            raise PocketError("a teacher's layers and the student around them see three channels, and one of both has "
                              "another number.")  # fmt: skip
        self.layer = layer
        self.layers = first_layers(timm.create_model(architecture, pretrained=False, **model_args), layer)
        self.layers.requires_grad_(False)
        usual_mean, usual_std, mine, theirs = (torch.tensor(value) for value in (*NORMS["imagenet"], mean, std))
        self.register_buffer("scale", (usual_std / theirs).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", ((usual_mean - mine) / theirs).view(1, 3, 1, 1), persistent=False)
        self.patch_size = to_2tuple(patch_size)
        self.set_input_size(img_size)
        with torch.no_grad():
            _, channels, *places = self.eval().layers(torch.zeros(1, 3, *self.img_size))[layer].shape
        # As many places to a token as make the grid; what is missing at the border is padded with zeros.
        steps = [-(-have // wanted) for have, wanted in zip(places, self.grid_size, strict=True)]
        if any(have < wanted for have, wanted in zip(places, self.grid_size, strict=True)):
            raise PocketError(
                f"{layer} of {architecture} gives {places[0]} x {places[1]} places of a picture of {self.img_size[0]} "
                f"pixels, too few for patches of {patch_size}. Choose a larger --patch."
            )
        missing = [step * wanted - have for step, wanted, have in zip(steps, self.grid_size, places, strict=True)]
        self.norm = LayerNorm2d(channels)
        self.proj = nn.Conv2d(channels, embed_dim, tuple(steps), tuple(steps), tuple(-(-one // 2) for one in missing))

    def train(self, mode: bool = True) -> TeacherStem:
        """Only what makes the tokens is trained: statistics of the teacher's images stay, and nothing is dropped."""
        super().train(mode)
        self.layers.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] -> tokens [B, N, D]."""
        self.check_size(x)
        maps = self.layers(x * self.scale + self.shift)[self.layer]
        return self.proj(self.norm(maps)).flatten(2).transpose(1, 2)

    def take(self, network: nn.Module) -> None:
        """Take the weights of the network that the layers are of, or of a student that has them already.

        Raises:
            PocketError: It has no such layers.
        """
        own = stem_in(network)
        there = (network if own is None else own.layers).state_dict()
        try:
            self.layers.load_state_dict({name: there[name] for name in self.layers.state_dict()})
        except (KeyError, RuntimeError) as error:
            raise PocketError(
                f"the stem is of another network than {type(network).__name__}: {str(error).splitlines()[0][:150]}"
            ) from None


def stem_in(network: nn.Module) -> TeacherStem | None:
    """Return the stem of a student that began with its own teacher's layers; None of another network."""
    stem = getattr(network, "patch_embed", None)
    return stem if isinstance(stem, TeacherStem) else None


def first_layers(network: nn.Module, layer: str) -> nn.Module:
    """Return a network that ends with ``layer`` and has nothing behind it; it answers {layer: map [B, C, H, W]}.

    Raises:
        PocketError: The network cannot be cut there.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of paths that training and evaluation take differently
            both = create_feature_extractor(network.eval(), [layer])
            return GraphModule(both, both.eval_graph)  # a copy of the pair would be in training mode
    except Exception as error:  # whatever a network's own code meets while it is traced
        raise PocketError(
            f"{type(network).__name__} cannot be cut at {layer}, because torch.fx cannot follow its code "
            f"({str(error).splitlines()[0][:100]}). Choose another --stem."
        ) from error


def choose_layer(network: nn.Module, side: int, *, places: int, weights: int) -> str:
    """Return the layer that a stem ends with: the end of the deepest stage but the last that is light and fine enough.

    Args:
        network: Trained.
        side: Of the student's pictures in pixels.
        places: Of its grid of tokens, along a side: at least so many.
        weights: At most so many, or `MOST` where that is more.

    Raises:
        PocketError: The network has no stages, or none is light enough.
    """
    try:
        layers = list_layers(network, side)
    except Exception as error:  # whatever a network says of pictures of another size than its own
        raise PocketError(
            f"{type(network).__name__} takes no pictures of {side} pixels ({str(error).splitlines()[0][:100]}). Choose "
            "another --size, or another --stem."
        ) from error
    maps = [] if channels_last(network) else layers.stages()
    ends = [name for name in maps if len(layers.shapes[name]) == 3]
    if len(ends) < 2:
        raise PocketError(
            f"a stem is made of the first stages of a convolutional network, and {type(network).__name__} has none "
            "(--init-from teacher starts a student from a larger ViT). Choose another --stem."
        )
    for end in reversed(ends[:-1]):
        light = sum(weight.numel() for weight in first_layers(network, end).parameters()) <= max(MOST, weights)
        if light and layers.shapes[end][1] >= places:
            return end
    raise PocketError(
        f"the first stage of {type(network).__name__} is too heavy or too coarse for a student with {places} x {places}"
        f" tokens of {side} pixels. Choose a larger --size or --patch, or another --stem."
    )
