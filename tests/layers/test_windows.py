"""Windows: the same result as the whole picture's, from few shapes."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from mlic_jax.layers import init, windows
from mlic_jax.layers.conv import Conv, ConvTranspose, DepthwiseConv
from mlic_jax.layers.gdn import GDN
from mlic_jax.layers.stack import LeakyReLU, Stack, relu

STACKS = {
    "down": (Stack((Conv(6, 5, 2), GDN(), Conv(6, 5, 2), relu, Conv(4, 5, 2))), 3),
    "up": (Stack((ConvTranspose(6), GDN(inverse=True), ConvTranspose(6), LeakyReLU(0.1), Conv(4, 3))), 3),
    "even": (Stack((Conv(6, 3), relu, DepthwiseConv(7), Conv(4, 1))), 3),
    "there and back": (Stack((Conv(6, 3, 2), relu, Conv(6, 3, 3), relu, ConvTranspose(4, 5, 3), ConvTranspose(4))), 3),
}


def made(name):
    """(stack, variables with noise everywhere, geometry, channels in)."""
    stack, channels = STACKS[name]
    shapes = jax.eval_shape(lambda key: stack.init(key, jnp.zeros((1, 24, 24, channels))), jax.random.key(0))
    variables = {"params": init.materialise(shapes["params"], jax.random.key(1))}
    return stack, variables, windows.geometry(stack.layers), channels


def whole(stack, variables, x):
    return np.asarray(jax.jit(stack.apply)(variables, jnp.asarray(x)))


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("cells", [(1, 1), (3, 13), (12, 45), (47, 33)], ids=str)
def test_windows_give_the_whole(name, cells):
    stack, variables, geometry, channels = made(name)
    shape = (1, *(n * geometry.cell_in for n in cells), channels)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found, wanted = stack.apply(variables, x), whole(stack, variables, x)
    assert isinstance(found, np.ndarray) and found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("name", STACKS)
def test_margin_is_as_wide_as_needed(name):
    # One cell less, and what is kept would depend on what a window does not hold.
    stack, variables, (cell_in, cell_out, margin), channels = made(name)
    size = (2 * margin + 3) * cell_in
    x = np.random.default_rng(0).normal(size=(1, size, size, channels)).astype(np.float32)
    middle = slice((margin + 1) * cell_out, (margin + 2) * cell_out)

    def changed_outside(border):
        other = 1 - x
        inner = slice(border * cell_in, size - border * cell_in)
        other[:, inner, inner] = x[:, inner, inner]
        return np.abs(whole(stack, variables, other) - whole(stack, variables, x))[:, middle, middle].max()

    assert changed_outside(1) == 0
    assert changed_outside(2) > 0


def test_pixels():
    stack, variables, _, channels = made("even")
    x = np.random.default_rng(0).integers(0, 256, (1, 30, 20, channels), np.uint8)
    wanted = whole(stack, variables, windows.to_float(jnp.asarray(x)))
    np.testing.assert_allclose(stack.apply(variables, x), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(stack.apply(variables, windows.Pixels(x)), stack.apply(variables, x))
    found = stack.clone(pixels=True).apply(variables, x)
    assert found.stored.dtype == np.uint8
    assert np.abs(found.stored - np.clip(wanted, 0, 1) * 255.0).max() <= 0.501


def test_pixels_are_floats_wherever_they_are_computed_with():
    stored = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    pixels, floats = windows.Pixels(stored), np.float32(stored) / np.float32(255)
    assert pixels.shape == (1, 2, 4, 3) and pixels.ndim == 4 and pixels.dtype == np.float32 and len(pixels) == 1
    for change in (
        lambda x: x * 2 - 1,
        lambda x: 1 - x,
        lambda x: -x,
        abs,
        np.sqrt,
        np.asarray,
        jnp.asarray,
        lambda x: jax.nn.relu(jnp.float32(x)),
        lambda x: np.concatenate([x, x], axis=-1),
        lambda x: x[:, 1:],
        lambda x: x.mean((1, 2)),
        lambda x: x.astype(np.float64),
        lambda x: x > 0.05,
    ):
        found, wanted = change(pixels), change(floats)
        assert found.dtype == wanted.dtype and not isinstance(found, windows.Pixels)
        np.testing.assert_array_equal(found, wanted)
    for back in (pixels, stored, floats, floats.astype(np.float64)):
        np.testing.assert_array_equal(windows.stored_pixels(back), stored)
    np.testing.assert_array_equal(windows.stored_pixels(np.float32([-1, 0.499, 0.502, 9])), [0, 127, 128, 255])


def assert_partition(spans, length):
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == length and all(span.start < span.stop for span in spans)


@pytest.mark.parametrize("overlap", [0, 2, 7, 8])
def test_spans_within_a_picture(overlap):
    side = 12
    for length in [*range(1, 200), 2048]:
        spans = windows.spans_within(length, side, overlap)
        assert_partition(spans, length)
        if length <= side:
            assert spans == ((0, length, 0, length),)
            continue
        # As few as can be, all of one length, and half of the overlap beyond what is kept, but at the picture's ends.
        assert len(spans) == -(-(length - overlap) // (side - overlap))
        for i, span in enumerate(spans):
            assert span.length == side and 0 <= span.origin <= length - side
            assert span.start - span.origin >= (overlap // 2 if i else 0)
            assert span.origin + side - span.stop >= (overlap // 2 if i + 1 < len(spans) else 0)


def test_the_ladder_has_few_rungs_and_wastes_little():
    found = {length: windows.ladder_span(length) for length in range(1, 1025)}
    assert all(span.origin == span.start == 0 and span.stop == length <= span.length for length, span in found.items())
    rungs = sorted({span.length for span in found.values()})
    assert rungs[:10] == [4, 8, 12, 16, 20, 24, 28, 32, 40, 48] and len(rungs) == 4 + 4 * 6
    assert all(windows.ladder_span(rung).length == rung for rung in rungs)
    assert max(span.length / length for length, span in found.items() if length > 16) <= 1.25
    assert all(rung % 2 == 0 for rung in rungs), "cells of twice the side fit"


def test_cut_and_paste_are_reverse():
    x = np.random.default_rng(0).normal(size=(2, 14, 10, 3)).astype(np.float32)
    for spans in (lambda n: windows.spans_over(n, 1, (2, 3)), lambda n: windows.spans_within(n, 4, 2)):
        result = np.full_like(x, np.nan)
        for window in windows.cover((7, 5), spans):
            part = windows.cut(x, window, 2)
            assert part.shape[1:3] == tuple(2 * span.length for span in window)
            inside = window.inside((7, 5), 2)
            outside = np.ones(part.shape[1:3], bool)
            outside[inside.top : inside.bottom, inside.left : inside.right] = False
            assert not part[:, outside].any() and part[:, ~outside].all()
            np.testing.assert_array_equal(windows.mask(jnp.asarray(part + 1), inside) != 0, part != 0)
            windows.paste(result, part, window, 2)
        np.testing.assert_array_equal(result, x)


@pytest.mark.parametrize("margin", [0, 1, 2, 5])
def test_spans_cover_everything_once(margin):
    for length in [*range(1, 200), 2048]:
        spans = windows.spans_over(length, margin)
        assert_partition(spans, length)
        for span in spans:
            assert span.length in {core + 2 * margin for core in windows.CORES}
            # The margin, except at the picture's edges.
            assert span.origin <= max(0, span.start - margin) or span.start == 0
            assert span.origin + span.length >= min(length, span.stop + margin)
            assert span.origin <= span.start
        # No cheaper way with one window more of one kind and one less of the other.
        assert sum(span.length for span in spans) <= 2 * length + 2 * windows.CORES[0] + 4 * margin


def least_cost(length, margin, cores):
    """The least total length of windows that cover, by dynamic programming over what the cores cover."""
    need = max(1, length - 2 * margin)
    cost = [0.0] + [np.inf] * need
    for covered in range(1, need + 1):
        cost[covered] = min(cost[max(0, covered - core)] + core + 2 * margin for core in cores)
    return cost[need]


@pytest.mark.parametrize("cores", [windows.CORES, (4, 8, 16, 26), (1, 2, 3)], ids=str)
@pytest.mark.parametrize("margin", [0, 1, 5])
def test_spans_of_several_lengths_cover_at_least_cost(cores, margin):
    for length in [*range(1, 120), 1024]:
        spans = windows.spans_over(length, margin, cores)
        assert_partition(spans, length)
        lengths = [span.length for span in spans]
        assert lengths == sorted(lengths, reverse=True) and set(lengths) <= {core + 2 * margin for core in cores}
        assert all(span.origin <= span.start - margin or span.start == 0 for span in spans)
        assert all(span.origin + span.length >= min(length, span.stop + margin) for span in spans)
        assert sum(lengths) == least_cost(length, margin, cores)


def test_cores_within_sides():
    layers = STACKS["down"][0].layers  # a margin of 2
    assert windows.cores_within((8, 12), layers) == (4, 8)
    assert windows.cores_within((4, 12), layers) == (1, 8), "a core is left of every side"
    assert {span.length for span in windows.spans_over(12, 2, windows.cores_within((8, 12), layers))} == {12}


def test_four_programs_at_most():
    stack, variables, geometry, channels = made("down")
    x = np.zeros((1, 100 * geometry.cell_in, 100 * geometry.cell_in, channels), np.float32)
    with toys.CompileCount() as count:
        rng = np.random.default_rng(0)
        for _ in range(40):
            height, width = rng.integers(1, 100, 2) * geometry.cell_in
            stack.apply(variables, x[:, :height, :width])
    assert count.names.count("jit(_window)") <= 4
    assert len(count.names) <= 4, "something else was compiled for a size"


def test_geometry():
    assert windows.geometry(STACKS["down"][0].layers) == (8, 1, 2)
    assert windows.geometry(STACKS["up"][0].layers)[:2] == (1, 4)
    assert windows.geometry(STACKS["there and back"][0].layers)[:2] == (6, 6)
    assert windows.geometry((relu,)) == (1, 1, 0)
    assert ConvTranspose(1).scale == Fraction(2) and Conv(1, stride=2).scale == Fraction(1, 2)
    # What a 5x5 transposed convolution of stride 2 reads for output samples 0 and 1: torch's padding of 2.
    assert ConvTranspose(1).inputs_of(0, 1) == (-1, 1)


def test_sizes_that_are_no_cells_are_refused():
    stack, variables, _, channels = made("down")
    with pytest.raises(ValueError, match="multiples of 8"):
        stack.apply(variables, np.zeros((1, 12, 8, channels), np.float32))
