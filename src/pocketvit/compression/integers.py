"""Integers into an ONNX graph: each quantized layer's product runs in 8 bits, its weights take 8, 4 or 2.

Layers are found by their weights, whatever the exporter called them or transposed, and what several layers share is
stored once. Products of two activations (in attention) have no constant weights and are left alone: quantized, they
cost accuracy (cosines of 0.6 to 0.9 to the fp32 answers were seen) and win nothing.

Two forms, both of which ONNX Runtime fuses into one kernel a layer:

* dynamic: ``DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul``; scales of inputs are found while the file runs;
* static: ``QuantizeLinear -> DequantizeLinear -> MatMul <- DequantizeLinear`` (QDQ) with scales that were calibrated.

Weights of 4 and 2 bits lie packed in bytes and are spread to int8 by standard operators, once, when the file is opened:
they save bytes on the device's storage and run as fast as those of 8. What is no layer (convolutions, positions) is
stored in 8 bits and widened when the file is opened.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .cost import TABLE
from .grid import Grid, key_of, pack, round_to_grid, weight_range

PICTURE = "picture_"  # weights of the preprocessing inside a graph begin with this: they must stay exact
_PRODUCTS = ("MatMul", "Gemm")


def write_integers(
    model: onnx.ModelProto,
    grids: Mapping[str, Grid] | None = None,
    *,
    bits: int = 8,
    keep: Collection[np.ndarray] = (),
) -> dict[str, int]:
    """Replace the constant weights of a graph by integers, in place.

    Args:
        model: an exported network: the one whose layers ``grids`` are for, or `fakequant.freeze` of it.
        grids: layer name -> its integers (`fakequant.grids_of`); None to quantize every product with a constant, inputs
            dynamically.
        bits: of the weights of products where ``grids`` is None.
        keep: weights that stay fp32, as they stand in the network.

    Returns:
        Layer name -> how often it stands in the graph. A layer of ``grids`` that is missing was not found.
    """
    graph = _Graph(model)
    kept = {key_of(weight) for weight in keep}
    known = {key: (name, grid) for name, grid in (grids or {}).items() for key in (grid.of, key_of(grid.weight()))}
    done: dict[str, int] = {}
    for node in list(model.graph.node):
        found = graph.product(node)
        if found is None:
            continue
        source, name, weight, bias = found
        key = key_of(weight)
        if key in kept:
            continue
        if grids is None and weight.size >= TABLE:
            known.setdefault(key, (name, round_to_grid(weight, bits)))
        if key in known:
            layer, grid = known[key]
            graph.replace(node, source, layer, grid, bias)
            done[layer] = done.get(layer, 0) + 1
    graph.sweep()
    for name in list(graph.constants):
        weight = graph.constants[name]
        if weight.dtype != np.float32 or weight.ndim < 2 or weight.size < TABLE or name.startswith(PICTURE):
            continue
        if kept & {key_of(weight), key_of(np.swapaxes(weight, -1, -2))}:
            continue
        if not np.isfinite(weight).all():  # a mask of attention, of which no scale could be taken
            continue
        if key_of(weight) not in known:
            graph.store(name, weight, None)
            continue
        layer, grid = known[key_of(weight)]
        graph.store(name, weight, grid)
        done[layer] = done.get(layer, 0) + 1
    graph.write()
    return done


class _Graph:
    """A graph under change: its constants by name, and nodes to come before all others."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        del self.graph.value_info[:]
        self.constants = {w.name: numpy_helper.to_array(w) for w in self.graph.initializer}
        self._transposed = {
            node.output[0]: (node.input[0], list(_attributes(node).get("perm", ())))
            for node in self.graph.node
            if node.op_type == "Transpose" and node.input[0] in self.constants
        }
        self._convolved = {node.input[1] for node in self.graph.node if node.op_type == "Conv"}
        self._first: list[onnx.NodeProto] = []  # only constants go in
        self._stored: dict[str, str] = {}  # layer -> name of its int8 weights
        self._quantized: dict[tuple[Any, ...], tuple[str, ...]] = {}  # an input is quantized once for all its layers

    def product(self, node: onnx.NodeProto) -> tuple[str, str, np.ndarray, str] | None:
        """Return (input, weight's name, weight [out, in], bias or "") of a product with a constant matrix."""
        if node.op_type not in _PRODUCTS:
            return None
        weight = self._value(node.input[1])
        if weight is None or weight.ndim != 2 or node.input[1].startswith(PICTURE):
            return None
        about = _attributes(node)
        if about.get("alpha", 1.0) != 1.0 or about.get("beta", 1.0) != 1.0 or about.get("transA", 0):
            return None
        rows = weight if about.get("transB", 0) else weight.T
        return node.input[0], node.input[1], rows, node.input[2] if len(node.input) > 2 else ""

    def _value(self, name: str) -> np.ndarray | None:
        if name in self._transposed:
            source, order = self._transposed[name]
            value = self.constants[source]
            return value.transpose(order or None)
        return self.constants.get(name)

    def replace(self, node: onnx.NodeProto, source: str, layer: str, grid: Grid, bias: str) -> None:
        """Put the integer form of a product into its place."""
        at = list(self.graph.node).index(node)
        answer = node.output[0]
        product = f"{answer}_product" if bias else answer
        weight = self._weight(layer, grid)
        new = (self._dynamic if grid.input_scale is None else self._static)(source, product, layer, weight, grid)
        if bias:
            new.append(helper.make_node("Add", [product, bias], [answer], name=f"{answer}_add"))
        self.graph.node.remove(node)
        for offset, made in enumerate(new):
            self.graph.node.insert(at + offset, made)

    def _dynamic(self, source: str, product: str, layer: str, weight: str, grid: Grid) -> list[onnx.NodeProto]:
        new = []
        if (source,) not in self._quantized:
            names = tuple(f"{source}_{part}" for part in ("int8", "scale", "zero"))
            new.append(helper.make_node("DynamicQuantizeLinear", [source], names, name=f"{source}_quantize"))
            self._quantized[(source,)] = names
        quantized, scale, zero = self._quantized[(source,)]
        sums, wide, both = (f"{product}_{part}" for part in ("sums", "wide", "both"))
        return [
            *new,
            helper.make_node("MatMulInteger", [quantized, weight, zero], [sums], name=sums),
            helper.make_node("Cast", [sums], [wide], name=wide, to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [scale, f"{layer}_scale"], [both], name=both),
            helper.make_node("Mul", [wide, both], [product], name=product),
        ]

    def _static(self, source: str, product: str, layer: str, weight: str, grid: Grid) -> list[onnx.NodeProto]:
        assert grid.input_scale is not None
        new = []
        key = source, grid.input_scale, grid.input_zero
        if key not in self._quantized:
            stem = f"{source}_{len(self._quantized)}"
            scale, zero, quantized, rounded = (f"{stem}_{part}" for part in ("scale", "zero", "int8", "rounded"))
            self.constants[scale] = np.array(grid.input_scale, np.float32)
            self.constants[zero] = np.array(grid.input_zero, np.int8)
            new += [
                helper.make_node("QuantizeLinear", [source, scale, zero], [quantized], name=quantized),
                helper.make_node("DequantizeLinear", [quantized, scale, zero], [rounded], name=rounded),
            ]
            self._quantized[key] = (rounded,)
        widened = f"{product}_weight"
        return [
            *new,
            helper.make_node("DequantizeLinear", [weight, f"{layer}_scale"], [widened], name=widened, axis=1),
            helper.make_node("MatMul", [self._quantized[key][0], widened], [product], name=product),
        ]

    def _weight(self, layer: str, grid: Grid) -> str:
        """Store a layer's integers [in, out] and their scale once and return the name of the int8 matrix."""
        if layer not in self._stored:
            self.constants[f"{layer}_scale"] = grid.scale
            self._stored[layer] = self._integers(layer, np.ascontiguousarray(grid.integers.T), grid.bits)
        return self._stored[layer]

    def _integers(self, layer: str, integers: np.ndarray, bits: int) -> str:
        """Store integers, packed where that saves bytes, and return the name of the int8 tensor."""
        name = f"{layer}_int8"
        if bits not in (2, 4):
            self.constants[name] = integers
            return name

        def constant(part: str, value: np.ndarray | np.generic) -> str:
            self.constants[f"{layer}_{part}"] = np.asarray(value)
            return f"{layer}_{part}"

        def node(kind: str, inputs: list[str], part: str, **about: Any) -> str:
            self._first.append(helper.make_node(kind, inputs, [f"{layer}_{part}"], **about))
            return f"{layer}_{part}"

        packed, mask = constant("packed", pack(integers, bits)), constant("mask", np.uint8(2**bits - 1))
        planes = []
        for plane in range(8 // bits):
            shift = constant(f"shift{plane}", np.uint8(plane * bits))
            shifted = node("BitShift", [packed, shift], f"shifted{plane}", direction="RIGHT")
            planes.append(node("BitwiseAnd", [shifted, mask], f"plane{plane}"))
        ends = [constant("start", np.array([0])), constant("stop", np.array([integers.size]))]
        flat = node("Slice", [node("Concat", planes, "planes", axis=0), *ends], "flat")  # padding is cut off
        low = constant("low", np.int32(weight_range(bits)[0]))  # ONNX Runtime 1.17 adds no numbers of 8 bits
        sums = node("Add", [node("Cast", [flat], "unsigned", to=onnx.TensorProto.INT32), low], "sums")
        signed = node("Cast", [sums], "signed", to=onnx.TensorProto.INT8)
        return node("Reshape", [signed, constant("shape", np.array(integers.shape))], "int8")

    def store(self, name: str, weight: np.ndarray, grid: Grid | None) -> None:
        """Store a table as integers and a scale a row; two operators on constants make numbers of it again."""
        axis: int | None = 0
        if grid is None:
            axis = _row_axis(weight.shape)
            rows = weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0)
            grid = round_to_grid(np.ascontiguousarray(rows), even=name in self._convolved)
            integers = grid.integers.reshape(weight.shape) if axis is None else np.moveaxis(grid.integers, 0, axis)
        else:
            integers = grid.integers
        shape = [1] * weight.ndim
        if axis is not None:
            shape[axis] = -1
        del self.constants[name]
        stem = f"{name}_table"  # what is also a layer's weight is stored for that by the plain name
        scale, wide = f"{stem}_scale", f"{stem}_wide"
        stored = self._integers(stem, np.ascontiguousarray(integers), grid.bits)
        self.constants[scale] = grid.scale.reshape(shape)
        self._first += [
            helper.make_node("Cast", [stored], [wide], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [wide, scale], [name]),
        ]

    def sweep(self) -> None:
        """Remove nodes and constants that nothing uses any more."""
        while True:
            used = {name for node in [*self.graph.node, *self._first] for name in node.input}
            used |= {output.name for output in self.graph.output}
            idle = [node for node in self.graph.node if not used & set(node.output)]
            if not idle:
                break
            for node in idle:
                self.graph.node.remove(node)
        self.constants = {name: value for name, value in self.constants.items() if name in used}

    def write(self) -> None:
        """Write constants and new nodes into the model."""
        del self.graph.initializer[:]
        self.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()
        )
        for node in reversed(self._first):
            node.name = node.name or node.output[0]
            self.graph.node.insert(0, node)


def _row_axis(shape: tuple[int, ...]) -> int | None:
    """Return the first axis along which a scale each is worth its four bytes; None for one scale in all."""
    total = int(np.prod(shape))
    return next((axis for axis, size in enumerate(shape) if size > 1 and total // size >= 8), None)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
