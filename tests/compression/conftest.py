"""Makes the stand-ins of this folder importable, and a network with its exported graph, once for all of it."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from compression_fakes import exported, student


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> tuple[nn.Module, onnx.ModelProto]:
    """A tiny ViT and its fp32 graph (an export takes seconds)."""
    model = student()
    return model, exported(model, tmp_path_factory.mktemp("plain"))
