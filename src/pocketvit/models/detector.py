"""Detectors on our students; `pocketvit_detector` is one with a simple feature pyramid and torchvision's FCOS head.

(`set_detector` is the other kind.) One map of tokens is enough for a plain ViT to detect (Li et al., "Exploring Plain
Vision Transformer Backbones for Object Detection", ECCV 2022): it is enlarged and shrunk to maps of three strides. At
each place of each map FCOS (Tian et al., ICCV 2019) says what is there, how far its four sides are, and how near its
middle the place is. Every place is a fixed question, so that a teacher on the same grid can be asked the same; no
answer needs a matching.

Shape legend: B images, P places of all maps together, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.fcos import FCOSHead

from ..config import Attention, DetectorKind, Stem
from ..errors import PocketError
from .decoding import outputs_of
from .inputs import config_of
from .positions import fit_positions
from .registry import build, create_student
from .saving import load_model, recipe_of
from .taps import channels_last
from .vit import LADDER, cfgs_of

NAME = "pocketvit_detector"
_NAMES: dict[DetectorKind, str] = {"fcos": NAME, "detr": "pocketvit_set_detector"}
_OWN: dict[DetectorKind, dict[str, int]] = {  # what one kind alone is made with, beside a finest stride
    "fcos": {"channels": 64, "convs": 2},
    "detr": {"width": 128, "layers": 3, "queries": 100, "groups": 6},
}
LEVELS = 3
_REACH = 0.5  # side of a place's own box over the stride: objects up to 8 such sides are looked for on the finest map
_SCALES = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125)
_CODER = BoxLinearCoder(normalize_by_size=True)


@dataclass(frozen=True)
class Grid:
    """The places at which a detector looks.

    Attributes:
        places: float32 [P, 4], each place's own box (left, top, right, bottom) in pixels of the input, map by map.
        counts: Places of each map.
        size: Side of the input in pixels.
    """

    places: Tensor
    counts: tuple[int, ...]
    size: int

    def boxes(self, distances: Tensor) -> Tensor:
        """Turn distances to the four sides [B, P, 4], in sides of each place's own box, into corners in pixels."""
        return _CODER.decode(distances, self.places)


class FeaturePyramid(nn.Module):
    """From tokens of one stride to maps of three.

    Args:
        width: Channels of the tokens.
        channels: Of the maps.
        scales: Side of each map over that of the tokens', powers of two.
    """

    def __init__(self, width: int, channels: int, scales: tuple[float, ...]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_level(width, channels, scale) for scale in scales)

    def forward(self, x: Tensor) -> list[Tensor]:
        """x [B, D, h, w] -> maps [B, channels, scale * h, scale * w]."""
        return [level(x) for level in self.levels]


def _level(width: int, channels: int, scale: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    while scale > 1:
        layers += [nn.ConvTranspose2d(width, max(width // 2, channels), 2, stride=2)]
        width, scale = max(width // 2, channels), scale / 2
        layers += [nn.GroupNorm(1, width), nn.GELU()] if scale > 1 else []
    if scale < 1:
        layers.append(nn.MaxPool2d(round(1 / scale)))
    for kernel, before in ((1, width), (3, channels)):
        layers += [nn.Conv2d(before, channels, kernel, padding=kernel // 2, bias=False), nn.GroupNorm(1, channels)]
    return nn.Sequential(*layers)


class Detector(nn.Module):
    """A detector for square pictures of one size, of either kind: a body whose last map something looks at.

    ``model(x)`` gives outputs (see `decoding`), ``forward_heads(x)`` what losses take.

    Args:
        body: A ViT of timm's or ours (or any timm network that ends in a map), without its classifier.
        num_classes: C.
        image_size: Side of the input in pixels.
    """

    def __init__(self, body: nn.Module, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.num_classes, self.image_size = num_classes, image_size
        self.body = body

    @property
    def grid(self) -> Grid | None:
        """Where its answers are; None where they are a set."""
        return None

    def no_weight_decay(self) -> set[str]:
        own = getattr(self.body, "no_weight_decay", None)
        return {f"body.{name}" for name in own()} if callable(own) else set()

    @torch.no_grad()
    def map_shape(self) -> tuple[int, int]:
        """Return channels and side of the body's last map."""
        training = self.body.training
        self.body.eval()  # BatchNorm would learn from the black picture, and refuse a map of one place
        width, side = self.map(torch.zeros(1, 3, self.image_size, self.image_size)).shape[1:3]
        self.body.train(training)
        return width, side

    def map(self, x: Tensor) -> Tensor:
        """Return the body's last map [B, D, h, w] of pictures [B, 3, S, S]."""
        features = self.body.forward_features(x)  # type: ignore[operator]
        if features.ndim == 4:  # Swin and its kin keep their channels last
            return features.permute(0, 3, 1, 2) if channels_last(self.body) else features
        tokens = features[:, getattr(self.body, "num_prefix_tokens", 0) :]
        embed: Any = getattr(self.body, "patch_embed", None)
        sets = getattr(embed, "sets", 1)  # shifted and plain patches side by side: each place has a token of both
        tokens = tokens.unflatten(1, (sets, -1)).mean(1)
        side = round(tokens.shape[1] ** 0.5)
        return tokens.transpose(1, 2).unflatten(2, (side, side))


class GridDetector(Detector):
    """A detector that answers at every place of three maps.

    Args:
        body, num_classes, image_size: See `Detector`.
        channels: Of the maps, a multiple of 32.
        convs: Convolutions of each head.
        finest: Stride of the finest map in pixels; the others are twice and four times as coarse.
    """

    def __init__(
        self, body: nn.Module, num_classes: int, image_size: int, channels: int = 64, convs: int = 2, finest: int = 8
    ) -> None:
        super().__init__(body, num_classes, image_size)
        self.num_features = channels
        width, side = self.map_shape()
        scales = tuple(image_size / side / (finest * 2**level) for level in range(LEVELS))
        if any(scale not in _SCALES for scale in scales) or side % max(1, round(1 / scales[-1])):
            raise PocketError(
                f"a detector with maps of stride {finest}, {2 * finest} and {4 * finest} cannot be made of "
                f"{side} x {side} tokens of a picture of {image_size} pixels: choose a size that is a multiple of "
                f"{4 * finest}, and patches of 4, 8, 16 or 32 pixels."
            )
        self.pyramid = FeaturePyramid(width, channels, scales)
        self.head = FCOSHead(channels, 1, num_classes, convs)
        places, counts = _places([round(scale * side) for scale in scales], image_size)
        self.register_buffer("places", places, persistent=False)
        self.counts = counts

    @property
    def grid(self) -> Grid:
        """Where its answers are."""
        return Grid(self.places, self.counts, self.image_size)  # type: ignore[arg-type]

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the maps of the pyramid."""
        return self.pyramid(self.map(x))

    def forward_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is seen at each place of normalized pictures [B, 3, S, S], as losses take it.

        Returns:
            Logits [B, P, C]; distances to the four sides [B, P, 4], at least 0, see `Grid.boxes`; and the logit of
            being in the middle [B, P, 1].
        """
        answers = self.head(self.features(x))
        return answers["cls_logits"], answers["bbox_regression"], answers["bbox_ctrness"]

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs [B, P, 4 + C] (see `decoding`): boxes, and scores as FCOS ranks them.

        A score is the root of the class's probability times that of being in the middle.
        """
        logits, distances, middles = self.forward_heads(x)
        scores = (logits.sigmoid() * middles.sigmoid()).sqrt()
        return outputs_of(self.grid.boxes(distances) / self.image_size, scores)


def _places(sides: list[int], size: int) -> tuple[Tensor, tuple[int, ...]]:
    boxes = []
    for side in sides:
        stride = size / side
        middle = (torch.arange(side) + 0.5) * stride
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        reach = _REACH * stride / 2
        boxes.append(torch.stack((x - reach, y - reach, x + reach, y + reach), 2).flatten(0, 1))
    return torch.cat(boxes), tuple(side * side for side in sides)


default_cfgs = cfgs_of(NAME, first_conv="body.patch_embed.proj", classifier="head.classification_head.cls_logits")


def _assemble(
    base: str, num_classes: int, img_size: int | tuple[int, int], channels: int, convs: int, finest: int, **kwargs: Any
) -> GridDetector:
    body, side = body_of(base, img_size, **kwargs)
    return GridDetector(body, num_classes, side, channels, convs, finest)


def body_of(base: str, img_size: int | tuple[int, int], **kwargs: Any) -> tuple[nn.Module, int]:
    """Make timm's (or our) ``base`` for pictures of a size, without its classifier; return it and their side."""
    side = img_size if isinstance(img_size, int) else img_size[0]
    told = timm.get_pretrained_cfg(base)
    sized: dict[str, Any] = {"img_size": side} if told is not None and told.fixed_input_size else {}
    body: Any = timm.create_model(base, num_classes=1, **sized, **kwargs)
    body.reset_classifier(0)
    return body, side


@register_model
def pocketvit_detector(
    pretrained: bool = False,
    base: str = "vit_tiny_patch16_224",
    channels: int = 64,
    convs: int = 2,
    finest: int = 8,
    **kwargs: Any,
) -> nn.Module:
    """Make a detector on timm's (or our) ``base``; ``kwargs`` are ``num_classes``, ``img_size`` and the base's own."""
    make = partial(_assemble, base, channels=channels, convs=convs, finest=finest)
    return build_model_with_cfg(make, NAME, pretrained, **kwargs)


def finest_stride(image_size: int) -> int:
    """Return the usual stride of the finest map: 8 pixels, and 4 in pictures below 160."""
    return 8 if image_size >= 160 else 4


def create_detector(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    patch_size: int | None = None,
    stem: Stem = "patch",
    attention: Attention = "plain",
    drop_path: float = 0.0,
    kind: DetectorKind = "fcos",
    finest: int | None = None,
    **options: int,
) -> Detector:
    """Make an untrained detector on a student.

    Args:
        name: Of the student: ``pocket_xxs`` .. ``pocket_xl``, or any timm model. For the others of its arguments see
            `create_student`; its patches are 16 pixels where nothing else is asked for.
        num_classes: Without background.
        image_size: Side of the square input in pixels, a multiple of four times ``finest``.
        kind: "fcos", or "detr" for a `SetDetector`.
        finest: Stride of the finest map; None for `finest_stride`.
        options: Of `GridDetector` or `SetDetector`.

    Raises:
        PocketError: What was asked cannot be made.
    """
    finest = finest or finest_stride(image_size)
    body = create_student(
        name,
        num_classes=1,
        image_size=image_size,
        patch_size=patch_size or (2 * finest if name in LADDER else None),
        tokens=2 if stem == "coadvise" else 0,
        stem=stem,
        attention=attention,
        drop_path=drop_path,
    )
    recipe = recipe_of(body)
    args = {key: value for key, value in recipe["model_args"].items() if key != "num_classes"}
    args |= {"base": recipe["architecture"], "num_classes": num_classes, "img_size": image_size}
    return build(_NAMES[kind], args | _own(kind, finest) | options)  # type: ignore[return-value]


def _own(kind: DetectorKind, finest: int) -> dict[str, int]:
    return _OWN[kind] | ({"finest": finest} if kind == "fcos" else {})


def detector_of(module: nn.Module, *, num_classes: int, image_size: int, kind: DetectorKind = "fcos") -> Detector:
    """Make a detector on a trained network of timm's or ours: its weights, under an untrained pyramid and head.

    Args:
        module: A classifier, or one of our detectors.
        num_classes, image_size, kind: See `create_detector`.

    Raises:
        PocketError: It is of another kind, or its patches do not fit the size.
    """
    recipe = recipe_of(module)
    args = {key: value for key, value in recipe["model_args"].items() if key not in ("num_classes", "img_size")}
    if recipe["architecture"] not in _NAMES.values():
        args |= {"base": recipe["architecture"]} | _own(kind, finest_stride(image_size))
    elif recipe["architecture"] != _NAMES[kind]:
        args = {key: value for key, value in args.items() if key not in {"finest", *_OWN["fcos"], *_OWN["detr"]}}
        args |= _own(kind, finest_stride(image_size))
    args |= {"num_classes": num_classes, "img_size": image_size}
    detector: Detector = build(_NAMES[kind], args)  # type: ignore[assignment]
    carry_weights(detector, module)
    about = config_of(module)  # weights want the pictures that they were trained with
    seen = {key: about[key] for key in ("mean", "std") if key in about}
    vars(detector)["pretrained_cfg"] = config_of(detector) | seen
    return detector


def carry_weights(detector: Detector, source: nn.Module | str) -> list[str]:
    """Start a detector's body with the weights of a trained classifier (or detector), positions resampled.

    Args:
        detector: Is changed in place.
        source: The network, or a folder as `save_model` writes it.

    Returns:
        Names of the body's weights that the source has not.

    Raises:
        PocketError: The source is of another architecture.
    """
    module = load_model(source).module if isinstance(source, str) else source
    state = (module.body if isinstance(module, Detector) else module).state_dict()
    size = tuple(config_of(module).get("input_size") or ())[-2:]
    state = fit_positions(state, detector.body, size if len(size) == 2 else None)
    own = detector.body.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    missing = [name for name in own if name not in fitting]
    if len(missing) > len(own) // 10:
        name = missing[0]
        there = f"has none of {name}" if name not in state else f"has {name} of {list(state[name].shape)}"
        raise PocketError(
            f"the weights of {type(module).__name__} do not fit this detector: it {there}, not of "
            f"{list(own[name].shape)}. Name the student that they were trained as, with its patch size."
        )
    detector.body.load_state_dict(own | fitting)
    return missing
