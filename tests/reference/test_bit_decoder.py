"""The reference decoder of codecs that send bits, against what users run: tiny models with random weights."""

import functools
import hashlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from documents import ALONE, tables_behind

from mlic_jax import reference, zoo
from mlic_jax.entropy.bits import coders, heights, raw, trimmed
from mlic_jax.entropy.bits.binary_rnn import BinaryRNN
from mlic_jax.entropy.bits.binary_rnn_integers import Walk
from mlic_jax.entropy.rangecoder import Encoder
from mlic_jax.errors import CorruptStreamError, ModelError
from mlic_jax.families import recurrent_codec
from mlic_jax.fileformat import container
from mlic_jax.fileformat.artifact import Artifact, flatten, unflatten
from mlic_jax.fileformat.container import Chunk, Header
from mlic_jax.models import johnston2018, li2018, toderici2017

SMALL = {
    "toderici2017": {**toderici2017.TOY, "code": 4},
    "johnston2018": {**johnston2018.TOY, "code": 4, "iterations": 4},
    "li2018": {**li2018.TOY, "blocks": 1},
}


@functools.cache
def made(name, gain=2.0, **changes):
    """(codec, artifact) with random weights in place of the entropy coder's, large enough that sums are clipped."""
    codec, rng = zoo.make(name, **{**SMALL[name], **changes}), np.random.default_rng(0)
    params, _ = codec.init(jax.random.key(0), (64, 64, 3))
    flat = flatten(params)
    for path, array in flat.items():
        if path.startswith(("entropy", "code_prior", "map_prior")):
            inputs = np.prod(array.shape[(1 if path.startswith("entropy") else 0) : -1])
            spread = gain * inputs**-0.5 if "kernel" in path else 0.5
            flat[path] = rng.normal(0, spread, array.shape).astype(np.float32)
    return codec, codec.export(unflatten(flat), {})


def file_of(artifact, chunks, size, quality=None):
    header = Header(zoo.stream_id(artifact.model), artifact.fingerprint, size[1], size[0], quality=quality)
    return container.pack(header, [Chunk(container.DATA, chunk) for chunk in chunks])


def outcome(decode, *arguments):
    """What a decoder finds, as lists that can be compared; None for a refusal."""
    try:
        return {key: array.tolist() for key, array in decode(*arguments).items()}
    except CorruptStreamError:
        return None


class _Seen(Exception):
    """Carries what networks were given: their pictures are not needed here."""


def decoded(codec, artifact, chunks, size, quality=None):
    """The bits that the package's own decoder gives to its networks; {"codes"} or {"bits", "sent"}."""

    def recurrent_network(module, params, codes):
        raise _Seen({"codes": codes})

    synthesize = li2018.Li2018.synthesize

    def network(self, received):
        bits, sent = received
        if not isinstance(bits, np.ndarray):  # only to know the shapes of parameters
            return synthesize(self, received)
        raise _Seen({"bits": (bits & sent)[0], "sent": sent[0]})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recurrent_codec, "decode", recurrent_network)
        patch.setattr(li2018.Li2018, "synthesize", network)
        with pytest.raises(_Seen) as found:
            codec.decompress(artifact, chunks, size, quality)
    return {key: array.astype(np.int32) for key, array in found.value.args[0].items()}


# -------------------------------------------------------------------------------------------------------- single bits


def test_bits_are_those_of_table_rows():
    frequencies = np.random.default_rng(0).permutation(np.arange(1, 1 << 16))
    bits = (np.random.default_rng(1).random(len(frequencies)) < frequencies / 65536).astype(int)
    theirs, ours = Encoder(), reference.rangecoder.RangeEncoder()
    theirs.write_bits(bits, frequencies)
    for bit, frequency in zip(bits.tolist(), frequencies.tolist(), strict=True):
        ours.write(bit, reference.rangecoder.cumulative((65536 - frequency, frequency)))
    data = theirs.finish()
    assert b"".join(word.to_bytes(4, "little") for word in ours.finish()) == data
    reader = reference.bits.BitReader(data)
    assert reader.read(frequencies) == bits.tolist()
    reader.finish()


@pytest.mark.parametrize(
    "data, wanted",
    [
        (b"\0ab", (b"", b"ab")),
        (b"\2abc", (b"ab", b"c")),
        (b"\x80\1" + b"x" * 130, (b"x" * 128, b"xx")),
        (b"", None),
        (b"\3ab", None),
        (b"\x80\0ab", None),
        (b"\x80", None),
        (b"\x80\0\1", None),
        (b"\xff" * 6, None),
    ],
)
def test_lengths_of_maps(data, wanted):
    for split in (reference.bits.take_part, raw.split):
        if wanted:
            assert split(data) == wanted
        else:
            with pytest.raises(CorruptStreamError):
                split(data)


# ------------------------------------------------------------------------------------------------------------ heights


def maps(rng, iterations):
    """Maps that are flat, smooth, wild, extreme, or have a single step."""
    for shape in ((1, 1), (1, 9), (8, 1), (5, 7), (12, 10)):
        i, j = np.indices(shape)
        yield np.full(shape, rng.integers(1, iterations + 1))
        yield rng.integers(1, iterations + 1, shape)
        yield 1 + (i + 2 * j + rng.integers(0, 2, shape)) % iterations
        yield np.where(rng.random(shape) < 0.2, 1, iterations)
        yield np.where(j > shape[1] // 2, max(1, iterations - 1), iterations)


@pytest.mark.parametrize("iterations", [1, 2, 3, 16, 64])
def test_heights(iterations):
    rng = np.random.default_rng(iterations)
    refused = 0
    for wanted in maps(rng, iterations):
        data = heights.encode(wanted, iterations)
        np.testing.assert_array_equal(reference.heights.read_heights(data, wanted.shape, iterations), wanted)
        for _ in range(10):
            changed = bytearray(data) + bytes(4 * rng.integers(0, 2))
            if changed:
                changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
            ours, theirs = (
                outcome(lambda *arguments, read=read: {"heights": read(*arguments)}, changed, wanted.shape, iterations)
                for read in (reference.heights.read_heights, heights.decode)
            )
            assert ours == theirs
            refused += ours is None
    assert refused > 20


def test_counts_of_heights_are_halved():
    # Both kinds of contexts, those of flat places and those of steps, are counted to the end.
    wanted = np.random.default_rng(0).choice([3, 4], (210, 210), p=[0.03, 0.97])
    data = heights.encode(wanted, 4)
    np.testing.assert_array_equal(reference.heights.read_heights(data, wanted.shape, 4), wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference.heights, "MOST_COUNTS", 1 << 20)
        with pytest.raises(CorruptStreamError):
            reference.heights.read_heights(data, wanted.shape, 4)


# -------------------------------------------------------------------------------------------------- recurrent models


def random_stream(artifact, size, mapped=False, count=None, seed=0):
    """(codes int8 [K, h, w, C], heights or None, chunks): not of a picture."""
    rng, architecture = np.random.default_rng(seed), artifact.architecture
    iterations, channels = architecture["iterations"], architecture["code"]
    stride = 32 if architecture["framework"] == "scaling" else 16
    shape = [-(-side // stride) * stride // 16 for side in size]
    chosen = rng.integers(1, iterations + 1, shape) if mapped else None
    if mapped:
        chosen.flat[0] = count or iterations
    codes = rng.choice(np.array([-1, 1], np.int8), (count or iterations, *shape, channels), p=[0.3, 0.7])
    if mapped:
        codes *= (chosen > np.arange(len(codes))[:, None, None])[..., None]
    coder = coders.Encoding({"codes": codes[None], **({"heights": chosen[None]} if mapped else {})})
    code = coders.WithoutPriors(coder) if architecture["entropy"] == "none" else coder
    module = recurrent_codec.Transmission(channels, iterations, architecture["entropy"] == "binary_rnn")
    module.apply({"state": artifact.state}, code, method="transmit")
    return codes, chosen, coder.chunks


RECURRENT = {
    "lstm": ("toderici2017", {}),
    "scaling": ("toderici2017", {"framework": "scaling", "cell": "gru"}),
    "one iteration": ("toderici2017", {"iterations": 1}),
    "single iterations": ("toderici2017", {"entropy": "single_iteration"}),
    "johnston": ("johnston2018", {}),
    "plain bits": ("johnston2018", {"entropy": "none", "code": 5}),
}


@pytest.mark.parametrize("mapped", [False, True], ids=["whole", "heights"])
@pytest.mark.parametrize("kind", RECURRENT)
def test_codes_of_files(kind, mapped):
    name, changes = RECURRENT[kind]
    codec, artifact = made(name, **changes)
    reference.bits.bit_model.cache_clear()
    for seed, size in enumerate([(1, 1), (17, 70), (90, 33)]):
        codes, chosen, chunks = random_stream(artifact, size, mapped, seed=seed)
        found = reference.decode(file_of(artifact, chunks, size, 100), artifact)
        assert found["codes"].dtype == np.int32 and found.keys() == ({"codes", "heights"} if mapped else {"codes"})
        np.testing.assert_array_equal(found["codes"], codes)
        np.testing.assert_array_equal(found["codes"], decoded(codec, artifact, chunks, size, 100)["codes"])
        if mapped:
            np.testing.assert_array_equal(found["heights"], chosen)
        for count in range(1, len(chunks)):
            prefix = reference.decode_chunks(chunks[:count], artifact, *size, 200)
            np.testing.assert_array_equal(prefix["codes"], codes[:count])
    # Or it would prove little: each bit has a probability of its own.
    assert artifact.architecture["entropy"] == "none" or reference.bits.bit_model.cache_info().currsize > 20


def test_a_picture_may_have_fewer_iterations_than_its_highest_cell():
    codec, artifact = made("johnston2018")
    codes, chosen, chunks = random_stream(artifact, (40, 50), True, 3)
    assert chosen.max() == 4 and len(chunks) == 3
    found = reference.decode_chunks(chunks, artifact, 40, 50, 150)
    np.testing.assert_array_equal(found["codes"], codes)
    np.testing.assert_array_equal(decoded(codec, artifact, chunks, (40, 50), 75.0)["codes"], codes)


def test_steps_of_lstms():
    """Gates and cells of all sizes, beyond their bounds too, where few pictures get."""
    _, artifact = made("toderici2017")
    state = artifact.state["entropy"]
    theirs = Walk(BinaryRNN(4, 8, 3), state, np.zeros((3, 1, 1, 4), np.int8), np.ones((3, 1, 1), bool))
    ours, rng = reference.recurrent.Predictor(state), np.random.default_rng(0)
    bounded = 0
    for reach in (50, 500, 3000):
        gates = rng.integers(-reach, reach, (300, 32))
        cells = rng.integers(-(1 << 18), 1 << 18, (300, 8)).clip(-(1 << 17), 1 << 17)
        cells //= rng.choice([1, 1, 64, 4096], (300, 1))
        h, c = theirs._lstm(gates.astype(np.float64), cells.astype(np.float64))
        for at in range(300):
            found = ours.lstm(gates[at], cells[at])
            np.testing.assert_array_equal(found, [h[at], c[at]])
            bounded += (abs(found[1]) == 1 << 17).sum()
    assert bounded > 50


@pytest.mark.parametrize("kind", ["lstm", "johnston", "plain bits"])
def test_damaged_chunks_of_recurrent_models(kind):
    name, changes = RECURRENT[kind]
    codec, artifact = made(name, **changes)
    rng, size, refused = np.random.default_rng(0), (40, 30), 0
    for seed in range(20):
        _, _, chunks = random_stream(artifact, size, seed % 2 == 1, seed=seed)
        for changed in damaged(rng, chunks):
            ours = outcome(reference.decode_chunks, changed, artifact, *size, 100)
            theirs = outcome(lambda *given: decoded_or_refused(codec, *given), artifact, changed, size, 50.0)
            assert (ours and ours["codes"]) == (theirs and theirs["codes"])
            refused += ours is None
    assert refused > 50


def damaged(rng, chunks):
    """Chunks that were changed, cut off, prolonged, left out or swapped."""
    for _ in range(4):
        place = rng.integers(len(chunks))
        one = bytearray(chunks[place])
        if one:
            one[rng.integers(min(len(one), 8) if rng.integers(2) else len(one))] ^= 1 << rng.integers(8)
        yield (*chunks[:place], bytes(one), *chunks[place + 1 :])
    yield (*chunks[:-1], chunks[-1][:-1])
    yield (*chunks[:-1], chunks[-1] + bytes(4))
    yield (*chunks, chunks[-1])
    yield chunks[1:]
    yield chunks[::-1]
    yield (b"", *chunks[1:])


def decoded_or_refused(codec, artifact, chunks, size, quality=None):
    try:
        return decoded(codec, artifact, chunks, size, quality)
    except CorruptStreamError as reason:
        raise reason
    except pytest.fail.Exception:
        raise AssertionError("the decoder's networks were not run") from None


# ------------------------------------------------------------------------------------------------------------- li2018

LI = {
    "map": {},
    "paper's levels": {"floor_levels": "paper", "blocks": 0, "n": 4},
    "no blocks, two levels": {"blocks": 0, "levels": 2, "code_features": 3},
    "no map": {"importance": "none"},
    "plain bits": {"entropy": "none", "floor_levels": "paper"},
    "plain bits, no map": {"entropy": "none", "importance": "none"},
}


def random_volume(artifact, size, seed=0):
    """(bits int8 [h, w, n], levels or None, chunks): not of a picture."""
    rng, architecture = np.random.default_rng(seed), artifact.architecture
    n, levels = architecture["n"], architecture["levels"]
    cells = [-(-side // 8) for side in size]
    bits, level = rng.integers(0, 2, (*cells, n)), None
    volumes = {"code": 2 * bits[None] - 1}
    module = li2018.Li2018(**{key: value for key, value in architecture.items() if key != "entropy"})
    if architecture["importance"] == "map":
        level = rng.integers(0, levels, cells)
        volumes["map"] = 2 * li2018.planes_of(level, module.planes)[None] - 1
    coder = coders.Encoding(volumes)
    code = coders.WithoutPriors(coder) if architecture["entropy"] == "none" else coder
    _, sent = module.apply({"state": artifact.state}, code, method="transmit")
    return bits * sent[0], level, coder.chunks


@pytest.mark.parametrize("kind", LI)
def test_bits_of_files(kind):
    codec, artifact = made("li2018", **LI[kind])
    reference.bits.bit_model.cache_clear()
    for seed, size in enumerate([(1, 1), (8, 70), (37, 22)]):
        bits, level, chunks = random_volume(artifact, size, seed)
        found = reference.decode(file_of(artifact, chunks, size), artifact)
        assert found["bits"].dtype == np.int32 and found.keys() == ({"bits"} if level is None else {"bits", "levels"})
        np.testing.assert_array_equal(found["bits"], bits)
        np.testing.assert_array_equal(found["bits"], decoded(codec, artifact, chunks, size)["bits"])
        if level is not None:
            np.testing.assert_array_equal(found["levels"], level)
    assert artifact.architecture["entropy"] == "none" or reference.bits.bit_model.cache_info().currsize > 20


def test_weights_that_are_dropped_are_of_no_account():
    _, artifact = made("li2018")
    _, _, chunks = random_volume(artifact, (20, 30))
    state = flatten(artifact.state)
    module = trimmed.TrimmedConv(*(artifact.architecture[key] for key in ("n", "code_features", "blocks")))
    for number, layer in enumerate(trimmed.layers(module)):
        kernel = state[f"code_prior/layer_{number}/kernel"]
        state[f"code_prior/layer_{number}/kernel"] = np.where(trimmed.trimming(layer, module.channels), kernel, 99)
    other = Artifact(artifact.model, artifact.architecture, artifact.params, unflatten(state), {})
    ours = [reference.decode_chunks(chunks, model, 20, 30) for model in (artifact, other)]
    np.testing.assert_array_equal(ours[0]["bits"], ours[1]["bits"])


@pytest.mark.parametrize("kind", ["map", "no map", "plain bits"])
def test_damaged_chunks_of_li2018(kind):
    codec, artifact = made("li2018", **LI[kind])
    rng, size, refused = np.random.default_rng(0), (20, 30), 0
    for seed in range(12):
        _, _, chunks = random_volume(artifact, size, seed)
        for changed in damaged(rng, chunks):
            ours = outcome(reference.decode_chunks, changed, artifact, *size)
            theirs = outcome(lambda *given: decoded_or_refused(codec, *given), artifact, changed, size)
            assert (ours and ours["bits"]) == (theirs and theirs["bits"])
            refused += ours is None
    assert refused > 30


# -------------------------------------------------------------------------------------------------------- whole files


def test_the_files_that_users_write():
    import mlic_jax

    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    for name, quality in (("toderici2017", 70), ("li2018", None)):
        codec, artifact = made(name)
        data = mlic_jax.compress(image, artifact, quality)
        found = reference.decode(data, artifact)
        chunks = [chunk.content for chunk in container.unpack(data)[1]]
        theirs = decoded(codec, artifact, chunks, image.shape[:2], quality)
        key = "codes" if "codes" in found else "bits"
        np.testing.assert_array_equal(found[key], theirs[key])
        assert len(np.unique(found[key])) == 2


def test_files_of_other_models_and_other_rates():
    _, artifact = made("toderici2017")
    _, other = made("toderici2017", gain=0.3)
    _, li = made("li2018")
    _, _, chunks = random_stream(artifact, (20, 20))
    data = file_of(artifact, chunks, (20, 20), 50)
    with pytest.raises(ModelError, match=artifact.fingerprint.hex()):
        reference.decode(data, other)
    with pytest.raises(ModelError, match="id 6, which this decoder does not know"):
        reference.decode(
            container.pack(Header(6, artifact.fingerprint, 20, 20, quality=50), [Chunk(0, b"a")]), artifact
        )
    with pytest.raises(CorruptStreamError, match="quality"):
        reference.decode(file_of(artifact, chunks, (20, 20)), artifact)
    with pytest.raises(CorruptStreamError, match="quality"):
        reference.decode(file_of(li, [b"\0"], (20, 20), 50), li)
    with pytest.raises(CorruptStreamError, match="the file has 2"):
        reference.decode(file_of(li, [b"\0", b"\0"], (20, 20)), li)
    with pytest.raises(CorruptStreamError):
        reference.decode(data[:-1], artifact)


def test_models_whose_sums_are_too_large():
    for name in ("toderici2017", "li2018"):
        _, artifact = made(name)
        flat = flatten(artifact.state)
        key = next(key for key in flat if key.endswith("bias"))
        state = unflatten({**flat, key: np.full_like(flat[key], (1 << 31) - 1)})
        broken = Artifact(name, artifact.architecture, artifact.params, state, {})
        chunks = (random_stream if name == "toderici2017" else random_volume)(artifact, (20, 20))[-1]
        with pytest.raises(ModelError, match="2\\^31"):
            reference.decode_chunks(chunks, broken, 20, 20, 200 if name == "toderici2017" else None)


def test_command_runs_without_the_libraries(tmp_path):
    _, artifact = made("johnston2018")
    codes, chosen, chunks = random_stream(artifact, (40, 20), True)
    (tmp_path / "a.mlic").write_bytes(file_of(artifact, chunks, (40, 20), 100))
    artifact.save(tmp_path / "a.mlicm")
    command = [sys.executable, "-c", ALONE, str(tmp_path / "a.mlic"), str(tmp_path / "a.mlicm")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[2]: line.split()[:2] for line in done.stdout.splitlines()}
    assert lines == {
        name: [hashlib.sha256(array.astype("<i4").tobytes()).hexdigest(), "x".join(map(str, array.shape))]
        for name, array in (("codes", codes), ("heights", chosen))
    }


# -------------------------------------------------------------------------------------------- the document's examples


def test_documented_layers():
    _, (lines, *_) = tables_behind("<!-- tests/reference/test_bit_decoder.py computes these lines -->")
    assert len(lines) == 6
    for v, multiplier, shift, output in (map(int, line) for line in lines):
        arrays = (np.array([[0]]), [v], [multiplier], [shift])
        assert reference.bits.make_layer(*arrays, 1, "a layer")(np.array([0])).tolist() == [output]


def test_documented_heights():
    text, (groups, *_) = tables_behind("<!-- tests/reference/test_bit_decoder.py codes this example -->")
    data = heights.encode(np.array([[2, 2, 4], [2, 3, 4]]), 6)
    assert f"`{data.hex(' ').upper()}`" in text
    seen, read = [], reference.bits.BitReader.read

    def recorded(self, frequencies):
        bits = read(self, frequencies)
        seen.extend([(frequencies, bits)] if bits else [])
        return bits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference.bits.BitReader, "read", recorded)
        reference.heights.read_heights(data, (2, 3), 6)
    documented = [tuple(list(map(int, cell.split())) for cell in line[3:]) for line in groups]
    assert documented == seen
