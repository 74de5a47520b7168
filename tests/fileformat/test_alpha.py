"""Alpha is exact, small, and cannot be made to inflate."""

import zlib

import numpy as np
import pytest

from mlic_jax.errors import CorruptStreamError, LimitError, MlicError
from mlic_jax.fileformat import alpha

SHAPES = [(1, 1), (1, 2), (2, 1), (1, 4096), (4099, 3), (33, 47), (128, 96)]


def planes(shape, dtype):
    rng = np.random.default_rng(sum(shape))
    top = np.iinfo(dtype).max
    y, x = np.mgrid[: shape[0], : shape[1]]
    yield np.zeros(shape, dtype)
    yield np.full(shape, top, dtype)
    yield rng.integers(0, top, shape, dtype, endpoint=True)
    yield (7 * x + 3 * y).astype(dtype)  # wraps
    yield np.where(x > y, top, 0).astype(dtype)
    yield np.clip((shape[1] / 2 - np.abs(x - shape[1] / 2)) * top / 20, 0, top).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", SHAPES)
def test_exact(shape, dtype):
    for original in planes(shape, dtype):
        content = alpha.encode(original)
        decoded = alpha.decode(content, *shape, 8 * original.itemsize)
        assert decoded.dtype == dtype
        np.testing.assert_array_equal(decoded, original)
        assert len(content) <= original.nbytes + original.nbytes // 1000 + 20


def test_larger_than_what_predictors_are_compared_on():
    y, x = np.mgrid[:1500, :1100]
    original = ((x + y) // 9).astype(np.uint8)
    np.testing.assert_array_equal(alpha.decode(alpha.encode(original), 1500, 1100, 8), original)


def test_layout():
    # Byte by byte: a change here is a change of the format.
    square = np.array([[1, 3], [6, 8]], np.uint8)
    for predictor, residuals in enumerate(([1, 3, 6, 8], [1, 2, 6, 2], [1, 3, 5, 5], [1, 2, 5, 0])):
        content = bytes([predictor]) + zlib.compress(bytes(residuals))
        np.testing.assert_array_equal(alpha.decode(content, 2, 2, 8), square)
    np.testing.assert_array_equal(
        alpha.decode(b"\x01" + zlib.compress(bytes([1, 0, 2, 255])), 1, 2, 16), [[0x0102, 0x0201]]
    )
    assert alpha.encode(np.full((3, 4), 7, np.uint8)) == b"\x04\x07"
    assert alpha.encode(np.full((3, 4), 0x0102, np.uint16)) == b"\x04\x01\x02"


def test_small_for_what_alpha_is_like():
    y, x = np.mgrid[:512, :768]
    disc = (np.hypot(x - 380, y - 250) < 200).astype(np.uint8) * 255
    gradient = (x // 3).astype(np.uint8)
    assert len(alpha.encode(np.full((512, 768), 255, np.uint8))) == 2
    assert len(alpha.encode(disc)) < 2500
    assert len(alpha.encode(gradient)) < 700


GOOD = b"\x00" + zlib.compress(bytes(range(12)))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"\x05" + GOOD[1:], b"\x04", b"\x04\x01\x02", GOOD[:-1], GOOD + b"\0", GOOD[:3], b"\x00garbage",
     b"\x00" + zlib.compress(bytes(11)), b"\x00" + zlib.compress(bytes(13)), b"\x00" + zlib.compress(bytes(1 << 20))],
)  # fmt: skip
def test_damage(content):
    with pytest.raises((CorruptStreamError, LimitError), match="alpha"):
        alpha.decode(content, 3, 4, 8)


def test_damage_raises_nothing_else():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(GOOD)
        for place in rng.integers(0, len(damaged), 2):
            damaged[place] = rng.integers(256)
        try:
            assert alpha.decode(bytes(damaged), 3, 4, 8).shape == (3, 4)
        except MlicError:
            pass
