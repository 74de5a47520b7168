"""Lengths and plain bits in streams."""

import numpy as np
import pytest

from mlic_jax.entropy.bits import raw
from mlic_jax.errors import CorruptStreamError


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 70_000])
def test_parts(length):
    part = bytes(length)
    data = raw.with_length(part)
    assert raw.split(data + b"rest") == (part, b"rest")
    if length:
        with pytest.raises(CorruptStreamError, match="truncated"):
            raw.split(data[:-1])


@pytest.mark.parametrize("wrong", [b"", b"\x80", b"\x80\x00", b"\x81\x00a", b"\xff" * 6])
def test_lengths_that_are_none(wrong):
    with pytest.raises(CorruptStreamError, match="length of a part"):
        raw.split(wrong)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 800])
def test_bits(count):
    bits = np.random.default_rng(count).integers(0, 2, count)
    data = raw.pack(bits)
    assert len(data) == -(-count // 8)
    np.testing.assert_array_equal(raw.unpack(data, count), bits)
    with pytest.raises(CorruptStreamError):
        raw.unpack(data + b"\0", count)
    if count % 8:
        with pytest.raises(CorruptStreamError):
            raw.unpack(data[:-1] + bytes([data[-1] | 1]), count)
