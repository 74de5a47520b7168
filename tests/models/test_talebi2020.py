"""Talebi-style pre-editing: an editor that says nothing, the warp, and what it must not be trained with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import crops, photos

from mlic_jax import classical, zoo
from mlic_jax.fileformat.artifact import flatten
from mlic_jax.metrics import psnr
from mlic_jax.models import talebi2020

RANGE = {"low": 5, "high": 60}


def test_parameters_of_the_published_layers():
    codec = zoo.make("talebi2020", **talebi2020.PUBLISHED, low=20, high=20)
    params, _ = codec.init(jax.random.key(0), (64, 64, 3))
    assert sum(a.size for a in flatten(params).values()) == 434_371  # without the batch norms, which are left out


def test_an_editor_that_says_nothing_writes_jpegs_own_file():
    for variant in talebi2020.VARIANTS:
        codec = zoo.make("talebi2020", **talebi2020.TOY, variant=variant, **RANGE)
        artifact = codec.export(*codec.init(jax.random.key(0), (64, 64, 3)))
        image = photos()[0][:61, :83]
        for quality in (5, 20, 60):
            (data,) = codec.compress(artifact, image, quality)
            assert data == classical.get("jpeg-optimised").encode(image, quality), variant


# ---------------------------------------------------------------------- the warp


def test_no_displacement_changes_nothing_and_whole_pixels_shift():
    image = jnp.asarray(crops(2, 24) / 255.0, jnp.float32)
    np.testing.assert_allclose(talebi2020.warp(image, jnp.zeros((2, 24, 24, 2))), image, atol=1e-6)
    shifted = talebi2020.warp(image, jnp.broadcast_to(jnp.array([2.0, -1.0]), (2, 24, 24, 2)))
    np.testing.assert_allclose(shifted[:, :-2, 1:], image[:, 2:, :-1], atol=1e-6)
    np.testing.assert_allclose(shifted[:, -1, 1:], image[:, -1, :-1], atol=1e-6)  # the edge is repeated


def test_half_a_pixel_is_a_mean():
    image = jnp.asarray(crops(1, 16) / 255.0, jnp.float32)
    found = talebi2020.warp(image, jnp.full((1, 16, 16, 2), 0.5))
    mean = (image[:, :-1, :-1] + image[:, 1:, :-1] + image[:, :-1, 1:] + image[:, 1:, 1:]) / 4
    np.testing.assert_allclose(found[:, :-1, :-1], mean, atol=1e-6)


def test_the_gradient_by_the_displacement():
    image = jnp.asarray(crops(1, 16) / 255.0, jnp.float32)
    rng = np.random.default_rng(0)
    field = jnp.asarray(rng.uniform(-1.9, 1.9, (1, 16, 16, 2)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=image.shape), jnp.float32)

    def value(field):
        return jnp.sum(weights * talebi2020.warp(image, field))

    gradient = np.asarray(jax.grad(value)(field))
    checked = 0
    for place in [(0, 5, 6, 0), (0, 5, 6, 1), (0, 11, 3, 0), (0, 8, 9, 1)]:
        if abs(float(field[place]) - round(float(field[place]))) < 0.01:
            continue  # bilinear interpolation has a kink there
        step = np.zeros(field.shape, np.float32)
        step[place] = 4e-3
        difference = (value(field + step) - value(field - step)) / 8e-3
        assert gradient[place] == pytest.approx(float(difference), rel=0.02, abs=2e-3)
        checked += 1
    assert checked >= 2


def test_displacements_are_bounded_and_enlarged_between_cells():
    codec = zoo.make("talebi2020", **talebi2020.TOY, variant="warp", **RANGE)
    params, _ = codec.init(jax.random.key(0), (64, 64, 3))
    wild = jax.tree.map(lambda a: a + 10 * np.random.default_rng(0).normal(size=a.shape).astype(np.float32), params)
    net = talebi2020.Talebi2020("jpeg-optimised", 3, "warp", 4, 3, "compact", True)
    image = jnp.asarray(crops(1, 32) / 255.0, jnp.float32)
    field = net.apply({"params": wild}, image, jnp.zeros(1), method="edit")[1]
    assert 1.0 < np.abs(field).max() <= talebi2020.REACH
    large = np.asarray(talebi2020.enlarge(field))
    assert large.shape == (1, 32, 32, 2)
    # A sample between the centres of two cells, 3.5 and 11.5, has its share of both.
    middle = np.asarray(field)[0, 0, 0] * (1 - 4.5 / 8) + np.asarray(field)[0, 0, 1] * 4.5 / 8
    np.testing.assert_allclose(large[0, 0, 8], middle, atol=1e-5)
    np.testing.assert_allclose(large[0, :4, :4], np.broadcast_to(field[0, 0, 0], (4, 4, 2)), atol=1e-5)
    assert float(talebi2020.variation(jnp.ones((1, 4, 4, 2)))[0]) == 0


# ---------------------------------------------------------------------- training


def _trained(steps, size=64, rate_of=lambda quality: None, **arguments):
    codec = zoo.make("talebi2020", **{**talebi2020.TOY, "features": 16, "layers": 5, "channels": 1}, **arguments)
    params, state = codec.init(jax.random.key(0), (size, size, 3))
    images = jnp.asarray(crops(256, size))
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    def step(carry, i):
        params, moments = carry
        key = jax.random.fold_in(jax.random.key(1), i)
        chosen = jax.random.randint(key, (4,), 0, len(images))
        data = {"image": images[chosen], "position": jnp.arange(4)}
        loss = jax.value_and_grad(codec.objectives["rd"].loss, has_aux=True)
        (value, _), grads = loss(params, state, data, jax.random.split(key, 4), i)
        updates, moments = optimizer.update(grads, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    run = jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps)))
    return codec, codec.export(jax.device_get(run(params)[0][0]), {})


def _change_of_rate(codec, artifact, quality=20):
    """By how much the edited picture's file differs from JPEG's own of the same PSNR, mean of the logarithms."""
    jpeg = classical.get("jpeg-optimised")
    changes = []
    for photo in photos()[:6]:
        image = np.repeat(photo[:192, :192, 1:2], 3, -1)
        curve = []
        for q in range(8, 34, 2):
            data = jpeg.encode(image, q)
            curve.append((psnr.psnr_db(image, jpeg.decode(data)), np.log(len(data))))
        (data,) = codec.compress(artifact, image, None if artifact.architecture["low"] == quality else quality)
        reached = psnr.psnr_db(image, jpeg.decode(data))
        changes.append(np.log(len(data)) - np.interp(reached, *np.transpose(curve)))
    return np.expm1(np.mean(changes))


@pytest.mark.slow
def test_bits_fall_as_they_are_weighed_more():
    sizes = []
    for rate in (0.0, 1.0, 4.0):
        codec, artifact = _trained(40, low=20, high=20, rate=rate)
        image = np.repeat(photos()[0][:128, :128, 1:2], 3, -1)
        sizes.append(len(codec.compress(artifact, image)[0]))
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.slow
def test_noise_makes_a_good_editor_and_straight_through_rounding_a_bad_one():
    # An editor whose distortion sees the rounding learns to chase its errors.
    noise = _change_of_rate(*_trained(800, low=20, high=20, rounding="noise"))
    edit = _change_of_rate(*_trained(800, low=20, high=20, rounding="edit"))
    straight = _change_of_rate(*_trained(800, low=20, high=20, rounding="ste"))
    print(f"noise {noise:+.3f}, edit {edit:+.3f}, straight-through {straight:+.3f}")
    assert noise < -0.03 and edit < -0.03
    assert straight > noise + 0.1


@pytest.mark.slow
def test_the_trap_shows_soon():
    noise = _change_of_rate(*_trained(60, low=20, high=20, rounding="noise"))
    straight = _change_of_rate(*_trained(60, low=20, high=20, rounding="ste"))
    assert straight > noise + 0.02
