"""Products of operands rounded to bfloat16: the same function on every platform, float32 all around."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlic_jax.layers import blocks, conv, conv_forms, rounded

# kernel, stride, channels in and out, height, width: odd sizes, few channels, phases that no tap meets.
SHAPES = [
    (3, 1, 6, 5, 9, 7),
    (5, 2, 25, 4, 8, 11),
    (3, 2, 30, 3, 7, 9),
    (5, 1, 3, 40, 6, 6),
    (3, 4, 5, 4, 8, 5),
    (1, 2, 26, 5, 5, 6),
]
FUNCTIONS = {
    "conv": (conv.conv, conv_forms.conv_lax),
    "transpose": (conv.conv_transpose, conv_forms.conv_transpose_lax),
}


def random(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def through_bfloat16(x):
    return x.astype(jnp.bfloat16).astype(jnp.float32)


def value_and_gradients(function, args, rounding):
    """[y, gradients of sum(y g)], g of eighths, which bfloat16 holds."""

    def loss(*args):
        y = function(*args)
        g = np.random.default_rng(1).integers(-8, 9, y.shape) / 8
        return (y * g).sum(), y

    with rounded.operands(rounding):
        (_, y), gradients = jax.jit(jax.value_and_grad(loss, tuple(range(len(args))), has_aux=True))(*args)
    return [np.asarray(leaf) for leaf in (y, *gradients)]


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype == np.float32 and one.shape == other.shape
        assert np.abs(one - other).max() <= 3e-6 * np.abs(other).max()


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_convolution_of_rounded_operands(shape, name, large, monkeypatch):
    size, stride, channels, features, height, width = shape
    monkeypatch.setattr(rounded, "LARGE", 0 if large else 1 << 40)
    ours, plain = (functools.partial(function, stride=stride) for function in FUNCTIONS[name])
    x, kernel, bias = random((3, height, width, channels), (size, size, channels, features), (features,))
    found = value_and_gradients(lambda x, k, b: ours(x, k, b), (x, kernel, bias), True)
    exact = through_bfloat16(x), through_bfloat16(kernel), bias
    wanted = value_and_gradients(lambda x, k, b: plain(x, k) + b, exact, False)
    assert_same(found, wanted)
    assert np.abs(found[0] - value_and_gradients(lambda x, k, b: ours(x, k, b), (x, kernel, bias), False)[0]).max() > 0


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["conv", "transposed"])
def test_accelerators_compute_the_same(name, stride):
    x, kernel = (a.astype(jnp.bfloat16) for a in random((2, 6, 8, 30), (3, 3, 30, 12)))
    forms = {"cpu": getattr(rounded, f"_{name}_cpu"), "default": getattr(rounded, f"_{name}_default")}
    y = {platform: form(x, kernel, stride) for platform, form in forms.items()}
    assert_same([np.asarray(y["cpu"])], [np.asarray(y["default"])])
    g = jnp.asarray(np.random.default_rng(1).integers(-8, 9, y["cpu"].shape) / 8, jnp.bfloat16)
    pulled = [getattr(rounded, f"_{name}_vjp_{platform}")(x, kernel, g, stride) for platform in forms]
    for one, other in zip(*pulled, strict=True):  # XLA's own transposition sums in bfloat16
        assert one.dtype == other.dtype == jnp.float32 and one.shape == other.shape
        assert np.abs(np.asarray(one - other)).max() <= 0.01 * np.abs(np.asarray(other)).max()


@pytest.mark.parametrize("shape", [(7, 5, 3), (3, 5, 7), (64, 8, 48)])
def test_matrix_products(shape):
    rows, inner, columns = shape
    x, w = random((rows, inner), (inner, columns))
    found = value_and_gradients(rounded.matmul, (x, w), True)
    assert_same(found, value_and_gradients(jnp.matmul, (through_bfloat16(x), through_bfloat16(w)), False))
    other = rounded._over_rows_plain(*(a.astype(jnp.bfloat16) for a in (x, jnp.ones((rows, columns)))))
    ours = rounded._product_over_rows(*(a.astype(jnp.bfloat16) for a in (x, jnp.ones((rows, columns)))))
    assert_same([np.asarray(ours)], [np.asarray(other)])


def test_only_within_and_only_of_float32():
    (x,) = random((1, 8, 8, 16))
    block = blocks.ConvBlock()
    variables = jax.tree.map(lambda leaf: leaf + 0.01, block.init(jax.random.key(0), x))
    plain = np.asarray(block.apply(variables, x))
    with rounded.operands(True):
        assert rounded.active(x) and not rounded.active(x.astype(jnp.bfloat16))
        changed = np.asarray(block.apply(variables, x))
        with rounded.operands(False):
            np.testing.assert_array_equal(block.apply(variables, x), plain)
    assert not rounded.active(x)
    assert changed.dtype == np.float32 and 0 < np.abs(changed - plain).max() < 0.02 * np.abs(plain).max()
    np.testing.assert_array_equal(block.apply(variables, x), plain)
