"""Bytes are as long as the prior says, and come back as what the encoder meant."""

import numpy as np
import pytest

from mlic_jax import toy
from mlic_jax.errors import CorruptStreamError, UsageError
from mlic_jax.toy import coding

N = 10_000


@pytest.fixture(scope="module")
def trained():
    """Hardly: what is tested here holds for any prior."""
    return toy.ntc("banana", 1.0, steps=60, batch=128, hidden=(8,), prior="lmm-2", learning_rate=1e-2)


@pytest.mark.parametrize("options", [{}, {"offset": "median"}, {"offset": "mode"}, {"dithered": True}])
def test_bytes_are_as_long_as_the_prior_says(trained, options):
    coder, x = toy.Coder(trained, **options), toy.draw("banana", N, 3)
    data = coder.encode(x)
    assert len(data) <= 1.01 * coder.code_length(x) / 8 + 16
    assert len(data) >= 0.98 * coder.code_length(x) / 8 - 16  # nothing is left out either
    decoded = coder.decode(data, N)
    _, values = coder.symbols(x)
    np.testing.assert_array_equal(decoded, trained.synthesis(values))
    assert np.abs(values - trained.analysis(x)).max() <= 0.5 + 1e-4


def test_the_rate_that_is_measured_is_that_of_the_bytes(trained):
    coder, x = toy.Coder(trained, "median"), toy.draw("banana", N, 3)
    assert 8 * len(coder.encode(x)) / N == pytest.approx(trained.measure(offset="median", samples=N).rate, rel=0.02)


def test_known_noise_costs_what_its_density_says(trained):
    """Universal quantisation: the mean code length is -E log2 p(y + u)."""
    x = toy.draw("banana", 50_000, 4)
    v = trained.analysis(x)
    u = np.random.default_rng(0).uniform(-0.5, 0.5, v.shape)
    prior = trained.prior()
    noisy = -coding.priors.log_interval(*prior, v + u - 0.5, v + u + 0.5, np).sum() / np.log(2) / len(x)
    assert 8 * len(toy.Coder(trained, dithered=True).encode(x)) / len(x) == pytest.approx(noisy, abs=0.01)


def test_known_noise_is_the_same_everywhere_and_has_no_pattern():
    for counter, got in enumerate(coding.hashed(np.arange(4)).tolist()):
        x = (counter + 0x9E3779B9 * coding.SEED) % 2**32
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        assert got == x ^ x >> 16
    level = coding.dither(30_000, 2)
    np.testing.assert_allclose(np.bincount(level.ravel()) / level.size, 1 / 15, atol=4e-3)
    assert abs(np.corrcoef(level[:-1, 0], level[1:, 0])[0, 1]) < 0.02
    assert abs(np.corrcoef(level.T)[0, 1]) < 0.02
    assert (coding.dither(100, 2, seed=5) != coding.dither(100, 2)).any()


def test_samples_far_out_are_escaped(trained):
    coder, x = toy.Coder(trained), np.array([[900.0, -900.0], [0.0, 0.0], [-5e3, 1e4]], np.float32)
    _, values = coder.symbols(x)
    np.testing.assert_array_equal(coder.decode(coder.encode(x), 3), trained.synthesis(values))


def test_damaged_bytes_are_refused(trained):
    coder = toy.Coder(trained)
    data = coder.encode(toy.draw("banana", 100))
    for wrong in (data[:-4], data + bytes(4), data[:-1]):
        with pytest.raises(CorruptStreamError):
            coder.decode(wrong, 100)
    with pytest.raises(UsageError, match="with dither"):
        toy.Coder(trained, "median", dithered=True)
