"""The models agree with CompressAI: latents, likelihoods, reconstructions, numbers of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from mlic_jax import zoo
from mlic_jax.entropy import coders
from mlic_jax.fileformat.artifact import flatten
from mlic_jax.interop.compressai import from_compressai
from mlic_jax.layers.windows import to_float

TOLERANCE = 1e-5


class Likelihoods(small.Likelihoods, coders.Estimating):
    pass


@pytest.mark.parametrize("name", small.NAMES)
def test_same_numbers(name):
    reference = small.fixture(name)
    params, state = from_compressai(name, small.fixture_weights(name))
    image = to_float(jnp.asarray(reference["image"][None]))
    reconstruction, coder = small.MODULES[name].apply({"params": params, "state": state}, image, Likelihoods)
    assert set(coder.likelihoods) == {key.removeprefix("out/lik_") for key in reference if key.startswith("out/lik_")}
    np.testing.assert_allclose(small.to_torch(coder.latents["y"]), reference["out/y"], rtol=0, atol=TOLERANCE)
    for key, value in coder.likelihoods.items():
        np.testing.assert_allclose(small.to_torch(value), reference[f"out/lik_{key}"], rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(small.to_torch(reconstruction), reference["out/x_hat"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", small.NAMES)
def test_same_picture_from_a_stream(name):
    # Other bytes, the same symbols: both round y - mean, so both decoders must end at the same picture.
    reference = small.fixture(name)
    codec, artifact = small.imported(name)
    chunks = codec.compress(artifact, reference["image"], None)
    decoded = codec.decompress(artifact, chunks, reference["image"].shape[:2])
    theirs = np.rint(np.clip(reference["out/decoded"][0].transpose(1, 2, 0), 0, 1) * 255)
    assert np.abs(decoded - theirs).max() <= 1
    assert len(chunks[0]) <= sum(len(a) for key, a in reference.items() if key.startswith("string/"))


# Trainable parameters of CompressAI's models with (N, M), as its `net.parameters()` counts them.
COUNTS = {
    ("bmshj2018-factorized", 128, 192): 2_998_147,
    ("bmshj2018-factorized", 192, 320): 7_030_531,
    ("bmshj2018-hyperprior", 128, 192): 5_075_843,
    ("bmshj2018-hyperprior", 192, 320): 11_816_323,
    ("mbt2018-mean", 128, 192): 7_028_003,
    ("mbt2018-mean", 192, 320): 17_561_699,
}


def count(name, N, M):
    """Ours, and the three quantiles a channel that CompressAI learns where we search."""
    codec = zoo.make(name, N=N, M=M)
    params = codec.init(jax.random.key(0), (64, 64, 3))[0]
    (prior,) = (params[key] for key in params if key.startswith("prior_"))
    return sum(array.size for array in flatten(params).values()) + 3 * len(prior["matrix_0"])


@pytest.mark.parametrize("name", small.NAMES)
def test_parameter_counts_of_the_fixtures(name):
    derived = ("_offset", "_quantized_cdf", "_cdf_length", "target", "scale_table")
    learned = [a.size for key, a in small.fixture_weights(name).items() if not key.endswith(derived)]
    assert count(name, **small.WIDTHS) == sum(learned)


@pytest.mark.parametrize(("name", "N", "M"), COUNTS)
def test_parameter_counts_of_published_widths(name, N, M):
    assert count(name, N, M) == COUNTS[name, N, M]
