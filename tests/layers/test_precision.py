"""Products of operands rounded to bfloat16: the same function on every platform, float32 all around."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlic_jax import zoo
from mlic_jax.layers import blocks, conv, conv_forms, in_float32, recurrent
from mlic_jax.layers import precision as rounded
from mlic_jax.layers.precision import Precision
from mlic_jax.models import bmshj2018

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


ROUNDED = Precision.BFLOAT16_OPERANDS


def value_and_gradients(function, args):
    """[y, gradients of sum(y g)], g of eighths, which bfloat16 holds."""

    def loss(*args):
        y = function(*args)
        g = np.random.default_rng(1).integers(-8, 9, y.shape) / 8
        return (y * g).sum(), y

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
    found = value_and_gradients(lambda x, k, b: ours(x, k, b, precision=ROUNDED), (x, kernel, bias))
    exact = through_bfloat16(x), through_bfloat16(kernel), bias
    wanted = value_and_gradients(lambda x, k, b: plain(x, k) + b, exact)
    assert_same(found, wanted)
    assert np.abs(found[0] - value_and_gradients(lambda x, k, b: ours(x, k, b), (x, kernel, bias))[0]).max() > 0


def test_kernels_of_even_size_round_too():
    x, kernel = random((2, 8, 12, 6), (8, 8, 6, 5))
    found = value_and_gradients(lambda x, k: conv.conv_of_blocks(x, k, 4, ROUNDED), (x, kernel))
    exact = through_bfloat16(x), through_bfloat16(kernel)
    assert_same(found, value_and_gradients(lambda x, k: conv.conv_of_blocks(x, k, 4), exact))


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
    found = value_and_gradients(rounded.matmul, (x, w))
    assert_same(found, value_and_gradients(jnp.matmul, (through_bfloat16(x), through_bfloat16(w))))
    other = rounded._over_rows_plain(*(a.astype(jnp.bfloat16) for a in (x, jnp.ones((rows, columns)))))
    ours = rounded._product_over_rows(*(a.astype(jnp.bfloat16) for a in (x, jnp.ones((rows, columns)))))
    assert_same([np.asarray(ours)], [np.asarray(other)])


LAYERS = [
    conv.Conv(6, 3), conv.Conv(6, 3, 2, padding="edge"), conv.Conv(6, 1), conv.Conv(6, 4, 2), conv.ConvTranspose(6),
    conv.Conv(6, 3, product_up_to=256), blocks.ConvBlock(), blocks.ShiftBlock(),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_layer_of_another_precision_is_another_program(layer):
    """One jitted function, traced again for each: what a context variable would have said, its cache could not see."""
    (x,) = random((1, 8, 8, 16))
    variables = layer.init(jax.random.key(0), x)
    run = jax.jit(lambda layer, variables, x: layer.apply(variables, x), static_argnums=0)
    other = layer.clone(precision=ROUNDED)
    plain, changed = np.asarray(run(layer, variables, x)), np.asarray(run(other, variables, x))
    assert changed.dtype == np.float32 and 0 < np.abs(changed - plain).max() < 0.03 * np.abs(plain).max()
    np.testing.assert_array_equal(run(layer, variables, x), plain)
    # Of bfloat16 there is nothing to round.
    half = [np.asarray(run(one.clone(dtype=jnp.bfloat16), variables, x), np.float32) for one in (layer, other)]
    np.testing.assert_array_equal(*half)


def test_cells_hand_it_to_their_convolutions():
    (x,) = random((1, 4, 4, 6))
    for cell in (recurrent.LSTM(4), recurrent.GRU(4, residual=0.1), recurrent.AssociativeLSTM(4)):
        state = jax.tree.map(lambda leaf: leaf + 0.3, cell.start(1, 4, 4))
        variables = cell.init(jax.random.key(0), state, x)
        plain, changed = (one.apply(variables, state, x)[1] for one in (cell, cell.clone(precision=ROUNDED)))
        assert 0 < np.abs(plain - changed).max() < 0.02


def test_a_model_trains_rounded_and_estimates_in_float32():
    """Within one process, which has traced the other before."""
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    batch, keys = {"image": jnp.asarray(image)}, jax.random.split(jax.random.key(0), 1)
    losses, estimates = [], []
    for precision in (None, ROUNDED, None):
        codec = zoo.make("bmshj2018-factorized", N=8, M=12, precision=precision)
        params, state = codec.init(jax.random.key(0), (64, 64, 3))
        losses.append(float(jax.jit(codec.objectives["rd"].loss)(params, state, batch, keys, 0)[0]))
        estimates.append(float(codec.estimate(params, state, image)["loss"][0]))
    assert losses[0] == losses[2] != losses[1] == pytest.approx(losses[0], rel=0.02)
    assert estimates[0] == estimates[1] == estimates[2]
    module = bmshj2018.Factorized(8, 12, dtype=jnp.bfloat16, precision=ROUNDED)
    assert in_float32(module) == bmshj2018.Factorized(8, 12)
    layer = conv.DepthwiseConv(dtype=jnp.bfloat16)
    assert in_float32(layer) == conv.DepthwiseConv()
