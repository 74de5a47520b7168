"""mbt2018 with its context: CompressAI's numbers, and files that the reference decoder reads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from mlic_jax import api, reference, zoo
from mlic_jax.entropy import coders
from mlic_jax.entropy.exporting import Calibrating
from mlic_jax.families import latent_coding
from mlic_jax.fileformat.artifact import flatten, unflatten
from mlic_jax.interop.compressai import from_compressai, to_compressai
from mlic_jax.layers.windows import to_float
from mlic_jax.models import mbt2018

MODULE = mbt2018.JointPrior(N=12, M=12)


@functools.cache
def theirs():
    """(what CompressAI computed, params, state)."""
    return small.fixture("mbt2018"), *from_compressai("mbt2018", small.fixture_weights("mbt2018"))


@functools.cache
def varied():
    """(codec, artifact) of larger weights than CompressAI's fixture has: many rows, and contexts that matter."""
    codec = zoo.make("mbt2018", N=6, M=7)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    flat = flatten(params)
    for path in flat:
        if path.endswith("kernel") and not path.startswith("g_s"):
            flat[path] = flat[path] * (2 if path.startswith(("context", "entropy")) else 4)
    return codec, codec.export(unflatten(flat), state, list(small.crops(2, 64)))


class Forward(small.Likelihoods, coders.AtOnce):
    """As CompressAI's `forward`, whose context sees y rounded."""


def test_same_numbers_as_compressai():
    found, params, state = theirs()
    image = to_float(jnp.asarray(found["image"][None]))
    variables = {"params": params, "state": state}
    _, coder = MODULE.apply(variables, image, Forward)
    np.testing.assert_allclose(small.to_torch(coder.latents["y"]), found["out/y"], rtol=0, atol=1e-5)
    for name in ("y", "z"):
        np.testing.assert_allclose(
            small.to_torch(coder.likelihoods[name]), found[f"out/lik_{name}"], rtol=1e-4, atol=1e-8
        )
    shown = MODULE.apply(variables, jnp.round(coder.latents["y"]), method="synthesize")
    np.testing.assert_allclose(small.to_torch(shown), found["out/x_hat"], rtol=0, atol=1e-5)


def test_same_picture_as_their_decoder():
    # Theirs decodes pixel by pixel; rounding around means that depend on what was rounded before, in floats.
    found, params, state = theirs()
    image = to_float(jnp.asarray(found["image"][None]))
    shown, _ = MODULE.apply({"params": params, "state": state}, image, coders.Estimating)
    np.testing.assert_allclose(small.to_torch(shown).clip(0, 1), found["out/decoded"], rtol=0, atol=1e-5)


def test_integers_cost_few_bits():
    found, params, state = theirs()
    codec = zoo.make("mbt2018", N=12, M=12)
    artifact = codec.export(params, state)
    (chunk,) = codec.compress(artifact, found["image"], None)
    assert len(chunk) <= sum(found[f"string/{i}"].size for i in range(2))
    decoded = codec.decompress(artifact, (chunk,), found["image"].shape[:2]).astype(float)
    original = np.clip(found["out/decoded"][0].transpose(1, 2, 0), 0, 1) * 255
    assert ((decoded - original) ** 2).mean() < 1  # in steps of 8 bits; some symbols differ, since means do


def test_integers_hold_all_that_calibration_shows():
    # What is cut off of a mean is seen again by all entries that follow.
    _, artifact = varied()
    image = to_float(jnp.asarray(small.crops(2, 64)))
    _, coder = mbt2018.JointPrior(N=6, M=7).apply({"params": artifact.params}, image, Calibrating)
    for name in ("context_prediction", "entropy_parameters"):
        largest = coder.largest[name]["input"]
        assert (127 * 2.0 ** artifact.state[name]["input"]["step"] >= 0.999 * largest).all()


def test_weights_there_and_back():
    weights = small.fixture_weights("mbt2018")
    back = to_compressai("mbt2018", *theirs()[1:])
    for name, array in back.items():
        if not name.endswith("quantiles"):
            np.testing.assert_array_equal(array, weights[name], err_msg=name)
    assert {name for name in weights if name.startswith(("context", "entropy_p"))} <= {*back}


@pytest.mark.parametrize(("N", "M", "count"), [(192, 192, 14_130_467), (192, 320, 25_504_596)])
def test_parameter_counts(N, M, count):
    """As CompressAI's `net.parameters()` counts them, with three quantiles a channel of z."""
    shapes = latent_coding.boxed_params(mbt2018.JointPrior(N=N, M=M))
    found = sum(box.value.size if hasattr(box, "value") else box.size for box in jax.tree.leaves(shapes))
    assert found + 3 * N == count


@pytest.mark.parametrize("size", [(70, 130), (1, 1)])
def test_the_reference_decoder_reads_its_files(size):
    codec, artifact = varied()
    image = np.ascontiguousarray(small.photos()[0][: size[0], : size[1]])
    found = reference.decode(api.compress(image, artifact), artifact)
    stream = codec.compress(artifact, image, None)[0]
    received = latent_coding.receive(mbt2018.JointPrior(N=6, M=7), artifact, stream, size)
    np.testing.assert_array_equal(found["y"] + found["y_means"] / 256, received[0])
    if size != (1, 1):
        assert len(np.unique(found["y"])) > 10 and len(np.unique(found["y_rows"])) > 10
        assert len(np.unique(found["y_means"][:, 0])) > 10
