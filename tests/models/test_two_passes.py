"""Checkerboard contexts, alone and in ELIC's groups: CompressAI's numbers, and files for the reference decoder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from mlic_jax import api, reference, zoo
from mlic_jax.entropy import coders, scanning
from mlic_jax.errors import UsageError
from mlic_jax.families import latent_coding
from mlic_jax.fileformat.artifact import flatten, unflatten
from mlic_jax.interop.compressai import architecture_of, from_compressai, to_compressai
from mlic_jax.layers.windows import to_float
from mlic_jax.models import checkerboard2021, elic2022

NAMES = ("cheng2020-anchor-checkerboard", "elic2022")
WIDTHS = {"N": 8, "M": 12, "C": 10, "D": 8, "groups": (4, 8)}  # of the fixtures


def module(name, **widths):
    if name == "elic2022":
        return elic2022.Elic(**widths)
    return checkerboard2021.Checkerboard2021(N=widths["N"], M=widths["N"])


@functools.cache
def varied(name):
    """(module, codec, artifact) of the fixture's weights, whose contexts matter, with larger scales."""
    params, state = from_compressai(name, small.fixture_weights(name))
    flat = flatten(params)
    for path in flat:
        if path.startswith(("parameters", "entropy")) and path.endswith("layers_4/bias"):
            flat[path] = flat[path] + np.repeat(np.float32([3, 0]), len(flat[path]) // 2)
    widths = architecture_of(name, small.fixture_weights(name))
    codec = zoo.make(name, **widths)
    return module(name, **widths), codec, codec.export(unflatten(flat), state, list(small.crops(2, 64)))


class Estimating(small.Likelihoods, coders.Estimating):
    pass


@pytest.mark.parametrize("name", NAMES)
def test_same_numbers_as_compressai(name):
    found, weights = small.fixture(name), small.fixture_weights(name)
    widths = architecture_of(name, weights)
    assert widths == (WIDTHS if name == "elic2022" else {"N": 8})
    params, state = from_compressai(name, weights)
    model, variables = module(name, **widths), {"params": params, "state": state}
    image = to_float(jnp.asarray(found["image"][None]))
    latents = jax.jit(lambda image: model.apply(variables, image, method="analyze"))(image)
    coder = Estimating(latents)
    received = model.apply(variables, coder, method="transmit")
    parts = [key for key in latents if key != "z"]
    y, likelihoods = (
        np.concatenate([small.to_torch(arrays[key]) for key in parts], axis=1)
        for arrays in (latents, coder.likelihoods)
    )
    np.testing.assert_allclose(y, found["out/y"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(likelihoods, found["out/lik_y"], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(small.to_torch(coder.likelihoods["z"]), found["out/lik_z"], rtol=1e-4, atol=1e-7)
    shown = jax.jit(lambda y: model.apply(variables, y, method="synthesize"))(received)
    np.testing.assert_allclose(small.to_torch(shown), found["out/x_hat"], rtol=0, atol=1e-5)
    # And back, name by name.
    for key, array in to_compressai(name, params, state).items():
        if not key.endswith("quantiles"):
            np.testing.assert_array_equal(array, weights[key], err_msg=key)


# As CompressAI's `net.parameters()` counts them, with three quantiles a channel of z.
COUNTS = (
    ("cheng2020-anchor-checkerboard", {"N": 128}, 11_833_149),
    ("cheng2020-anchor-checkerboard", {"N": 192}, 26_598_956),
    ("elic2022", elic2022.PAPER, 32_074_200),
)


@pytest.mark.parametrize(("name", "widths", "count"), COUNTS)
def test_parameter_counts(name, widths, count):
    shapes = latent_coding.boxed_params(module(name, **widths))
    found = sum(box.value.size if hasattr(box, "value") else box.size for box in jax.tree.leaves(shapes))
    assert found + 3 * widths["N"] == count


@pytest.mark.parametrize(("name", "size"), [*((name, (70, 130)) for name in NAMES), ("elic2022", (1, 1))])
def test_the_reference_decoder_reads_its_files(name, size, monkeypatch):
    model, codec, artifact = varied(name)
    image = np.ascontiguousarray(small.photos()[0][: size[0], : size[1]])
    stream = codec.compress(artifact, image, None)[0]
    found = reference.decode(api.compress(image, artifact), artifact)
    received = latent_coding.receive(model, artifact, stream, size)
    parts = [key.removesuffix("_rows") for key in found if key.startswith("y") and key.endswith("_rows")]
    decoded = np.concatenate([found[key] + found[f"{key}_means"] / 256 for key in parts], axis=-1)
    np.testing.assert_array_equal(decoded, received[0])
    if size != (1, 1):
        assert all(len(np.unique(found[f"{key}_rows"])) > 2 and len(np.unique(found[key])) > 5 for key in parts)
        # How many positions are coded together does not matter.
        monkeypatch.setattr(scanning, "PIECE", 64)
        assert codec.compress(artifact, image, None)[0] == stream


def test_the_context_is_zero_where_nothing_is_known():
    """The bits of black positions do not depend on the bias of the context; those of white ones do."""
    model, _, artifact = varied("cheng2020-anchor-checkerboard")
    latents = {"y": np.full((1, 4, 4, 8), 3, np.float32), "z": np.zeros((1, 1, 1, 8), np.float32)}

    def values(shift):
        class Coder(coders.Estimating):
            def _count(self, name, prior, value):
                super()._count(name, prior, value)
                self.priors = {**getattr(self, "priors", {}), name: prior}

        params = flatten(artifact.params)
        params["context_prediction/layers_0/bias"] = params["context_prediction/layers_0/bias"] + shift
        coder = Coder(latents)
        model.apply({"params": unflatten(params)}, coder, method="transmit")
        return np.asarray(coder.priors["y"].scale)[0]

    changed = (values(0.0) != values(5.0)).any(-1)
    np.testing.assert_array_equal(changed, np.indices((4, 4)).sum(0) % 2 == 1)


def test_arguments_that_make_no_sense():
    for changes, message in (({"groups": (4, 4)}, "have 8 channels"), ({"groups": 3}, "groups=3"), ({"D": 0}, "D=0")):
        with pytest.raises(UsageError, match=message):
            zoo.make("elic2022", **{**WIDTHS, **changes})
    with pytest.raises(UsageError, match="N=1"):
        zoo.make("cheng2020-anchor-checkerboard", N=1)
