"""The executor of TOSA graphs gives the bits of TOSA's reference model, operator by operator, and refuses what that refuses."""

import pickle

import numpy as np
import pytest
from tosa_graphs import MOST, NUMPY, D, Graph, executor, reference, refused, same, scaled, spread, ts

from earshot.errors import ArtifactError

# ---------------------------------------------------------------- tables and arithmetic


def table(shape, dtype, entries) -> bytes:
    graph = Graph()
    x = graph.input(shape, dtype)
    return graph.done(graph.add("TABLE", [x, graph.const(entries, dtype)], shape, D.INT8 if dtype == D.INT8 else D.INT32))


def test_tables():
    same(table((256,), D.INT8, spread((256,), D.INT8, 3)), np.arange(-128, 128, dtype=np.int8))
    entries = (spread((513,), D.INT16, 4) // 2).astype(np.int16)
    same(table((65536,), D.INT16, entries), np.arange(-32768, 32768).astype(np.int16))


def test_a_table_is_refused_only_where_it_is_too_steep():
    entries = np.arange(513) * 20 - 5000
    entries[100:102] = 32767, -32768
    content = table((2,), D.INT16, entries)
    same(content, np.array([(99 - 256) * 128 - 1, (102 - 256) * 128], np.int16))
    refused(content, np.array([0, (100 - 256) * 128 + 5], np.int16), "slope")


def binary(kind, a_shape, b, dtype, *attributes, shift=None) -> bytes:
    """An operator of the input and a constant."""
    graph = Graph()
    inputs = [graph.input(a_shape, dtype), graph.const(b, dtype)]
    if kind == "MUL":
        inputs.append(graph.const([shift or 0], D.INT8))
    return graph.done(graph.add(kind, inputs, np.broadcast_shapes(a_shape, np.shape(b)), D.INT32, *attributes))


def test_arithmetic_with_broadcasting():
    a, b = spread((2, 5, 7), D.INT32) // 2, spread((1, 5, 1), D.INT32, 1) // 2
    same(binary("ADD", a.shape, b, D.INT32), a)
    same(binary("SUB", a.shape, b, D.INT32), a)
    for kind in ("MAXIMUM", "MINIMUM"):
        same(binary(kind, a.shape, b, D.INT32, ts.NanPropagationMode.PROPAGATE), a)


@pytest.mark.parametrize(("kind", "a", "b"), [("ADD", MOST, 1), ("ADD", -MOST, -2), ("SUB", -MOST, 2), ("SUB", 5, -MOST)])
def test_sums_beyond_32_bits_are_refused(kind, a, b):
    content = binary(kind, (2,), np.array([b]), D.INT32)
    same(content, np.array([0, 0], np.int32))
    refused(content, np.array([0, a], np.int32), "overflow")


def test_products():
    a, b = spread((3, 9), D.INT32), spread((1, 9), D.INT32, 1)
    same(binary("MUL", a.shape, b, D.INT32), a)  # the lower 32 bits
    same(binary("MUL", a.shape, b, D.INT32, shift=31), np.maximum(a, -MOST))
    small = a // 1000
    same(binary("MUL", a.shape, b // 100000, D.INT32, shift=7), small)
    same(binary("MUL", (4,), np.array([1]), D.INT32, shift=1), np.array([-3, 3, 5, -5], np.int32))
    for dtype in (D.INT8, D.INT16):
        same(binary("MUL", (3, 9), spread((1, 9), dtype, 1), dtype), spread((3, 9), dtype))
    refused(binary("MUL", (2,), np.array([MOST]), D.INT32, shift=20), np.array([0, MOST], np.int32), "overflow")


def unary(kind, shape, sink_shape, dtype, *attributes) -> bytes:
    graph = Graph()
    return graph.done(graph.add(kind, [graph.input(shape, dtype)], sink_shape, dtype, *attributes))


def test_values_one_by_one():
    x = spread((4, 9), D.INT32)
    same(unary("ABS", x.shape, x.shape, D.INT32), np.maximum(x, -MOST))
    for dtype, low, high in ((D.INT8, -7, 100), (D.INT16, 0, 32767), (D.INT16, -300, 5)):
        ends = [list(np.array([end], NUMPY[dtype]).tobytes()) for end in (low, high)]
        same(unary("CLAMP", (4, 90), (4, 90), dtype, *ends, ts.NanPropagationMode.PROPAGATE), spread((4, 90), dtype))


def test_other_signs():
    for dtype, zeros in ((D.INT8, (0, 0)), (D.INT8, (-128, 127)), (D.INT8, (15, 68)), (D.INT16, (0, 0))):
        graph = Graph()
        x = graph.input((4, 90), dtype)
        same(graph.done(graph.add("NEGATE", [x, *(graph.const([zero], dtype) for zero in zeros)], (4, 90), dtype)), spread((4, 90), dtype))


def test_reductions():
    x = spread((3, 40, 5), D.INT32) // 41
    for axis, shape in ((0, (1, 40, 5)), (1, (3, 1, 5)), (2, (3, 40, 1))):
        same(unary("REDUCE_SUM", x.shape, shape, D.INT32, axis), x)
        for dtype in (D.INT8, D.INT16, D.INT32):
            for kind in ("REDUCE_MAX", "REDUCE_MIN"):
                same(unary(kind, x.shape, shape, dtype, axis, ts.NanPropagationMode.PROPAGATE), spread(x.shape, dtype))


def test_a_partial_sum_beyond_32_bits_is_refused():
    content = unary("REDUCE_SUM", (2, 3), (2, 1), D.INT32, 1)
    same(content, np.array([[MOST, -5, 5], [1, 2, 3]], np.int32))
    refused(content, np.array([[1, 2, 3], [MOST, 1, -5]], np.int32), "overflow")


# ---------------------------------------------------------------- convolutions and products of matrices


def convolution(kind, x_shape, weights, bias, shape, zeros=(0, 0), source=D.INT8, weight=D.INT8, **geometry) -> bytes:
    """A convolution; of INT16 a RESCALE follows, since the reference model gives no INT48."""
    wide = source == D.INT16
    graph = Graph()
    inputs = [graph.input(x_shape, source), graph.const(weights, weight), graph.const(bias, D.INT48 if wide else D.INT32)]
    inputs += [graph.const([zeros[0]], source), graph.const([zeros[1]], weight)]
    form = {"pad": [0, 0, 0, 0], "stride": [1, 1], "dilation": [1, 1]} | {name: list(value) for name, value in geometry.items()}
    accumulator = D.INT48 if wide else D.INT32
    sums = graph.add(kind, inputs, shape, accumulator, **form, local_bound=False, acc_type=accumulator)
    return graph.done(scaled(graph, sums, shape, D.INT48, D.INT32, 16384, 15) if wide else sums)


GEOMETRIES = [  # kernel, pad, stride, dilation, output of an input of 9 by 12
    ((1, 1), (0, 0, 0, 0), (1, 1), (1, 1), (9, 12)),
    ((3, 4), (0, 0, 0, 0), (2, 2), (1, 1), (4, 5)),
    ((3, 3), (1, 1, 2, 2), (1, 1), (1, 2), (9, 12)),
    ((1, 5), (0, 0, 2, 2), (1, 1), (1, 1), (9, 12)),
    ((1, 1), (0, 0, 0, 0), (2, 1), (1, 1), (5, 12)),
]


@pytest.mark.parametrize(("source", "weight"), [(D.INT8, D.INT8), (D.INT8, D.INT4), (D.INT16, D.INT8)], ids=str)
@pytest.mark.parametrize(("kernel", "pad", "stride", "dilation", "found"), GEOMETRIES)
def test_convolutions(kernel, pad, stride, dilation, found, source, weight):
    x = spread((2, 9, 12, 6), source)
    zeros = (-7, 0 if weight == D.INT4 else 3) if source == D.INT8 else (0, 0)
    small = -7, 8
    numbers = np.random.default_rng(1)

    def weights(shape):
        return numbers.integers(*(small if weight == D.INT4 else (-128, 128)), shape)

    more = {"zeros": zeros, "pad": pad, "stride": stride, "dilation": dilation, "source": source, "weight": weight}
    bias = numbers.integers(-(10**6), 10**6, 10)
    same(convolution("CONV2D", x.shape, weights((10, *kernel, 6)), bias, (2, *found, 10), **more), x)
    same(convolution("CONV2D", x.shape, weights((4, *kernel, 6)), bias[:1], (2, *found, 4), **more), x)
    for multiplier in (1, 2):
        same(
            convolution(
                "DEPTHWISE_CONV2D",
                x.shape,
                weights((*kernel, 6, multiplier)),
                bias[: 6 * multiplier][:1],
                (2, *found, 6 * multiplier),
                **more,
            ),
            x,
        )
    same(convolution("DEPTHWISE_CONV2D", (2, 9, 12, 1), weights((*kernel, 1, 10)), bias, (2, *found, 10), **more), x[..., :1].copy())


def test_sums_that_need_more_than_a_float32():
    x = np.full((1, 1, 2, 3000), -128, np.int8)
    weights = np.full((2, 1, 1, 3000), -127)
    weights[1, ..., 0] = 126
    same(convolution("CONV2D", x.shape, weights, [5, 2**30], (1, 1, 2, 2), zeros=(127, 0)), x)


def test_an_accumulator_that_overflows_is_refused():
    """The reference model lets it wrap; TOSA says that what follows is not defined."""
    x = np.full((1, 1, 2, 8), -128, np.int8)
    run = executor(convolution("CONV2D", x.shape, np.full((1, 1, 1, 8), -128), [MOST], (1, 1, 2, 1), zeros=(127, 0)))
    with pytest.raises(ArtifactError, match=r"CONV2D .*overflow"):
        run.run(x)


@pytest.mark.parametrize(("source", "zeros"), [(D.INT8, (0, 0)), (D.INT8, (-128, 127)), (D.INT16, (0, 0))], ids=str)
@pytest.mark.parametrize("length", [5, 300])
def test_matrix_products(source, zeros, length):
    graph = Graph()
    x = spread((2, 7, length), source)
    given = graph.input(x.shape, source)
    other = graph.add("TRANSPOSE", [given], (2, length, 7), source, [0, 2, 1])
    sink = D.INT48 if source == D.INT16 else D.INT32
    y = graph.add("MATMUL", [given, other, *(graph.const([zero], source) for zero in zeros)], (2, 7, 7), sink)
    same(graph.done(scaled(graph, y, (2, 7, 7), sink, D.INT32, 16384, 23) if source == D.INT16 else y), x)


# ---------------------------------------------------------------- what moves values


@pytest.mark.parametrize("dtype", [D.INT8, D.INT16, D.INT32], ids=str)
def test_what_moves_values(dtype):
    x = spread((2, 6, 5), dtype)

    def moved(kind, shape, *constants, attributes=(), more=0):
        graph = Graph()
        given = graph.input(x.shape, dtype)
        shapes = [graph.shape(values) if isinstance(values, tuple) else graph.const([values], dtype) for values in constants]
        assert same(graph.done(graph.add(kind, [given] * (1 + more) + shapes, shape, dtype, *attributes)), x).shape == shape

    moved("RESHAPE", (5, 12), (5, 12))
    moved("TRANSPOSE", (5, 2, 6), attributes=([2, 0, 1],))
    moved("SLICE", (1, 3, 5), (1, 2, 0), (1, 3, 5))
    moved("CONCAT", (2, 18, 5), attributes=(1,), more=2)
    moved("PAD", (2, 9, 9), (0, 0, 1, 2, 4, 0), -7)
    moved("TILE", (4, 6, 15), (2, 1, 3))
    moved("REVERSE", (2, 6, 5), attributes=(2,))
    moved("IDENTITY", (2, 6, 5))


def test_the_greatest_of_a_window():
    x = spread((1, 9, 8, 3), D.INT8)
    graph = Graph()
    given = graph.input(x.shape, D.INT8)
    same(
        graph.done(graph.add("MAX_POOL2D", [given], (1, 4, 5, 3), D.INT8, [3, 2], [2, 2], [0, 0, 1, 1], ts.NanPropagationMode.PROPAGATE)), x
    )


# ---------------------------------------------------------------- the executor


def small(output: int) -> tuple[bytes, list[str]]:
    """A graph of three operators whose output is the one of this number, and the names of what they make."""
    graph = Graph()
    x = graph.input((4, 6), D.INT8)
    wide = scaled(graph, x, (4, 6), D.INT8, D.INT32, 1518500250, 12, (5, 0))
    made = [wide, graph.add("MAXIMUM", [wide, graph.const([[-70000]], D.INT32)], (4, 6), D.INT32, ts.NanPropagationMode.PROPAGATE)]
    made.append(scaled(graph, made[1], (4, 6), D.INT32, D.INT8, 1 << 30, 52))
    return graph.done(made[output]), made


def test_intermediate_tensors_are_those_of_the_reference_model():
    x = spread((4, 6), D.INT8)
    content, names = small(2)
    found = executor(content).run(x, keep=names)
    for output, name in enumerate(names):
        wanted = reference(small(output)[0], x)
        assert found[name].dtype == wanted.dtype
        np.testing.assert_array_equal(found[name], wanted)
    with pytest.raises(ArtifactError, match="no tensor nobody"):
        executor(content).run(x, keep=["nobody"])


def test_an_executor_can_be_pickled():
    run, x = executor(small(2)[0]), spread((4, 6), D.INT8)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(run)).run(x)[run.outputs[0]], run.run(x)[run.outputs[0]])


def test_an_input_that_does_not_fit_is_refused():
    for x in (np.zeros((4, 5), np.int8), np.zeros((4, 6), np.int16)):
        with pytest.raises(ArtifactError, match=r"graph\.tosa: takes INT8 \[4, 6\]"):
            executor(small(2)[0]).run(x)


def test_a_graph_may_have_several_inputs_and_outputs():
    graph = Graph()
    x, y = graph.input((5,), D.INT32), graph.input((5,), D.INT32)
    run = executor(graph.done(graph.add("SUB", [x, y], (5,), D.INT32), graph.add("ADD", [x, y], (5,), D.INT32)))
    a, b = np.arange(5, dtype=np.int32), np.full(5, 7, np.int32)
    found = run.run(a, b)
    assert [found[name].tolist() for name in run.outputs] == [(a - b).tolist(), (a + b).tolist()]
    with pytest.raises(ArtifactError, match=r"takes INT32 \[5\], INT32 \[5\], not int32 \[5\]"):
        run.run(a)


def test_what_is_computed_of_constants_is_computed_once():
    graph = Graph()
    x = graph.input((5,), D.INT32)
    fixed = graph.add("ADD", [graph.const([3], D.INT32), graph.const([4], D.INT32)], (1,), D.INT32)
    content, values = graph.done(graph.add("SUB", [x, fixed], (5,), D.INT32)), np.arange(5, dtype=np.int32)
    same(content, values)
    assert executor(content).run(values, keep=[fixed])[fixed] == [7]


def test_an_unknown_operator_is_named():
    graph = Graph()
    x = graph.input((4,), D.INT32)
    with pytest.raises(ArtifactError, match=r"graph\.tosa: operator CLZ \(t2\) is not known"):
        executor(graph.done(graph.add("CLZ", [x], (4,), D.INT32)))


def test_a_type_or_operand_that_is_not_known_is_named():
    graph = Graph()
    with pytest.raises(ArtifactError, match="of type FP32 is not known"):
        executor(graph.done(graph.add("ABS", [graph.input((4,), D.FP32)], (4,), D.FP32)))
    graph = Graph()
    x = graph.input((256,), D.INT8)
    with pytest.raises(ArtifactError, match=r"TABLE t2: tables that are computed are not known"):
        executor(graph.done(graph.add("TABLE", [x, x], (256,), D.INT8)))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 64 + b[64:]])
def test_a_damaged_graph_is_refused(damage):
    with pytest.raises(ArtifactError, match=r"graph\.tosa: "):
        executor(damage(small(2)[0]))
