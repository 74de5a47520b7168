"""Recurrent cells against loops from their equations; a convolution of small images against one of large ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlic_jax.layers import init, recurrent
from mlic_jax.layers.conv import conv, conv_or_product


def made(cell, x, seed=0):
    """Parameters of a cell with noise on its biases."""
    state = cell.start(x.shape[0], x.shape[1] // cell.stride, x.shape[2] // cell.stride)
    boxed = jax.eval_shape(cell.init, jax.random.key(0), state, x)["params"]
    rng = np.random.default_rng(seed)
    params = init.materialise(boxed, jax.random.key(seed))
    return jax.tree.map(lambda a: (a + 0.1 * rng.normal(size=a.shape)).astype(np.float32), params), state


def noise(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def convolved(x, kernel, stride=1, bias=0.0):
    """By the definition, one output sample after the other."""
    size, pad = kernel.shape[0], kernel.shape[0] // 2
    padded = np.pad(x.astype(float), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = (range(0, side, stride) for side in x.shape[1:3])
    found = [[np.einsum("bijc,ijcf->bf", padded[:, i : i + size, j : j + size], kernel) for j in columns] for i in rows]
    return np.array(found).transpose(2, 0, 1, 3) + bias


@pytest.mark.parametrize("size, stride, side", [(3, 1, 2), (3, 2, 6), (3, 2, 5), (1, 1, 4), (3, 1, 18)])
def test_convolutions_of_every_size_are_one(size, stride, side):
    x, kernel = noise(2, side, side, 3), noise(size, size, 3, 4, seed=2)
    found = conv_or_product(x, kernel, stride)
    np.testing.assert_allclose(found, convolved(x, kernel, stride), atol=1e-4)

    def loss(function):
        return lambda x, kernel: jnp.sum(jnp.sin(function(x, kernel)))

    mine = jax.grad(loss(lambda x, k: conv_or_product(x, k, stride)), (0, 1))(x, kernel)
    other = jax.grad(loss(lambda x, k: conv(x, k, None, stride)), (0, 1))(x, kernel)
    for a, b in zip(mine, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_lstm_follows_its_equations():
    cell, x = recurrent.LSTM(2, stride=2, hidden_kernel=3), noise(1, 4, 4, 3)
    params, _ = made(cell, x)
    state = noise(1, 2, 2, 2, seed=3), noise(1, 2, 2, 2, seed=4)
    (memory, hidden), y = cell.apply({"params": params}, state, x)
    sums = convolved(x, params["input"]["kernel"], 2, params["input"]["bias"])
    sums += convolved(state[1], params["hidden"]["kernel"])
    i, f, o, j = np.split(sums, 4, -1)
    expected = sigmoid(f + 1) * state[0] + sigmoid(i) * np.tanh(j)
    np.testing.assert_allclose(memory, expected, atol=1e-5)
    np.testing.assert_allclose(hidden, sigmoid(o) * np.tanh(expected), atol=1e-5)
    np.testing.assert_array_equal(y, hidden)


@pytest.mark.parametrize("residual", [None, 0.1])
def test_gru_follows_its_equations(residual):
    cell, x = recurrent.GRU(2, hidden_kernel=3, residual=residual), noise(1, 3, 4, 3)
    params, _ = made(cell, x)
    before = noise(1, 3, 4, 2, seed=3)
    after, y = cell.apply({"params": params}, before, x)
    of_x = convolved(x, params["input"]["kernel"], 1, params["input"]["bias"])
    of_h = convolved(before, params["hidden"]["kernel"])
    z, r = sigmoid(of_x[..., :2] + of_h[..., :2]), sigmoid(of_x[..., 2:4] + of_h[..., 2:4])
    candidate = np.tanh(of_x[..., 4:6] + convolved(r * before, params["candidate"]["kernel"]))
    expected = (1 - z) * before + z * candidate
    if residual:
        expected = expected + residual * of_h[..., 4:]
    np.testing.assert_allclose(after, expected, atol=1e-5)
    np.testing.assert_allclose(y, expected + (residual * of_x[..., 6:] if residual else 0), atol=1e-5)


def test_residual_gru_without_residuals_is_the_plain_cell():
    x, before = noise(1, 4, 4, 3), noise(1, 2, 2, 4, seed=3)
    params, _ = made(recurrent.GRU(4, stride=2, residual=0.0), x)
    plain = {
        "input": {name: a[..., :12] for name, a in params["input"].items()},
        "hidden": {"kernel": params["hidden"]["kernel"][..., :8]},
        "candidate": params["candidate"],
    }
    expected = recurrent.GRU(4, stride=2).apply({"params": plain}, before, x)
    found = recurrent.GRU(4, stride=2, residual=0.0).apply({"params": params}, before, x)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_associative_lstm_follows_its_equations():
    copies, n = 3, 2
    cell, x = recurrent.AssociativeLSTM(2 * n, copies=copies), noise(1, 2, 3, 3)
    params, _ = made(cell, x)
    before = noise(1, 2, 3, copies, n, seed=3), noise(1, 2, 3, copies, n, seed=4), noise(1, 2, 3, 2 * n, seed=5)
    (real, imaginary, hidden), y = cell.apply({"params": params}, before, x)
    sums = convolved(x, params["input"]["kernel"], 1, params["input"]["bias"])
    sums += convolved(before[2], params["hidden"]["kernel"])
    order = recurrent.permutations(copies, n)
    for row, column in np.ndindex(2, 3):
        f, i, o, *parts = np.split(sums[0, row, column], 9)
        f, i, o = sigmoid(f + 1), sigmoid(i), sigmoid(o)
        j, key_in, key_out = (_bounded(parts[k] + 1j * parts[k + 1]) for k in (0, 2, 4))
        read = np.zeros(n, complex)
        for k in range(copies):
            memory = before[0][0, row, column, k] + 1j * before[1][0, row, column, k]
            memory = f * memory + key_in[order[k]] * i * j
            np.testing.assert_allclose(real[0, row, column, k], memory.real, atol=1e-5)
            np.testing.assert_allclose(imaginary[0, row, column, k], memory.imag, atol=1e-5)
            read += key_out[order[k]] * memory / copies
        read = o * _bounded(read)
        np.testing.assert_allclose(hidden[0, row, column], np.concatenate([read.real, read.imag]), atol=1e-5)
    np.testing.assert_array_equal(y, hidden)


def _bounded(z):
    return z / np.maximum(1, np.abs(z))


def test_bounds_and_permutations():
    z = np.array([0, 0.3 + 0.4j, 3 + 4j, -1e3])
    found = np.array(recurrent.bound(jnp.asarray(z.real, jnp.float32), jnp.asarray(z.imag, jnp.float32)))
    np.testing.assert_allclose(found[0] + 1j * found[1], [0, 0.3 + 0.4j, 0.6 + 0.8j, -1], atol=1e-6)
    gradient = jax.grad(lambda x: recurrent.bound(x, jnp.zeros(()))[0])(0.0)
    assert gradient == 1
    order = recurrent.permutations(3, 50)
    assert (np.sort(order, 1) == np.arange(50)).all() and len({tuple(one) for one in order}) == 3
    # Files depend on it: it must be the same in every version.
    assert recurrent.permutations(2, 6).tolist() == [[4, 2, 1, 5, 0, 3], [1, 3, 5, 0, 4, 2]]
