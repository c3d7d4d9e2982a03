"""fp16 files whose norms do not overflow.

fp16 ends at 65,504. A LayerNorm squares its input, so that activations above 255 make an infinite variance: converters
that turn the whole graph lose a ViT there (19 % of ViT-B's answers were left in one report). Norms therefore stay fp32,
as one operator or as the arithmetic that exporters write in its place; everything else is fp16. ONNX Runtime's own
converter cannot be had for this: it casts a tensor twice under one name where two such operators read it.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import PocketError
from .cost import TABLE
from .integers import PICTURE

_NORMS = ("LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization")
_PARTS = ("Pow", "ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "Sqrt", "Reciprocal", "Div")
_TYPED = ("Cast", "ConstantOfShape", "Constant", "EyeLike", "Range")  # their own attribute or input says the type
_SIZED = ("Resize", "Upsample")  # whose other inputs say to which size, and must be fp32
_LARGEST = float(np.finfo(np.float16).max)


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with fp16 weights and products, norms in fp32, and the same inputs and outputs.

    Args:
        model: an fp32 graph; left as it is. Preprocessing inside it stays fp32, because it must stay exact.

    Raises:
        PocketError: the graph holds quantized layers.
    """
    if any(node.op_type in ("MatMulInteger", "DequantizeLinear") for node in model.graph.node):
        raise PocketError("this graph is quantized already. Make the fp16 file of the fp32 one.")
    inferred = onnx.shape_inference.infer_shapes(model).graph
    graph = copy.deepcopy(model)
    floats = {value.name for value in (*inferred.value_info, *inferred.input, *inferred.output) if _is_float(value)}
    constants = {weight.name: weight for weight in graph.graph.initializer}
    floats |= {name for name, weight in constants.items() if weight.data_type == TensorProto.FLOAT}
    types: dict[str, int] = dict.fromkeys(floats, TensorProto.FLOAT)  # as the new graph computes them
    exact = {value.name for value in graph.graph.input if not _is_float(value)}
    answers = {value.name for value in graph.graph.output}
    made: dict[tuple[str, int], str] = {}
    nodes: list[onnx.NodeProto] = []

    def cast(name: str, wanted: int) -> str:
        """Return the name of a tensor in the wanted type; weights are converted here, activations by the file."""
        if types[name] == wanted:
            return name
        if (name, wanted) not in made:
            made[name, wanted] = new = f"{name}_fp{16 if wanted == TensorProto.FLOAT16 else 32}"
            types[new] = wanted
            if name in constants:
                value = numpy_helper.to_array(constants[name]).astype(np.float16)
                graph.graph.initializer.append(numpy_helper.from_array(value, new))
            else:
                nodes.append(helper.make_node("Cast", [name], [new], name=f"{new}_cast", to=wanted))
        return made[name, wanted]

    for node in graph.graph.node:
        weights = [constants[name] for name in node.input if name in constants and name in floats]
        wide = node.op_type in _NORMS + _PARTS or not all(map(_fits, weights))
        if _is_exact(node, exact, constants):
            exact |= set(node.output)
            wide = True
        if node.op_type not in _TYPED:
            wanted = TensorProto.FLOAT if wide else TensorProto.FLOAT16
            for i, name in enumerate(node.input):
                if name in floats and not (node.op_type in _SIZED and i):
                    node.input[i] = cast(name, wanted)
            types |= {name: wanted for name in node.output if name in floats and name not in answers}
        late = [name for name in node.output if name in answers and name in floats and node.op_type not in _TYPED]
        for i, name in enumerate(node.output):
            if name in late and not wide:
                node.output[i] = f"{name}_fp16"
        nodes.append(node)
        if not wide:
            nodes += [
                helper.make_node("Cast", [f"{name}_fp16"], [name], name=f"{name}_cast", to=TensorProto.FLOAT)
                for name in late
            ]
    _replace(graph, nodes)
    return graph


def _replace(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    graph = model.graph
    kept = [copy.deepcopy(node) for node in nodes]
    del graph.node[:]
    del graph.value_info[:]
    graph.node.extend(kept)
    used = {name for node in graph.node for name in node.input}
    for weight in [weight for weight in graph.initializer if weight.name not in used]:
        graph.initializer.remove(weight)


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type == TensorProto.FLOAT


def _fits(weight: onnx.TensorProto) -> bool:
    return bool(np.abs(numpy_helper.to_array(weight)).max(initial=0) <= _LARGEST)


def _is_exact(node: onnx.NodeProto, exact: set[str], constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node belongs to the preprocessing of a picture: it comes before all layers."""
    inputs = [name for name in node.input if name and name not in constants]
    tables = [name for name in node.input if name in constants and int(np.prod(constants[name].dims)) >= TABLE]
    layer = any(not name.startswith(PICTURE) for name in tables)
    return bool(inputs) and exact.issuperset(inputs) and not layer
