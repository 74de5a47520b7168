"""Blocks: the transform that models begin with, samples moved into channels, gains, and sums of stacks in windows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import fft

from mlic_jax.layers import init, windows
from mlic_jax.layers.blocks import (
    VARIANCES,
    ConvBlock,
    Gain,
    ShiftBlock,
    block_transform,
    interpolation,
    shift,
)
from mlic_jax.layers.conv import Conv
from mlic_jax.layers.space import DepthToSpace, SpaceToDepth
from mlic_jax.layers.stack import Stack, Sum

COLOURS = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])


@pytest.mark.parametrize("side", [4, 16])
def test_block_transform_is_the_cosine_transform(side):
    basis, variances = block_transform(side, 3 * side**2)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3 * side**2), atol=1e-12)
    assert (np.diff(variances) <= 0).all() and variances[0] == max(factor for _, factor in VARIANCES)

    block = np.random.default_rng(0).normal(size=(side, side, 3))
    coefficients = fft.dctn(block @ COLOURS.T, axes=(0, 1), norm="ortho")
    v, u = np.arange(side), np.arange(side)[:, None]
    model = np.stack([factor * (1.0 + u**2 + v**2) ** -exponent for exponent, factor in VARIANCES], axis=-1)
    order = np.argsort(-model.ravel(), kind="stable")
    np.testing.assert_allclose(block.ravel() @ basis, coefficients.ravel()[order], atol=1e-12)
    np.testing.assert_allclose(variances, model.ravel()[order], rtol=1e-12)

    few, largest = block_transform(side, 7)
    np.testing.assert_array_equal(few, basis[:, :7])
    np.testing.assert_array_equal(largest, variances[:7])


def test_shift():
    x = np.random.default_rng(0).normal(size=(1, 5, 6, 16)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    found = np.asarray(shift(x))
    # Two channels each come from below, above, right, left.
    for i, (row, column) in enumerate(((2, 1), (0, 1), (1, 2), (1, 0))):
        part = slice(2 * i, 2 * i + 2)
        np.testing.assert_array_equal(found[..., part], padded[:, row : row + 5, column : column + 6, part])
    np.testing.assert_array_equal(found[..., 8:], x[..., 8:])


def test_interpolation():
    nodes = np.float32([0, 25, 50, 75, 100])
    np.testing.assert_array_equal(interpolation(nodes, 5), np.eye(5))
    np.testing.assert_allclose(interpolation(np.float32([30]), 5), [[0, 0.8, 0.2, 0, 0]], atol=1e-6)
    everywhere = interpolation(np.linspace(0, 100, 201), 8)
    np.testing.assert_allclose(everywhere.sum(1), 1, rtol=1e-6)
    assert ((np.asarray(everywhere) > 0).sum(1) <= 2).all()


def test_gain():
    logs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    variables = {"params": {"log": logs}}
    x = np.random.default_rng(1).normal(size=(4, 2, 2, 3)).astype(np.float32)
    # Each example has its own quality: three nodes, and the middle of two.
    found = Gain(5).apply(variables, x, jnp.float32([0, 50, 100, 37.5]))
    gains = np.exp([logs[0], logs[2], logs[4], (logs[1] + logs[2]) / 2])
    np.testing.assert_allclose(found, x * gains[:, None, None], rtol=1e-6)
    assert Gain(5, init.constant(0.0)).conditional


def branches(*layers):
    return Sum(tuple(Stack(branch) for branch in layers))


dense = functools.partial(Conv, kernel=1, gain=1.0)
conv3 = functools.partial(Conv, kernel=3, gain=1.0)
STACKS = {
    "analysis": Stack(
        (
            branches(
                (SpaceToDepth(4), dense(5, use_bias=False)),
                (
                    SpaceToDepth(2), conv3(8), ShiftBlock(), Gain(3), SpaceToDepth(2), dense(8), ConvBlock(),
                    ShiftBlock(), dense(5),
                ),
            ),
            Gain(3),
        ),
        cores=(2, 5),
    ),
    "synthesis": Stack(
        (
            Gain(3),
            branches(
                (dense(48, use_bias=False), DepthToSpace(4)),
                (
                    dense(8), ConvBlock(), ShiftBlock(), dense(32), DepthToSpace(2), Gain(3), ShiftBlock(), conv3(12),
                    DepthToSpace(2),
                ),
            ),
        ),
        cores=(2, 5),
    ),
}  # fmt: skip
CHANNELS = {"analysis": 3, "synthesis": 5}


def made(name):
    """(stack, variables with noise everywhere)."""
    stack = STACKS[name]
    x = jnp.zeros((1, 8, 8, CHANNELS[name]))
    shapes = jax.eval_shape(lambda key: stack.init(key, x, jnp.zeros(1)), jax.random.key(0))
    rng = np.random.default_rng(2)
    params = init.materialise(shapes["params"], jax.random.key(1))
    return stack, {"params": jax.tree.map(lambda a: a + rng.normal(0, 0.1, a.shape).astype(np.float32), params)}


@pytest.mark.parametrize("name", STACKS)
def test_sums_in_windows_are_those_of_the_whole(name):
    stack, variables = made(name)
    cell, _, margin = windows.geometry(stack.layers)
    # The branch with kernels decides: two layers at 1/2 need one cell around, two at 1/4 one each.
    assert (cell, margin) == ((4, 3) if name == "analysis" else (1, 3))
    quality = np.float32([37.0])
    whole = jax.jit(stack.apply)
    for cells in ((1, 2), (23, 16)):
        shape = (1, *(n * cell for n in cells), CHANNELS[name])
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        wanted = np.asarray(whole(variables, jnp.asarray(x), quality))
        found = stack.apply(variables, x, quality)
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    assert len(windows.spans_over(23, margin, stack.cores)) > 2
    other = stack.apply(variables, x, np.float32([70.0]))
    assert np.abs(other - found).max() > 0.01 * np.abs(found).max(), "the quality does not reach the windows"


@pytest.mark.parametrize("name", STACKS)
def test_margin_of_a_sum_is_as_wide_as_needed(name):
    # One cell less, and what is kept would depend on what a window does not hold.
    stack, variables = made(name)
    cell, cell_out, margin = windows.geometry(stack.layers)
    size = (2 * margin + 3) * cell
    x = np.random.default_rng(0).normal(size=(1, size, size, CHANNELS[name])).astype(np.float32)
    middle = slice((margin + 1) * cell_out, (margin + 2) * cell_out)
    whole = jax.jit(lambda x: stack.apply(variables, x, jnp.float32([50]))[:, middle, middle])

    def changed_outside(border):
        other = 9 - x
        inner = slice(border * cell, size - border * cell)
        other[:, inner, inner] = x[:, inner, inner]
        return np.abs(whole(other) - whole(x)).max()

    assert changed_outside(1) == 0
    assert changed_outside(2) > 0


@pytest.mark.parametrize("block", [ShiftBlock(), ConvBlock()], ids=lambda b: type(b).__name__)
def test_precision_of_computation(block):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 16)), jnp.float32)
    shapes = jax.eval_shape(lambda key: block.init(key, x), jax.random.key(0))
    params = init.materialise(shapes["params"], jax.random.key(1))
    half = block.clone(dtype=jnp.bfloat16)
    exact, found = block.apply({"params": params}, x), half.apply({"params": params}, x)
    assert exact.dtype == jnp.float32 and found.shape == exact.shape
    np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=0.05 * np.abs(exact).max())
    assert all(array.dtype == np.float32 for array in jax.tree.leaves(params))
