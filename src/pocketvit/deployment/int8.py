"""Dynamic int8: weights are stored as int8, activations are quantized while the file runs. Needs no data.

Four things that go wrong silently without this file (all seen with onnxruntime 1.31):

* shapes recorded by the exporter make the quantizer raise: they are removed first;
* weights shared by several layers sit behind Transpose nodes, where the quantizer leaves them fp32: the
  pre-processing pass folds those;
* convolutions and tables are not touched at all. Their weights are stored as int8 with one scale a row and widened
  by a DequantizeLinear, so that the file is a quarter for any network. (`open_session` has that done once, on opening.)
* on x86 processors without VNNI two products of 8 by 8 bits are summed in 16, which overflow and are cut off (seen: a
  cosine of 0.86 to the fp32 answers). With weights of 7 bits they cannot, and the file answers alike everywhere.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

from ..errors import PocketError
from .export import save
from .signature import read_signature, write_signature

PICTURE = "picture_"  # weights of the preprocessing inside a graph begin with this: they are never quantized
_WORTH_IT = 1024  # elements; below, the extra node costs more than the bytes it saves


def quantize_int8(onnx_path: Path | str, out: Path | str) -> Path:
    """Write the int8 version of an fp32 file that `export_onnx` wrote.

    Args:
        onnx_path: the fp32 file.
        out: where the int8 file goes (replaced atomically).

    Raises:
        PocketError: the file cannot be read, or more than half of its weights would stay fp32.
    """
    path, out = Path(onnx_path), Path(out)
    try:
        model = onnx.load(path)
    except Exception as error:  # onnx raises protobuf's own classes
        raise PocketError(f"{path} is not an ONNX file that can be read: {error}") from error
    signature = read_signature(model, path)
    before = _float_bytes(model)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        clean, folded, quantized = (Path(folder) / f"{name}.onnx" for name in ("clean", "folded", "quantized"))
        del model.graph.value_info[:]
        onnx.save(model, clean)
        quant_pre_process(clean, folded, skip_symbolic_shape=True)
        model = onnx.load(folded)
        del model.graph.value_info[:]
        onnx.save(model, folded)
        quantize_dynamic(
            folded,
            quantized,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,  # 7 bits of weight: see above
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=[node.name for node in model.graph.node if any(map(_is_picture, node.input))],
        )
        model = onnx.load(quantized)
    _store_rest_as_int8(model)
    left = _float_bytes(model)
    if left > before / 2:
        raise PocketError(
            f"int8 quantization of {path} left {left} of {before} bytes of weights in fp32: this network has no "
            "matrix products with constant weights that could be quantized. Ship the fp32 file instead."
        )
    del model.graph.value_info[:]
    write_signature(model, replace(signature, precision="int8"))
    save(model, out)
    return out


def _is_picture(name: str) -> bool:
    return name.startswith(PICTURE)


def _float_bytes(model: onnx.ModelProto) -> int:
    """Bytes of float32 weights that a quantizer could have shrunk."""
    return sum(4 * int(np.prod(weight.dims)) for weight in _candidates(model))


def _candidates(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for weight in model.graph.initializer:
        is_table = weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) >= 2
        if is_table and int(np.prod(weight.dims)) >= _WORTH_IT and not _is_picture(weight.name):
            yield weight


def _store_rest_as_int8(model: onnx.ModelProto) -> None:
    """Store every large float table that is left (convolutions, positions) as int8 + one scale a row."""
    graph = model.graph
    nodes = []
    for weight in list(_candidates(model)):
        values = numpy_helper.to_array(weight)
        axis = _row_axis(values.shape)
        other = tuple(i for i in range(values.ndim) if i != axis)
        largest = np.abs(values).max(axis=other, keepdims=True)
        scale = np.maximum(largest, np.finfo(np.float32).tiny * 127) / np.float32(127)
        rounded = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
        scale = scale.reshape(() if axis is None else -1)
        name = weight.name
        graph.initializer.remove(weight)
        graph.initializer.append(numpy_helper.from_array(rounded, f"{name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"))
        inputs = [f"{name}_int8", f"{name}_scale"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}_widen", axis=axis or 0))
    for node in reversed(nodes):
        graph.node.insert(0, node)


def _row_axis(shape: tuple[int, ...]) -> int | None:
    """Return the first axis along which a scale each is worth its four bytes; None for one scale in all."""
    total = int(np.prod(shape))
    return next((axis for axis, size in enumerate(shape) if size > 1 and total // size >= 8), None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the quantizer's advice, which is meant for people who call it by hand."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
