"""Pictures of black and white: exact, small, read by two decoders, and chosen where a model for photos writes more."""

import numpy as np
import plain
import pytest
from PIL import Image, ImageDraw, ImageFont

import mlic_jax
from mlic_jax import errors, reference
from mlic_jax.entropy.bits import prior
from mlic_jax.entropy.bits.neighbours import Neighbours
from mlic_jax.fileformat import container, model_store

pytestmark = pytest.mark.usefixtures("plain_zoo")
# A file of the first version that had this codec: it is read for ever.
FILE = bytes.fromhex(
    "8b4d4c14278009000b0fccd346c7d63c5ed4e06181e4ffff77c865f71bbc306dc01f42e102d4a357211a24440cddfdc3"
    "276e5a0ba1b8320549e43b221a305a8060b28da5e28da28ea99f806c053bc5af913ed2a5"
)


def text(height=60, width=200):
    """bool [H, W], white with black letters and some flecks."""
    image = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(image)
    for top in range(2, height, 18):
        draw.text((3, top), "A scan of one bit, " * 3, font=ImageFont.load_default(14), fill=0)
    flecks = np.random.default_rng(0).random((height, width)) < 0.005
    return (np.asarray(image) >= 128) ^ flecks


PICTURES = {
    "text": text(),
    "noise": np.random.default_rng(1).random((37, 53)) < 0.5,
    "white": np.ones((40, 300), bool),
    "one": np.zeros((1, 1), bool),
    "row": text()[5:6],
    "column": text()[:, 7:8],
    "two columns": text()[:, 7:9],
}


@pytest.mark.parametrize("name", PICTURES)
def test_exact_for_both_decoders(name):
    picture = PICTURES[name]
    data = mlic_jax.compress(picture, "bitmap")
    decoded = mlic_jax.decompress(data)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, picture)
    np.testing.assert_array_equal(reference.decode(data, model_store.without_weights("bitmap"))["bits"], picture)


def test_bytes_are_the_code_length():
    signs = np.where(text(), np.int8(1), np.int8(-1))[..., None]
    present = np.ones(signs.shape, bool)
    (stream,), (bits,) = prior.write(Neighbours(), signs, present), prior.code_lengths(Neighbours(), signs, present)
    assert bits <= 8 * len(stream) <= bits + 64


def test_counts_are_halved():
    # A large part of one kind, and then another: what was learned has to be forgotten.
    picture = np.concatenate([np.ones((100, 100), bool), PICTURES["noise"][:, :50].repeat(2, 1), text(60, 100)])
    data = mlic_jax.compress(picture, "bitmap")
    np.testing.assert_array_equal(reference.decode(data, model_store.without_weights("bitmap"))["bits"], picture)


def test_files_stay_readable():
    np.testing.assert_array_equal(mlic_jax.decompress(FILE), text(20, 40))
    assert mlic_jax.compress(text(20, 40), "bitmap") == FILE


def test_it_is_chosen_for_one_bit_where_it_is_smaller():
    model = plain.graded()  # whose files have a byte for each sample
    data = mlic_jax.compress(text(), model, quality=3)
    assert mlic_jax.info(data)["model"] == "bitmap" and mlic_jax.info(data)["quality"] is None
    np.testing.assert_array_equal(mlic_jax.decompress(data), text())
    np.testing.assert_array_equal(mlic_jax.decompress(data, model), text())  # which is of no account
    assert mlic_jax.info(mlic_jax.compress(text().astype(np.uint8) * 255, model))["model"] == "graded"
    # A row that repeats itself after many columns: zlib sees it, neighbours do not.
    repeated = np.tile(PICTURES["noise"][:1], (1, 400))
    data = mlic_jax.compress(repeated, plain.artifact())
    assert mlic_jax.info(data)["model"] == "plain" and len(data) < len(mlic_jax.compress(repeated, "bitmap"))


def test_targets_see_it():
    model = plain.graded()
    exact = len(mlic_jax.compress(text(), "bitmap"))
    assert len(mlic_jax.compress_to(text(), model, size=exact)) == exact
    np.testing.assert_array_equal(mlic_jax.decompress(mlic_jax.compress_to(text(), model, psnr_db=90)), text())


def test_files_that_are_more_than_a_picture_stay_theirs():
    assert mlic_jax.info(mlic_jax.compress(text(), plain.planes()))["model"] == "planes"


@pytest.mark.parametrize(
    ("given", "how", "error", "message"),
    [
        (np.full((4, 4), 7, np.uint8), {}, errors.InputError, "black and white alone"),
        (
            np.zeros((4, 4, 3), np.uint8) + np.array([0, 0, 255], np.uint8),
            {},
            errors.InputError,
            "black and white alone",
        ),
        (text(), {"quality": 50}, errors.UsageError, "no quality"),
        (text(), {"effort": 3}, errors.UsageError, "no effort"),
        (text(), {"importance": np.ones((60, 200))}, errors.UsageError, "no importance map"),
    ],
)
def test_what_it_does_not_take(given, how, error, message):
    with pytest.raises(error, match=message):
        mlic_jax.compress(given, "bitmap", **how)


def test_damage_is_an_error():
    header, chunks = container.unpack(mlic_jax.compress(text(), "bitmap"))
    stream = bytearray(chunks[0].content)
    for damaged in (b"", stream[:-4], stream + bytes(4), stream[:9] + bytes([stream[9] ^ 4]) + stream[10:]):
        data = container.pack(header, [container.Chunk(container.DATA, bytes(damaged))])
        with pytest.raises(errors.CorruptStreamError):
            mlic_jax.decompress(data)
        with pytest.raises(errors.CorruptStreamError):
            reference.decode(data, model_store.without_weights("bitmap"))
    for wrong in (header._replace(quality=50.0), header._replace(fingerprint=bytes(6))):
        with pytest.raises(errors.MlicError):
            mlic_jax.decompress(container.pack(wrong, chunks))
