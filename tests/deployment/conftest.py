"""Small exported files, made once for the whole room (an export takes seconds)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from pocketvit.deployment import export_onnx, quantize_int8
from pocketvit.views.preprocessing import Preprocessing

CLASSES = ("cat", "dog", "hawk", "größer")
MEAN, STD = (0.48, 0.45, 0.4), (0.22, 0.23, 0.24)
SOURCE_SIZE = (30, 45)
ABOUT = Preprocessing.plain((32, MEAN, STD))


@dataclass(frozen=True)
class Exported:
    """A network, its two files, and pixels that fit them."""

    model: nn.Module
    fp32: Path
    int8: Path
    pixels: np.ndarray


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def tiny_vit() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=len(CLASSES)
    )
    # Fresh heads answer nearly the same for everything; wider ones make disagreement visible.
    nn.init.normal_(model.head.weight, std=0.5)
    return model.eval()


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Exported:
    """A tiny ViT that takes normalized pixels."""
    folder, model = tmp_path_factory.mktemp("plain"), tiny_vit()
    fp32 = export_onnx(model, folder / "model.onnx", classes=CLASSES, preprocessing=ABOUT)
    int8 = quantize_int8(fp32, folder / "model-int8.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 32, 32), dtype=np.uint8)
    return Exported(model, fp32, int8, pixels)


@pytest.fixture(scope="session")
def with_picture(tmp_path_factory) -> Exported:
    """The same ViT with crop, resize to a view of 40, resize to 32, normalization and softmax inside."""
    folder, model = tmp_path_factory.mktemp("picture"), tiny_vit()
    fp32 = export_onnx(
        model,
        folder / "model.onnx",
        classes=CLASSES,
        preprocessing=replace(ABOUT, view_size=40, aspect="pad"),
        source_size=SOURCE_SIZE,
    )
    int8 = quantize_int8(fp32, folder / "model-int8.onnx")
    pixels = np.random.default_rng(1).integers(0, 256, (20, *SOURCE_SIZE, 3), dtype=np.uint8)
    return Exported(model, fp32, int8, pixels)
