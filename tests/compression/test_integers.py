"""Integers in graphs: which products run in them, what they weigh, and that packing loses nothing."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from compression_fakes import (
    CLASSES,
    INPUT,
    OTHERS,
    PIXELS,
    cosine,
    exported,
    kinds,
    product,
    run,
    student,
    weight_bytes,
)

from pocketvit.compression import answers, fake_quantize, grids_of, round_to_grid, share, write_integers
from pocketvit.compression.grid import pack, weight_range
from pocketvit.deployment.int8 import quantize_int8


def copy(graph):
    again = type(graph)()
    again.CopyFrom(graph)
    return again


@pytest.mark.parametrize("bits", [2, 4])
def test_packing_keeps_every_integer(bits):
    low, high = weight_range(bits)
    integers = np.random.default_rng(0).integers(low, high + 1, (7, 9)).astype(np.int8)
    packed = pack(integers, bits)
    assert len(packed) == -(-integers.size * bits // 8)
    planes = [(packed >> (bits * plane)) & (2**bits - 1) for plane in range(8 // bits)]
    spread = np.concatenate(planes)[: integers.size].astype(np.int8) + low
    np.testing.assert_array_equal(spread.reshape(integers.shape), integers)


@pytest.mark.parametrize("bits", [2, 4])
def test_packed_weights_are_spread_by_operators_that_onnx_runtime_1_17_has(bits):
    weight = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    graph = product(weight)
    write_integers(graph, {"layer": round_to_grid(weight.T, bits)})
    typed = onnx.shape_inference.infer_shapes(graph).graph
    kinds_of = {value.name: value.type.tensor_type.elem_type for value in typed.value_info}
    kinds_of |= {value.name: value.data_type for value in typed.initializer}
    added = [kinds_of.get(name) for node in typed.node if node.op_type == "Add" for name in node.input]
    assert added == [onnx.TensorProto.INT32] * 2  # it adds floats and integers of 32 and 64 bits, no others


@pytest.mark.parametrize("bits", [8, 7, 4, 2])
def test_rounding_takes_a_neighbour_and_keeps_the_sum_of_each_row(bits):
    weight = np.random.default_rng(0).standard_normal((6, 40)).astype(np.float32)
    grid = round_to_grid(weight, bits)
    low, high = weight_range(bits)
    assert low <= grid.integers.min() <= grid.integers.max() <= high
    steps = (grid.weight() - weight) / grid.scale[:, None]
    assert np.abs(steps).max() < 1
    assert np.abs(steps.sum(1)).max() <= 0.51


def test_features_with_a_mean_in_common_are_answered_more_exactly_than_by_rounding_to_the_nearest():
    """As behind a ReLU: there the errors of a row do not cancel out."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((64, 64)).astype(np.float32)
    given = random.uniform(1, 2, (200, 64))
    grid = round_to_grid(weight, 8)
    nearest = np.rint(weight / grid.scale[:, None]) * grid.scale[:, None]
    error, usual = (np.abs(given @ (values - weight).T).mean() for values in (grid.weight(), nearest))
    assert error < 0.5 * usual


def test_what_is_added_is_rounded_to_the_nearest(plain):
    """Positions are no row of a product: keeping sums would only make their errors larger."""
    model, graph = plain
    graph = copy(graph)
    write_integers(graph)
    stored = {weight.name: onnx.numpy_helper.to_array(weight) for weight in graph.graph.initializer}
    error = stored["pos_embed_table_int8"] * stored["pos_embed_table_scale"] - model.pos_embed.detach().numpy()
    assert (np.abs(error) <= 0.5001 * stored["pos_embed_table_scale"]).all()


def test_a_network_is_rounded_as_its_file_is(plain):
    """Post-training: the simulation has the integers that `round_to_grid` writes."""
    rounded = fake_quantize(plain[0], PIXELS, INPUT, bits=7, activations="dynamic", learned=False)
    grids = grids_of(rounded)
    weights = dict(plain[0].named_parameters())
    assert grids
    for name, grid in grids.items():
        own = round_to_grid(weights[f"{name}.weight"].detach().numpy(), grid.bits)
        np.testing.assert_array_equal(grid.integers, own.integers)


def test_dynamic_products_run_in_integers_and_attention_is_left_alone(plain):
    model, graph = plain
    graph = copy(graph)
    products = sum(kind in ("MatMul", "Gemm") for kind in kinds(graph))
    assert len(write_integers(graph, bits=7)) == 8
    assert kinds(graph).count("MatMulInteger") == 8
    left = sum(kind in ("MatMul", "Gemm") for kind in kinds(graph))
    assert left == products - 8
    assert cosine(run(graph, OTHERS), answers(model, OTHERS, INPUT)) > 0.97


def test_static_products_become_one_kernel_each(plain, tmp_path):
    model, graph = plain
    graph = copy(graph)
    rounded = fake_quantize(model, PIXELS, INPUT, bits=7, learned=False)  # 8 overflow on x86 processors without VNNI
    write_integers(graph, grids_of(rounded))
    given = run(graph, OTHERS, saved=tmp_path / "optimized.onnx")
    fused = kinds(onnx.load(tmp_path / "optimized.onnx"))
    assert sum("MatMulInteger" in kind or "QLinearMatMul" in kind for kind in fused) == 8
    assert cosine(given, answers(rounded, OTHERS, INPUT)) > 0.995


def test_fewer_bits_are_fewer_bytes(plain):
    model, graph = plain
    sizes = []
    for bits in (8, 4, 2):
        smaller = copy(graph)
        write_integers(smaller, grids_of(fake_quantize(model, PIXELS, INPUT, bits=bits)))
        sizes.append(weight_bytes(smaller))
    eight, four, two = sizes
    assert eight < 0.35 * weight_bytes(graph)
    assert four < 0.65 * eight
    assert two < 0.75 * four


def test_what_is_shared_is_stored_once(tmp_path):
    shared = share(student(depth=4), 4)
    graph = exported(shared, tmp_path)
    done = write_integers(graph, bits=7)
    assert kinds(graph).count("MatMulInteger") == 16
    assert sorted(done.values()).count(4) == 4  # layers that stand in the graph four times
    one = student(depth=1)
    alone = exported(one, tmp_path)
    write_integers(alone)
    assert weight_bytes(graph) < 1.6 * weight_bytes(alone)
    assert cosine(run(graph, OTHERS), answers(shared, OTHERS, INPUT)) > 0.97


def test_layers_that_are_kept_stay_as_they_were(plain):
    model, graph = plain
    graph = copy(graph)
    kept = model.blocks[0].mlp.fc1.weight.detach().numpy()
    write_integers(graph, keep=[kept])
    found = [onnx.numpy_helper.to_array(weight) for weight in graph.graph.initializer]
    assert any(one.shape == kept.shape[::-1] and np.array_equal(one.T, kept) for one in found) or any(
        one.shape == kept.shape and np.array_equal(one, kept) for one in found
    )
    assert kinds(graph).count("MatMulInteger") == 7


def test_an_int8_file_answers_like_the_network(plain, tmp_path):
    from pocketvit.deployment import OnnxModel, export_onnx
    from pocketvit.views.preprocessing import Preprocessing

    model, _ = plain
    about = Preprocessing.plain(INPUT)
    fp32 = export_onnx(model, tmp_path / "a.onnx", classes=CLASSES, preprocessing=about)
    opened = OnnxModel(quantize_int8(fp32, tmp_path / "b.onnx"))
    given = opened.probabilities(OTHERS)
    expected = answers(model, OTHERS, INPUT).softmax(1).numpy()
    assert cosine(given, expected) > 0.99


RNG = np.random.default_rng(0)
MASK = np.triu(np.full((64, 64), -np.inf, np.float32), 1)
SQUARE, THIN, WIDE = (RNG.normal(size=shape).astype(np.float32) / 8 for shape in ((64, 64), (512, 32), (32, 200)))


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([("MatMul", "x", "a", "h"), ("MatMul", "h", "b", "y")], {"a": THIN, "b": WIDE}),
        ([("MatMul", "x", "a", "h"), ("Add", "h", "a", "y")], {"a": SQUARE}),
        ([("MatMul", "x", "a", "h"), ("Add", "h", "m", "s"), ("Softmax", "s", "y")], {"a": SQUARE, "m": MASK}),
    ],
    ids=["one product feeds another", "a weight that is also added", "a mask of minus infinity"],
)
def test_graphs_that_others_wrote_are_answered(nodes, constants):
    made = [onnx.helper.make_node(kind, names[:-1], names[-1:], name=names[-1]) for kind, *names in nodes]
    width = constants["a"].shape[0]
    value = onnx.helper.make_tensor_value_info
    ends = [value(name, onnx.TensorProto.FLOAT, shape) for name, shape in (("x", [width, width]), ("y", None))]
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = onnx.helper.make_graph(made, "graph", ends[:1], ends[1:], stored)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)

    def answer():
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": x})[0]

    x = RNG.normal(size=(width, width)).astype(np.float32)
    exact = answer()
    assert write_integers(model) == dict.fromkeys(set(constants) - {"m"}, 1)
    assert np.abs(answer() - exact).max() < 0.02 * np.abs(exact).max()
