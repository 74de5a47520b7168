"""A model within a program of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

import mlic_jax as mlic
from mlic_jax.errors import InputError, UsageError
from mlic_jax.fileformat.artifact import Artifact


@pytest.fixture(scope="module", params=["one rate", pytest.param("every rate", marks=pytest.mark.slow)])
def model(request):
    return mlic.load(small.imported("bmshj2018-factorized")[1] if request.param == "one rate" else small.noisy(2)[1])


def quality_of(model):
    return None if model.codec.traits.default_quality is None else 30.0


def test_estimates_are_those_of_files(model):
    size = (50, 1)
    image = np.ascontiguousarray(small.photos()[0][: size[0], : size[1]])
    quality = quality_of(model)
    found = model.estimate(image[None] / np.float32(255), quality)
    wanted = model.codec.estimate(model.params, model.artifact.state, image[None], quality)
    assert sum(bits[0] for bits in found["bits"].values()) == pytest.approx(float(wanted["bits"][0]), rel=1e-4)
    shown = np.rint(np.asarray(found["reconstruction"]) * 255)
    assert found["reconstruction"].shape == (1, *size, 3) and np.abs(shown - wanted["reconstruction"]).max() <= 1
    data = model.compress(image, quality)
    assert data == mlic.compress(image, model.artifact, quality)
    assert np.abs(model.decompress(data) - shown[0]).max() <= 1


def test_gradients_within_jit_and_vmap(model):
    images = jnp.asarray(small.crops(2, 64), jnp.float32) / 255
    quality = quality_of(model)

    def loss(image):
        found = model.estimate(image[None], quality)
        return jnp.mean((found["reconstruction"] - image) ** 2) + 1e-6 * sum(b.sum() for b in found["bits"].values())

    program = jax.jit(jax.vmap(jax.value_and_grad(loss)))
    values, slopes = program(images)
    assert values.shape == (2,) and np.isfinite(slopes).all() and (np.abs(slopes).max((1, 2, 3)) > 0).all()
    # Small steps down the slope lower it, but for what rounding does to single latents.
    lower, _ = program(images - 0.5 * slopes / jnp.abs(slopes).max())
    assert lower.mean() < values.mean()


def test_the_first_use_may_stand_within_a_program():
    made = small.imported("bmshj2018-factorized")[1]
    fresh = mlic.load(Artifact(made.model, made.architecture, made.params, made.state, made.tables))
    for side in (1, 64):
        found = jax.jit(fresh.estimate)(jnp.asarray(small.crops(1, side), jnp.float32) / 255)
        assert found["reconstruction"].shape == (1, side, side, 3)


def test_both_halves_are_the_whole(model):
    image, quality = small.crops(1, 64) / np.float32(255), quality_of(model)
    shown = model.synthesize(model.analyze(image, quality), quality)
    np.testing.assert_allclose(np.clip(shown, 0, 1), model.estimate(image, quality)["reconstruction"], atol=1e-5)


def test_what_cannot_be(model):
    image = np.zeros((1, 8, 8, 3), np.float32)
    for wrong in (
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((1, 8, 8, 1), np.float32),
    ):
        with pytest.raises(InputError, match=r"float \[B, H, W, 3\] in \[0, 1\] is needed"):
            model.analyze(wrong)
    words = "one rate" if quality_of(model) is None else "a number, or one for each of 1 images"
    with pytest.raises(UsageError, match=words):
        model.analyze(image, [30.0, 40.0])


def test_a_model_without_latents():
    model = mlic.load("talebi2020")
    assert model.card and model.params
    with pytest.raises(UsageError, match="no latents with a learned prior"):
        model.analyze(np.zeros((1, 8, 8, 3), np.float32))
