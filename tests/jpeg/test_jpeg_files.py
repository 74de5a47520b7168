"""JPEG files in NumPy against Pillow's, byte by byte; Huffman codes; damaged files; rates."""

import io
import os
import pathlib
import time

import jax
import jax.numpy as jnp
import jpeg_pictures
import numpy as np
import pytest
from jpeg_pictures import KINDS, QUALITIES, pillow
from PIL import Image

import mlic_jax
from mlic_jax import errors, jpeg
from mlic_jax.jpeg import huffman, jfif, scan, tables
from mlic_jax.jpeg.blocks import Coefficients

PHOTOS = sorted((pathlib.Path(mlic_jax.__file__).parent / "data" / "photos").glob("*.png"))
simulate = jax.jit(jpeg.simulate, static_argnames=("subsampling",))


def photo(path, kind="4:2:0", box=(100, 60, 228, 172)):
    return jpeg_pictures.photo(path, kind, box)


# ---------------------------------------------------------------- Huffman codes


def test_the_notebooks_example():
    """`abacdeab` takes 18 bits with a prefix code; 11 bits are possible only for codes that cannot be decoded."""
    text = b"abacdeab"
    code = huffman.build(np.bincount(list(text), minlength=256), reserve_ones=False)
    values, lengths = huffman.code_words(code)
    assert sum(lengths[symbol] for symbol in text) == 18
    words = {symbol: format(values[symbol], f"0{lengths[symbol]}b") for symbol in set(text)}
    for one in words.values():
        assert not any(other.startswith(one) for other in words.values() if other != one)
    bits, table, found = "".join(words[symbol] for symbol in text), huffman.lookup(code), []
    while bits:
        entry = table[int(bits[:16].ljust(16, "0"), 2)]
        found.append(entry >> 5)
        bits = bits[entry & 31 :]
    assert bytes(found) == text


@pytest.mark.parametrize("seed", range(6))
def test_codes_are_short_enough_and_spare_the_ones(seed):
    rng = np.random.default_rng(seed)
    frequencies = np.zeros(256, np.int64)
    used = rng.choice(256, rng.integers(1, 200), replace=False)
    frequencies[used] = np.ceil(1.6 ** rng.uniform(0, 40, len(used)))  # deeper than 16 if it could
    code = huffman.build(frequencies)
    values, lengths = huffman.code_words(code)
    assert set(code.symbols) == set(used) and set(np.flatnonzero(lengths)) == set(used)
    assert lengths.max() <= 16
    assert (2.0 ** -lengths[used]).sum() < 1  # a code is left
    assert (values[used] < (1 << lengths[used]) - 1).all()  # and it is the one of ones
    entropy = -(frequencies[used] * np.log2(frequencies[used] / frequencies.sum())).sum()
    assert entropy <= (frequencies * lengths).sum() + 1e-6


def test_a_code_is_optimal_where_no_limit_binds():
    frequencies = np.array([1, 1, 2, 4, 8, 16])
    _, lengths = huffman.code_words(huffman.build(frequencies, reserve_ones=False))
    assert list(lengths[:6]) == [5, 5, 4, 3, 2, 1]
    assert huffman.build(np.zeros(4)) == huffman.Code((0,) * 16, b"")
    assert huffman.build(np.array([0, 7]), reserve_ones=False).symbols == b"\x01"


def test_default_codes_are_those_in_pillows_files():
    data, _ = pillow(photo(PHOTOS[0]), 50)
    reader = jfif._Reader(data)
    reader.read()
    for number, code in enumerate(scan.DEFAULT_CODES):
        chroma, is_ac = divmod(number, 2)
        assert reader.codes[16 * is_ac + chroma] == huffman.lookup(code).tolist()
    assert [len(code.symbols) for code in scan.DEFAULT_CODES] == [12, 162, 12, 162]


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("codes", jpeg.HUFFMANS)
@pytest.mark.parametrize("kind", KINDS)
def test_files_are_pillows_byte_by_byte(kind, codes):
    for path in PHOTOS[::3]:
        image = photo(path, kind)
        for quality in (1, *QUALITIES, 100):
            data, decoded = pillow(image, quality, kind, optimize=codes == "optimised")
            assert jfif.encode(image, quality, KINDS[kind][1], codes) == data
            np.testing.assert_array_equal(jfif.decode(data), decoded)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (2, 4), (17, 33), (41, 37), (24, 8)])
def test_files_of_any_size(size, kind):
    height, width = size
    image = photo(PHOTOS[4], kind, (300, 200, 300 + width, 200 + height))
    for quality in (10, 90):
        data, decoded = pillow(image, quality, kind)
        assert jfif.encode(image, quality, KINDS[kind][1]) == data
        np.testing.assert_array_equal(jfif.decode(data), decoded)


def test_the_layer_has_the_coefficients_of_the_file():
    for kind, (_, subsampling) in KINDS.items():
        image = photo(PHOTOS[5], kind, (100, 60, 141, 97))  # odd: blocks outside the image too
        parsed = jfif.read(pillow(image, 60, kind)[0])
        _, coefficients = simulate(image[None].astype(np.float32), 60, subsampling=subsampling)
        for ours, theirs in zip(jpeg.quantised(coefficients).components, parsed.coefficients.components, strict=True):
            np.testing.assert_array_equal(ours[0], theirs)
        np.testing.assert_array_equal(parsed.tables, jpeg.quantisation_tables(60)[: len(parsed.tables)])
        assert (parsed.height, parsed.width) == image.shape[:2]
        assert jfif.write(parsed) == pillow(image, 60, kind)[0]


def test_metadata_is_skipped():
    image = photo(PHOTOS[6])
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=50, exif=b"Exif\x00\x00abc", icc_profile=b"x" * 900, comment=b"hi")
    np.testing.assert_array_equal(jfif.decode(out.getvalue()), pillow(image, 50)[1])


@pytest.mark.slow
def test_a_whole_photo_takes_seconds():
    image = np.asarray(Image.open(PHOTOS[0]).convert("RGB"))
    start = time.process_time()
    data = jfif.encode(image, 90)
    np.testing.assert_array_equal(jfif.decode(data), pillow(image, 90)[1])
    assert data == pillow(image, 90)[0] and time.process_time() - start < 10


# ---------------------------------------------------------------- files that are not read


def variants(image):
    """(what is named, file) for each kind of JPEG that is not baseline, or not read."""
    pixels = Image.fromarray(image)
    for message, mode, options in (
        ("progressive", "RGB", dict(progressive=True)),
        ("sampling", "RGB", dict(subsampling="4:2:2")),
        ("restart", "RGB", dict(restart_marker_blocks=2)),
        ("4 components", "CMYK", {}),
    ):
        out = io.BytesIO()
        pixels.convert(mode).save(out, "JPEG", **options)
        yield message, out.getvalue()


def test_other_kinds_are_refused_by_name():
    for message, data in variants(photo(PHOTOS[7])):
        with pytest.raises(errors.CorruptStreamError, match=message):
            jfif.read(data)
    for data in (b"", b"\xff", b"\xff\xd8", b"GIF89a", b"\xff\xd8\xff\xd9"):
        with pytest.raises(errors.CorruptStreamError):
            jfif.read(data)


def damaged(data, rng):
    """One of a few ways to harm a file."""
    data = bytearray(data)
    kind = rng.integers(5)
    if kind == 0:
        return bytes(data[: rng.integers(len(data))])
    if kind == 1:
        return bytes(data) + rng.bytes(3)
    for _ in range(rng.integers(1, 4)):
        at = rng.integers(len(data) if kind == 2 else min(len(data), 640))
        if kind == 3:
            del data[at]
        else:
            data[at] ^= 1 << rng.integers(8)
    return bytes(data)


def test_damage_ends_in_our_errors():
    """MLIC_JPEG_FUZZ sets how many files are tried (300)."""
    rng = np.random.default_rng(0)
    images = [photo(PHOTOS[8], kind, (100, 60, 141, 97)) for kind in KINDS]
    files = [pillow(image, q, kind, optimize=o)[0] for image, kind in zip(images, KINDS) for q, o in ((20, 0), (90, 1))]
    refused = 0
    for trial in range(int(os.environ.get("MLIC_JPEG_FUZZ", 300))):
        data = damaged(files[trial % len(files)], rng)
        start = time.process_time()
        try:
            jfif.decode(data)
        except errors.MlicError:
            refused += 1
        assert time.process_time() - start < 5
    assert refused


def test_every_shorter_file_is_refused():
    data, _ = pillow(photo(PHOTOS[9], "grey", (0, 0, 24, 16)), 30, "grey")
    for length in range(len(data)):
        with pytest.raises(errors.CorruptStreamError):
            jfif.read(data[:length])


def test_a_huge_picture_in_few_bytes_is_refused():
    data = bytearray(pillow(photo(PHOTOS[9]), 30)[0])
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(errors.CorruptStreamError, match="too few"):
        jfif.read(bytes(data))


def test_bad_arguments_are_named():
    image = np.zeros((8, 8, 3), np.uint8)
    for arguments, message in (
        ((image.astype(np.float32), 50), "uint8"),
        ((image[0], 50), "H, W"),
        ((image, 0), "1 to 100"),
        ((image, 50.0), "whole number"),
        ((image, 50, "4:2:2"), "4:2:0"),
        ((image, 50, "4:2:0", "best"), "optimised"),
    ):
        with pytest.raises(errors.UsageError, match=message):
            jfif.encode(*arguments)
    block = np.zeros((1, 1, 8, 8), np.int32)
    for coefficients in (
        Coefficients(block.astype(np.float32)),
        Coefficients(block + 3000),
        Coefficients(block, block),
    ):
        with pytest.raises(errors.UsageError):
            jfif.write(jfif.Jpeg(8, 8, np.ones((1, 8, 8), np.int32), coefficients))
    with pytest.raises(errors.UsageError, match="1 to 255"):
        jfif.write(jfif.Jpeg(8, 8, np.zeros((1, 8, 8), np.int32), Coefficients(block)))
    with pytest.raises(errors.UsageError, match="needs luma"):
        jfif.write(jfif.Jpeg(8, 9, np.ones((1, 8, 8), np.int32), Coefficients(block)))
    with pytest.raises(errors.UsageError, match="65500"):
        jfif.write(jfif.Jpeg(8, 70000, np.ones((1, 8, 8), np.int32), Coefficients(block)))


# ---------------------------------------------------------------- rate


@pytest.mark.parametrize("codes", jpeg.HUFFMANS)
@pytest.mark.parametrize("kind", KINDS)
def test_exact_count(kind, codes):
    """Header and count are within 2 % of Pillow's file: what is missing is stuffing and padding."""
    image = photo(PHOTOS[10], kind)
    for quality in QUALITIES:
        size = len(pillow(image, quality, kind, optimize=codes == "optimised")[0])
        parsed = jfif.analyse(image, jpeg.quantisation_tables(quality), KINDS[kind][1])
        bits = jpeg.scan_bits(Coefficients(*(c[None] for c in parsed.coefficients.components)), huffman=codes)
        header = jfif.header_bytes(parsed, codes)
        if codes == "default":
            assert header == jpeg.HEADER_BYTES["default"][1 if kind == "grey" else 3]
        assert bits.shape == (1,)
        assert 0.98 * size <= header + bits[0] / 8 <= size


@pytest.mark.parametrize("kind", KINDS)
def test_proxies(kind):
    """Against Pillow's files: error, correlation, and order."""
    estimates = {(proxy, codes): [] for proxy in jpeg.PROXIES for codes in jpeg.HUFFMANS}
    sizes = {codes: [] for codes in jpeg.HUFFMANS}
    for path in PHOTOS:
        image = photo(path, kind, (40, 30, 296, 286))
        for quality in (10, 20, 30, 50, 75, 90):
            _, coefficients = simulate(image[None].astype(np.float32), quality, subsampling=KINDS[kind][1])
            for codes in jpeg.HUFFMANS:
                sizes[codes].append(8 * len(pillow(image, quality, kind, optimize=codes == "optimised")[0]))
            for (proxy, codes), values in estimates.items():
                values.append(float(jpeg.rate(coefficients, proxy=proxy, huffman=codes)[0]))
    for (proxy, codes), values in estimates.items():
        values, truth = np.array(values).reshape(len(PHOTOS), -1), np.array(sizes[codes]).reshape(len(PHOTOS), -1)
        error = np.abs(values / truth - 1).mean()
        limit = {"log": {"default": 0.08, "optimised": 0.10}, "log_square": {"default": 0.05, "optimised": 0.06}}
        assert error <= limit[proxy][codes], (proxy, codes)
        assert np.corrcoef(values.ravel(), truth.ravel())[0, 1] >= 0.99, (proxy, codes)
        assert (np.diff(values) > 0).all() and (np.diff(truth) > 0).all()


def test_header_and_calibration():
    _, coefficients = simulate(np.stack([photo(path, "grey") for path in PHOTOS[:3]]).astype(np.float32), 40)
    scan_alone = jpeg.rate(coefficients, header=0)
    np.testing.assert_allclose(jpeg.rate(coefficients) - scan_alone, 8 * 330, rtol=1e-3)
    exact = jpeg.scan_bits(jpeg.quantised(coefficients)).astype(np.float32)
    scaled = jpeg.calibrated(scan_alone, exact)
    assert scaled.sum() == pytest.approx(exact.sum(), rel=1e-4)
    assert jpeg.calibrated(scan_alone, exact[:1])[0] == pytest.approx(exact[0], rel=1e-4)
    weight = exact.sum() / scan_alone.sum()
    np.testing.assert_allclose(jax.grad(lambda b: jpeg.calibrated(b, exact).sum())(scan_alone), weight, rtol=1e-4)


def test_rate_names_what_is_wrong():
    _, coefficients = simulate(np.zeros((1, 8, 8, 3), np.float32), 40)
    for arguments, message in ((dict(proxy="exact"), "log_square"), (dict(huffman="best"), "optimised")):
        with pytest.raises(errors.UsageError, match=message):
            jpeg.rate(coefficients, **arguments)
    with pytest.raises(errors.UsageError, match="B, rows"):
        jpeg.rate(Coefficients(jnp.zeros((2, 2, 8, 8))))
    with pytest.raises(errors.UsageError, match="one component or three"):
        jpeg.rate(Coefficients(jnp.zeros((1, 3, 2, 8, 8)), jnp.zeros((1, 1, 1, 8, 8)), jnp.zeros((1, 1, 1, 8, 8))))
    with pytest.raises(errors.UsageError, match="huffman"):
        jpeg.scan_bits(jpeg.quantised(coefficients), huffman="best")
    with pytest.raises(errors.UsageError, match="integer"):
        jpeg.scan_bits(coefficients)


def test_tables_of_the_standard():
    for chroma in (0, 1):
        for kind, (lengths, symbols) in enumerate(tables.HUFFMAN[chroma]):
            assert len(lengths) == 16 and sum(lengths) == len(set(symbols)) == (162 if kind else 12)
