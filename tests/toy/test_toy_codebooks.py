"""Scalar and vector quantisers reach what is known exactly."""

import jax
import numpy as np
import pytest

from mlic_jax import toy
from mlic_jax.errors import UsageError
from mlic_jax.toy import anchors, scalar, vector

# lam -> loss of the best scalar quantiser of the Laplace source, by Lloyd's iteration on a fine grid.
TABLE = {0.25: 0.4966, 0.5: 0.9182, 1: 1.4566, 2: 2.0160, 4: 2.5583, 8: 3.0823, 16: 3.5950}


@pytest.mark.parametrize("lam", TABLE)
def test_scalar_quantisers_of_the_laplace_source(lam):
    code = toy.ecsq("laplace", lam=lam)
    assert code.loss == pytest.approx(TABLE[lam], abs=1e-3)
    assert code.loss == pytest.approx(code.rate + lam * code.distortion)
    exact, half, width = toy.laplace_ecsq(lam)
    assert code.loss == pytest.approx(exact.loss, abs=1e-9)
    positive = code.thresholds[code.thresholds > 0][:2]
    np.testing.assert_allclose(positive, [half, half + width], atol=2e-3)
    assert half > width / 2  # the dead zone


def test_the_quantiser_at_lam_1():
    code = toy.ecsq("laplace", lam=1.0)
    assert (code.rate, code.distortion) == (pytest.approx(0.6482, abs=1e-3), pytest.approx(0.80842, abs=1e-3))
    near = code.codewords[np.argsort(np.abs(code.codewords))[:5]]
    np.testing.assert_allclose(np.sort(near), [-6.211, -3.048, 0, 3.048, 6.211], atol=2e-3)
    assert np.abs(code.thresholds).min() == pytest.approx(2.188, abs=1e-3)
    x = toy.draw("laplace", 200_000)[:, 0]
    decoded, cost = scalar.apply(code, x)
    assert cost.loss == pytest.approx(code.loss, abs=0.015)
    assert set(np.unique(decoded)) <= set(code.codewords)


@pytest.mark.slow
def test_no_code_is_below_the_rate_distortion_function():
    for lam in (1.0, 4.0):
        reached, bound = toy.blahut_arimoto("laplace", lam)
        assert bound <= reached.loss <= bound + 2e-3
        shannon = toy.shannon_lower_bound("laplace", lam)
        assert shannon.loss - 1e-3 <= reached.loss < toy.ecsq("laplace", lam).loss - 0.05
    # At high rates scalar quantisation costs (1/2) log2(2 pi e / 12) bits more than the bound, and no less.
    gap = toy.ecsq("laplace", 256.0).loss - toy.shannon_lower_bound("laplace", 256.0).loss
    assert gap == pytest.approx(0.5 * np.log2(2 * np.pi * np.e / 12), abs=0.02)


def test_a_vector_quantiser_of_one_dimension_is_the_scalar_one():
    best = toy.ecsq("laplace", 1.0)
    lloyd = toy.ecvq("laplace", 1.0, codewords=64, samples=100_000)
    descent = toy.vecvq("laplace", 1.0, codewords=32, steps=2500, batch=512)
    assert (lloyd.loss, descent.loss) == (pytest.approx(best.loss, abs=0.02), pytest.approx(best.loss, abs=0.05))
    assert descent.probabilities.sum() == pytest.approx(1, abs=1e-6)


def test_the_codebook_of_the_banana():
    code = toy.ecvq("banana", 1.0, codewords=128, samples=60_000)
    assert code.loss == pytest.approx(3.183, abs=0.02)
    assert 11 <= len(code.codewords) <= 16
    # Assignments are the cheapest, by brute force.
    x = toy.draw("banana", 200, 5)
    cost = ((x[:, None] - code.codewords) ** 2).sum(-1) - np.log2(code.probabilities)
    np.testing.assert_array_equal(vector.assign(x, code.codewords, code.probabilities, 1.0), cost.argmin(1))


def test_the_codebook_of_the_sawbridge_is_the_closed_form():
    best, cells = toy.phase_code("sawbridge", 100.0)
    assert best.loss == pytest.approx(4.974, abs=1e-3) and cells in (11, 12)
    assert toy.phase_code("sawbridge", 1.0)[0] == (0.0, pytest.approx(1 / 6), pytest.approx(1 / 6))
    code = toy.ecvq("sawbridge", 100.0, codewords=40, samples=5000, points=128)
    assert code.loss == pytest.approx(best.loss, rel=0.02)
    assert abs(len(code.codewords) - cells) <= 2


@pytest.mark.parametrize("name", ["sawbridge", "ramp", "sinusoid"])
@pytest.mark.parametrize("cells", [1, 3, 8])
def test_distortions_of_equal_cells(name, cells):
    """Against samples of one cell: all are alike."""
    given = toy.source(name, points=512)
    x = np.asarray(given.sample(jax.random.key(0), 40_000), np.float64)
    if name == "sawbridge":
        phase = (x[:, :-1] >= 0).mean(1)  # it falls below zero at the phase, and is back at zero in the end
    else:
        phase = (x[:, 0] + 0.5) if name == "ramp" else np.arctan2(x[:, 0], x[:, 128]) / (2 * np.pi) % 1
    held = x[np.floor(phase * cells).astype(int) == 0]
    assert ((held - held.mean(0)) ** 2).mean() == pytest.approx(anchors.phase_distortion(name, cells), rel=0.03)


def test_bad_requests_are_refused():
    with pytest.raises(UsageError, match="banana is none"):
        toy.ecsq("banana")
    for function in (toy.ecsq, toy.vecvq, toy.ecvq):
        with pytest.raises(UsageError, match="lam is 0"):
            function("laplace", lam=0)
    with pytest.raises(UsageError, match="entropy of ramp"):
        toy.shannon_lower_bound("ramp", 1.0)
    with pytest.raises(UsageError, match="no density"):
        toy.blahut_arimoto("ramp", 1.0)
    with pytest.raises(UsageError, match="closed form"):
        toy.phase_code("banana", 1.0)
