"""The range coder: everything comes back, in the bytes that the tables announce, and damage raises one error."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from mlic_jax import reference
from mlic_jax.entropy import tables
from mlic_jax.entropy.priors.gaussian import SCALE_TABLE, scale_tables
from mlic_jax.entropy.rangecoder import BLOCK, LARGEST_SYMBOL, Decoder, Encoder, Models
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
    for shape in ((1, 0, 3, 4), (1, 3, 0, 4), (1, 70, 70, 0), (0, 3, 3, 3), (0,)):
        assert check((np.zeros(shape, np.int32), np.zeros(shape, np.int32))) == b""
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


@pytest.mark.parametrize(
    "shape", [(1, 64, 64, 2), (1, 65, 129, 3), (1, 200, 1, 5), (1, 1, 1, 1000), (130, 70, 1), (130, 70)]
)
def test_a_latent_is_coded_block_by_block(shape):
    symbols, indexes = sample(np.random.default_rng(5), shape, spread=4)
    *_, height, width, _ = (1, 1, *shape)
    cut = [
        (..., slice(top, top + BLOCK), slice(left, left + BLOCK), slice(None))
        for top in range(0, height, BLOCK)
        for left in range(0, width, BLOCK)
    ]
    latent, rows = symbols.reshape(height, width, -1), indexes.reshape(height, width, -1)
    assert check((symbols, indexes)) == encode(*((latent[part], rows[part]) for part in cut))


def test_indexes_of_any_kind_give_one_stream():
    symbols = np.random.default_rng(6).integers(-3, 4, (1, 70, 70, 64)).astype(np.int32)
    channel = np.arange(64)
    whole = np.tile(channel, (1, 70, 70, 1))
    data = check((symbols, whole))
    for dtype in (np.uint8, np.int8, np.uint16, np.int32):
        assert check((symbols, np.broadcast_to(channel.astype(dtype), symbols.shape))) == data
    assert encode((symbols.astype(np.int64), whole)) == encode((symbols.astype(np.int8), whole)) == data


def test_symbols_and_indexes_of_different_shapes():
    with pytest.raises(ValueError, match="shape"):
        encode((np.zeros((1, 2, 3, 4), np.int32), np.zeros((1, 3, 2, 4), np.int32)))


def test_memory_is_that_of_a_block():
    shape = (1, 512, 1024, 8)
    symbols = np.broadcast_to(np.int32(0), shape)
    indexes = np.broadcast_to(np.arange(8), shape)
    encode((symbols, indexes))  # makes the models
    block, result = BLOCK * BLOCK * 8 * 4, symbols.size * 4
    tracemalloc.start()
    try:
        data = encode((symbols, indexes))
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        (found,) = decode(data, indexes)
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found == 0).all() and found.shape == shape
    assert written < 10 * block + 3 * len(data) < result / 2
    assert read < result + 10 * block + 5 * len(data)


def test_more_than_256_rows():
    rng = np.random.default_rng(7)
    models = Models(tables.build(list(rng.dirichlet(np.ones(5), 1000)), np.full(1000, -2)))
    indexes = rng.integers(0, 1000, (1, 9, 9, 50))
    check((rng.integers(-4, 5, indexes.shape).astype(np.int32), indexes), models=models)


@pytest.mark.parametrize("limit", [1, 5, 127, LARGEST_SYMBOL])
@pytest.mark.parametrize("row", [0, 63])  # whose widths are 1 and 1000: beyond the limit are entries or escapes
def test_limit(limit, row):
    fits = np.array([limit, -limit, 0], np.int32)
    rows = np.full(fits.shape, row)
    encoder = Encoder()
    encoder.write(fits, rows, GAUSSIAN, limit=limit)
    data = encoder.finish()
    assert data == encode((fits, rows))
    np.testing.assert_array_equal(Decoder(data).read(rows, GAUSSIAN, limit=limit), fits)
    with pytest.raises(CorruptStreamError, match=f"beyond {limit - 1}"):
        Decoder(data).read(rows, GAUSSIAN, limit=limit - 1)
    for beyond in (limit + 1, -limit - 1):
        with pytest.raises(ValueError, match=f"beyond {limit} "):
            Encoder().write(np.array([0, beyond], np.int32), rows[:2], GAUSSIAN, limit=limit)


DAMAGES = 2000


def damaged(data, rng):
    """Random bytes in place of others, and random data of any length."""
    for _ in range(DAMAGES):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 5)):
            changed[place] = rng.integers(256)
        yield bytes(changed)
        yield rng.bytes(4 * rng.integers(2 * len(data) // 4))


def small_streams():
    """(data, parts, models): ordinary symbols, escapes, and rows that take hardly a bit, or 16 of them, a symbol."""
    rng = np.random.default_rng(3)
    zeros = np.zeros((3, 40, 5), np.int32)
    for parts, models in (
        ([sample(rng, (40,)), sample(rng, (3, 20), spread=30)], GAUSSIAN),
        ([sample(rng, (2, 70, 1))], GAUSSIAN),
        ([(zeros, zeros), (zeros - 1, zeros + 1), (zeros, zeros + 2)], SKEWED),
        ([(rng.integers(-3, 4, (5, 5, 4)).astype(np.int32), rng.integers(0, 3, (5, 5, 4)))], SKEWED),
        ([(zeros[:1, :1, :1], zeros[:1, :1, :1])], SKEWED),
    ):
        yield encode(*parts, models=models), parts, models


STREAMS = pytest.mark.parametrize("data, parts, models", list(small_streams()), ids=range(5))


def verdict(data, parts, models):
    """Whether the data is read as other symbols (True) or refused (False)."""
    try:
        found = decode(data, *(indexes for _, indexes in parts), models=models)
    except CorruptStreamError:
        return False
    for (_, indexes), got in zip(parts, found, strict=True):
        assert got.shape == indexes.shape and np.abs(got).max() <= LARGEST_SYMBOL
    assert any((got != symbols).any() for (symbols, _), got in zip(parts, found, strict=True))
    # What is accepted is what an encoder writes: no two streams hold the same symbols.
    assert encode(*((got, indexes) for got, (_, indexes) in zip(found, parts, strict=True)), models=models) == data
    return True


@STREAMS
def test_every_truncation_and_every_extension_is_refused(data, parts, models):
    for length in range(len(data)):
        assert not verdict(data[:length], parts, models)
    rng = np.random.default_rng(1)
    for word in (
        bytes(4),
        bytes([1, 0, 0, 0]),
        bytes([0, 0, 0, 128]),
        bytes([255] * 4),
        *(rng.bytes(4) for _ in range(99)),
    ):
        assert not verdict(data + word, parts, models)
        assert not verdict(data + 100 * word, parts, models)


@STREAMS
def test_every_bit_flip_is_refused_or_gives_other_symbols(data, parts, models):
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        verdict(bytes(changed), parts, models)


@STREAMS
def test_damage_raises_one_error(data, parts, models):
    read = sum(verdict(other, parts, models) for other in damaged(data, np.random.default_rng(3)) if other != data)
    assert read < DAMAGES


def test_damage_is_noticed_early():
    # Two blocks of a picture of 10,000: the rest of the garbage is never decoded.
    indexes = np.broadcast_to(np.uint8(30), (1, 6400, 6400, 1))
    data = np.random.default_rng(0).bytes(2 * BLOCK * BLOCK // 8 * 4)
    decoder, calls = Decoder(data), []
    decoder._read_block = lambda *args: calls.append(0) or Decoder._read_block(decoder, *args)
    with pytest.raises(CorruptStreamError, match="ends before the last symbol"):
        decoder.read(indexes, GAUSSIAN)
    assert len(calls) <= 4


def test_leftovers_are_noticed():
    part = sample(np.random.default_rng(4), (200,))
    data = encode(part)
    with pytest.raises(CorruptStreamError, match="left over"):
        decode(data, part[1][:100])
    with pytest.raises(CorruptStreamError, match="left over"):
        decode(data)
    for length in range(1, 4):
        with pytest.raises(CorruptStreamError, match="multiple of 4"):
            decode(data[:-length], part[1])


# ---------------------------------------------------------------- bits with probabilities of their own


def test_bits_are_rows_of_a_table_of_two():
    """The stream of bits is, byte for byte, what the plain coder writes for rows (2^16 - f, f)."""
    rng = np.random.default_rng(1)
    frequencies = np.concatenate([rng.integers(1, 65536, 500), [1, 65535, 32768] * 20])
    bits = rng.random(len(frequencies)) < frequencies / 65536
    encoder, plain = Encoder(), reference.rangecoder.RangeEncoder()
    encoder.write_bits(bits[:300], frequencies[:300])
    encoder.write_bits(bits[300:], frequencies[300:])
    for bit, frequency in zip(bits, frequencies, strict=True):
        plain.write(int(bit), reference.rangecoder.cumulative((65536 - frequency, frequency)))
    data = encoder.finish()
    assert data == np.array(plain.finish(), "<u4").tobytes()
    decoder = Decoder(data)
    np.testing.assert_array_equal(decoder.read_bits(frequencies[:560].reshape(80, 7)), bits.reshape(80, 7))
    decoder.finish()
    length = -np.log2(np.where(bits, frequencies, 65536 - frequencies) / 65536).sum()
    assert 0 <= 8 * len(data) - length <= 64


def test_bits_out_of_range():
    for bits, frequencies in (([2], [5]), ([-1], [5]), ([0], [0]), ([0], [65536]), ([0, 1], [5])):
        with pytest.raises(ValueError):
            Encoder().write_bits(np.array(bits), np.array(frequencies))


def test_damaged_bits_are_refused_or_others():
    rng = np.random.default_rng(2)
    frequencies = rng.integers(1, 65536, 300)
    encoder = Encoder()
    encoder.write_bits(bits := (rng.random(300) < frequencies / 65536).astype(int), frequencies)
    data = encoder.finish()
    refused = 0
    for other in damaged(data, rng):
        try:
            decoder = Decoder(other)
            found = decoder.read_bits(frequencies)
            decoder.finish()
        except CorruptStreamError:
            refused += 1
        else:
            assert other == data or (found != bits).any()
    assert refused
