"""Briefly trained models: training works, and what the estimate says of a picture is what its file weighs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from sparing import one_of

from mlic_jax.entropy import coders
from mlic_jax.errors import InputError
from mlic_jax.fileformat.artifact import flatten
from mlic_jax.layers.windows import to_float


def windows(values):
    """Means over the first and the last twenty steps."""
    return float(values[:20].mean()), float(values[-20:].mean())


@one_of("name", "mbt2018-mean", small.NAMES)
def test_training_lowers_the_loss(name):
    metrics = dict(small.trained(name)[2])
    for path, values in flatten(metrics.pop("gradient")).items():
        assert np.isfinite(values).all() and values[0] > 0, path
    assert all(np.isfinite(values).all() for values in metrics.values())
    np.testing.assert_allclose(metrics["loss"], 0.02 * metrics["mse255"] + metrics["bpp"], rtol=1e-5)
    parts = [values for key, values in metrics.items() if key.startswith("bpp_")]
    np.testing.assert_allclose(metrics["bpp"], sum(parts), rtol=1e-5)
    # The mean of the examples' PSNR is at least the PSNR of their mean error (Jensen), and not far from it.
    of_mean = 10 * np.log10(255**2 / metrics["mse255"])
    assert (of_mean <= metrics["psnr_db"] + 1e-4).all() and (metrics["psnr_db"] <= of_mean + 6).all()
    before, after = windows(metrics["loss"])
    assert after < 0.5 * before
    before, after = windows(metrics["bpp"])
    assert after < before


class Floored(coders.Estimating):
    """Counts latents so improbable that the estimate's floor stands for them."""

    count = 0

    def _count(self, name, prior, value):
        super()._count(name, prior, value)
        self.count += (prior.bits(value) > ESCAPE_BITS).sum()


# An escape costs at least 16 bits and one of 27 lengths; the estimate says -log2 1e-9 for a latent out of all bounds.
ESCAPE_BITS = 16 + np.log2(27)
FLOOR_BITS = -np.log2(1e-9)


@one_of("name", "mbt2018-mean", small.NAMES)
def test_the_estimate_is_what_the_file_weighs(name):
    codec, artifact, _ = small.trained(name)
    module = small.MODULES[name]
    floored = jax.jit(lambda variables, image: module.apply(variables, to_float(image), Floored)[1].count)
    for photo in small.photos():
        image = np.ascontiguousarray(photo[:256, :256])
        chunks = codec.compress(artifact, image, None)
        estimate = codec.estimate(artifact.params, artifact.state, image[None])
        expected, found = float(estimate["bits"][0]) / 8, sum(map(len, chunks))
        less = int(floored(artifact.variables, image[None])) * (FLOOR_BITS - ESCAPE_BITS) / 8
        assert 0.995 * expected - less - 40 <= found <= 1.005 * expected + 40
        decoded = codec.decompress(artifact, chunks, image.shape[:2])
        assert np.abs(decoded.astype(int) - np.asarray(estimate["reconstruction"][0], int)).max() <= 1


@pytest.mark.slow
def test_ms_ssim_and_half_precision():
    arguments = {"lmbda": 20.0, "distortion": "ms-ssim", "dtype": jnp.bfloat16}
    _, params, metrics = small.train("bmshj2018-factorized", 24, patch=176, batch=1, **arguments)
    assert all(np.isfinite(values).all() for values in flatten(metrics).values())
    assert metrics["loss"].dtype == np.float32 == metrics["bpp"].dtype
    assert metrics["loss"][-6:].mean() < metrics["loss"][:6].mean()
    assert all(array.dtype == np.float32 for array in flatten(params).values())


def test_ms_ssim_of_small_crops_is_refused():
    with pytest.raises(InputError, match="161"):
        small.train("bmshj2018-factorized", 1, patch=64, batch=1, distortion="ms-ssim")
