"""`pocketvit_set_detector`: a ViT student under the decoder of LW-DETR, which answers a set of boxes.

LW-DETR (Chen et al., 2024, arXiv 2406.03459) is a plain ViT, a projector to maps of two strides, and a few decoder
layers in which queries, begun at the places that look most like something, attend to each other and to points of the
maps. Each query names one object or none. While training there are several groups of queries, each of which is to find
everything (Chen et al., "Group DETR", ICCV 2023); afterwards the first one answers.

Projector, queries and decoder are those of transformers; the ViT is ours, as it is, and gives them its last map.

Shape legend: B images, C classes, D channels of the map, N queries of all groups, S sets: a set for each decoder layer,
and the one that the queries begin with.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from timm.models import build_model_with_cfg, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.ops import box_convert

from ..errors import PocketError
from .decoding import outputs_of
from .detector import Detector, body_of
from .vit import cfgs_of

NAME = "pocketvit_set_detector"
SCALES = (2.0, 0.5)  # sides of the maps over that of the tokens', as in the larger LW-DETR
_HEAD = 32  # channels of a head that attends to other queries; half of that where it attends to points of the maps


class SetDetector(Detector):
    """A detector that answers a set: no place is asked, and no box has to be suppressed.

    Args:
        body, num_classes, image_size: See `Detector`; the body is a ViT.
        width: Channels of the maps and queries, a multiple of 32.
        layers: Of the decoder.
        queries: Boxes that it answers; fewer where the maps have fewer places.
        groups: Of queries, while training.

    Attributes:
        chooses: Its answers hang on which places come first, of which some look alike (see `deployment.parity`).
    """

    chooses = True

    def __init__(
        self,
        body: nn.Module,
        num_classes: int,
        image_size: int,
        width: int = 128,
        layers: int = 3,
        queries: int = 100,
        groups: int = 6,
    ) -> None:
        super().__init__(body, num_classes, image_size)
        self.num_features = width
        if not isinstance(body, VisionTransformer):
            raise PocketError(
                f"--detector detr puts a decoder on a ViT, and {type(body).__name__} is none. Name a student of the "
                "ladder, a vit_ or deit_ model, or take --detector fcos."
            )
        channels, side = self.map_shape()
        coarsest = round(image_size / side / SCALES[-1])
        if side % 2 or image_size % coarsest:
            raise PocketError(
                f"a set detector with patches of {image_size // side} pixels has a map of stride {coarsest}, which "
                f"does not divide a picture of {image_size}: choose a --size that is a multiple of {coarsest}."
            )
        places = sum(round(scale * side) ** 2 for scale in SCALES)
        self.queries = min(queries, places)
        self.decoder = _decoder(channels, num_classes, width, layers, self.queries, groups)

    def forward_heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [S, B, N, C] and boxes [S, B, N, 4] of normalized pictures [B, 3, H, H], as losses take them.

        Boxes are (centre x, centre y, width, height) as shares of the side. The last decoder layer's set comes last;
        the first one is what the queries begin with. N are the queries of all groups in training mode, else of one.
        """
        from transformers.models.lw_detr.modeling_lw_detr import refine_bboxes

        found = self.decoder(self.map(x))
        hidden = found.intermediate_hidden_states
        boxes = refine_bboxes(found.intermediate_reference_points, self.decoder.bbox_embed(hidden))
        logits = self.decoder.class_embed(hidden)
        return (
            torch.cat([found.enc_outputs_class[None], logits]),
            torch.cat([found.enc_outputs_coord_logits[None], boxes]),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs [B, N, 4 + C] (see `decoding`) of the last decoder layer."""
        found = self.decoder(self.map(x))
        return outputs_of(box_convert(found.pred_boxes, "cxcywh", "xyxy"), found.logits.sigmoid())


class _Given(nn.Module):
    """Stands where transformers has its own ViT: the map that it is given is the one it has found."""

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(feature_maps=[pixel_values])


def _decoder(channels: int, num_classes: int, width: int, layers: int, queries: int, groups: int) -> Any:
    """Return LW-DETR of transformers without its ViT: it takes maps [B, D, h, w] in place of pictures."""
    try:
        from transformers import LwDetrConfig, LwDetrForObjectDetection
        from transformers.models.lw_detr import LwDetrViTConfig
    except ImportError as error:
        raise PocketError(
            "--detector detr is LW-DETR of transformers, which is not installed (or too old): "
            "pip install 'pocketvit[detectors]'."
        ) from error
    heads = max(1, width // _HEAD)
    # Of its own ViT, which is taken out again, only the width counts.
    vit: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 1, "out_indices": [1], "num_windows": 1}
    labels: dict[str, Any] = {"num_labels": num_classes}
    config = LwDetrConfig(
        backbone_config=LwDetrViTConfig(hidden_size=channels, **vit), **labels,
        projector_scale_factors=list(SCALES), d_model=width, decoder_layers=layers,
        decoder_ffn_dim=4 * width, decoder_self_attention_heads=heads, decoder_cross_attention_heads=2 * heads,
        num_queries=queries, group_detr=groups,
    )  # fmt: skip
    decoder = LwDetrForObjectDetection(config)
    decoder.model.backbone.backbone = _Given()
    return decoder


# What Muon leaves to AdamW: see `training.optim`.
_HEADS = (
    "decoder.class_embed",
    "decoder.bbox_embed",
    "decoder.model.enc_out_class_embed",
    "decoder.model.enc_out_bbox_embed",
)
default_cfgs = cfgs_of(NAME, first_conv="body.patch_embed.proj", classifier=_HEADS)


def _assemble(
    base: str, num_classes: int, img_size: int | tuple[int, int], width: int, layers: int, queries: int, groups: int,
    **kwargs: Any,
) -> SetDetector:  # fmt: skip
    body, side = body_of(base, img_size, **kwargs)
    return SetDetector(body, num_classes, side, width, layers, queries, groups)


@register_model
def pocketvit_set_detector(
    pretrained: bool = False,
    base: str = "vit_tiny_patch16_224",
    width: int = 128,
    layers: int = 3,
    queries: int = 100,
    groups: int = 6,
    **kwargs: Any,
) -> nn.Module:
    """Make a detector on timm's (or our) ``base``; ``kwargs`` are ``num_classes``, ``img_size`` and the base's own."""
    make = partial(_assemble, base, width=width, layers=layers, queries=queries, groups=groups)
    return build_model_with_cfg(make, NAME, pretrained, **kwargs)
