"""Initial values: real arrays from a plain `init`, boxes from a traced one, the same values with jit and without."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mlic_jax.layers
from mlic_jax.layers import GDN, BatchNorm, Conv, ConvTranspose, DepthwiseConv, Stack, init

X = np.random.default_rng(0).normal(size=(2, 8, 8, 6)).astype(np.float32)


def test_a_plain_init_gives_real_arrays():
    variables = GDN().init(jax.random.key(0), X)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(variables))
    np.testing.assert_allclose(variables["params"]["beta"], 1, atol=1e-6)
    np.testing.assert_allclose(variables["params"]["gamma"], np.sqrt(0.1) * np.eye(6), atol=1e-5)
    y = GDN().apply(variables, X)
    np.testing.assert_allclose(y, X / np.sqrt(1 + 0.1 * X**2), rtol=1e-4)


def test_values_depend_on_the_key_and_on_the_place():
    net = Stack((Conv(8, 3), ConvTranspose(8), Conv(8, 3)))
    one, other = (net.init(jax.random.key(seed), X)["params"] for seed in (0, 1))
    kernel = one["layers_0"]["kernel"]
    assert np.abs(kernel).max() <= 1 / np.sqrt(9 * 6) and np.std(kernel) > 0.5 / np.sqrt(9 * 6)
    assert (kernel != other["layers_0"]["kernel"]).any()
    assert (one["layers_1"]["bias"] != one["layers_2"]["bias"]).any()
    np.testing.assert_array_equal(kernel, net.init(jax.random.key(0), X)["params"]["layers_0"]["kernel"])
    old = net.init(jax.random.PRNGKey(0), X)["params"]["layers_0"]["kernel"]
    np.testing.assert_array_equal(kernel, old)


def test_a_jitted_init_gives_the_same_values():
    layer = DepthwiseConv()
    boxed = jax.jit(layer.init)(jax.random.key(0), X)
    plain = layer.init(jax.random.key(0), X)
    np.testing.assert_array_equal(layer.apply(boxed, X), layer.apply(plain, X))
    jax.tree.map(np.testing.assert_array_equal, nn.meta.unbox(boxed), plain)


def test_a_traced_init_is_filled_by_path():
    shapes = jax.eval_shape(Conv(8, 3).init, jax.random.key(0), X)
    assert all(isinstance(leaf, init.Fill) for leaf in shapes["params"].values())
    filled = init.materialise(shapes, jax.random.key(5))["params"]
    again = init.materialise({"params": {"kernel": shapes["params"]["kernel"]}}, jax.random.key(5))["params"]
    np.testing.assert_array_equal(filled["kernel"], again["kernel"])
    assert (filled["kernel"] != init.materialise(shapes, jax.random.key(6))["params"]["kernel"]).any()


def test_running_means_begin_as_moments_of_the_standard_normal():
    variables = BatchNorm().init(jax.random.key(0), X, False)
    np.testing.assert_array_equal(variables["state"]["mean"], np.zeros(6))
    np.testing.assert_array_equal(variables["state"]["variance"], np.ones(6))
    filled = init.materialise(jax.eval_shape(lambda k: BatchNorm().init(k, X, False), jax.random.key(0)),
                              jax.random.key(0))  # fmt: skip
    np.testing.assert_array_equal(filled["state"]["variance"], np.ones(6))
    np.testing.assert_allclose(BatchNorm().apply(variables, X, False), X, rtol=1e-4)


def test_layers_train_in_plain_flax():
    net = Stack((Conv(8, 3, 2), GDN(), ConvTranspose(6)))
    params = net.init(jax.random.key(0), X)

    @jax.jit
    def step(params):
        loss, g = jax.value_and_grad(lambda p: jnp.mean((net.apply(p, jnp.asarray(X)) - X) ** 2))(params)
        return loss, jax.tree.map(lambda a, b: a - 0.3 * b, params, g)

    losses = []
    for _ in range(20):
        loss, params = step(params)
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", mlic_jax.layers.__all__)
def test_what_is_exported_is_documented(name):
    public = getattr(mlic_jax.layers, name)
    assert name == "relu" or public.__doc__
