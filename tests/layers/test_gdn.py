import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlic_jax.layers import gdn, init

C = 5


def plain(x, beta, gamma, inverse):
    """The formula of the paper, one output channel at a time."""
    outputs = []
    for i in range(x.shape[-1]):
        norm = jnp.sqrt(beta[i] + sum(gamma[i, j] * x[..., j] ** 2 for j in range(x.shape[-1])))
        outputs.append(x[..., i] * norm if inverse else x[..., i] / norm)
    return jnp.stack(outputs, axis=-1)


def example(shape, seed=0):
    rng = np.random.default_rng(seed)
    x, g = rng.normal(size=(2, *shape)).astype(np.float32)
    beta = rng.uniform(0.5, 2, C).astype(np.float32)
    gamma = rng.uniform(0, 1, (C, C)).astype(np.float32)  # not symmetric: a transposed gamma would show
    return x, beta, gamma, g


def assert_close(ours, theirs, tolerance=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


# 2 x 16 x 16 samples run in blocks on a CPU, 7 x 3 x 5 do not.
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shape", [(2, 16, 16, C), (7, 3, 5, C)])
def test_value_and_gradients_are_those_of_the_formula(shape, inverse, monkeypatch):
    monkeypatch.setattr(gdn, "BLOCK", 128)
    x, beta, gamma, g = example(shape)

    @jax.jit
    def both(function, *args):
        y, pull = jax.vjp(function, *args)
        return y, *pull(g)

    ours = both(jax.tree_util.Partial(lambda *args: gdn.normalize(*args, inverse)), x, beta, gamma)
    theirs = both(jax.tree_util.Partial(lambda *args: plain(*args, inverse)), x, beta, gamma)
    assert_close(ours, theirs)


@pytest.mark.parametrize("inverse", [False, True])
def test_the_form_for_accelerators_is_the_same(inverse, monkeypatch):
    monkeypatch.setattr(gdn, "BLOCK", 128)
    x, beta, gamma, g = example((2, 16, 16, C))
    x, g = jnp.asarray(x).reshape(-1, C), jnp.asarray(g).reshape(-1, C)
    assert_close([gdn._blockwise(x, beta, gamma, inverse)], [gdn._plain(x, beta, gamma, inverse)])
    args = (x, beta, gamma, g, inverse)
    assert_close(gdn._blockwise_gradients(*args), gdn._plain_gradients(*args))


def make(layer, x):
    return init.materialise(jax.eval_shape(layer.init, jax.random.key(0), x), jax.random.key(0))


def test_stored_parameters_and_their_initial_values():
    variables = make(gdn.GDN(), jnp.zeros((1, 2, 2, C)))
    stored = variables["params"]
    assert stored["beta"].shape == (C,)
    assert stored["gamma"].shape == (C, C)
    # value = p^2 - 2^-36
    np.testing.assert_allclose(stored["beta"] ** 2 - 2.0**-36, np.ones(C), rtol=1e-6)
    np.testing.assert_allclose(stored["gamma"] ** 2 - 2.0**-36, 0.1 * np.eye(C), atol=1e-8)
    x = np.random.default_rng(0).normal(size=(1, 2, 2, C)).astype(np.float32)
    np.testing.assert_allclose(gdn.GDN().apply(variables, x), x / np.sqrt(1 + 0.1 * x**2), rtol=1e-5)
    np.testing.assert_allclose(gdn.GDN(inverse=True).apply(variables, x), x * np.sqrt(1 + 0.1 * x**2), rtol=1e-5)


def test_parameters_below_their_bounds_act_as_bounds():
    x = np.ones((1, 1, 1, 2), np.float32)
    variables = {"params": {"beta": np.float32([-1, 0]), "gamma": np.full((2, 2), -1, np.float32)}}
    # beta = 1e-6, gamma = 0: y = x / sqrt(1e-6).
    np.testing.assert_allclose(gdn.GDN().apply(variables, x), 1000 * x, rtol=1e-3)


def test_bfloat16_computes_in_float32():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, C)).astype(np.float32)
    variables = make(gdn.GDN(), x)
    assert variables["params"]["gamma"].dtype == np.float32
    y = gdn.GDN(dtype=jnp.bfloat16).apply(variables, jnp.asarray(x, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    exact = gdn.GDN().apply(variables, jnp.asarray(x, jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_array_equal(np.float32(y), np.float32(exact.astype(jnp.bfloat16)))


def test_gradient_of_a_gradient():
    """Gradient penalties differentiate twice."""
    x, beta, gamma, _ = example((1, 2, 2, C))

    def penalty(normalize):
        return jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(normalize(x, beta, gamma, False) ** 3))(x) ** 2))

    assert_close([penalty(gdn.normalize)(x)], [penalty(plain)(x)], 1e-4)
