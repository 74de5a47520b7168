import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlic_jax.layers.bounds import lower_bound, upper_bound

# x below, on and above the bound 0.5, with incoming gradients of both signs: what must come out.
X = np.float32([0.0, 0.0, 0.5, 0.5, 1.0, 1.0])
G = np.float32([3.0, -3.0, 3.0, -3.0, 3.0, -3.0])


@pytest.mark.parametrize(
    ("function", "values", "gradients"),
    [
        (lower_bound, [0.5, 0.5, 0.5, 0.5, 1.0, 1.0], [0.0, -3.0, 3.0, -3.0, 3.0, -3.0]),
        (upper_bound, [0.0, 0.0, 0.5, 0.5, 0.5, 0.5], [3.0, -3.0, 3.0, -3.0, 3.0, 0.0]),
    ],
)
def test_values_and_gradients(function, values, gradients):
    y, pull = jax.vjp(lambda x: function(x, 0.5), X)
    np.testing.assert_array_equal(y, np.float32(values))
    np.testing.assert_array_equal(pull(G)[0], np.float32(gradients))


@pytest.mark.parametrize("function", [lower_bound, upper_bound])
def test_bound_gets_no_gradient(function):
    bound = jnp.float32([[0.2], [0.7]])
    x = jnp.linspace(0.0, 1.0, 6).reshape(2, 3)
    dx, dbound = jax.grad(lambda x, b: jnp.sum(function(x, b) ** 2), argnums=(0, 1))(x, bound)
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dbound, np.zeros((2, 1)))


def test_an_integer_bound_and_half_precision():
    x = jnp.array([-1.0, 3.0], jnp.bfloat16)
    y, dx = jax.value_and_grad(lambda x: jnp.sum(lower_bound(x, 0)))(x)
    assert (y.dtype, dx.dtype) == (jnp.bfloat16, jnp.bfloat16)
    np.testing.assert_array_equal(np.float32(dx), [0.0, 1.0])


def test_jit_and_vmap():
    both = jax.jit(jax.vmap(lambda x: upper_bound(lower_bound(x, 0.25), 0.75)))
    np.testing.assert_array_equal(both(X), np.clip(X, 0.25, 0.75))
