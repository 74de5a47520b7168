"""The coders of bits: one order for all of them, what chunks hold, and what is refused."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlic_jax.entropy.bits import coders, prior, raw
from mlic_jax.entropy.bits.binary_rnn import BinaryRNN
from mlic_jax.entropy.bits.heights import HeightMap
from mlic_jax.entropy.bits.trimmed import TrimmedConv
from mlic_jax.errors import CorruptStreamError, ModelError
from mlic_jax.layers import init

T, C, N = 3, 2, 4
CELLS = 4, 5
SHAPES = {"level": (1, *CELLS, 1), "code": (1, *CELLS, N), "heights": (1, *CELLS), "codes": (1, T, *CELLS, C)}


class Both(nn.Module):
    """All that a model with bits can send: a part, the rest of its chunk, an optional map, and iterations."""

    def setup(self):
        self.level_prior = TrimmedConv(1, 2, 0)
        self.code_prior = TrimmedConv(N, 1, 0)
        self.rnn = BinaryRNN(C, 4, T)

    def __call__(self, values):
        return self.transmit(coders.Estimating(values))

    def transmit(self, code):
        level = code("level", self.level_prior, part=True) > 0
        bits = code("code", self.code_prior, np.arange(N) < 1 + 2 * level)
        heights = code.optional("heights", HeightMap(T, T))
        present = None
        if heights is not None:
            present = (heights[:, None] > np.arange(T)[:, None, None])[..., None]
        return level, bits, heights, code("codes", self.rnn, present)


def values(mapped=True, seed=0):
    """What an encoder is given, by NumPy; bits that are not present are there, too."""
    rng = np.random.default_rng(seed)
    some = {name: rng.choice([-1.0, 1.0], shape).astype(np.float32) for name, shape in SHAPES.items()}
    some["heights"] = rng.integers(1, T + 1, SHAPES["heights"])
    some["heights"][0, 0, 0] = T
    return some if mapped else {name: value for name, value in some.items() if name != "heights"}


@functools.cache
def artifact():
    """(params, state) with random weights."""
    boxed = jax.eval_shape(lambda: Both().init(jax.random.key(0), jax.tree.map(jnp.asarray, values())))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda a: a + 0.2 * rng.normal(size=a.shape), init.materialise(boxed, jax.random.key(0)))
    coder = coders.Exporting(SHAPES)
    Both().apply({"params": params}, coder, method="transmit")
    return params, coder.state


def transmit(coder):
    params, state = artifact()
    return Both().apply({"params": params, "state": state}, coder, method="transmit")


def encoded(mapped=True):
    coder = coders.Encoding(values(mapped))
    transmit(coder)
    return coder.chunks


class Recorded:
    """Another coder, and the calls that it got."""

    def __init__(self, coder):
        self.coder, self.calls, self.present = coder, [], []

    def shape(self, name):
        return self.coder.shape(name)

    def optional(self, name, format):
        self.calls.append((name, format, None))
        return self.coder.optional(name, format)

    def __call__(self, name, prior, present=None, part=False):
        self.calls.append((name, prior.name, part))
        self.present.append(np.broadcast_to(True if present is None else present, self.coder.shape(name)))
        return self.coder(name, prior, present, part)


def test_all_coders_get_the_same_calls_in_the_same_order():
    some = values()
    knowing = [
        coders.Estimating(jax.tree.map(jnp.asarray, some)),
        coders.Measuring(some),
        coders.Encoding(some),
        coders.Decoding(encoded(), SHAPES),
        coders.WithoutPriors(coders.Encoding(some)),
    ]
    without = [coders.Exporting(SHAPES), coders.Checking(SHAPES)]
    recorded = [Recorded(coder) for coder in knowing + without]
    received = [transmit(coder) for coder in recorded]
    expected = [
        ("level", "level_prior", True),
        ("code", "code_prior", False),
        ("heights", HeightMap(T, T), None),
        ("codes", "rnn", False),
    ]
    for coder in recorded:
        assert coder.calls == expected
    # Those that see what is sent agree on what is present, and a decoder knows what an encoder does.
    for coder, known in zip(recorded[1 : len(knowing)], received[1 : len(knowing)], strict=True):
        for ours, theirs in zip(coder.present, recorded[0].present, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        level, bits, heights, codes = known
        np.testing.assert_array_equal(level, some["level"] > 0)
        np.testing.assert_array_equal(bits, np.where(coder.present[1], some["code"], 0))
        np.testing.assert_array_equal(heights, some["heights"])
        np.testing.assert_array_equal(codes, np.where(coder.present[2], some["codes"], 0))


def test_states_are_those_of_all_priors():
    _, state = artifact()
    assert state.keys() == {"level_prior", "code_prior", "rnn"}
    transmit(coders.Checking(SHAPES))
    for name in state:
        broken = {key: value for key, value in state.items() if key != name}
        with pytest.raises(ModelError):
            Both().apply({"state": broken}, coders.Checking(SHAPES), method="transmit")
    plain = coders.Exporting(SHAPES)
    transmit(coders.WithoutPriors(plain))
    assert plain.state == {}
    Both().apply({"state": {}}, coders.WithoutPriors(coders.Checking(SHAPES)), method="transmit")


@pytest.mark.parametrize("mapped", [True, False])
def test_chunks_are_of_parts_maps_and_iterations(mapped):
    """By hand, from the priors alone."""
    some, (_, state) = values(mapped), artifact()
    (level, code, codes) = (some[name][0].astype(np.int8) for name in ("level", "code", "codes"))
    present = np.broadcast_to(np.arange(N) < 1 + 2 * (level > 0), code.shape)
    sent = np.ones(codes.shape, bool)
    start = b"\0"
    if mapped:
        heights = some["heights"][0]
        sent = np.broadcast_to((heights > np.arange(T)[:, None, None])[..., None], codes.shape)
        start = b"\1" + raw.with_length(HeightMap(T, T).encode(heights))
    bound = {
        "level_prior": TrimmedConv(1, 2, 0), "code_prior": TrimmedConv(N, 1, 0), "rnn": BinaryRNN(C, 4, T),
    }  # fmt: skip
    bound = {name: module.bind({"state": state[name]}) for name, module in bound.items()}
    (first,) = prior.write(bound["level_prior"], level, np.ones(level.shape, bool))
    (second,) = prior.write(bound["code_prior"], code * present, present)
    iterations = prior.write(bound["rnn"], codes * sent, sent)
    expected = (raw.with_length(first) + second, start + iterations[0], *iterations[1:])
    assert encoded(mapped) == expected
    # Plain bits in the same places.
    coder = coders.Encoding(some)
    transmit(coders.WithoutPriors(coder))
    plain = (
        raw.with_length(raw.pack(level.ravel() > 0)) + raw.pack(code[present] > 0),
        *(begin + raw.pack(one[there] > 0) for begin, one, there in zip((start, b"", b""), codes, sent, strict=True)),
    )
    assert coder.chunks == plain


def test_code_lengths_are_those_of_files():
    some = values()
    floats, files = coders.Estimating(jax.tree.map(jnp.asarray, some)), coders.Measuring(some)
    transmit(floats), transmit(files)
    chunks = encoded()
    assert files.bits["heights"] == coders.map_bits(some["heights"], HeightMap(T, T))
    assert files.bits["codes"].shape == (T,) and files.bits["code"].shape == (1,)
    for name, lengths in floats.lengths.items():
        assert lengths.shape == SHAPES[name]
        assert float(lengths.sum()) == pytest.approx(files.bits[name].sum(), rel=0.02)
    ideal = [files.bits["level"] + files.bits["code"], files.bits["heights"] + files.bits["codes"][0]]
    for chunk, bits in zip(chunks, [*(float(b[0]) for b in ideal), *files.bits["codes"][1:]], strict=True):
        assert bits - 1 <= 8 * len(chunk) <= 1.01 * bits + 8 * 20
    plain = coders.Measuring(some)
    transmit(coders.WithoutPriors(plain))
    present = (some["heights"][0] > np.arange(T)[:, None, None]).sum((1, 2)) * C
    assert plain.bits["codes"].tolist() == present.tolist()


def test_chunks_that_cannot_be():
    chunks = encoded()
    forged = [
        (),
        chunks[:-1],
        (*chunks, b""),
        (*chunks, chunks[-1]),
        (chunks[0][:3], *chunks[1:]),
        (chunks[0] + bytes(4), *chunks[1:]),
        (chunks[0], b"\2" + chunks[1][1:], *chunks[2:]),
        (chunks[0], b"", *chunks[2:]),
        (chunks[0], b"\1", *chunks[2:]),
    ]
    for wrong in forged:
        with pytest.raises(CorruptStreamError):
            coder = coders.Decoding(wrong, SHAPES)
            transmit(coder)
            coder.finish()


def test_a_map_of_fewer_iterations_is_refused():
    low = HeightMap(T, T).encode(np.full(CELLS, T - 1))
    assert (HeightMap(T, T - 1).decode(low, CELLS) == T - 1).all()
    with pytest.raises(CorruptStreamError, match="3 iterations, and no height is above 2"):
        HeightMap(T, T).decode(low, CELLS)


def test_volumes_that_are_none():
    bound = TrimmedConv(N, 1, 0).bind({"state": artifact()[1]["code_prior"]})
    volume, present = np.ones((2, 3, N), np.int8), np.ones((2, 3, N), bool)
    absent = present.copy()
    absent[0, 0, 0] = False
    for signs, there in (
        (volume * 2, present),
        (volume * 1.0, present),
        (volume, absent),
        (volume[..., 1:], present[..., 1:]),
    ):
        with pytest.raises(ValueError):
            prior.write(bound, signs, there)


def test_plain_bits_are_in_raster_order_and_zeros_fill_the_last_byte():
    signs = np.array([1, -1, 1, -1], np.int8).reshape(1, 1, 4)
    present = np.ones(signs.shape, bool)
    assert prior.write(raw.Raw(), signs, present) == (b"\xa0",)
    np.testing.assert_array_equal(prior.read(raw.Raw(), (b"\xa0",), present), signs)
    with pytest.raises(CorruptStreamError, match="1 bytes are no 4 bits"):
        prior.read(raw.Raw(), (b"\x0f",), present)
    for wrong in (b"", b"\xa0\0"):
        with pytest.raises(CorruptStreamError):
            prior.read(raw.Raw(), (wrong,), present)
    iterations = np.stack([signs, -signs])
    assert prior.write(raw.Raw(), iterations, np.ones(iterations.shape, bool)) == (b"\xa0", b"\x50")
