"""The reference decoder: its parts against published values and other libraries, and the whole against what users run.

Constriction is held against plain integers here, on millions of symbols: should a new version of it code differently by
one bit, these tests fail and the format stays what it is.
"""

import hashlib
import re
import subprocess
import sys

import constriction
import google_crc32c
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import target
from documents import ALONE, tables_behind
from jax import lax

import mlic_jax
from mlic_jax import reference, zoo
from mlic_jax.entropy import tables
from mlic_jax.entropy.priors.gaussian import SCALE_TABLE, scale_tables
from mlic_jax.entropy.rangecoder import LARGEST_SYMBOL, Decoder, Encoder, Models
from mlic_jax.errors import CorruptStreamError, MlicError, ModelError
from mlic_jax.fileformat import container
from mlic_jax.fileformat.artifact import Artifact, flatten, unflatten
from mlic_jax.fileformat.container import Chunk, Header
from mlic_jax.reference import __main__ as command

# ------------------------------------------------------------------------------------------------------ the container


def test_crc32c_of_published_examples():
    # RFC 3720, appendix B.4
    assert reference.container.crc32c(b"123456789") == 0xE3069283
    assert reference.container.crc32c(bytes(32)) == 0x8A9136AA
    assert reference.container.crc32c(bytes([255] * 32)) == 0x62A8AB43
    assert reference.container.crc32c(bytes(range(32))) == 0x46DD794E
    assert reference.container.crc32c(b"") == 0
    data = np.random.default_rng(0).bytes(10_000)
    assert reference.container.crc32c(data) == google_crc32c.value(data)


MODES = container.MODES


def random_file(rng):
    mode = rng.choice(MODES)
    kinds = [container.DATA] * rng.integers(0, 3) + [container.ALPHA] * container.has_alpha(mode)
    kinds += [k for k in (*container.METADATA, 200, 255) if rng.random() < 0.2]
    quality = None if rng.random() < 0.5 else int(rng.integers(0, 201)) / 2
    side = 1 << rng.integers(1, 16)
    header = Header(
        int(rng.integers(1, 1 << rng.integers(1, 17))),
        rng.bytes(6),
        int(rng.integers(1, side + 1)),
        int(rng.integers(1, min(side, container.LARGEST_PICTURE // side) + 1)),
        str(mode),
        quality,
    )
    chunks = [Chunk(container.DATA, rng.bytes(rng.integers(0, 300)))]
    chunks += [Chunk(int(kind), rng.bytes(rng.integers(0, 50))) for kind in rng.permutation(kinds)]
    return header, chunks, container.pack(header, chunks)


def test_files_come_apart():
    rng = np.random.default_rng(1)
    for _ in range(500):
        header, chunks, data = random_file(rng)
        file = reference.container.parse(data)
        assert (file.model_id, file.fingerprint, file.width, file.height) == header[:4]
        assert MODES[file.mode] == header.mode
        assert (None if file.quality is None else file.quality / 2) == header.quality
        assert [c for c in file.chunks if c[0] != container.PAD] == chunks


def mutants(rng, data):
    for _ in range(20):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(min(len(changed), 40)))
            action = rng.integers(4)
            if action == 0:
                changed[place] ^= 1 << rng.integers(8)
            elif action == 1:
                changed[place] = rng.integers(256)
            elif action == 2:
                del changed[place]
            else:
                changed.insert(place, int(rng.choice([0, 1, 0x7F, 0x80, 0xFF])))
        yield bytes(changed)
        yield target.repaired(changed)
        yield target.repaired(changed)[: rng.integers(len(changed) + 1)]


def test_two_parsers_of_one_format_agree():
    rng = np.random.default_rng(2)
    accepted = refused = 0
    for _ in range(150):
        for data in mutants(rng, random_file(rng)[2]):
            try:
                header, chunks = container.unpack(data)
            except MlicError:
                refused += 1
                with pytest.raises(CorruptStreamError):
                    reference.container.parse(data)
            else:
                accepted += 1
                file = reference.container.parse(data)
                assert (file.model_id, file.fingerprint, file.width, file.height, MODES[file.mode]) == header[:5]
                known = [c for c in file.chunks if c[0] in container.NAMES and c[0] != container.PAD]
                assert known == [tuple(chunk) for chunk in chunks]
    assert accepted > 500 and refused > 3000


# ---------------------------------------------------------------------------------------------------- the range coder


def adversarial_rows(rng):
    """Frequencies of rows that are hard on a range coder."""
    ones = np.ones(8194, np.int32)
    yield np.array([1, 65535]), np.array([65535, 1])
    yield np.array([65534, 1, 1]), np.array([1, 1, 65534]), np.array([1, 65534, 1])
    for place in (0, 4000, 8193):  # as long as a row can be
        long = ones.copy()
        long[place] += 65536 - long.sum()
        yield (long,)
    yield (np.full(4096, 16), np.full(2, 32768), np.full(65536 // 4, 4)[:16384])
    for n in (2, 3, 50, 5000):
        yield (rng.multinomial(65536 - n, rng.dirichlet(np.full(n, 0.1))) + 1,)


def coders(rng):
    """(constriction's model, ours, number of entries)."""
    for group in adversarial_rows(rng):
        for frequencies in group:
            assert frequencies.sum() == 65536
            categorical = constriction.stream.model.Categorical(frequencies / 65536, perfect=False)
            yield categorical, reference.rangecoder.cumulative(frequencies), len(frequencies)
    for n in (27, *(1 << bits for bits in range(1, 17))):
        yield constriction.stream.model.Uniform(n), reference.rangecoder.uniform(n), n


@pytest.mark.parametrize("seed", range(6))
def test_range_coder_is_constrictions(seed):
    rng = np.random.default_rng(seed)
    found = list(coders(rng))
    theirs, ours, parts = constriction.stream.queue.RangeEncoder(), reference.rangecoder.RangeEncoder(), []
    for place in rng.integers(0, len(found), 80):
        model, starts, n = found[place]
        count = int(rng.integers(1, 1500))
        # typical entries, rare entries, only the first, only the last
        entries = [
            lambda n=n, starts=starts, count=count: (
                np.searchsorted(starts, rng.integers(0, 1 << 24, count), "right") - 1
            ),
            lambda n=n, count=count: rng.integers(0, n, count),
            lambda count=count: np.zeros(count),
            lambda n=n, count=count: np.full(count, n - 1),
        ][rng.integers(4)]().astype(np.int32)
        theirs.encode(entries, model)
        for entry in entries.tolist():
            ours.write(entry, starts)
        parts.append((entries, model, starts))
        assert ours.finish() == theirs.get_compressed().tolist()
    decoder = reference.rangecoder.RangeDecoder(ours.finish())
    for entries, _, starts in parts:
        assert [decoder.read(starts) for _ in entries] == entries.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_range_decoder_is_constrictions_on_any_data(seed):
    rng = np.random.default_rng(seed)
    found = list(coders(rng))
    refused = 0
    for _ in range(100):
        words = rng.integers(0, 1 << 32, rng.integers(0, 60)).astype(np.uint32)
        words[: rng.integers(0, 3) * rng.integers(0, len(words) + 1)] = 0xFFFFFFFF
        theirs, ours = constriction.stream.queue.RangeDecoder(words), reference.rangecoder.RangeDecoder(words.tolist())
        for place in rng.integers(0, len(found), 10):
            model, starts, _ = found[place]
            try:
                expected = theirs.decode(model, 30).tolist()
            except AssertionError:
                refused += 1
                with pytest.raises(CorruptStreamError):
                    [ours.read(starts) for _ in range(30)]
                break
            assert [ours.read(starts) for _ in range(30)] == expected
    assert 0 < refused < 100


def test_carries_run_through_words():
    # Entries whose ranges hold a number of one word and zeros: what they begin with has ones there, until what follows
    # lies above the number, and one is added that runs all the way up.
    frequencies = np.array([9000, 20000, 36000, 535, 1])
    categorical = constriction.stream.model.Categorical(frequencies / 65536, perfect=False)
    model, rng = reference.rangecoder.cumulative(frequencies), np.random.default_rng(0)
    carried = kept = 0
    for _ in range(300):
        word, zeros = int(rng.integers(1, 1 << 31)), int(rng.integers(3, 40))
        decoder, ours, entries = reference.rangecoder.RangeDecoder([word]), reference.rangecoder.RangeEncoder(), []
        while len(ours.finish()) < zeros:
            try:
                entries.append(decoder.read(model))
            except CorruptStreamError:  # the number lies where rounding leaves a gap behind the last entry
                zeros = len(ours.finish())
                break
            ours.write(entries[-1], model)
        for entry in rng.integers(0, 5, 30).tolist():
            entries.append(entry)
            ours.write(entry, model)
        theirs = constriction.stream.queue.RangeEncoder()
        theirs.encode(np.array(entries, np.int32), categorical)
        words = ours.finish()
        assert words == theirs.get_compressed().tolist()
        carried += words[: zeros - 2] == [word] + [0] * (zeros - 3)
        kept += words[: zeros - 2] == [word - 1] + [0xFFFFFFFF] * (zeros - 3)
    assert carried > 50 and kept > 50


# ------------------------------------------------------------------------------------------- networks, second opinion


def layer(rng, size, inputs, outputs, stride, transposed, slope, low, high):
    kernel = rng.integers(-127, 128, (size, size, inputs, outputs))
    # Sums of this many products, of inputs up to 255, stay below 2^23.
    kernel = kernel * min(1, (1 << 22) / (size * size * inputs * 255 * 64))
    return {
        "kernel": kernel.round().astype(np.int8),
        "bias": rng.integers(-5000, 5000, outputs).astype(np.int32),
        "shift": rng.integers(-2, 12, outputs).astype(np.int8),
        "plan": np.array([stride, transposed, slope, low, high], np.int32),
    }


def random_network(rng, inputs, hidden, outputs, slope=5):
    """Two transposed layers and a plain one: four times as large, as h_s is."""
    low = -32 if slope else 0
    return {
        "layer_0": layer(rng, 5, inputs + 2, hidden, 2, 1, slope, low, 255),
        "layer_1": layer(rng, 5, hidden, hidden, 2, 1, slope, low, 255),
        "layer_2": layer(rng, 3, hidden, outputs, 1, 0, 512, -(1 << 22), 1 << 22),
    }


def evaluate_by_lax(layers, symbols):
    """The exact network in int32 by XLA's own convolutions, requantised by comparisons instead of shifts."""
    x = jnp.asarray(symbols, jnp.int32)[None]
    ones = jnp.ones((*x.shape[:3], 1), jnp.int32)
    x = jnp.concatenate([x, ones, 128 * ones], axis=-1)
    for i in range(len(layers)):
        kernel, bias, shift, plan = (layers[f"layer_{i}"][name] for name in ("kernel", "bias", "shift", "plan"))
        stride, transposed, slope, low, high = plan.tolist()
        pad = kernel.shape[0] // 2
        if transposed:
            geometry = {
                "window_strides": (1, 1),
                "padding": [(pad, pad + stride - 1)] * 2,
                "lhs_dilation": (stride,) * 2,
            }
        else:
            geometry = {"window_strides": (stride,) * 2, "padding": [(pad, pad)] * 2}
        v = lax.conv_general_dilated(
            x, jnp.asarray(kernel, jnp.int32), dimension_numbers=("NHWC", "HWIO", "NHWC"), **geometry
        )
        v = np.asarray(v + bias).astype(np.float64)  # float64 holds all that follows exactly
        u = np.floor(v * 2.0 ** -shift.astype(np.float64) + 0.5)
        if slope != 512:
            u = np.where(u < 0, np.floor(np.maximum(u, -(2.0**15)) * (slope / 512) + 0.5), u)
        x = jnp.asarray(np.clip(u, low, high).astype(np.int32))
    return np.asarray(x)[0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 2), (6, 7)])
@pytest.mark.parametrize("slope", [0, 5, 512])
def test_exact_networks(shape, slope):
    rng = np.random.default_rng(slope)
    layers = random_network(rng, 6, 9, 5, slope)
    symbols = rng.integers(-127, 128, (*shape, 6))
    found = reference.exact.evaluate(layers, symbols)
    assert found.dtype == np.int64 and found.shape == (4 * shape[0], 4 * shape[1], 5)
    np.testing.assert_array_equal(found, evaluate_by_lax(layers, symbols))
    assert len(np.unique(found)) > 15


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_convolutions_of_all_shapes(stride, transposed, size):
    rng = np.random.default_rng(size)
    layers = {"layer_0": layer(rng, size, 4, 3, stride, transposed, 512, -(1 << 22), 1 << 22)}
    symbols = rng.integers(-127, 128, (5, 8, 2))
    np.testing.assert_array_equal(reference.exact.evaluate(layers, symbols), evaluate_by_lax(layers, symbols))


def test_rounding_is_half_up():
    v = np.array([-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6])[:, None]
    one = np.array([1])
    floors = [-2, -2, -1, -1, 0, 0, 1, 1, 2, 2, 3, 3]
    assert reference.exact.requantise(v, one, 512, -99, 99)[:, 0].tolist() == floors
    assert reference.exact.requantise(v, one, 0, -99, 99)[:, 0].tolist() == [max(0, x) for x in floors]
    assert reference.exact.requantise(v, -one, 512, -8, 7)[:, 0].tolist() == [-8, -8, -6, -4, -2, 0, 2, 4, 6, 7, 7, 7]
    wide = np.array([-(1 << 23) + 1, -(1 << 16), -359, -358, -257, -256, -52, -51])[:, None]
    # 5/512 of -2^15, -2^15, -359 (-3.506), -358 (-3.496), -257 (-2.51), -256 (-2.5), -52 (-0.508), -51 (-0.498)
    assert reference.exact.requantise(wide, 0 * one, 5, -999, 9)[:, 0].tolist() == [-320, -320, -4, -3, -3, -2, -1, 0]


def test_sums_beyond_the_promise_are_refused():
    rng = np.random.default_rng(0)
    layers = {"layer_0": layer(rng, 1, 3, 1, 1, 0, 512, 0, 255) | {"bias": np.array([1 << 23], np.int32)}}
    layers["layer_0"]["kernel"][:] = 0
    with pytest.raises(ModelError, match="2\\^23"):
        reference.exact.evaluate(layers, np.zeros((2, 2, 1), np.int64))


# --------------------------------------------------------------------------------------------------------- whole files

N, M = 6, 7


def channel_tables(rng, channels):
    rows = [rng.dirichlet(np.ones(n)) * rng.uniform(0.5, 1) for n in rng.integers(1, 40, channels)]
    return tables.build(rows, -np.array([rng.integers(0, len(row)) for row in rows]))


def gaussian_table():
    """With thresholds between the scales, in steps of 1/256."""
    middle = np.sqrt(SCALE_TABLE[1:].astype(np.float64) * SCALE_TABLE[:-1])
    return scale_tables()._replace(thresholds=np.ceil(256 * middle).astype(np.int32))


def make_model(name, n=N, m=M):
    rng = np.random.default_rng(len(name))
    architecture, params = {"N": n, "M": m}, {"g_s": {"bias": np.zeros(3, np.float32)}}
    if name == "bmshj2018-factorized":
        return Artifact(name, architecture, params, {}, {"factorized_y": channel_tables(rng, m)})
    outputs, slope = (2 * m, 5) if name == "mbt2018-mean" else (m, 0)
    state = {"h_s": random_network(rng, n, m, outputs, slope)}
    state["h_s"]["layer_2"]["shift"] = rng.integers(0, 4, outputs).astype(np.int8)
    return Artifact(
        name, architecture, params, state, {"factorized_z": channel_tables(rng, n), "gaussian": gaussian_table()}
    )


def encode(model, height, width, seed=0, spread=1):
    """(stream, what it holds) of one picture, by the range coder that users run and lax."""
    rng = np.random.default_rng(seed)
    coders = {family: Models(table) for family, table in model.tables.items()}
    encoder, expected = Encoder(), {}

    def write(name, rows, family, limit):
        table = model.tables[family]
        middle = (table.first + table.lengths // 2)[rows]
        symbols = np.rint(rng.normal(middle, spread * table.lengths[rows] / 6))
        symbols[rng.random(symbols.shape) < 0.01] = rng.integers(-limit, limit)
        symbols = np.clip(symbols, -limit, limit).astype(np.int32)
        encoder.write(symbols[None], rows[None], coders[family], None if limit == LARGEST_SYMBOL else limit)
        expected[name], expected[f"{name}_rows"] = symbols, rows
        return symbols

    if model.model == "bmshj2018-factorized":
        h, w = -(-height // 16), -(-width // 16)
        write(
            "y",
            np.broadcast_to(np.arange(len(model.tables["factorized_y"].lengths)), (h, w, model.architecture["M"])),
            "factorized_y",
            LARGEST_SYMBOL,
        )
    else:
        h, w, n = -(-height // 64), -(-width // 64), model.architecture["N"]
        z = write("z", np.broadcast_to(np.arange(n), (h, w, n)), "factorized_z", 127)
        scales = evaluate_by_lax(model.state["h_s"], z)
        if model.model == "mbt2018-mean":
            scales, expected["y_means"] = np.split(scales, 2, axis=2)
        rows = (scales[..., None] >= model.tables["gaussian"].thresholds).sum(-1)
        write("y", rows, "gaussian", LARGEST_SYMBOL)
    return encoder.finish(), expected


def make_file(model, stream, height, width):
    model_id = {name: number for number, (name, _) in reference.MODELS.items()}[model.model]
    return container.pack(Header(model_id, model.fingerprint, width, height), [Chunk(container.DATA, stream)])


# What `encode` knows. kltnet's coding order is held to the reference in tests/models/test_kltnet.py.
NAMES = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 200), (1, 1100)])
@pytest.mark.parametrize("spread", [0.2, 1, 30])
def test_symbols_of_files(name, size, spread):
    model = make_model(name)
    stream, expected = encode(model, *size, spread=spread)
    found = reference.decode(make_file(model, stream, *size), model)
    assert found.keys() == expected.keys()
    for key, array in found.items():
        assert array.dtype == np.int32, key
        np.testing.assert_array_equal(array, expected[key], err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_files_that_users_write(name):
    # One wrong row on either side, and the stream would be refused. Kernels are enlarged so that many rows occur.
    codec = zoo.make(name, N=4, M=6)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    params = flatten(params)
    for path in params:
        if path.endswith("kernel") and not path.startswith("g_s"):
            params[path] = params[path] * 4
    model = codec.export(unflatten(params), state)
    image = np.random.default_rng(0).integers(0, 256, (70, 130, 3), dtype=np.uint8)
    found = reference.decode(mlic_jax.compress(image, model), model)
    assert len(np.unique(found["y"])) > 10
    assert len(np.unique(found["y_rows"])) >= (6 if name == "bmshj2018-factorized" else 10)


def test_rows_are_spread_over_the_table():
    # or the test above would prove little
    model = make_model("mbt2018-mean")
    _, expected = encode(model, 300, 300)
    assert len(np.unique(expected["y_rows"])) > 10 and len(np.unique(expected["y_means"])) > 100


def test_zoo_knows_the_models():
    ours = {name for name, entry in zoo.MODELS.items() if entry.factory.startswith("mlic_jax.")}
    # The streams of the two are files of standard codecs.
    assert {name for name, _ in reference.MODELS.values()} == ours - {"jiang2017", "talebi2020"}
    for number, (name, _) in reference.MODELS.items():
        assert zoo.stream_id(name) == number


def both(stream, model, table, shape, limit):
    """What the range coder and the reference make of a stream: symbols, or None for a refusal."""
    found = []
    rows = np.broadcast_to(np.arange(shape[-1]), shape)

    def run():
        decoder = Decoder(stream)
        yield decoder.read(rows, Models(table), limit)
        yield decoder.finish()

    def refer():
        coder = reference.rangecoder.Mirrored(stream)
        yield reference.latents.read_latent(coder, rows, table, limit)
        yield coder.finish()

    for reader in (run, refer):
        try:
            symbols, _ = reader()
            found.append(symbols.tolist())
        except CorruptStreamError:
            found.append(None)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_two_decoders_agree_on_damaged_streams(seed):
    rng = np.random.default_rng(seed)
    table = tables.build(
        [np.array([1.0]), np.array([0.0, 1]), np.array([0.5, 0.5]), rng.dirichlet(np.ones(9)), np.ones(3) * 1e-9],
        np.array([0, -1, 0, -4, -1]),
    )
    shape, models = (3, 5, 5), Models(table)
    rows = np.broadcast_to(np.arange(5), shape)
    refused = 0
    for _ in range(300):
        limit = int(rng.choice([3, 127, LARGEST_SYMBOL]))
        encoder = Encoder()
        symbols = np.clip(np.rint(rng.standard_cauchy(shape) * rng.choice([0.1, 1, 1000])), -limit, limit)
        symbols[rng.random(shape) < 0.02] = rng.choice([-limit, limit])
        encoder.write(symbols.astype(np.int32), rows, models, limit)
        data = encoder.finish()
        ours, oracle = both(data, models, table, shape, limit)
        assert ours == oracle == symbols.tolist()
        for _ in range(5):
            changed = bytearray(data)
            changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
            changed = [bytes(changed), bytes(changed[:-4]), bytes(changed) + bytes(4), rng.bytes(len(data))][
                rng.integers(4)
            ]
            ours, oracle = both(changed, models, table, shape, limit)
            assert ours == oracle
            refused += ours is None
    assert refused > 500


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_raise_one_error(name):
    model = make_model(name)
    stream, _ = encode(model, 64, 64)
    data = make_file(model, stream, 64, 64)
    rng = np.random.default_rng(0)
    for length in range(0, len(data), 7):
        with pytest.raises(CorruptStreamError):
            reference.decode(data[:length], model)
    for _ in range(30):
        changed = bytearray(data)
        changed[rng.integers(30, len(data))] ^= 1 << rng.integers(8)
        with pytest.raises(MlicError):
            reference.decode(bytes(changed), model)
        try:
            reference.decode(target.repaired(changed), model)
        except MlicError:
            pass


def test_files_of_other_models():
    model, other = make_model("mbt2018-mean"), make_model("bmshj2018-hyperprior")
    data = make_file(model, encode(model, 64, 64)[0], 64, 64)
    with pytest.raises(ModelError, match="mbt2018-mean .*not with bmshj2018-hyperprior"):
        reference.decode(data, other)
    with pytest.raises(ModelError, match=model.fingerprint.hex()):
        reference.decode(data, make_model("mbt2018-mean", n=5))
    unknown = container.pack(Header(999, model.fingerprint, 64, 64), [Chunk(0, b"abcd")])
    with pytest.raises(ModelError, match="999"):
        reference.decode(unknown, model)
    twice = container.pack(Header(3, model.fingerprint, 64, 64), [Chunk(0, b"abcd")] * 2)
    with pytest.raises(CorruptStreamError, match="has 2"):
        reference.decode(twice, model)


def test_command_runs_without_the_libraries(tmp_path):
    model = make_model("mbt2018-mean")
    stream, expected = encode(model, 100, 70)
    (tmp_path / "a.mlic").write_bytes(make_file(model, stream, 100, 70))
    model.save(tmp_path / "a.mlicm")
    arguments = [str(tmp_path / "a.mlic"), str(tmp_path / "a.mlicm")]
    done = subprocess.run([sys.executable, "-c", ALONE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[2]: line.split()[:2] for line in done.stdout.splitlines()}
    assert lines == {
        name: [hashlib.sha256(array.astype("<i4").tobytes()).hexdigest(), "x".join(map(str, array.shape))]
        for name, array in expected.items()
    }


def test_command_says_what_is_wrong(tmp_path, capsys):
    model = make_model("bmshj2018-factorized")
    model.save(tmp_path / "a.mlicm")
    (tmp_path / "a.mlic").write_bytes(b"GIF89a")
    for arguments, code, words in (
        ([], 2, "usage"),
        ([tmp_path / "a.mlic", tmp_path / "a.mlicm"], 4, "error: not a .mlic file"),
        ([tmp_path / "none", tmp_path / "a.mlicm"], 3, "No such file"),
        ([tmp_path / "a.mlicm", tmp_path / "none"], 5, "cannot read"),
    ):
        assert command.main(list(map(str, arguments))) == code
        error = capsys.readouterr().err
        assert re.search(words, error) and error.count("\n") == 1


# ---------------------------------------------------------------------------------------------- the document's example


def test_documented_requantisation():
    _, (lines, *_) = tables_behind("<!-- tests/reference/test_decoder.py computes these lines -->")
    assert len(lines) == 7
    for v, shift, slope, low, high, output in (map(int, line) for line in lines):
        assert reference.exact.requantise(np.array([[v]]), np.array([shift]), slope, low, high).tolist() == [[output]]


def test_documented_example():
    text, (rows, symbols, steps, *_) = tables_behind("<!-- tests/reference/test_decoder.py codes this example -->")
    frequencies = [list(map(int, row[2].split())) for row in rows]
    models = {f"row {r}": reference.rangecoder.cumulative(row) for r, row in enumerate(frequencies)}
    assert [list(map(int, row[3].split())) for row in rows] == list(models.values())
    table = tables.Table(
        np.concatenate(frequencies).astype(np.int32),
        np.array([len(row) for row in frequencies], np.int32),
        np.array([int(row[1]) for row in rows], np.int32),
        np.zeros(0, np.int32),
    )
    tables.check(table)
    latent = np.array([[int(cell) for cell in line[1:]] for line in symbols], np.int32)[None]
    data = bytes.fromhex(re.search(r"content:\n\n    ((?:[0-9A-F]{2} ?)+)\n", text)[1])

    indexes = np.broadcast_to([0, 1], latent.shape)
    encoder = Encoder()
    encoder.write(latent, indexes, Models(table))
    assert encoder.finish() == data
    coder = reference.rangecoder.Mirrored(data)
    assert reference.latents.read_latent(coder, indexes, table, 7).tolist() == latent.tolist()
    coder.finish()

    encoder = reference.rangecoder.RangeEncoder()
    for _, _, name, entry, low, width, words in steps:
        uniform = re.fullmatch(r"uniform\((\d+)\)", name)
        encoder.write(int(entry), reference.rangecoder.uniform(int(uniform[1])) if uniform else models[name])
        assert (encoder._low, encoder._range) == (int(low, 16), int(width, 16))
        assert " ".join(f"{word:08X}" for word in encoder._words) == words.strip("-")
    assert b"".join(word.to_bytes(4, "little") for word in encoder.finish()) == data
