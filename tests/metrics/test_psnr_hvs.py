"""PSNR-HVS by its definition."""

import math

import numpy as np
import pytest

from mlic_jax.metrics import psnr, psnr_hvs, registry

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 1), (3, 5), (7, 7)])
def test_an_error_of_one_frequency(row, column):
    """Its weight is the authors' table, of which these are entries."""
    wanted = {(0, 0): 1.608443, (0, 1): 2.339554, (3, 5): 0.295806, (7, 7): 0.259950}[row, column]
    wave = [np.cos(np.pi * (2 * np.arange(8) + 1) * k / 16) for k in (row, column)]
    error = np.tile(np.rint(50 * np.outer(*wave)), (2, 3))[..., None]
    a = np.full(error.shape, 128, np.uint8)
    plain = psnr.psnr_db(a, b := (a + error).astype(np.uint8))
    assert psnr_hvs.psnr_hvs_db(a, b) == pytest.approx(plain - 20 * math.log10(wanted), abs=0.05)


def test_whole_blocks_and_luma():
    a, b = RNG.integers(0, 256, (2, 21, 30, 3), np.uint8)
    metric = registry.get("psnr-hvs")
    found = metric.compute(a, b)
    b[16:, :] ^= 255
    b[:, 24:] ^= 255
    assert metric.compute(a, b) == found and np.isfinite(found)
    assert metric.compute(a, a) == math.inf
    assert math.isnan(metric.compute(a[:7], b[:7]))
