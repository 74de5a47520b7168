"""Heights: rules of allocation, means that are met, and a coder of maps."""

import jax
import numpy as np
import pytest

from mlic_jax.entropy.bits import heights
from mlic_jax.errors import CorruptStreamError, UsageError

T = 12


def falling_errors(size, seed=0, count=T):
    """Errors [T, h, w] as of a codec: falling, at rates of their own, smooth over cells."""
    rng = np.random.default_rng(seed)
    start = 20 * np.exp(smooth(size, seed + 1))
    return np.minimum.accumulate(
        start * np.exp(-0.3 * np.arange(count))[:, None, None] * rng.uniform(0.8, 1, (count, *size))
    )


def smooth(size, seed):
    """Noise of deviation 1 that is smooth over some cells."""
    noise = np.random.default_rng(seed).normal(size=(size[0] + 8, size[1] + 8))
    for axis in (0, 1):
        for _ in range(8):
            noise = (np.delete(noise, 0, axis) + np.delete(noise, -1, axis)) / 2
    return (noise - noise.mean()) / max(noise.std(), 1e-9)


def check_rules(found, least_share, steepest):
    assert found.min() >= np.ceil(least_share * found.max() - 1e-9)
    h, w = found.shape
    for i in range(h):
        for j in range(w):
            around = found[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
            assert found[i, j] >= around.max() - steepest


# ---------------------------------------------------------------- choosing


def test_cell_errors_by_loops():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    shown = rng.integers(0, 256, (3, 32, 48, 3), dtype=np.uint8)
    found = heights.cell_errors(image, shown)
    assert found.shape == (3, 2, 3) and found.dtype == np.float64
    for i in range(2):
        for j in range(3):
            least = np.inf
            for t in range(3):
                means = []
                for y in (16 * i, 16 * i + 8):
                    for x in (16 * j, 16 * j + 8):
                        a, b = (p[y : y + 8, x : x + 8].astype(int) for p in (image, shown[t]))
                        means.append(np.abs(a - b).mean())
                least = min(least, max(means))
                assert found[t, i, j] == pytest.approx(least)
    np.testing.assert_array_equal(heights.cell_errors(image, shown.astype(np.float32)), found)
    assert (heights.cell_errors(image, np.stack([image, 255 - image])) == 0).all()


@pytest.mark.parametrize("size", [(30, 48), (32, 40)])
def test_sides_that_are_no_multiples_are_refused(size):
    with pytest.raises(ValueError):
        heights.cell_errors(np.zeros((*size, 3), np.uint8), np.zeros((1, *size, 3), np.uint8))
    with pytest.raises(ValueError):
        heights.cell_errors(np.zeros((32, 48, 3), np.uint8), np.zeros((1, 48, 32, 3), np.uint8))


@pytest.mark.parametrize("least_share, steepest", [(0.5, 4), (0.0, 1), (0.3, 2), (1.0, 4), (0.0, 99), (0.5, 0)])
def test_heights_keep_the_rules_and_fall_with_the_threshold(least_share, steepest):
    errors = falling_errors((9, 13))
    before, means = None, set()
    for threshold in np.geomspace(0.1, 600, 40):
        found = heights.allocate(errors, threshold, least_share, steepest)
        assert found.dtype == np.int32 and found.min() >= 1 and found.max() <= T
        check_rules(found, least_share, steepest)
        met = errors[found - 1, np.arange(9)[:, None], np.arange(13)] <= threshold
        assert (met | (found == T)).all()
        assert before is None or (found <= before).all()
        before = found
        means.add(found.mean())
    assert len(means) > 5 and found.max() == 1


def test_rules_raise_no_cell_without_a_reason():
    """Each cell has the least height that its own error and the two rules allow: distances to the tops decide."""
    rng = np.random.default_rng(0)
    own = rng.integers(1, T + 1, (7, 9)) * (rng.random((7, 9)) < 0.1) + 1
    errors = (np.arange(1, T + 2)[:, None, None] < own).astype(float)
    found = heights.allocate(errors, 0.5, 0.25, 2)
    rows, columns = np.indices(own.shape)
    for i in range(7):
        for j in range(9):
            distance = np.maximum(np.abs(rows - i), np.abs(columns - j))
            expected = max((own - 2 * distance).max(), np.ceil(0.25 * own.max()))
            assert found[i, j] == expected


def test_threshold_zero_sends_all_but_what_is_exact():
    errors = falling_errors((4, 5))
    assert (heights.allocate(errors, 0) == T).all()
    errors[5:, 1, 2] = 0
    found = heights.allocate(errors, 0, 0.0, 99)
    assert found[1, 2] == 6 and (found == T).sum() == 19


def test_texture_gets_more_than_flat_ground():
    rng = np.random.default_rng(0)
    image = np.full((64, 96, 3), 120, np.uint8)
    image[:, 48:] = rng.integers(0, 256, (64, 48, 3))
    # A codec whose error halves with each iteration.
    shown = np.stack([image + (120.0 - image + 8) * 0.5**t for t in range(T)])
    errors = heights.cell_errors(image, shown)
    for found in (heights.allocate(errors, 1.0), heights.for_mean(errors, 6.0)):
        assert found[:, 3:].mean() > found[:, :3].mean() + 1
        check_rules(found, 0.5, 4)


@pytest.mark.parametrize("least_share, steepest", [(0.5, 4), (0.0, 99)])
def test_means_are_met(least_share, steepest):
    errors = falling_errors((9, 13))
    values = np.unique(errors)
    means = np.array([heights.allocate(errors, v, least_share, steepest).mean() for v in (-1.0, *values)])
    for target in (1.0, 1.7, 3.0, 5.5, 8.25, 11.9, 12.0, 20.0):
        found = heights.for_mean(errors, target, least_share, steepest)
        assert found.mean() == means[means <= target].max()
    assert (heights.for_mean(errors, 0.5) == 1).all()
    assert (heights.for_mean(errors, T) == T).all()


def test_importance():
    map_ = np.zeros((70, 100))
    map_[:40, :40] = 1
    found = heights.from_importance(map_, T, least_share=0.0, steepest=99)
    assert found.shape == (5, 7) and found.dtype == np.int32
    assert (found[:2, :2] == T).all() and (found[3:] == 1).all() and (found[:, 3:] == 1).all()
    assert found[2, 0] == found[0, 2] == 1 + round(0.5 * (T - 1) + 1e-9)  # half of the cell is important
    ruled = heights.from_importance(map_, T)
    check_rules(ruled, 0.5, 4)
    assert (ruled >= found).all()
    for value, height in ((0.0, 1), (0.4, 5), (1.0, T)):
        assert (heights.from_importance(np.full((20, 20), value), T) == height).all()
    # The last cell is judged by what there is of it.
    edge = np.zeros((17, 17))
    edge[16:] = 1
    assert (heights.from_importance(edge, T, None, 0.0, 99) == [[1, 1], [T, T]]).all()


def test_importance_meets_means():
    map_ = (smooth((90, 150), 0).clip(-2, 2) + 2) / 4
    before = None
    for target in (1.0, 2.0, 4.5, 7.0, 11.0, 12.0):
        found = heights.from_importance(map_, T, target)
        check_rules(found, 0.5, 4)
        assert target - 1.0 <= found.mean() <= target
        assert before is None or (found >= before).all()
        before = found
    assert (found == T).all()
    for value in (0.0, 0.5, 1.0):
        assert (heights.from_importance(np.full((32, 48), value), T, 7.0) == 7).all()


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4, 3)), np.zeros((0, 4)), np.full((4, 4), 1.1), np.full((4, 4), -0.1), np.full((4, 4), np.nan)],
    ids=["colour", "empty", "above", "below", "nan"],
)
def test_other_maps_are_refused(wrong):
    with pytest.raises(UsageError):
        heights.from_importance(wrong, T)


def test_random_heights():
    draw = jax.jit(heights.random_heights, static_argnums=(1, 2))
    keys = jax.random.split(jax.random.key(0), 200)
    for iterations in (1, 7, 12):
        found = np.asarray(draw(keys, (5, 8), iterations))
        assert found.shape == (200, 5, 8) and found.dtype == np.int32
        assert set(np.unique(found)) == set(range(-(-iterations // 2), iterations + 1))
    constant = (found == found[:, :1, :1]).all((1, 2)).mean()
    equal = (found[:, :, 1:] == found[:, :, :-1]).mean()  # 1/7 of independent ones
    assert 0.03 < constant < 0.5 and equal > 0.6
    assert len(np.unique(found[:, 0, 0])) == 7
    np.testing.assert_array_equal(draw(keys[3:4], (5, 8), 12)[0], found[3])  # whatever else is in the batch


# ---------------------------------------------------------------- coding


def maps():
    rng = np.random.default_rng(0)
    wave = np.rint(8.5 + 3 * smooth((24, 36), 5)).clip(1, 16).astype(np.int32)
    return {
        "random": (rng.integers(1, 17, (24, 36)), 16),
        "two": (rng.integers(15, 17, (9, 5)), 16),
        "extremes": (rng.choice([1, 16], (9, 5)), 16),
        "constant": (np.full((24, 36), 7), 16),
        "one": (np.array([[3]]), 16),
        "row": (rng.integers(1, 8, (1, 30)), 7),
        "column": (rng.integers(1, 8, (30, 1)), 7),
        "smooth": (wave, 16),
        "allocated": (heights.for_mean(falling_errors((24, 36)), 6.0), T),
        "one iteration": (np.ones((4, 5), int), 1),
    }


@pytest.mark.parametrize("name", maps())
def test_round_trip(name):
    map_, iterations = maps()[name]
    given = map_.copy()
    data = heights.encode(map_, iterations)
    np.testing.assert_array_equal(map_, given)
    found = heights.decode(data, map_.shape, iterations)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, map_)
    bound = {"random": 4.7, "two": 1.9, "smooth": 2.4, "allocated": 2.0}
    if name in bound:
        assert 8 * len(data) / map_.size < bound[name]


def test_constant_maps_cost_nothing():
    for shape in ((1, 1), (300, 7), (1024, 1024)):
        data = heights.encode(np.full(shape, 5), 16)
        assert len(data) <= 16
        assert (heights.decode(data, shape, 16) == 5).all()
    spot = np.full((256, 256), 5)
    spot[100, 30] = 6
    assert len(heights.encode(spot, 16)) <= 24


def test_counts_are_halved_and_never_certain():
    chances = heights._Chances(2)
    for _ in range(5):
        chances.update(np.zeros(1 << 15, int), np.zeros(1 << 15, int))
    assert chances.counts.sum(0).max() <= 1 << 17 and chances.counts.min() >= 1
    assert chances.frequencies(np.array([0, 1])).tolist() == [1, 1 << 15]
    chances.update(np.array([1, 1, 1]), np.array([1, 1, 0]))
    assert chances.counts[:, 1].tolist() == [3, 5] and chances.frequencies(np.array([1]))[0] == 65536 * 5 // 8


def test_heights_out_of_range():
    for wrong in (0, 17):
        with pytest.raises(ValueError):
            heights.encode(np.array([[3, wrong]]), 16)
    data = heights.encode(np.array([[5, 9], [9, 9]]), 16)
    with pytest.raises(CorruptStreamError):  # of a model that has fewer
        heights.decode(data, (2, 2), 6)


def test_damage_is_refused_or_another_map():
    rng = np.random.default_rng(0)
    map_, iterations = maps()["smooth"]
    data = heights.encode(map_, iterations)
    tried = [data[:-1], data[:-4], b"", data + b"\0", data + bytes(4), bytes(8), b"\xff" * len(data)]
    for _ in range(60):
        place, bit = rng.integers(len(data)), rng.integers(8)
        tried.append(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
    refused = 0
    for other in tried:
        try:
            found = heights.decode(other, map_.shape, iterations)
        except CorruptStreamError:
            refused += 1
        else:
            assert (found != map_).any() and found.min() >= 1 and found.max() <= iterations
    assert refused >= len(tried) // 2
