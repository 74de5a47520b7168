"""Gaussians of whole numbers: rows by phase and scale, what the table costs, and files of such latents."""

import numpy as np
import pytest
from scipy import stats

from mlic_jax.entropy import WholeGaussian, ZeroMean, coders, rangecoder, tables
from mlic_jax.entropy.priors.gaussian import SCALE_TABLE
from mlic_jax.entropy.priors.whole import PHASES, WIDE


@pytest.fixture(scope="module")
def table():
    return WholeGaussian(None, None).tabulate()


def test_rows_by_phase_and_scale(table):
    assert len(table.lengths) == PHASES * WIDE + len(SCALE_TABLE) - WIDE
    means = np.float32([-0.5, -0.4375, 0.0, 0.4375, 0.49609375, 7.5, -3.0])
    logs = np.log(SCALE_TABLE)
    prior = WholeGaussian(logs[None, None, :, None], means[None, None, None, :])
    rows = prior.indexes((1, 1, len(logs), len(means)), table)[0, 0]
    phases = [0, 1, 8, 15, 15, 0, 8]
    expected = [[p * WIDE + i if i < WIDE else PHASES * WIDE + i - WIDE for p in phases] for i in range(len(logs))]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(prior.center.ravel(), [0, 0, 0, 0, 0, 8, -3])


@pytest.mark.parametrize("scale", [0.11, 0.3, 1.0, 4.0, 7.0, 9.0, 40.0])
def test_what_the_table_costs(table, scale):
    """Against the distribution itself, over all means: a hundredth of a bit, and half a percent where bits are many."""
    means = np.arange(256, dtype=np.float32) / 256 + 3
    prior = WholeGaussian(np.full((1, 1, 256, 1), np.log(scale), np.float32), means[None, None, :, None])
    rows, centres = prior.indexes((1, 1, 256, 1), table).ravel(), prior.center.ravel()
    entropy = cost = 0
    for mean, row, centre in zip(means.astype(float), rows, centres, strict=True):
        symbols = np.arange(int(mean - 9 * scale) - 2, int(mean + 9 * scale) + 3)
        mass = stats.norm.cdf(symbols + 0.5, mean, scale) - stats.norm.cdf(symbols - 0.5, mean, scale)
        place = symbols - centre - table.first[row]
        known = (place >= 0) & (place < table.lengths[row] - 1)
        frequencies = np.where(known, table.row(row)[np.where(known, place, -1).astype(int)], 2.0**-10)
        entropy -= np.sum(mass * np.log2(np.maximum(mass, 1e-30))) / 256
        cost -= np.sum(mass * np.log2(frequencies / tables.TOTAL)) / 256
    assert 0 <= cost - entropy + 1e-4 < max(0.012, 0.005 * entropy)


def test_files_of_whole_numbers(table):
    rng = np.random.default_rng(0)
    shape = (1, 5, 6, 7)
    prior = WholeGaussian(*(np.rint(rng.normal(0, s, shape) * 256).astype(np.float32) / 256 for s in (1.5, 30)))
    latent = np.float32(prior.location + rng.normal(0, 3, shape))
    models = {"whole_gaussian": rangecoder.Models(table)}
    encoder = coders.Encoding({"z": latent}, models)
    written = encoder("z", prior)
    np.testing.assert_array_equal(written, np.rint(latent))
    decoder = coders.Decoding(encoder.finish(), {"z": shape}, models)
    np.testing.assert_array_equal(decoder("z", prior), written)
    decoder.finish()


def test_zero_mean_tables_are_its_scales():
    prior = ZeroMean(3).bind({"params": {"log_scale": np.log(np.float32([0.2, 1.0, 12.0]))}})
    table = prior.tabulate()
    for row, scale in enumerate((0.2, 1.0, 12.0)):
        symbols = table.first[row] + np.arange(table.lengths[row] - 1)
        mass = stats.norm.cdf(symbols + 0.5, scale=scale) - stats.norm.cdf(symbols - 0.5, scale=scale)
        np.testing.assert_allclose(table.row(row)[:-1] / tables.TOTAL, mass, atol=3e-4)
    x = np.float32([[[[0, 1, -5]]]])
    expected = [
        stats.norm.cdf(v + 0.5, scale=s) - stats.norm.cdf(v - 0.5, scale=s) for v, s in zip((0, 1, -5), (0.2, 1, 12))
    ]
    np.testing.assert_allclose(2.0 ** -np.asarray(prior.bits(x)).ravel(), expected, rtol=1e-4)
