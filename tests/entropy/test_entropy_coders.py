"""The coders: what each makes of a latent, with one coding order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlic_jax.entropy import coders, exporting, rangecoder
from mlic_jax.entropy.priors.gaussian import Gaussian, LogGaussian, LogMixture, scale_tables
from mlic_jax.entropy.rounding import Rounding
from mlic_jax.errors import CorruptStreamError, ModelError

SHAPE = (4, 3, 5, 2)
LATENT = np.random.default_rng(0).normal(0, 3, SHAPE).astype(np.float32)
MEAN, SCALE = np.full(SHAPE, 0.3, np.float32), np.full(SHAPE, 2.0, np.float32)
# Soft rounding is no identity downstream: tests/entropy/priors/test_adapters.py.
PLAIN = [proxy for proxy in coders.PROXIES if proxy != "soft"]
MODELS = {"gaussian": rangecoder.Models(scale_tables())}


def keys(*numbers):
    return jax.vmap(jax.random.key)(jnp.array(numbers))


def train(latent, proxy, examples=(0, 1, 2, 3)):
    coder = coders.Training({"y": latent}, keys(*examples), proxy)
    prior = Gaussian(jnp.asarray(SCALE[: len(latent)]), jnp.asarray(MEAN[: len(latent)]))
    return coder("y", prior), coder


def rounded(latent):
    return np.rint(latent - MEAN) + MEAN


def bits_at(value):
    return np.asarray(Gaussian(SCALE, MEAN).bits(value)).reshape(len(value), -1).sum(-1)


def test_noise_is_uniform_and_of_its_own_for_each_latent_and_example():
    latent = np.zeros((4, 32, 32, 8), np.float32)
    coder = coders.Training({"a": latent, "b": latent}, keys(0, 1, 2, 0), "noise")
    prior = Gaussian(jnp.ones(latent.shape))
    a, b = np.asarray(coder("a", prior)), np.asarray(coder("b", prior))
    for noise in (a, b):
        assert noise.min() >= -0.5 and noise.max() <= 0.5 and abs(noise.mean()) < 0.01
        assert noise.std() == pytest.approx(12**-0.5, abs=0.005)
        np.testing.assert_array_equal(noise[0], noise[3])  # the same key
        assert np.abs(np.corrcoef(noise[:3].reshape(3, -1)) - np.eye(3)).max() < 0.05
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05


def test_noise_does_not_depend_on_the_other_examples():
    whole, coder = train(LATENT, "noise")
    for choice in ([2], [3, 1]):
        part, found = train(LATENT[choice], "noise", choice)
        np.testing.assert_array_equal(part, np.asarray(whole)[choice])
        np.testing.assert_allclose(found.bits["y"], np.asarray(coder.bits["y"])[choice], rtol=1e-6)


@pytest.mark.parametrize("proxy", PLAIN)
def test_proxies(proxy):
    received, coder = train(LATENT, proxy)
    noisy, _ = train(LATENT, "noise")
    np.testing.assert_allclose(received, noisy if proxy == "noise" else rounded(LATENT), atol=1e-6)
    at = rounded(LATENT) if proxy in ("ste", "split") else noisy
    np.testing.assert_allclose(coder.bits["y"], bits_at(at), rtol=1e-5)


@pytest.mark.parametrize("proxy", PLAIN)
def test_gradients_of_proxies(proxy):
    weights = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    received, _ = train(LATENT, proxy)
    noisy, _ = train(LATENT, "noise")

    # Downstream, all are the identity.
    downstream = jax.grad(lambda latent: (train(latent, proxy)[0] * weights).sum())(LATENT)
    np.testing.assert_allclose(downstream, weights, rtol=1e-6)
    # The rate's gradient is that of -log2 P where the rate is taken.
    rate = jax.grad(lambda latent: train(latent, proxy)[1].bits["y"].sum())(LATENT)
    at = received if proxy == "ste" else noisy
    np.testing.assert_allclose(rate, jax.grad(lambda x: Gaussian(SCALE, MEAN).bits(x).sum())(at), rtol=1e-4, atol=1e-6)


def test_scales_learn_from_rounded_latents_and_means_from_noise():
    def bits(scale, mean):
        coder = coders.Training({"y": LATENT}, keys(0, 1, 2, 3), "split")
        coder("y", Gaussian(scale, mean))
        return coder.bits["y"].sum()

    def at(value):
        return lambda scale, mean: Gaussian(scale, mean).bits(value).sum()

    noisy, _ = train(LATENT, "noise")
    point = jnp.asarray(SCALE), jnp.asarray(MEAN)
    of_scale, of_mean = jax.grad(bits, (0, 1))(*point)
    np.testing.assert_allclose(of_scale, jax.grad(at(rounded(LATENT)), 0)(*point), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_mean, jax.grad(at(noisy), 1)(*point), rtol=1e-4, atol=1e-6)


def test_training_can_round_as_the_encoder_does():
    prior = LogMixture(jnp.zeros(SHAPE), jnp.asarray(MEAN))

    def received(latent):
        coder = coders.Training({"y": latent}, keys(0, 1, 2, 3), "split", rounding=Rounding({"y": 4.0}))
        value = coder("y", prior)
        return value.sum(), (value, coder.bits["y"])

    slope, (value, bits) = jax.grad(received, has_aux=True)(jnp.asarray(LATENT))
    assert not slope.any()
    models = {"log_gaussian": rangecoder.Models(prior.tabulate())}
    encoder = coders.Encoding({"y": LATENT[:1]}, models, None, Rounding({"y": 4.0}))
    one = LogMixture(np.zeros((1, *SHAPE[1:]), np.float32), MEAN[:1])
    np.testing.assert_allclose(encoder("y", one), value[:1], atol=1e-6)
    assert np.abs(value[:1] - rounded(LATENT)[:1]).max() > 0.9  # or nothing was rounded for rate
    np.testing.assert_allclose(bits, coders.per_example_sum(prior.bits(value)), rtol=1e-5)


def test_rounding_reaches_the_mean():
    # Straight-through rounding of y - mean, plus mean: the mean gets no gradient through the reconstruction.
    def received(mean):
        coder = coders.Training({"y": LATENT}, keys(0, 1, 2, 3), "ste")
        return coder("y", Gaussian(jnp.asarray(SCALE), mean)).sum()

    np.testing.assert_allclose(jax.grad(received)(jnp.asarray(MEAN)), 0, atol=1e-6)


def test_estimating():
    coder = coders.Estimating({"y": jnp.asarray(LATENT)})
    received = coder("y", Gaussian(jnp.asarray(SCALE), jnp.asarray(MEAN)))
    np.testing.assert_allclose(received, rounded(LATENT), atol=1e-6)
    np.testing.assert_allclose(coder.bits["y"], bits_at(rounded(LATENT)), rtol=1e-5)


def test_half_precision_latents_are_counted_in_float32():
    coder = coders.Estimating({"y": jnp.asarray(LATENT, jnp.bfloat16)})
    assert coder("y", Gaussian(jnp.asarray(SCALE))).dtype == jnp.float32 == coder.bits["y"].dtype


def test_encoding_and_decoding():
    latent, prior = LATENT[:1], Gaussian(jnp.asarray(SCALE[:1]), jnp.asarray(MEAN[:1]))
    encoder = coders.Encoding({"y": latent, "x": latent}, MODELS)
    sent = [encoder("x", prior), encoder("y", prior)]
    np.testing.assert_array_equal(sent[1], coders.Estimating({"y": jnp.asarray(latent)})("y", prior))
    data = encoder.finish()
    decoder = coders.Decoding(data, {"y": latent.shape, "x": latent.shape}, MODELS)
    for name, expected in zip("xy", sent, strict=True):
        np.testing.assert_array_equal(decoder(name, prior), expected)
    decoder.finish()

    decoder = coders.Decoding(data, {"x": latent.shape}, MODELS)
    decoder("x", prior)
    with pytest.raises(CorruptStreamError):
        decoder.finish()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e7])
def test_what_a_broken_model_makes(value):
    latent = LATENT[:1].copy()
    latent[0, 1, 2, 0] = value
    with pytest.raises(ModelError, match="latent 'y'"):
        coders.Encoding({"y": latent}, MODELS)("y", Gaussian(jnp.asarray(SCALE[:1])))


def test_a_missing_table():
    prior = Gaussian(jnp.asarray(SCALE[:1]))
    for coder in (coders.Encoding({"y": LATENT[:1]}, {}), coders.Decoding(b"", {"y": (1, *SHAPE[1:])}, {})):
        with pytest.raises(ModelError, match="no table 'gaussian'"):
            coder("y", prior)


def test_tabulating():
    coder = exporting.Tabulating({"y": (1, 2, 2, 3)}, {})
    assert coder("y", Gaussian(jnp.ones((1, 2, 2, 3)))).shape == (1, 2, 2, 3)
    assert coder.tables.keys() == {"gaussian"} and coder.state == {}


def test_training_runs_under_jit():
    np.testing.assert_allclose(jax.jit(lambda latent: train(latent, "mixed")[0])(LATENT), rounded(LATENT), atol=1e-6)


# ---------------------------------------------------------------------- rounding that weighs the rate

WEIGHED = Rounding({"y": 9.0})
LOGS = np.random.default_rng(2).uniform(-2, 3, (2, 6, 7, 8)).astype(np.float32)
MEANS = np.random.default_rng(3).integers(-700, 700, LOGS.shape).astype(np.float32) / 256
SPREAD = (MEANS + np.random.default_rng(4).normal(0, 1.3, LOGS.shape) * np.exp(LOGS)).astype(np.float32)


def encoded(example, named=WEIGHED):
    """(what `Encoding` codes of one example, the stream, its prior, the models)."""
    prior = LogGaussian(LOGS[example][None], MEANS[example][None])
    models = {"log_gaussian": rangecoder.Models(prior.tabulate())}
    coder = coders.Encoding({"y": SPREAD[example][None]}, models, rounding=named)
    return coder("y", prior), coder.finish(), prior, models


def test_encoding_weighs_bits_against_errors():
    value, stream, prior, models = encoded(0)
    exact = SPREAD[:1].astype(np.float64) - MEANS[:1]
    nearest, symbols = np.rint(exact), value - MEANS[:1]
    moved = nearest - symbols
    # Never by more than one, and towards zero only.
    np.testing.assert_array_equal(moved * np.sign(nearest), (moved != 0).astype(int))
    assert 0.03 < (moved != 0).mean() < 0.5 and (moved[nearest == 0] == 0).all()

    # Brute force over both choices, as the model tells what they cost.
    choices = np.stack([nearest, nearest - np.sign(nearest)])
    bits = np.stack([np.asarray(prior.bits((choice + MEANS[:1]).astype(np.float32))) for choice in choices])
    costs = bits + WEIGHED.weights["y"] * (choices - exact) ** 2
    best = np.take_along_axis(choices, costs.argmin(0)[None], axis=0)[0]
    clear = np.abs(costs[0] - costs[1]) > 1e-3
    assert clear[nearest != 0].mean() > 0.95
    np.testing.assert_array_equal(symbols[clear], best[clear])

    # It is what the stream holds, which got shorter; and without a weight, symbols are the nearest.
    decoder = coders.Decoding(stream, {"y": symbols.shape}, models)
    np.testing.assert_array_equal(decoder("y", prior), value)
    decoder.finish()
    plain, longer, _, _ = encoded(0, named=Rounding({"x": 9.0}))
    np.testing.assert_array_equal(plain - MEANS[:1], nearest)
    assert len(stream) < len(longer)


def test_estimates_see_what_is_coded():
    coded = np.concatenate([encoded(example)[0] for example in range(2)])
    prior = LogGaussian(jnp.asarray(LOGS), jnp.asarray(MEANS))
    estimating = coders.Estimating({"y": jnp.asarray(SPREAD)}, rounding=WEIGHED)
    np.testing.assert_allclose(estimating("y", prior), coded, atol=1e-5)
    bits = np.asarray(prior.bits(coded)).reshape(2, -1).sum(1)
    np.testing.assert_allclose(estimating.bits["y"], bits, rtol=1e-5)
    # A latent that is not named is rounded to nearest.
    nearest = coders.Estimating({"y": jnp.asarray(SPREAD)}, rounding=Rounding({"x": 9.0}))("y", prior)
    np.testing.assert_allclose(nearest, np.rint(SPREAD - MEANS) + MEANS, atol=1e-5)


def test_a_weight_of_any_size_decides():
    # Errors that weigh nothing: all symbols that can save bits move. Errors that weigh all: none does.
    exact = SPREAD[:1] - MEANS[:1]
    for weight, wanted in ((0.0, np.rint(exact) - np.sign(np.rint(exact))), (1e9, np.rint(exact))):
        np.testing.assert_array_equal(encoded(0, Rounding({"y": weight}))[0] - MEANS[:1], wanted)


def test_a_weight_that_depends_on_the_quality():
    """A pair is the weight at quality 0 and 100, and on a line between them, for each example and in files."""
    quality = np.array([0.0, 75.0], np.float32)
    prior = LogGaussian(jnp.asarray(LOGS), jnp.asarray(MEANS))
    coder = coders.Estimating({"y": jnp.asarray(SPREAD)}, jnp.asarray(quality), Rounding({"y": (20.0, 4.0)}))
    found = coder("y", prior)
    for example, weight in enumerate((20.0, 8.0)):
        alike = coders.Estimating({"y": jnp.asarray(SPREAD)}, rounding=Rounding({"y": weight}))("y", prior)
        np.testing.assert_array_equal(found[example], alike[example])
        assert (found[example] != encoded(example, Rounding({"y": 12.0}))[0][0]).any()

        one = LogGaussian(LOGS[example][None], MEANS[example][None])
        models = {"log_gaussian": rangecoder.Models(one.tabulate())}
        coder = coders.Encoding({"y": SPREAD[example][None]}, models, quality[[example]], Rounding({"y": (20.0, 4.0)}))
        np.testing.assert_array_equal(coder("y", one), encoded(example, Rounding({"y": weight}))[0])
