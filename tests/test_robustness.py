"""Damaged and forged files of a real model raise an MlicError, and every kind of picture comes back.

benchmarks/robustness.py and round_trips.py do the same at length, and say how fast and in how much memory.
"""

import collections
import functools
import random
import time

import inputs
import numpy as np
import pytest
import small
import target
from PIL import Image

import mlic_jax
from mlic_jax import reference, zoo
from mlic_jax.entropy import rangecoder
from mlic_jax.errors import CorruptStreamError, LimitError, MlicError
from mlic_jax.families import latent_coding
from mlic_jax.fileformat import container, encoding, modes

NAME = "mbt2018-mean"
# A hang, not a measurement: a first case may compile a program.
HANGING_SECONDS = 10


@functools.cache
def artifact():
    return small.imported(NAME)[1]


@functools.cache
def files():
    """Files of all kinds of pictures, half of them with metadata."""
    found = []
    for i, kind in enumerate(inputs.KINDS):
        image = inputs.picture(kind, small.crops(1, 24 + 4 * i, seed=i)[0])
        if i % 2 and isinstance(image, Image.Image):
            inputs.metadata(image)
        found.append(mlic_jax.compress(image, artifact()))
    return found


def outcome(function, *given):
    """The error's name, or "decoded"; prints the input of everything else."""
    began = time.perf_counter()
    try:
        function(*given)
        found = "decoded"
    except MlicError as error:
        found = type(error).__name__
    except BaseException:
        print("the input:", given[0].hex())
        raise
    assert time.perf_counter() - began < HANGING_SECONDS, given[0].hex()
    return found


def decode(file):
    mlic_jax.decompress_image(file, artifact())


def test_undamaged_files_are_decoded():
    assert {outcome(decode, file) for file in files()} == {"decoded"}
    assert {container.read_header(file)[0].mode for file in files()} == set(container.MODES)


def test_prefixes():
    for file in files():
        for length in range(0, len(file), 1 + len(file) // 100):
            assert outcome(decode, file[:length]) == "CorruptStreamError"
            assert outcome(decode, target.repaired(file[:length])) == "CorruptStreamError"
        # Lengths and checksums repaired: the decoders have to find out by themselves.
        _, chunks = container.unpack(file)
        for place, (type, content) in enumerate(chunks):
            for length in range(0, len(content), 4 * (1 + len(content) // 80)):
                cut = [*chunks[:place], container.Chunk(type, content[:length]), *chunks[place + 1 :]]
                assert outcome(decode, inputs.reforged(file, cut)) == "CorruptStreamError"


def test_flipped_bits():
    file, repaired = min(files(), key=len), collections.Counter()
    for place in range(len(file)):
        for bit in range(8):
            changed = bytearray(file)
            changed[place] ^= 1 << bit
            assert outcome(decode, bytes(changed)) == "CorruptStreamError"
            if place < 40 or (8 * place + bit) % 5 == 0:
                repaired[outcome(decode, target.repaired(changed))] += 1
    # A flip in a checksum is undone by the repair.
    assert set(repaired) <= {"decoded", "CorruptStreamError", "LimitError", "ModelError"}
    assert repaired["CorruptStreamError"] > 300 and repaired["decoded"] >= 32


@pytest.mark.parametrize("repair", ["none", "checksums", "lengths"])
def test_random_damage(repair):
    rng, found = random.Random(0), collections.Counter()
    for _ in range({"none": 3000, "checksums": 800, "lengths": 800}[repair]):
        file, other = rng.choice(files()), rng.choice(files())
        if repair == "lengths":
            changed = inputs.damaged_inside(rng, file, other)
        else:
            changed = inputs.damaged(rng, file, other)
            changed = target.repaired(changed) if repair == "checksums" else changed
        found[outcome(decode, changed)] += 1
    assert found["CorruptStreamError"] > 600
    assert repair != "none" or found["decoded"] <= 30  # damage that changes nothing: exchanged places are the same


def test_random_headers():
    rng, found = random.Random(0), collections.Counter()
    for _ in range(30000):
        found[outcome(container.read_header, *inputs.header(rng, files()))] += 1
    assert set(found) == {"decoded", "CorruptStreamError", "LimitError"}


def test_bombs():
    forge = functools.partial(
        inputs.forge, model=inputs.varint(zoo.stream_id(NAME)), fingerprint=artifact().fingerprint
    )
    for name, make in inputs.bombs(forge).items():
        with pytest.raises((CorruptStreamError, LimitError)):
            decode(make())
            pytest.fail(name)


# ---------------------------------------------------------------------- round trips


@pytest.mark.parametrize("kind", inputs.KINDS)
def test_pictures_of_all_kinds_come_back(kind):
    for size in ((1, 1), (1, 67), (66, 5), (33, 47)):
        original = inputs.picture(kind, np.ascontiguousarray(small.crops(1, 67)[0][: size[0], : size[1]]))
        file = mlic_jax.compress(original, artifact())
        if isinstance(original, Image.Image):
            seen = modes.from_pillow(original)
            decoded = mlic_jax.decompress_image(file, artifact())
            assert decoded.size == original.size
            assert decoded.mode == {"P": "RGB", "P with transparency": "RGBA"}.get(kind, kind)
            found = np.asarray(decoded)
        else:
            seen = modes.from_array(original)
            found = mlic_jax.decompress(file, artifact())
            assert found.dtype == np.uint16 and found.reshape(original.shape).shape == original.shape
        if mlic_jax.info(file)["model"] == encoding.EXACT:
            np.testing.assert_array_equal(found, np.asarray(original))
            assert kind == "1"
            continue
        _, received = latent_coding.encode(small.MODULES[NAME], artifact(), seen.rgb)
        expected = latent_coding.reconstruct(small.MODULES[NAME], artifact(), received, size)
        np.testing.assert_array_equal(found, modes.to_array(seen.mode, expected, seen.alpha))
        if container.has_alpha(seen.mode):
            alpha = np.asarray(original.convert("RGBA"))[..., 3] if kind[0] != "u" else original[..., -1]
            np.testing.assert_array_equal(found[..., -1], alpha)


@pytest.mark.parametrize("name", small.NAMES)
def test_two_decoders_find_the_same_symbols(name, monkeypatch):
    _, model = small.imported(name)
    read, found = rangecoder.Decoder.read, []

    def reading(decoder, indexes, *rest):
        found.append((read(decoder, indexes, *rest), indexes))
        return found[-1][0]

    monkeypatch.setattr(rangecoder.Decoder, "read", reading)
    for size in ((1, 1), (67, 3), (40, 130)):
        image = small.crops(1, 130)[0][: size[0], : size[1]]
        file = mlic_jax.compress(image, model)
        found.clear()
        mlic_jax.decompress(file, model)
        other = reference.decode(file, model)
        assert len(found) == 1 + ("z" in other)
        np.testing.assert_array_equal(found[-1][0][0], other["y"])
        np.testing.assert_array_equal(found[-1][1][0], other["y_rows"])
        np.testing.assert_array_equal(found[0][0][0], other.get("z", other["y"]))
