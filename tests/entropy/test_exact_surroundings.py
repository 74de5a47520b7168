"""Networks of the square around each position: as a loop over positions has them, in floats and in integers."""

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy import ExactSurroundings
from mlic_jax.entropy.exact_surroundings import surroundings
from mlic_jax.layers import Conv, LeakyReLU, SpaceToDepth, Stack
from mlic_jax.reference import exact as oracle

LAYERS = (
    Conv(4, 3), LeakyReLU(0.2), Conv(4, 3, 2), LeakyReLU(0.2), Conv(3, 3), LeakyReLU(0.2), SpaceToDepth(3), Conv(5, 1)
)  # fmt: skip


def test_of_a_loop_over_positions():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 2)) * 5
    network = ExactSurroundings(LAYERS, of_values=True)
    params = network.init(jax.random.key(1), x)
    found = network.apply(params, x)
    padded = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    alone = jax.jit(lambda square: Stack(LAYERS).apply(params, square))
    for b, i, j in np.ndindex(2, 3, 4):
        square = padded[b : b + 1, i : i + 5, j : j + 5]
        np.testing.assert_allclose(found[b, i, j], alone(square)[0, 0, 0], atol=1e-5)
    # A convolution of the whole would see what lies beyond.
    assert not np.allclose(found, Stack((*LAYERS[:2], Conv(5, 1))).init_with_output(jax.random.key(1), x)[0])


def test_integers_are_the_oracle_s():
    rng = np.random.default_rng(0)
    x = np.rint(rng.normal(0, 300, (1, 3, 400, 2))).astype(np.float32) / 256  # more squares than at a time
    network = ExactSurroundings(LAYERS, of_values=True, split_sums=True)
    params = jax.device_get(network.init(jax.random.key(1), x[:, :3, :3]))
    plain, largest = network.apply(params, x[:, :, :8], method="measure")
    ranges = {name: value.max(0) for name, value in largest.items()}
    state = network.apply(params, None, ranges, method="quantise")
    made = network.bind({"params": params["params"], "state": state})
    made.check(2)
    found = made.integers(x)
    part = np.rint(found[0, :, :8] * 256).astype(np.int64)
    np.testing.assert_array_equal(oracle.evaluate_around(state, np.int64(x[0, :, :10] * 1024), 5)[:, :8], part)
    np.testing.assert_array_equal(jax.jit(made.integers_whole)(x[:, :, :8])[:, :, :6], found[:, :, :6])
    assert found.shape == made.output_shape(x.shape) == (1, 3, 400, 5)
    error = np.abs(found[:, :, :6] - plain[:, :, :6])
    assert error.mean() < 0.05 * np.abs(plain).mean()
    quantised = network.apply(params, x[:, :, :8], ranges, method="quantised")
    np.testing.assert_allclose(quantised[:, :, :6], found[:, :, :6], atol=0.05)


def test_surroundings_are_the_samples_around():
    x = np.arange(12.0).reshape(1, 3, 4, 1)
    squares = surroundings(x, 3)
    np.testing.assert_array_equal(squares[5, ..., 0], [[0, 1, 2], [4, 5, 6], [8, 9, 10]])
    np.testing.assert_array_equal(squares[0, ..., 0], [[0, 0, 0], [0, 0, 1], [0, 4, 5]])
    np.testing.assert_array_equal(squares, surroundings(jnp.asarray(x), 3))
