"""A network as one ONNX file: opset 20, any batch size, classes, task and preprocessing written into it."""

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

from ..compression.fold import fold_norms
from ..errors import PocketError
from ..files import atomic, human_bytes
from ..models import input_stats
from ..tasks import Task
from ..training.interrupt import Interrupt
from ..views.preprocessing import Preprocessing
from .picture import PictureInput
from .signature import CLASSIFICATION, Signature, write_signature

OPSET = 20  # ONNX Runtime 1.17 and newer; 23 and 24 add a native Attention that was no faster
IR_VERSION = 9  # the format that opset 20 came with: a newer one would be refused by a runtime that knows the opset
LARGEST = 2**31 - 2**20  # bytes of weights in one file: protobuf's limit, and a little for the rest
_PICTURE = 2**25  # pixels of a picture with the preprocessing inside; more would be a graph of gigabytes


def export_onnx(
    model: nn.Module,
    path: Path | str,
    *,
    classes: Sequence[str],
    preprocessing: Preprocessing | None = None,
    task: Task = CLASSIFICATION,
    source_size: tuple[int, int] | None = None,
    fixed_batch: bool = False,
) -> Path:
    """Write ``model`` in eval mode as a single ONNX file that needs nothing beside it.

    Without ``source_size`` the file has the input ``pixels`` (float32 [B, 3, S, S], *normalized*: of 8-bit values v,
    ``(v / 255 - mean) / std``) and the output ``logits`` (float32 [B, C]). With it, ``picture`` (uint8 [B, H, W, 3] of
    exactly that size) and ``probabilities``: the crop, the resize (constant matrix products), the normalization and
    the softmax (or sigmoid) are inside.

    Args:
        model: any network whose ``model(x)`` is one logits tensor; several heads must be combined by the model.
        path: the file to write, replaced atomically.
        classes: names of the outputs, in order.
        preprocessing: how pictures become its input; by default what the model's own config says of its input.
        task: what the outputs answer.
        source_size: (H, W) of the pictures, to have the preprocessing inside.
        fixed_batch: take one picture at a time, which accelerators of phones ask for, instead of any number.

    Raises:
        PocketError: the exporter cannot translate the network, it does not answer one score per class, or it is larger
            than one ONNX file may be.
    """
    path = Path(path)
    if preprocessing is None:
        mean, std, size = input_stats(model)
        preprocessing = Preprocessing.plain((size, mean, std))
    if source_size is not None:
        _check_picture(source_size, preprocessing)
    # Quantized layers hold other things than tensors.
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    weights = sum(value.numel() * 4 for value in state.values())
    if weights > LARGEST:
        raise PocketError(
            f"the network has {human_bytes(weights)} of weights, and one ONNX file holds {human_bytes(LARGEST)} at "
            "most. Distil a smaller one from it; a file of that size runs on no device."
        )
    masks = {name for name, value in model.named_buffers() if not bool((value.isnan() | value.isposinf()).any())}
    bad = [name for name, value in state.items() if not bool(value.isfinite().all() or name in masks)]
    if bad:
        raise PocketError(
            f"{len(bad)} of the weights of {type(model).__name__} are not finite (NaN or infinite), {bad[0]} first. "
            "They are damaged, or the training went wrong. Copy the file again, or train it again."
        )
    signature = Signature(tuple(map(str, classes)), preprocessing, task, source_size)
    network = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    count = 1 if fixed_batch else 2
    side = preprocessing.input_size
    example = torch.zeros(count, 3, side, side)
    try:
        with torch.no_grad():
            output = network(example)
    except Exception as error:
        raise PocketError(f"{type(model).__name__} does not take {side}x{side} pixels: {first_line(error)}") from error
    if len(output) != count or task.classes_in(output) != len(signature.classes):
        shape = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise PocketError(
            f"{type(model).__name__} answers {shape} for {count} image{'s' * (count > 1)}, but there are "
            f"{len(signature.classes)} classes. Give the class names "
            "that belong to this model."
        )
    network = fold_norms(network, side)  # else the exporter does it, in its own arithmetic
    whole: nn.Module = network
    if source_size is not None:
        whole = PictureInput(network, signature)
        example = torch.zeros(count, *source_size, 3, dtype=torch.uint8)
    proto = _translate(whole, example, *ends(signature), fixed_batch=fixed_batch)
    proto.graph.input[0].doc_string = describe_input(signature, batch="1" if fixed_batch else "batch")
    write_signature(proto, signature)
    save(proto, path)
    return path


def ends(signature: Signature) -> tuple[str, str]:
    """Return what an exported file calls its input and its output."""
    return ("picture", "probabilities") if signature.source_size else ("pixels", signature.task.output)


def describe_input(signature: Signature, batch: str = "batch") -> str:
    """Return what an exported file takes, in words for whoever opens it in a viewer or writes an app around it."""
    about = signature.preprocessing
    depth = "" if about.window is None else " (of other depths, {:g} to {:g} are 0 to 255)".format(*about.window)
    if signature.source_size:
        high, across = signature.source_size
        return f"RGB pictures, uint8 [{batch}, {high}, {across}, 3], 0 to 255{depth}; all preprocessing is inside"
    side = about.input_size
    mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (about.mean, about.std))
    return (
        f"normalized RGB, float32 [{batch}, 3, {side}, {side}]: (value / 255 - mean) / std of 8-bit values{depth}, "
        f"with mean {mean} and std {std}; how a picture becomes square stands in the metadata 'pocketvit'"
    )


def describe_output(signature: Signature, batch: str = "batch") -> str:
    """Return what an exported file answers, in words for whoever writes an app around it."""
    count = len(signature.classes)
    if signature.task.kind == "boxes":
        return (
            f"float32 [{batch}, boxes, 4 + {count}]: left, top, right and bottom as shares of the view's side, and the "
            "score of each class; boxes.py keeps the best of those that overlap"
        )
    if signature.source_size:
        return f"probabilities, float32 [{batch}, {count}], in the order of the classes"
    each = signature.task.kind == "sigmoid"
    told = "a sigmoid makes a probability of each" if each else "softmax makes probabilities of them"
    return f"logits, float32 [{batch}, {count}], in the order of the classes: {told}"


def save(model: onnx.ModelProto, path: Path | str) -> None:
    """Check a model and write it, whole or not at all, in a form that ONNX Runtime 1.17 reads.

    Raises:
        PocketError: it is larger than protobuf allows, or breaks ONNX's rules.
    """
    keep_used_opsets(model)
    model.ir_version = min(model.ir_version, IR_VERSION)
    try:
        onnx.checker.check_model(model)
        text = model.SerializeToString()
    except Exception as error:  # protobuf's and onnx's own classes, which differ from one version to the next
        raise PocketError(f"{path} was not written: the file would be no valid ONNX ({first_line(error)}).") from error
    with atomic(path) as temporary:
        temporary.write_bytes(text)


def keep_used_opsets(model: onnx.ModelProto) -> None:
    """Leave only operator sets that are used: the quantizer adds a dozen, and strict readers refuse strange ones."""
    used = {node.domain for node in _nodes(model.graph)} | {node.domain for f in model.functions for node in f.node}
    used = {"" if domain == "ai.onnx" else domain for domain in used} | {""}
    for entry in [entry for entry in model.opset_import if entry.domain not in used]:
        model.opset_import.remove(entry)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _check_picture(source_size: tuple[int, int], preprocessing: Preprocessing) -> None:
    high, wide = source_size
    if min(source_size) < 1 or high * wide > _PICTURE:
        raise PocketError(
            f"--picture {wide}x{high}: pictures with the preprocessing inside have between 1 and "
            f"{_PICTURE / 1e6:.0f} million pixels. Export without --picture for larger ones."
        )
    if preprocessing.tile is not None:
        raise PocketError(
            "--picture cannot be used with a model that was made for tiles: cutting a picture up is not part of the "
            "graph. Export without it; predict and device.zip cut pictures by themselves."
        )


def _translate(
    network: nn.Module, example: torch.Tensor, source: str, answer: str, *, fixed_batch: bool
) -> onnx.ModelProto:
    """Run the exporter and strip what it says about itself (on a small model a third of the bytes)."""
    try:
        with Interrupt() as interrupt, interrupt.postponed(), quiet(), torch.no_grad():  # within, it would be swallowed
            program = torch.onnx.export(
                network,
                (example,),
                None,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=None if fixed_batch else ({0: torch.export.Dim.DYNAMIC},),
                external_data=False,
                input_names=[source],
                output_names=[answer],
                verbose=False,
            )
            assert program is not None  # it is None only for the exporter that dynamo replaced
            proto = program.model_proto
    except Exception as error:
        if interrupt.wanted:
            interrupt.stop()
        raise PocketError(
            f"the network cannot be exported to ONNX ({first_line(error)}). Replace the operation or the branch on "
            "data that is named by one that ONNX has."
        ) from error
    if interrupt.wanted:
        interrupt.stop()
    graph = proto.graph
    del graph.value_info[:]
    del graph.metadata_props[:]
    parts = (*graph.node, *graph.input, *graph.output, *graph.initializer)
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""
    _store_once(graph)
    if not fixed_batch:
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return proto


def _store_once(graph: onnx.GraphProto) -> None:
    """Keep one of constants that are equal: the exporter writes a mask of attention once for every block."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed = {}
    for tensor in list(graph.initializer):
        key = tensor.data_type, tuple(tensor.dims), onnx.numpy_helper.to_array(tensor).tobytes()
        name = first.setdefault(key, tensor.name)
        if name != tensor.name:
            renamed[tensor.name] = name
            graph.initializer.remove(tensor)
    for node in _nodes(graph):
        node.input[:] = [renamed.get(name, name) for name in node.input]


def first_line(error: BaseException) -> str:
    """Return the cause of an exporter's error in one line; the exporter wraps it in pages of advice."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("Exception from ", "Check '"))] or lines  # of OpenVINO
    return f"{type(cause).__name__}: {lines[0][:300].rstrip('. ') if lines else ''}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide a converter's progress, warnings and listings; whoever calls it tells its error in one sentence."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    sink = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
