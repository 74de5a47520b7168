"""Integer tables: sums, positivity, and that no other integers would cost fewer bits."""

import numpy as np
import pytest

from mlic_jax.entropy import tables
from mlic_jax.entropy.tables import TOTAL, Table


def best_of_two(p):
    counts = np.arange(1, TOTAL)
    return (p * np.log2(counts) + (1 - p) * np.log2(TOTAL - counts)).max()


@pytest.mark.parametrize("p", [0.5, 0.3, 1e-3, 1 / TOTAL, 2.5 / TOTAL, 1e-9, 0.0, 1.0])
def test_two_entries_against_all_possibilities(p):
    frequency = tables.quantise(np.array([p, 1 - p]))
    assert frequency.sum() == TOTAL and (frequency >= 1).all()
    assert (np.array([p, 1 - p]) * np.log2(frequency)).sum() == pytest.approx(best_of_two(p), abs=1e-12)


def distributions():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 7, 100, 1000, 8193, 1 << 15):
        yield rng.dirichlet(np.ones(n))
        yield rng.dirichlet(np.full(n, 0.02)) + 1e-300
        yield np.ones(n)
        yield np.where(np.arange(n) == n // 2, 1.0, 0.0)
        yield 0.5 ** np.arange(n)
        yield np.exp(-0.5 * ((np.arange(n) - n / 2) / (n / 12)) ** 2)


@pytest.mark.parametrize("mass", list(distributions()), ids=lambda mass: str(len(mass)))
def test_no_count_would_be_better_elsewhere(mass):
    # The loss is convex in each entry, so a table that no single move improves is the best one.
    frequency = tables.quantise(mass).astype(np.int64)
    assert frequency.sum() == TOTAL and (frequency >= 1).all()
    mass = mass / mass.sum()
    gain = mass * np.log2((frequency + 1) / frequency)
    movable = frequency > 1
    if movable.any():
        cost = mass[movable] * np.log2(frequency[movable] / (frequency[movable] - 1))
        assert gain.max() <= cost.min() * (1 + 1e-9)


@pytest.mark.parametrize("mass", [[np.nan, 1], [np.inf, 1], [-0.1, 1], [0, 0], np.ones((1 << 15) + 1)])
def test_what_is_no_distribution(mass):
    with pytest.raises(ValueError):
        tables.quantise(np.array(mass))


def test_build_and_rows():
    table = tables.build([np.array([0.25, 0.5]), np.array([1.0])], np.array([-1, 0]))
    assert table.lengths.tolist() == [3, 2] and table.first.tolist() == [-1, 0]
    assert table.row(0).tolist() == [TOTAL // 4, TOTAL // 2, TOTAL // 4]
    assert table.row(1).tolist() == [TOTAL - 1, 1]
    assert table.thresholds.tolist() == [] and table.thresholds.dtype == np.int32
    tables.check(table)


@pytest.mark.parametrize("thresholds", [[-5, 7], [7, 7]])
def test_thresholds_stand_between_rows(thresholds):
    table = tables.build([np.array([1.0])] * 3, np.zeros(3), thresholds)
    assert table.thresholds.tolist() == thresholds and table.thresholds.dtype == np.int32


@pytest.mark.parametrize("thresholds", [[1], [1, 2, 3], [2, 1]])
def test_thresholds_that_fit_no_rows(thresholds):
    with pytest.raises(ValueError, match=f"3 rows has {len(thresholds)} thresholds"):
        tables.build([np.array([1.0])] * 3, np.zeros(3), thresholds)


def test_more_rows_than_the_coder_can_sort():
    whole = np.array([TOTAL - 1, 1], np.int32)
    for rows in (tables.MOST_ROWS, tables.MOST_ROWS + 1):
        zeros = np.zeros(rows, np.int32)
        table = Table(np.tile(whole, rows), zeros + 2, zeros, np.zeros(0, np.int32))
        if rows == tables.MOST_ROWS:
            tables.check(table)
        else:
            with pytest.raises(ValueError, match="65537 rows"):
                tables.check(table)


def test_check_refuses_what_cannot_be_coded_with():
    good = tables.build([np.array([0.25, 0.5]), np.array([1.0])], np.array([-1, 0]))
    whole = np.array([TOTAL], np.int32)
    bad = [
        good._replace(frequencies=good.frequencies + 1),
        good._replace(frequencies=good.frequencies.astype(np.float32)),
        good._replace(frequencies=good.frequencies.astype(np.int64)),
        good._replace(frequencies=good.frequencies[:-1]),
        good._replace(frequencies=good.frequencies * [1, 1, 1, 0, 1]),
        good._replace(lengths=good.lengths[::-1].copy()),
        good._replace(lengths=np.array([6, -1], np.int32)),
        good._replace(lengths=good.lengths[None]),
        good._replace(first=good.first[:1]),
        good._replace(first=np.array([0, 1 << 30], np.int32)),
        good._replace(thresholds=np.zeros(1)),
        good._replace(thresholds=np.zeros((1, 1), np.int32)),
        Table(whole, np.array([1], np.int32), np.array([0], np.int32), np.zeros(0, np.int32)),
        Table(*(np.zeros(0, np.int32),) * 4),
    ]
    for table in bad:
        with pytest.raises(ValueError, match="table"):
            tables.check(table)
