"""The conditional Gaussian against SciPy in float64, the rows its table assigns, and what the table costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mlic_jax.entropy import tables
from mlic_jax.entropy.priors.gaussian import (
    LIKELIHOOD_FLOOR,
    MIXTURE,
    SCALE_MAX,
    SCALE_MIN,
    SCALE_TABLE,
    Gaussian,
    LogGaussian,
    LogMixture,
    likelihood,
    scale_index,
    scale_tables,
)


def mass64(distance, scale):
    """P(|distance| - 1/2 < X < |distance| + 1/2), from the tail that has the digits."""
    normal, distance = stats.norm(scale=scale), np.abs(distance)
    return normal.sf(distance - 0.5) - normal.sf(distance + 0.5)


def test_table_of_scales():
    assert len(SCALE_TABLE) == 64 and SCALE_TABLE[0] == np.float32(SCALE_MIN)
    np.testing.assert_allclose(SCALE_TABLE[1:] / SCALE_TABLE[:-1], (SCALE_MAX / SCALE_MIN) ** (1 / 63), rtol=1e-6)


@pytest.mark.parametrize("scale", [0.11, 0.3, 1.0, 7.0, 60.0, 256.0])
def test_likelihood(scale):
    x = np.arange(-2500, 2501).astype(np.float32)
    mean = np.float32(0.3)
    found = np.asarray(likelihood(jnp.asarray(x), jnp.full(x.shape, scale), mean))
    expected = np.maximum(
        mass64(x.astype(np.float64) - np.float64(mean), np.float64(np.float32(scale))), LIKELIHOOD_FLOOR
    )
    np.testing.assert_allclose(-np.log2(found), -np.log2(expected), rtol=0, atol=2e-3)
    assert found[found > LIKELIHOOD_FLOOR * 1.01].sum() == pytest.approx(1, abs=2e-5)


def test_likelihood_is_symmetric():
    x = jnp.arange(0, 50.0)
    np.testing.assert_array_equal(likelihood(x, jnp.full(50, 4.0)), likelihood(-x, jnp.full(50, 4.0)))


def test_small_scales_count_as_the_smallest_and_can_grow():
    def bits(scale, x):
        return -jnp.log2(likelihood(x, scale, 0.0))

    for low in (-3.0, 0.0, 0.05):
        assert bits(low, 0.0) == bits(SCALE_MIN, 0.0)
        # A step off, a larger scale saves bits: the gradient must pass below the bound. At 0 it must not.
        assert jax.grad(bits)(low, 1.0) < 0
        assert jax.grad(bits)(low, 0.0) == 0


def edges():
    """Scales on the borders between rows: geometric means of neighbours."""
    return np.sqrt(SCALE_TABLE[1:].astype(np.float64) * SCALE_TABLE[:-1])


def test_index_at_every_edge():
    for row, edge in enumerate(edges()):
        # Scales come in steps of 1/256: the last below the edge, and the first that is not.
        first = np.ceil(256 * edge) / 256
        assert scale_index([first - 1 / 256, first]).tolist() == [row, row + 1]
    assert scale_index(SCALE_TABLE).tolist() == list(range(64))
    thresholds = scale_tables().thresholds
    assert len(thresholds) == 63 and (np.diff(thresholds) > 0).all()


def test_index_is_the_nearest_by_ratio():
    scales = np.exp(np.random.default_rng(0).uniform(np.log(0.05), np.log(500), 5000)).astype(np.float32)
    scales = (np.rint(256 * scales) / 256).astype(np.float32).reshape(1, -1)
    scales = scales[scales > 0].reshape(1, -1)
    nearest = np.abs(np.log(scales.astype(np.float64))[..., None] - np.log(SCALE_TABLE.astype(np.float64))).argmin(-1)
    found = scale_index(scales)
    assert found.shape == scales.shape
    np.testing.assert_array_equal(found, nearest)


def test_index_of_anything_is_a_row():
    odd = np.array([-np.inf, -1, 0, 1e-45, 1e38, np.inf], np.float32)
    assert set(scale_index(odd).tolist()) <= {0, 63}
    scale = np.exp(np.random.default_rng(0).normal(size=(1, 5, 2, 3)) * 3).astype(np.float32)
    rows = Gaussian(scale).indexes(scale.shape, scale_tables())
    assert rows.dtype == np.uint8
    np.testing.assert_array_equal(rows, scale_index(scale))


def cost(table, row, symbols):
    """Bits of symbols, escapes included, as the range coder writes them."""
    frequency, entry = table.row(row), symbols - table.first[row]
    escape = len(frequency) - 1
    outside = (entry < 0) | (entry >= escape)
    distance = np.where(entry >= escape, 2 * (entry - escape), -2 * entry - 1)
    bits = 16 - np.log2(frequency[np.where(outside, escape, entry)])
    return bits + outside * (np.log2(27) + np.floor(np.log2(np.where(outside, distance, 0) + 1)))


def symbols_and_masses(scale):
    symbols = np.arange(-int(12 * scale) - 3, int(12 * scale) + 4)
    return symbols, mass64(symbols, scale)


def entropy(mass):
    return -(mass[mass > 0] * np.log2(mass[mass > 0])).sum()


def test_rows():
    table = scale_tables()
    tables.check(table)
    assert len(table.lengths) == 64
    for row in range(64):
        frequency = table.row(row)[:-1]
        assert len(frequency) % 2 == 1 and table.first[row] == -(len(frequency) // 2)
        assert np.abs(frequency - frequency[::-1]).max() <= 1
        symbols, mass = symbols_and_masses(float(SCALE_TABLE[row]))
        # One count of 2^16 for the escape is what remains at the smallest scales.
        assert (mass * cost(table, row, symbols)).sum() < 1.001 * entropy(mass) + 5e-5


def test_what_64_scales_cost_against_exact_ones():
    table, worst = scale_tables(), 0.0
    for scale in np.exp(np.linspace(np.log(0.3), np.log(200), 150)):
        symbols, mass = symbols_and_masses(scale)
        worst = max(worst, (mass * cost(table, int(scale_index(scale)), symbols)).sum() / entropy(mass) - 1)
    assert worst < 0.0065


def test_prior():
    scale, mean = jnp.full((1, 1, 2, 1), 2.0), jnp.full((1, 1, 2, 1), 0.25)
    prior = Gaussian(scale, mean)
    np.testing.assert_array_equal(prior.center, mean)
    np.testing.assert_allclose(prior.bits(mean), -np.log2(mass64(0, 2.0)), rtol=1e-5)
    assert Gaussian(scale).center == 0.0
    for one, other in zip(prior.tabulate(), Gaussian(scale).tabulate(), strict=True):
        np.testing.assert_array_equal(one, other)


# ---------------------------------------------------------------------- from logarithms of scales


def test_logarithms_select_the_nearest_row_by_ratio():
    table = LogGaussian(jnp.zeros(1)).tabulate()
    tables.check(table)
    for one, other in zip(table[:3], scale_tables()[:3], strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(table.thresholds) == 63 and (np.diff(table.thresholds) > 0).all()
    # Every logarithm that a network can emit near the table, in steps of 1/256.
    fixed = np.arange(-1500, 2500)
    prior = LogGaussian((fixed / 256).astype(np.float32)[None, :, None, None])
    rows = prior.indexes((1, len(fixed), 1, 1), table)
    assert rows.dtype == np.uint8
    distance = np.abs(fixed[:, None] / 256 - np.log(SCALE_TABLE.astype(np.float64)))
    chosen = distance[np.arange(len(fixed)), rows.ravel()]
    np.testing.assert_allclose(chosen, distance.min(1), atol=1e-6)
    # As Gaussian has it of the scale itself, but for scales that its steps of 1/256 cannot tell apart.
    scale = np.exp(fixed / 256)
    assert (np.abs(rows.ravel().astype(int) - scale_index(scale)) <= 1).all()
    fine = scale > 4
    assert (rows.ravel() == scale_index(scale))[fine].mean() > 0.99


def test_rows_of_one_scale_a_channel_are_those_of_every_place():
    logs = np.float32([-3, 0, 1.5, 7]).reshape(1, 1, 1, 4)
    prior = LogGaussian(logs)
    rows = prior.indexes((1, 3, 5, 4), prior.tabulate())
    assert rows.shape == (1, 3, 5, 4) and (rows == rows[:, :1, :1]).all()
    assert rows[0, 0, 0].tolist() == [0, *scale_index(np.exp([0, 1.5])), 63]
    assert prior.export_state() == {} and prior.center == 0.0 and prior.limit is None
    assert LogGaussian(logs, kept={"a": {"b": logs}}).export_state() == {"a": {"b": logs}}


def test_bits_of_logarithms():
    rng = np.random.default_rng(0)
    logs = rng.uniform(np.log(SCALE_MIN), np.log(SCALE_MAX), 400).astype(np.float32)
    x, mean = rng.normal(0, 3, (2, 400)).astype(np.float32)
    np.testing.assert_allclose(
        LogGaussian(logs, mean).bits(x), Gaussian(np.exp(logs), mean).bits(x), rtol=1e-4, atol=1e-5
    )

    def bits(log, x):
        return LogGaussian(log).bits(x)

    for beyond, end in ((-9.0, np.log(SCALE_MIN)), (30.0, np.log(SCALE_MAX))):
        assert bits(beyond, 1.0) == pytest.approx(float(bits(end, 1.0)), rel=1e-4)
    # Out of range, the gradient leads back or is zero.
    assert jax.grad(bits)(-9.0, 1.0) < 0 == jax.grad(bits)(-9.0, 0.0)
    assert jax.grad(bits)(30.0, 1.0) > 0 == jax.grad(bits)(30.0, 900.0)


def test_the_mixture_is_a_mixture():
    rng = np.random.default_rng(0)
    logs = rng.uniform(np.log(SCALE_MIN), np.log(SCALE_MAX / 8), 300).astype(np.float32)
    x, mean = (rng.normal(0, 2, (2, 300)) * np.exp(logs)).astype(np.float32)
    parts = [share * 2 ** -np.asarray(Gaussian(factor * np.exp(logs), mean).bits(x)) for share, factor in MIXTURE]
    wanted = -np.log2(np.sum(parts, axis=0))
    fair = factor_of_the_smallest(logs) >= SCALE_MIN  # a Gaussian's own scale stops there
    np.testing.assert_allclose(np.asarray(LogMixture(logs, mean).bits(x))[fair], wanted[fair], rtol=2e-3, atol=1e-4)
    assert sum(share for share, _ in MIXTURE) == pytest.approx(1)


def factor_of_the_smallest(logs):
    return min(factor for _, factor in MIXTURE) * np.exp(logs)


def test_tables_of_the_mixture():
    table = LogMixture(jnp.zeros(1)).tabulate()
    tables.check(table)
    np.testing.assert_array_equal(table.thresholds, LogGaussian(jnp.zeros(1)).tabulate().thresholds)
    for row, scale in enumerate(SCALE_TABLE):
        frequencies, first = table.row(row) / 65536, table.first[row]
        symbols = np.arange(first, first + len(frequencies) - 1)
        assert len(symbols) == 1 - 2 * first and frequencies[-1] < 2**-10  # symmetric; the escape is rare
        bits = LogMixture(np.log(scale)).symbol_bits(symbols, np.zeros(len(symbols), int), (1,))
        mass = 2.0**-bits
        extra = (mass * (-np.log2(frequencies[:-1]) - bits)).sum()
        assert extra < 0.02 and (frequencies[:-1] == frequencies[:-1][::-1]).mean() > 0.4


@pytest.mark.parametrize("prior", [LogGaussian, LogMixture])
def test_bits_of_symbols(prior):
    # What the encoder weighs, in NumPy, is what training weighs.
    rng = np.random.default_rng(1)
    shape = (1, 4, 5, 6)
    logs = rng.uniform(-4, 7, shape).astype(np.float32)
    symbols = np.rint(rng.normal(0, 2, shape) * np.exp(logs.clip(-2, 5)))
    places = rng.permutation(symbols.size)[:70]
    found = prior(logs).symbol_bits(symbols.ravel()[places], places, shape)
    wanted = np.asarray(prior(logs).bits(symbols)).ravel()[places]
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    one = prior(logs[:, :1, :1]).symbol_bits(symbols.ravel()[places], places, shape)
    wanted = np.asarray(prior(np.broadcast_to(logs[:, :1, :1], shape)).bits(symbols)).ravel()[places]
    np.testing.assert_allclose(one, wanted, atol=2e-3)
