"""Symbols whose distributions are their own: coded by integers, at the length that the estimate announces."""

import decimal

import jax
import numpy as np
import pytest
from scipy import special

from mlic_jax.entropy import cumulative, rangecoder
from mlic_jax.entropy.cumulative import REACH
from mlic_jax.entropy.priors import mixture
from mlic_jax.entropy.priors.mixture import Mixture
from mlic_jax.errors import CorruptStreamError

SHAPE = (1, 5, 30, 40)


def prior(seed=0, K=3, shape=SHAPE):
    """A mixture with parameters as networks give them: multiples of 1/256."""
    rng = np.random.default_rng(seed)
    full = (*shape[:3], K, shape[3])
    parts = rng.normal(0, 2, full), np.exp(rng.uniform(-3, 4, full)), rng.normal(0, 30, full)
    return Mixture(*(np.float32(np.rint(part * 256) / 256) for part in parts))


def sample(prior, seed=1):
    rng = np.random.default_rng(seed)
    weights = special.softmax(prior.logits.astype(np.float64), axis=-2)
    chosen = (rng.random((*weights.shape[:3], 1, weights.shape[-1])) > np.cumsum(weights, -2)).sum(-2, keepdims=True)
    scales, means = (np.take_along_axis(part, np.minimum(chosen, weights.shape[-2] - 1), -2) for part in prior[1:])
    return np.rint(rng.normal(means, np.maximum(scales, 0.11)))[..., 0, :].astype(np.int64)


def written(symbols, prior):
    encoder = rangecoder.Encoder()
    cumulative.write(encoder, symbols, prior)
    return encoder.finish()


def read(data, prior, shape=SHAPE):
    decoder = rangecoder.Decoder(data)
    symbols = cumulative.read(decoder, shape, prior)
    decoder.finish()
    return symbols


def test_symbols_come_back_at_their_estimated_length():
    given = prior()
    symbols = sample(given)
    data = written(symbols, given)
    np.testing.assert_array_equal(read(data, given), symbols)
    bits = float(jax.jit(lambda x: given.bits(x).sum())(symbols.astype(np.float32)))
    assert 8 * len(data) == pytest.approx(bits, rel=1e-3, abs=64)


def test_any_symbol_can_be_coded():
    given = prior(2)
    symbols = sample(given)
    centres = np.stack([given.distributions(row).centre.reshape(SHAPE[2:]) for row in range(SHAPE[1])])[None]
    for distance in (0, 1, 2, 31, 32, REACH - 1, REACH, REACH + 1, 100 * REACH, (1 << 24) - (1 << 15)):
        for sign in (-1, 1):
            symbols.flat[sign * (distance % 997)] = centres.flat[sign * (distance % 997)] + sign * distance
    data = written(symbols, given)
    np.testing.assert_array_equal(read(data, given), symbols)
    with pytest.raises(CorruptStreamError):
        read(data, prior(3))


def test_masses_are_those_of_the_mixture():
    """And never fall, so that every decision has a probability."""
    given = prior(4, shape=(1, 1, 1, 50))
    found = given.distributions(0)
    least, most = found.ends()
    total = (most - least).astype(np.float64)
    places = np.arange(50)
    before = least
    weights = special.softmax(given.logits[0, 0, 0].astype(np.float64), axis=0)
    for offset in range(-300, 301):
        symbols = found.centre + offset
        below = found.below(symbols, places)
        assert (below > before).all()
        before = below
        parts = special.ndtr((symbols - 0.5 - given.means[0, 0, 0]) / np.maximum(given.scales[0, 0, 0], 29 / 256))
        np.testing.assert_allclose((below - least) / total, (weights * parts).sum(0), atol=7e-4)
    assert (before < most).all()


def test_masses_are_whole_numbers():
    """Python's integers, without a bound, say the same: nothing overflows, at the largest parameters that there are."""
    largest = mixture.LARGEST_OUTPUT / 256
    full = (1, 1, 1, 16, 4)
    given = Mixture(
        np.full(full, largest, np.float32),
        np.float32([0, 0.11, 300, 4 * largest]) * np.ones(full, np.float32),
        np.float32([-4 * largest, largest, 0, largest]) * np.ones(full, np.float32),
    )
    found, normal = given.distributions(0), mixture.normal().tolist()
    for place in range(4):
        for symbol in (int(found.centre[place]) + offset for offset in (-REACH, -1, 0, 1, REACH)):
            total = 0
            for k in range(16):
                weight, scale, mean = (int(a[k, place]) for a in (found.weights, found.scales, found.means))
                at = max(-(1 << 19) + 1, min((1 << 19) - 1, ((256 * symbol - 128 - mean) << 16) // scale))
                step, fraction = divmod(abs(at), 256)
                beside = normal[step] + ((normal[step + 1] - normal[step]) * fraction >> 8)
                total += weight * ((1 << 23) + (beside if at >= 0 else -beside))
            total += (symbol - int(found.centre[place])) * int(found.weight[place])
            assert found.below(np.array([symbol]), np.array([place])).tolist() == [total]
            assert abs(total) << 16 < 1 << 63


def test_tables():
    wanted = (special.ndtr(np.arange(2049) / 256) - 0.5) * 2.0**24
    assert np.abs(mixture.normal() - wanted).max() < 0.5 + 1e-6 and (np.diff(mixture.normal()) >= 0).all()
    table = mixture.exponential()
    wanted = np.exp(-np.arange(len(table) - 1) / 256) * 2.0**16
    assert np.abs(table[:-1] - wanted).max() < 0.5 + 1e-6 and table[-1] == 0
    # Of the caller's own precision nothing depends.
    before = mixture.normal().copy()
    mixture.normal.cache_clear()
    with decimal.localcontext(decimal.Context(prec=3, rounding=decimal.ROUND_UP)):
        np.testing.assert_array_equal(mixture.normal(), before)
