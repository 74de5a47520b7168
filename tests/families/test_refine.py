"""Refinement: never worse, as a rule better, every place of a large picture once, and files like any other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from mlic_jax import api
from mlic_jax.entropy import coders
from mlic_jax.entropy.priors.gaussian import Gaussian
from mlic_jax.entropy.rounding import Rounding
from mlic_jax.errors import UsageError
from mlic_jax.families import latent, latent_coding, refine

SIZE = (64, 128)
WEIGHT = 0.002
# Of the codec below: 64 samples of a channel err by 255/32 for each step of a mean; there are three channels.
CURVATURE = WEIGHT * 64 * (255 / 32) ** 2 / 3


def image():
    return np.ascontiguousarray(small.photos()[1][: SIZE[0], : SIZE[1]])


class Means(latent.LatentModel):
    """The means of 8x8 blocks, with a step of 1/32, and one prior for all: what compiles in no time."""

    stride = 64
    refined = Rounding({"y": CURVATURE}, CURVATURE)

    def analyze(self, image):
        blocks = image.reshape(1, image.shape[1] // 8, 8, image.shape[2] // 8, 8, 3).mean((2, 4))
        return {"y": 32 * blocks}

    def transmit(self, code):
        return code("y", Gaussian(jnp.full((1, 1, 1, 3), 3.0), 16.0))

    def synthesize(self, received):
        return jnp.repeat(jnp.repeat(received / 32, 8, axis=1), 8, axis=2)


class Astray(Means):
    """Takes steps that are a hundred thousand times too long."""

    refined = Rounding({"y": CURVATURE}, 1e-5 * CURVATURE)


def means(off=0.0):
    found = jax.device_get(Means().apply({}, jnp.asarray(image()[None] / np.float32(255)), method="analyze"))
    return {"y": found["y"] + np.float32(off)}


def cost(latents, module=None, params=None, quality=None, weight=WEIGHT):
    """Bits + weight * squared error, computed apart from the descent."""
    module, variables, more = module or Means(), {"params": params or {}}, () if quality is None else (quality,)
    coder = coders.Estimating({k: jnp.asarray(v) for k, v in latents.items()}, quality, module.refined)
    received = module.apply(variables, coder, method="transmit")
    found = np.asarray(module.apply(variables, received, *more, method="synthesize"), np.float64)
    error = np.square(255 * found - image()[None]).sum() / 3
    return float(sum(bits.sum() for bits in coder.bits.values())) + weight * error


def refined(latents, steps, module=None):
    return refine.refine(module or Means(), {"params": {}}, image()[None], latents, None, WEIGHT, steps)


def test_latents_get_better_and_always_the_same():
    latents = means(off=4.5)
    before = latents["y"].copy()
    found, again, few = refined(latents, 40), refined(latents, 40), refined(latents, 4)
    assert found.keys() == {"y"} and isinstance(found["y"], np.ndarray) and found["y"].dtype == np.float32
    np.testing.assert_array_equal(latents["y"], before)
    np.testing.assert_array_equal(found["y"], again["y"])
    # Synthesis is linear, and each step goes a part of the way: it ends where analysis would have begun.
    assert cost(found) < cost(few) < cost(latents)
    assert cost(found) - cost(means()) < 0.01 * (cost(latents) - cost(means()))


class Brighter(Means):
    """Latents beyond white are the likely ones: 32 is white, 38 the mean."""

    def transmit(self, code):
        return code("y", Gaussian(jnp.full((1, 1, 1, 3), 1.5), 38.0))


def test_what_is_beyond_white_costs_nothing():
    found = {}
    for value in (240, 255):
        grey = np.full((1, *SIZE, 3), value, np.uint8)
        latents = jax.device_get(Brighter().apply({}, jnp.asarray(grey / np.float32(255)), method="analyze"))
        found[value] = refine.refine(Brighter(), {"params": {}}, grey, latents, None, WEIGHT, 40)["y"]
    # A grey that errors keep from the mean, and a white that nothing keeps.
    assert found[240].max() < 31 and found[255].min() > 32.9


def test_latents_never_get_worse():
    latents = means()
    np.testing.assert_array_equal(refined(latents, 3, Astray())["y"], latents["y"])


def test_tiles_are_as_few_as_can_be():
    assert [len(refine._tiles(side // 64, 64)) for side in (768, 832, 1408, 1472)] == [1, 2, 2, 3]


def test_tiles_are_put_together_again(monkeypatch):
    shapes = []

    def descend(module, params, part, begin, *rest):
        shapes.append(part.shape)
        # What a tile sees of latents is what stands at its place in the picture.
        for name, scale in (("a", 16), ("b", 64)):
            np.testing.assert_array_equal(begin[name][..., 0], part[:, ::scale, ::scale, 0])
        return {name: value + 1 for name, value in begin.items()}

    monkeypatch.setattr(refine, "_descend", descend)
    monkeypatch.setattr(refine, "TILE", 256)
    picture = np.random.default_rng(0).integers(0, 256, (1, 448, 640, 3), np.uint8)
    latents = {name: picture[:, ::scale, ::scale, :1].astype(np.float32) for name, scale in (("a", 16), ("b", 64))}
    found = refine.refine(None, {"params": {}}, picture, latents, None, 1.0, 1)
    assert len(shapes) == 12 and set(shapes) == {(1, 256, 256, 3)}
    for name, value in found.items():
        np.testing.assert_array_equal(value, latents[name] + 1)


def test_files_of_every_effort(monkeypatch):
    monkeypatch.setattr(refine, "STEPS", (2,) * len(refine.STEPS))
    module, artifact = small.of_every_rate(2), small.noisy(2)[1]
    found = {}
    for effort in (0, 1, 9):
        data = api.compress(image(), artifact, 40, effort=effort)
        found[effort] = data
        decoded = api.decompress(data, artifact)
        weight = float(np.exp(np.interp(40, [0, 100], np.log([0.001, 0.08]))))
        _, received = latent_coding.encode(module, artifact, image(), 40.0, effort, weight)
        np.testing.assert_array_equal(latent_coding.reconstruct(module, artifact, received, SIZE, 40.0), decoded)
    assert found[0] != found[1] == found[9]
    quality = np.float32([40])
    begin = module.apply(artifact.variables, image()[None], quality, method="analyze")
    better = refine.refine(module, artifact.variables, image()[None], begin, quality, weight, 2)
    before, after = (cost(latents, module, artifact.params, quality, weight) for latents in (begin, better))
    assert after < before
    # Sides that are no multiples of the stride: what is refined is the padded picture, of the same shape here.
    data = api.compress(image()[:50, :99], artifact, 40, effort=2)
    assert api.decompress(data, artifact).shape == (50, 99, 3)


def test_an_effort_that_makes_it_worse_is_not_taken(monkeypatch):
    artifact = small.noisy(2)[1]
    monkeypatch.setattr(
        refine, "refine", lambda module, variables, image, latents, *_: {k: 3 * v for k, v in latents.items()}
    )
    assert api.compress(image(), artifact, 40, effort=3) == api.compress(image(), artifact, 40)


def test_efforts_that_are_refused():
    artifact = small.imported("bmshj2018-hyperprior")[1]
    with pytest.raises(UsageError, match="bmshj2018-hyperprior has no effort but 0"):
        api.compress(image(), artifact, effort=2)
    for effort in (-1, 10, 1.5, "high", None):
        with pytest.raises(UsageError, match="a whole number from 0 to 9"):
            api.compress(image(), artifact, effort=effort)
