"""Layers that differ from others by one idea: GDN without squares, kernels by their spectra, channels apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlic_jax.entropy import ExactStack
from mlic_jax.errors import UsageError
from mlic_jax.layers import GDN, Channels, Concatenation, Conv, SpectralConv, Stack, init


@pytest.mark.parametrize("inverse", [False, True])
def test_simplified_gdn(inverse):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    layer = GDN(inverse=inverse, simplified=True)
    params = layer.init(jax.random.key(1), x)["params"]
    params = {name: value + 0.1 * jax.random.uniform(jax.random.key(2), value.shape) for name, value in params.items()}
    beta, gamma = (np.asarray(params[name], np.float64) ** 2 - 2.0**-36 for name in ("beta", "gamma"))
    norm = beta + np.einsum("bhwj,ij->bhwi", np.abs(x), gamma)
    np.testing.assert_allclose(layer.apply({"params": params}, x), x * norm if inverse else x / norm, rtol=1e-5)


def test_a_kernel_by_its_spectrum():
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 2))
    layer, plain = SpectralConv(4, kernel=5, stride=2), Conv(4, kernel=5, stride=2)
    params = layer.init(jax.random.key(1), x)["params"]
    assert params["spectrum"].shape == (2, 5, 3, 2, 4)
    spectrum = np.asarray(params["spectrum"][0] + 1j * params["spectrum"][1])
    kernel = np.fft.irfft2(spectrum, (5, 5), (0, 1), norm="ortho")
    assert np.abs(kernel).max() <= 1 / np.sqrt(50) + 1e-6  # as Conv begins
    np.testing.assert_allclose(np.fft.rfft2(kernel, axes=(0, 1)) / 5, spectrum, atol=1e-6)
    expected = plain.apply({"params": {"kernel": jnp.float32(kernel), "bias": params["bias"]}}, x)
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, atol=1e-5)
    traced = init.materialise(jax.eval_shape(layer.init, jax.random.key(1), x)["params"], jax.random.key(3))
    assert traced["spectrum"].shape == (2, 5, 3, 2, 4) and traced["spectrum"].std() > 0.01
    with pytest.raises(UsageError, match="SpectralConv"):
        ExactStack((SpectralConv(4, kernel=3),))


def test_channels_apart_and_together():
    """A picture in windows is the whole one's, beyond the margin that the widest branch needs."""
    branches = Concatenation((Stack((Channels(0, 2), Conv(3, 5))), Stack((Channels(2), Conv(1, 3)))))
    stack = Stack((branches, Conv(2, 1)), cores=(4, 14))
    x = np.random.default_rng(0).normal(size=(1, 30, 9, 3)).astype(np.float32)
    params = stack.init(jax.random.key(0), jnp.asarray(x))
    assert params["params"]["layers_0"]["branches_0"]["layers_1"]["kernel"].shape == (5, 5, 2, 3)
    np.testing.assert_allclose(stack.apply(params, x), stack.apply(params, jnp.asarray(x)), atol=1e-5)
