"""The range coder: everything comes back, in the bytes that the tables announce, and damage raises one error."""

import numpy as np
import pytest
from scipy import stats

from mlic_jax.entropy import tables
from mlic_jax.entropy.gaussian import SCALE_TABLE, scale_tables
from mlic_jax.entropy.rangecoder import LARGEST_SYMBOL, Decoder, Encoder, Models
from mlic_jax.errors import CorruptStreamError, ModelError

GAUSSIAN = Models(scale_tables())
SKEWED = Models(tables.build([np.array([1.0]), np.array([0.0, 1 - 1e-9]), np.array([0.5, 0.5])], np.array([0, -1, 0])))


def encode(*parts, models=GAUSSIAN):
    encoder = Encoder()
    for symbols, indexes in parts:
        encoder.write(symbols, indexes, models)
    return encoder.finish()


def decode(data, *indexes, models=GAUSSIAN):
    decoder = Decoder(data)
    found = [decoder.read(index, models) for index in indexes]
    decoder.finish()
    return found


def check(*parts, models=GAUSSIAN):
    data = encode(*parts, models=models)
    for (symbols, _), found in zip(parts, decode(data, *(i for _, i in parts), models=models), strict=True):
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, symbols)
    return data


def sample(rng, shape, spread=1.0):
    """Symbols of random rows, drawn from their Gaussians, `spread` times as wide."""
    indexes = rng.integers(0, 64, shape)
    return np.rint(rng.normal(0, SCALE_TABLE[indexes] * spread)).astype(np.int32), indexes


@pytest.mark.parametrize("seed", range(40))
def test_comes_back(seed):
    rng = np.random.default_rng(seed)
    shapes = [tuple(rng.integers(1, 9, rng.integers(0, 5))) for _ in range(rng.integers(1, 4))]
    check(*(sample(rng, shape, spread=10.0 ** rng.integers(0, 3)) for shape in shapes))


@pytest.mark.parametrize("over", [0, 1, 2, 15, 16, 255, 1 << 16, 1 << 20])
@pytest.mark.parametrize("row", [0, 20, 63])
def test_escapes(row, over):
    width = -GAUSSIAN.table.first[row]
    symbols = np.array([width + over, -width - over, width, -width, width + 1, -width - 1, 0], np.int32)
    check((symbols, np.full(symbols.shape, row)))


def test_the_largest_symbols_are_the_largest():
    limits = np.array([LARGEST_SYMBOL, -LARGEST_SYMBOL], np.int32)
    check((limits, np.array([0, 63])))
    for symbol in (LARGEST_SYMBOL + 1, -LARGEST_SYMBOL - 1, -(1 << 31)):
        with pytest.raises(ValueError, match="cannot be coded"):
            encode((np.array([symbol], np.int32), np.array([0])))


def test_nothing():
    assert encode() == b""
    assert check((np.zeros((1, 0, 3, 4), np.int32), np.zeros((1, 0, 3, 4), np.int32))) == b""
    Decoder(b"").finish()


def test_only_escapes():
    rng = np.random.default_rng(0)
    symbols = rng.integers(-(1 << 20), 1 << 20, 500).astype(np.int32)
    symbols[np.abs(symbols) < 5000] = 5000
    check((symbols, rng.integers(0, 64, 500)))


@pytest.mark.parametrize("count", [1, 2, 5, 1000, 100_000])
def test_extreme_skew(count):
    zeros = np.zeros(count, np.int32)
    assert len(check((zeros, zeros), models=SKEWED)) <= 4 + count * np.log2(65536 / 65535) / 8 + 4
    rare = zeros.copy()
    rare[count // 2] = -1  # one of 65536
    check((rare, zeros + 1), models=SKEWED)
    check((zeros, zeros + 1), models=SKEWED)


def test_several_tables_in_one_stream():
    rng = np.random.default_rng(1)
    encoder, parts = Encoder(), []
    for models in (GAUSSIAN, SKEWED, GAUSSIAN):
        indexes = rng.integers(0, len(models.table.lengths), (3, 4))
        symbols = rng.integers(-3, 4, (3, 4)).astype(np.int32)
        encoder.write(symbols, indexes, models)
        parts.append((symbols, indexes, models))
    decoder = Decoder(encoder.finish())
    for symbols, indexes, models in parts:
        np.testing.assert_array_equal(decoder.read(indexes, models), symbols)
    decoder.finish()


def test_a_row_that_the_table_lacks():
    for row in (3, -1):
        with pytest.raises(ModelError, match="3 rows"):
            encode((np.array([0]), np.array([row])), models=SKEWED)
        with pytest.raises(ModelError, match="3 rows"):
            decode(b"", np.array([row]), models=SKEWED)


@pytest.mark.parametrize("row", range(64))
def test_bytes_are_what_the_probabilities_announce(row):
    rng = np.random.default_rng(row)
    scale = float(SCALE_TABLE[row])
    symbols = np.rint(rng.normal(0, scale, 20_000)).astype(np.int32)
    data = check((symbols, np.full(symbols.shape, row)))
    distance = np.abs(symbols)
    normal = stats.norm(scale=scale)
    exact = -np.log2(normal.sf(distance - 0.5) - normal.sf(distance + 0.5)).sum() / 8
    assert abs(len(data) - exact) <= 0.005 * exact + 40

    frequency, entry = GAUSSIAN.table.row(row), symbols - GAUSSIAN.table.first[row]
    inside = (entry >= 0) & (entry < len(frequency) - 1)
    counts = np.where(inside, frequency[np.where(inside, entry, -1)], frequency[-1])
    table = -np.log2(counts / tables.TOTAL).sum() / 8 + 2 * (~inside).sum()
    assert table - 4 <= len(data) <= 1.0005 * table + 8


DAMAGES = 2000


def damaged(data, rng):
    """Every truncation, every whole word more, and random bytes put in place of others."""
    for length in range(len(data)):
        yield data[:length]
    for words in range(1, 5):
        yield data + rng.bytes(4 * words)
    for _ in range(DAMAGES):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 5)):
            changed[place] = rng.integers(256)
        yield bytes(changed)


def test_damage_raises_one_error():
    rng = np.random.default_rng(3)
    parts = [sample(rng, (40,)), sample(rng, (3, 20), spread=30)]
    data = encode(*parts)
    noticed = cases = 0
    for other in damaged(data, rng):
        cases += 1
        try:
            found = decode(other, *(indexes for _, indexes in parts))
        except CorruptStreamError:
            noticed += 1
        else:
            for (symbols, _), got in zip(parts, found, strict=True):
                assert got.shape == symbols.shape and np.abs(got).max() <= LARGEST_SYMBOL
    assert cases > DAMAGES and noticed > cases / 2


def test_leftovers_are_noticed():
    part = sample(np.random.default_rng(4), (200,))
    data = encode(part)
    # The coder cannot tell one word more from its own end, nor every truncation: the container's checksum can.
    for words in (2, 3, 10):
        with pytest.raises(CorruptStreamError, match="left over"):
            decode(data + bytes(4 * words), part[1])
    with pytest.raises(CorruptStreamError, match="left over"):
        decode(data, part[1][:100])
    for length in range(1, 4):
        with pytest.raises(CorruptStreamError, match="multiple of 4"):
            decode(data[:-length], part[1])
