"""cheng2020: CompressAI's numbers, with and without attention, and files that the reference decoder reads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from mlic_jax import api, reference, zoo
from mlic_jax.entropy import coders
from mlic_jax.errors import UsageError
from mlic_jax.families import latent_coding
from mlic_jax.fileformat.artifact import flatten, unflatten
from mlic_jax.interop.compressai import from_compressai, to_compressai
from mlic_jax.layers.windows import to_float
from mlic_jax.models import cheng2020

NAMES = ("cheng2020-anchor", "cheng2020-attn")


def module(name="cheng2020-anchor", N=12, **more):
    return cheng2020.Cheng2020(N=N, M=N, attention=name == "cheng2020-attn", **more)


@functools.cache
def varied(mixtures):
    """(module, codec, artifact) of larger weights than at the start: many rows, and contexts that matter."""
    codec = zoo.make("cheng2020-anchor", N=4, mixtures=mixtures)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    flat = flatten(params)
    for path in flat:
        if path.endswith("kernel") and not path.startswith(("g_s", "g_a")):
            flat[path] = flat[path] * (2 if path.startswith(("context", "entropy")) else 4)
    flat["g_a/layers_6/kernel"] = flat["g_a/layers_6/kernel"] * 40
    return module(N=4, mixtures=mixtures), codec, codec.export(unflatten(flat), state, list(small.crops(2, 64)))


class Forward(small.Likelihoods, coders.AtOnce):
    """As CompressAI's `forward`, whose context sees y rounded."""


@pytest.mark.parametrize("name", NAMES)
def test_same_numbers_as_compressai(name):
    found, weights = small.fixture(name), small.fixture_weights(name)
    params, state = from_compressai(name, weights)
    model, variables = module(name), {"params": params, "state": state}
    image = to_float(jnp.asarray(found["image"][None]))
    latents = jax.jit(lambda image: model.apply(variables, image, method="analyze"))(image)
    coder = Forward(latents)
    model.apply(variables, coder, method="transmit")
    np.testing.assert_allclose(small.to_torch(latents["y"]), found["out/y"], rtol=0, atol=1e-5)
    for key in ("y", "z"):
        np.testing.assert_allclose(
            small.to_torch(coder.likelihoods[key]), found[f"out/lik_{key}"], rtol=1e-4, atol=1e-7
        )
    shown = jax.jit(lambda y: model.apply(variables, y, method="synthesize"))(jnp.round(latents["y"]))
    np.testing.assert_allclose(small.to_torch(shown), found["out/x_hat"], rtol=0, atol=1e-5)
    # And back, name by name.
    for key, array in to_compressai(name, params, state).items():
        if not key.endswith("quantiles"):
            np.testing.assert_array_equal(array, weights[key], err_msg=key)


def test_its_files_are_as_theirs():
    # Theirs decodes pixel by pixel, in floats; ours in integers, so that some symbols differ.
    found = small.fixture("cheng2020-anchor")
    codec = zoo.make("cheng2020-anchor", N=12)
    artifact = codec.export(*from_compressai("cheng2020-anchor", small.fixture_weights("cheng2020-anchor")))
    (chunk,) = codec.compress(artifact, found["image"], None)
    assert len(chunk) <= sum(found[f"string/{i}"].size for i in range(2))
    decoded = codec.decompress(artifact, (chunk,), found["image"].shape[:2]).astype(float)
    original = np.clip(found["out/decoded"][0].transpose(1, 2, 0), 0, 1) * 255
    assert ((decoded - original) ** 2).mean() < 3  # of pictures between 0 and 255


# As CompressAI's `net.parameters()` counts them, with three quantiles a channel of z.
COUNTS = {"cheng2020-anchor": (11_833_149, 26_598_956), "cheng2020-attn": (13_183_293, 29_631_788)}


@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts(name):
    for N, count in zip((128, 192), COUNTS[name], strict=True):
        shapes = latent_coding.boxed_params(module(name, N))
        found = sum(box.value.size if hasattr(box, "value") else box.size for box in jax.tree.leaves(shapes))
        assert found + 3 * N == count


@pytest.mark.parametrize(("mixtures", "size"), [(1, (70, 130)), (3, (70, 60)), (3, (1, 1))])
def test_the_reference_decoder_reads_its_files(mixtures, size):
    model, codec, artifact = varied(mixtures)
    image = np.ascontiguousarray(small.photos()[0][: size[0], : size[1]])
    found = reference.decode(api.compress(image, artifact), artifact)
    received = latent_coding.receive(model, artifact, codec.compress(artifact, image, None)[0], size)
    np.testing.assert_array_equal(found["y"] + found.get("y_means", 0) / 256, received[0])
    if size != (1, 1):
        assert len(np.unique(found["y"])) > 10
    assert ("y_rows" in found) == (mixtures == 1)


def test_arguments_that_make_no_sense():
    for arguments, message in (({"N": 1}, "N=1"), ({"mixtures": 0}, "mixtures=0")):
        with pytest.raises(UsageError, match=message):
            zoo.make("cheng2020-anchor", **arguments)
