"""int8 files: weights are stored as int8, and products with them run in int8.

`quantize_int8` needs no data: activations are quantized while the file runs. On x86 processors without VNNI two
products of 8 by 8 bits are summed in 16, which overflow and are cut off (seen: a cosine of 0.86 to the fp32 answers).
With weights of 7 bits they cannot, and the file answers alike everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from ..compression.cost import TABLE
from ..compression.integers import PICTURE, write_integers
from ..errors import NotSmaller, PocketError
from .export import save
from .signature import Signature, read_signature, write_signature

BITS = 7  # of a weight: see above


def quantize_int8(onnx_path: Path | str, out: Path | str) -> Path:
    """Write the int8 version of an fp32 file that `export_onnx` wrote.

    Args:
        onnx_path: the fp32 file.
        out: where the int8 file goes (replaced atomically).

    Raises:
        PocketError: the file cannot be read.
        NotSmaller: more than half of its weights would stay fp32.
    """
    path = Path(onnx_path)
    model, signature = open_graph(path)
    before = _float_bytes(model)
    write_integers(model, bits=BITS)
    left = _float_bytes(model)
    if left > before / 2:
        raise NotSmaller(
            f"int8 quantization of {path} left {left} of {before} bytes of weights in fp32: this network has no "
            "tables of weights that could be quantized. Ship the fp32 file instead."
        )
    return save_int8(model, signature, out)


def open_graph(path: Path | str) -> tuple[onnx.ModelProto, Signature]:
    """Return the graph of an exported file, and what it says of itself.

    Raises:
        PocketError: it cannot be read, or is not ours.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # onnx raises protobuf's own classes
        raise PocketError(f"{path} is not an ONNX file that can be read: {error}") from error
    return model, read_signature(model, path)


def save_int8(model: onnx.ModelProto, signature: Signature, out: Path | str) -> Path:
    """Write a graph with integers in it as an int8 file."""
    del model.graph.value_info[:]
    write_signature(model, replace(signature, precision="int8"))
    save(model, Path(out))
    return Path(out)


def _float_bytes(model: onnx.ModelProto) -> int:
    """Bytes of float32 weights that a quantizer could have shrunk."""
    return sum(4 * int(np.prod(weight.dims)) for weight in _candidates(model))


def _candidates(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for weight in model.graph.initializer:
        is_table = weight.data_type == onnx.TensorProto.FLOAT and len(weight.dims) >= 2
        if is_table and int(np.prod(weight.dims)) >= TABLE and not weight.name.startswith(PICTURE):
            yield weight
