"""A ViT of two blocks, pictures of noise, and exported graphs under ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from pocketvit.compression import noise_views
from pocketvit.deployment import export_onnx
from pocketvit.models import create_model
from pocketvit.views.resize import to_input

SIDE, CLASSES = 16, ("a", "b", "c", "d")
INPUT = (SIDE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PIXELS = noise_views(48, SIDE).pixels
OTHERS = noise_views(24, SIDE, seed=1).pixels


def student(name: str = "vit_tiny_patch16_224", **args) -> nn.Module:
    """A tiny ViT whose answers differ between pictures, as those of a fresh head would not."""
    torch.manual_seed(0)
    shape = {"patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 4}
    model = create_model(name, num_classes=len(CLASSES), image_size=SIDE, **(shape | args))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15) if parameter.ndim > 1 else None
    return model.eval()


def exported(model: nn.Module, folder: Path) -> onnx.ModelProto:
    return onnx.load(export_onnx(model, folder / "model.onnx", classes=CLASSES))


def product(*weights: np.ndarray) -> onnx.ModelProto:
    """A graph of products with constants [in, out], one after the other (an export takes seconds)."""
    names = [f"x{number}" for number in range(len(weights) + 1)]
    nodes = [onnx.helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(len(weights))]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, size])
        for name, size in ((names[0], weights[0].shape[0]), (names[-1], weights[-1].shape[1]))
    ]
    stored = [onnx.numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)]
    graph = onnx.helper.make_graph(nodes, "product", ends[:1], ends[1:], stored)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)


def run(graph: onnx.ModelProto, pixels: torch.Tensor, saved: Path | None = None) -> np.ndarray:
    """Answer one picture at a time, as a device does; ``saved`` receives the graph as ONNX Runtime optimized it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if saved is not None:
        options.optimized_model_filepath = str(saved)
    onnx.checker.check_model(graph)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    batch = to_input(pixels, *INPUT).numpy()
    return np.concatenate([session.run(None, {"pixels": batch[i : i + 1]})[0] for i in range(len(batch))])


def cosine(a: np.ndarray | torch.Tensor, b: np.ndarray | torch.Tensor) -> float:
    """Smallest cosine over images."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def kinds(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


def weight_bytes(graph: onnx.ModelProto) -> int:
    return sum(onnx.numpy_helper.to_array(weight).nbytes for weight in graph.graph.initializer)
