"""A network as one ONNX file: opset 20, any batch size, classes and preprocessing written into it."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import torch
from torch import nn

from ..config import ViewConfig
from ..errors import PocketError
from ..files import atomic
from ..models import input_stats
from .preprocess import PictureInput
from .signature import Signature, write_signature

OPSET = 20  # ONNX Runtime 1.17 and newer; 23 and 24 add a native Attention that was no faster


def export_onnx(
    model: nn.Module,
    path: Path | str,
    *,
    image_size: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str],
    source_size: tuple[int, int] | None = None,
    view: ViewConfig | None = None,
    window: tuple[float, float] | None = None,
    tile: int | None = None,
    several: bool = False,
) -> Path:
    """Write ``model`` in eval mode as a single ONNX file that needs nothing beside it.

    Without ``source_size`` the file has the input ``pixels`` (float32 [B, 3, S, S], normalized) and the output
    ``logits`` (float32 [B, C]). With it, ``picture`` (uint8 [B, H, W, 3] of exactly that size) and ``probabilities``:
    the crop, the Lanczos resize (two constant matrix products), the normalization, the softmax (or sigmoid) are inside.

    Args:
        model: any network whose ``model(x)`` is one logits tensor; several heads must be combined by the model.
        path: the file to write, replaced atomically.
        image_size: side of the model's square input in pixels.
        mean: channel means that the input is normalized with; by default `input_stats` of the model.
        std: channel standard deviations, likewise.
        classes: names of the outputs, in order.
        source_size: (H, W) of the pictures, to have the preprocessing inside.
        view: how a picture becomes a view; its ``plain()`` part is used. By default a view of ``image_size``.
        window: intensities that become 0 and 255 where a picture is not 8-bit, written down for whoever decodes it.
        tile: side in pixels of the squares that pictures are to be cut into, written down likewise.
        several: whether the outputs are several labels an image, each there or not: probabilities are then a sigmoid.

    Raises:
        PocketError: the exporter cannot translate the network, or it does not answer one score a class.
    """
    path = Path(path)
    defaults = input_stats(model)
    signature = Signature(
        classes=tuple(str(name) for name in classes),
        input_size=image_size,
        mean=tuple(float(m) for m in (mean if mean is not None else defaults.mean)),
        std=tuple(float(s) for s in (std if std is not None else defaults.std)),
        view=(view or ViewConfig(view_size=image_size)).plain(),
        source_size=source_size,
        window=window,
        tile=tile,
        activation="sigmoid" if several else "softmax",
    )
    network = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    example = torch.zeros(2, 3, image_size, image_size)
    try:
        with torch.no_grad():
            output = network(example)
    except Exception as error:
        raise PocketError(
            f"{type(model).__name__} does not take {image_size}x{image_size} pixels: {_first_line(error)}"
        ) from error
    if not isinstance(output, torch.Tensor) or output.shape != (2, len(signature.classes)):
        shape = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise PocketError(
            f"{type(model).__name__} answers {shape} for two images, but there are {len(signature.classes)} classes: "
            f"[2, {len(signature.classes)}] was expected. Give the class names that belong to this model."
        )
    whole: nn.Module = network
    if source_size is not None:
        whole = PictureInput(network, signature)
        example = torch.zeros(2, *source_size, 3, dtype=torch.uint8)
    proto = _translate(whole, example, *(("picture", "probabilities") if source_size else ("pixels", "logits")))
    write_signature(proto, signature)
    with atomic(path) as temporary:
        onnx.save(proto, temporary)
    return path


def _translate(network: nn.Module, example: torch.Tensor, source: str, answer: str) -> onnx.ModelProto:
    """Run the exporter and strip what it says about itself (on a small model a third of the bytes)."""
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                network,
                (example,),
                None,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                external_data=False,
                input_names=[source],
                output_names=[answer],
                verbose=False,
            )
            assert program is not None  # it is None only for the exporter that dynamo replaced
            proto = program.model_proto
    except Exception as error:
        raise PocketError(
            f"the network cannot be exported to ONNX ({_first_line(error)}). Replace the operation or the branch on "
            "data that is named by one that ONNX has."
        ) from error
    graph = proto.graph
    del graph.value_info[:]
    del graph.metadata_props[:]
    parts = (*graph.node, *graph.input, *graph.output, *graph.initializer)
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    # The exporter declares a dozen operator sets and uses two or three.
    used = {node.domain for node in graph.node} | {node.domain for f in proto.functions for node in f.node} | {""}
    for entry in [entry for entry in proto.opset_import if entry.domain not in used]:
        proto.opset_import.remove(entry)
    return proto


def _first_line(error: Exception) -> str:
    """Return the cause of an exporter's error in one line; the exporter wraps it in pages of advice."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0][:300].rstrip('. ') if lines else ''}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's progress, warnings and listings; an error is told by `_translate` in one sentence."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    sink = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
