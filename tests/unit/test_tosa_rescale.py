"""RESCALE in the executor gives the bits of TOSA's reference model, for all of its attributes."""

import numpy as np
import pytest
from tosa_graphs import MOST, D, Rounding, executor, refused, rescale, same, spread

from earshot.errors import ArtifactError


@pytest.mark.parametrize("mode", [Rounding.SINGLE_ROUND, Rounding.DOUBLE_ROUND], ids=str)
@pytest.mark.parametrize(
    ("source", "sink", "zeros"),
    [
        (D.INT8, D.INT8, (-5, 7)),
        (D.INT8, D.INT16, (3, 0)),
        (D.INT8, D.INT32, (-128, 0)),
        (D.INT16, D.INT8, (0, -128)),
        (D.INT16, D.INT16, (0, 0)),
        (D.INT16, D.INT32, (0, 0)),
        (D.INT32, D.INT8, (0, 127)),
        (D.INT32, D.INT16, (0, 0)),
        (D.INT32, D.INT32, (0, 0)),
    ],
    ids=str,
)
def test_rescale(source, sink, zeros, mode):
    x = spread((40, 50), source)
    widths = {D.INT8: 8, D.INT16: 16, D.INT32: 32}
    for multiplier, bits in ((1 << 30, 0), (1518500250, 0), (2**31 - 1, -1), (1103515245, 3), (3, 0), (0, 0)):
        shift = 30 + max(widths[source] - widths[sink], 0) + bits + 3 * (source == D.INT32)
        same(rescale(x.shape, source, sink, multiplier, shift, zeros, mode=mode), x)


def test_rescale_on_both_sides_of_every_step():
    """Where the product needs more than 53 bits, a float64 is right only where it was tried."""
    multiplier, shift = 1518500251, 53
    steps = [-((-(2 * level - 1) << shift - 1) // multiplier) for level in range(-128, 129)]
    x = np.array([value + near for value in steps for near in (-1, 0, 1)]).clip(-MOST - 1, MOST).astype(np.int32)
    assert len(set(same(rescale(x.shape, D.INT32, D.INT8, multiplier, shift), x).tolist())) == 256
    ties = np.arange(-1000, 1001, dtype=np.int32) << 20
    same(rescale(ties.shape, D.INT32, D.INT16, 1 << 30, 51), ties)


@pytest.mark.parametrize("sink", [D.INT8, D.INT16, D.INT32], ids=str)
def test_rescale_per_channel(sink):
    x = spread((3, 11, 6), D.INT32)
    same(rescale(x.shape, D.INT32, sink, [1 << 30, 1103515245, 2**31 - 1, 1073741825, 1 << 16, 77], [54, 55, 56, 52, 40, 33]), x)


@pytest.mark.parametrize("dtype", [D.INT8, D.INT16], ids=str)
def test_rescale_of_unsigned_numbers(dtype):
    x, zero = spread((7, 300), dtype), -128 if dtype == D.INT8 else -32768
    same(rescale(x.shape, dtype, dtype, 1 << 30, 30, (zero, 0), unsigned=(True, False)), x)
    same(rescale(x.shape, dtype, dtype, 1 << 30, 30, (0, zero), unsigned=(False, True)), x)
    same(rescale(x.shape, dtype, dtype, 1518500250, 31, unsigned=(True, False)), x)


@pytest.mark.parametrize(
    ("value", "sink", "multiplier", "shift", "zero_out"),
    [
        (500, D.INT8, 1, 9, 0),
        (-257, D.INT8, 1, 9, 0),
        (1 << 29, D.INT32, 1 << 30, 27, 0),
        (-1 << 29, D.INT32, 1 << 30, 27, 0),
        (MOST, D.INT8, 2**31 - 1, 31, 9),
    ],
)
def test_rescale_beyond_32_bits_is_refused(value, sink, multiplier, shift, zero_out):
    content = rescale((2,), D.INT32, sink, multiplier, shift, zeros=(0, zero_out))
    same(content, np.array([3, -3], np.int32))
    refused(content, np.array([3, value], np.int32))


@pytest.mark.parametrize(("multiplier", "shift"), [(-5, 10), (1, 1), (1, 63)])
def test_a_scale_that_is_not_defined_is_refused(multiplier, shift):
    refused(rescale((1,), D.INT32, D.INT8, multiplier, shift), np.array([3], np.int32))


def test_rounding_that_the_specification_leaves_open_is_refused():
    with pytest.raises(ArtifactError, match=r"RESCALE t6: attribute RoundingMode \(INEXACT_ROUND\) is not known"):
        executor(rescale((4,), D.INT32, D.INT8, 1 << 30, 34, mode=Rounding.INEXACT_ROUND))
