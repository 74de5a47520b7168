"""The file format: everything comes back, and nothing damaged or forged is taken for a file."""

import pathlib
import re
import subprocess
import sys
import time
import tracemalloc
import zlib

import google_crc32c
import inputs
import numpy as np
import pytest
from inputs import FINGERPRINT, LONGEST, ONE, crc, forge, varint

from mlic_jax.errors import CorruptStreamError, LimitError, MlicError
from mlic_jax.fileformat import alpha, container, metadata
from mlic_jax.fileformat.container import (
    ALPHA,
    DATA,
    EXIF,
    ICC,
    LARGEST_METADATA,
    LARGEST_PICTURE,
    LARGEST_SIDE,
    LONGEST_HEADER,
    MODES,
    MOST_CHUNKS,
    NOT_PORTABLE,
    PAD,
    XMP,
    Chunk,
    Header,
    inflate,
    pack,
    read_header,
    unpack,
)

HEADER = Header(2, FINGERPRINT, 768, 512)


# ---------------------------------------------------------------------- what is written


def test_layout():
    # Version 1, byte by byte: a change here is a change of the format.
    plain = pack(Header(2, b"fprint", 300, 5), [Chunk(DATA, b"ab")])
    head = bytes.fromhex("8b4d4c 12 2b010200 02") + b"fprint" + b"\x02"
    assert plain == head + crc(head) + b"ab" + crc(b"\x00ab")
    full = pack(
        Header(300, b"fprint", 1, 32768, "LA;16", 37.5),
        [Chunk(DATA, b"ab"), Chunk(DATA, bytes(200)), Chunk(ALPHA, b"\x04"), Chunk(ICC, b"")],
    )
    head = bytes.fromhex("8b4d4c 16 0080ffff ac02") + b"fprint" + bytes.fromhex("4b 02 03 00 c801 01 01 80 00")
    assert full == b"".join(
        [head, crc(head), b"ab", crc(b"\x00ab"), bytes(200), crc(bytes(201)), b"\x04", crc(b"\x01\x04"), crc(b"\x80")]
    )
    bound = pack(Header(2, b"fprint", 300, 5, portable=False), [Chunk(DATA, b"ab")])
    head = bytes.fromhex("8b4d4c 12 2b010280 02") + b"fprint" + bytes.fromhex("02 01 02 00")
    assert bound == head + crc(head) + b"ab" + crc(b"\x00ab") + crc(b"\x02")
    assert unpack(bound) == (Header(2, b"fprint", 300, 5, portable=False), (Chunk(DATA, b"ab"),))
    assert [MODES.index(mode) for mode in MODES] == list(range(9))
    assert (DATA, ALPHA, ICC, EXIF, XMP, PAD) == (0, 1, 128, 129, 130, 131)
    assert google_crc32c.value(b"123456789") == 0xE3069283  # CRC-32C, not one of its many relatives


def test_the_example_of_the_documentation():
    text = (pathlib.Path(__file__).parents[2] / "docs" / "format.md").read_text()
    data = bytes.fromhex("".join(re.findall(r"^    00\d0  ([0-9a-f ]+)$", text, re.MULTILINE)))
    header, chunks = unpack(data)
    assert header == Header(1, bytes.fromhex("2965b8fed7aa"), 5, 4, "RGBA") and len(data) == 90
    assert metadata.from_chunks(chunks) == {XMP: b"<x:xmpmeta/>"}
    expected = [[0, 255, 255, 255, 255], [0, 40, 255, 255, 255], [0, 40, 80, 255, 255], [0, 40, 80, 120, 255]]
    np.testing.assert_array_equal(alpha.decode(chunks[1].content, 4, 5, 8), expected)
    for offset, shown in re.findall(r"^\| ([0-9a-f]{2}) \| `([0-9a-f ]+)(?: \.\. [0-9a-f ]+)?` \|", text, re.MULTILINE):
        assert data[int(offset, 16) :].startswith(bytes.fromhex(shown))
    for limit in (container.LARGEST_SIDE, f"{container.LARGEST_PICTURE:,}", container.PIXELS_PER_BYTE, LONGEST_HEADER):
        assert str(limit) in text


CHUNKS = [
    ONE,
    (Chunk(DATA, b""), Chunk(DATA, b"abc" * 100), Chunk(DATA, b"d")),
    (Chunk(DATA, b"x"), Chunk(XMP, b"xmp"), Chunk(ICC, b""), Chunk(EXIF, b"exif")),
    (Chunk(DATA, b"x"),) * MOST_CHUNKS,
]


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("size", [(1, 1), (127, 128), (16384, 1), (LARGEST_SIDE, LARGEST_PICTURE // LARGEST_SIDE)])
def test_comes_back(size, chunks):
    for mode in ("L", "RGB", "1", "L;16", "RGB;16"):
        for quality in (None, 0.0, 49.5, 100.0):
            header = HEADER._replace(width=size[0], height=size[1], mode=mode, quality=quality)
            assert unpack(pack(header, chunks)) == (header, chunks)
    for mode in ("LA", "RGBA", "LA;16", "RGBA;16"):
        header, more = HEADER._replace(mode=mode), (*chunks[:200], Chunk(ALPHA, b"alpha"))
        assert unpack(pack(header, more)) == (header, more)


def test_the_header_is_small():
    for length in (0, 1, 127, 128, 2_000_000):
        for quality in (None, 50.0):
            for width, height in ((1, 1), (768, 512), (LARGEST_SIDE, LARGEST_PICTURE // LARGEST_SIDE)):
                data = pack(Header(127, bytes(6), width, height, "RGB", quality), [Chunk(DATA, bytes(length))])
                if width * height <= container.PIXELS_PER_BYTE * (length + 24):
                    assert 24 <= len(data) - length <= 28


def test_padding_keeps_empty_pictures_readable():
    header = HEADER._replace(width=LARGEST_SIDE, height=LARGEST_PICTURE // LARGEST_SIDE)
    data = pack(header, (Chunk(DATA, b"x"),))
    assert (
        LARGEST_PICTURE / container.PIXELS_PER_BYTE - 2 < len(data) < LARGEST_PICTURE / container.PIXELS_PER_BYTE + 20
    )
    assert unpack(data) == (header, (Chunk(DATA, b"x"),))
    assert [place.type for place in read_header(data)[1]] == [DATA, PAD]


def test_what_cannot_be_packed():
    for width, height in ((0, 1), (1, 0), (-1, 5), (LARGEST_SIDE + 1, 5), (LARGEST_SIDE, LARGEST_SIDE)):
        with pytest.raises(LimitError):
            pack(HEADER._replace(width=width, height=height), ONE)
    with pytest.raises(LimitError, match="257 chunks: at most 256"):
        pack(HEADER, ONE * (MOST_CHUNKS + 2))
    with pytest.raises(LimitError, match="icc of 8388609 bytes"):
        pack(HEADER, (*ONE, Chunk(ICC, bytes(LARGEST_METADATA + 1))))
    for header, chunks in (
        (HEADER, (Chunk(ICC, b""),)),
        (HEADER._replace(fingerprint=bytes(8)), ONE),
        (HEADER._replace(model_id=0), ONE),
        (HEADER._replace(model_id=65536), ONE),
        (HEADER._replace(mode="P"), ONE),
    ):
        with pytest.raises(ValueError):
            pack(header, chunks)


# ---------------------------------------------------------------------- the header alone


def test_a_header_is_read_from_the_start_of_a_file():
    content = np.random.default_rng(0).bytes(5000)
    data = pack(HEADER, (Chunk(DATA, content), Chunk(ICC, b"profile")))
    header, places = read_header(data[:LONGEST_HEADER], len(data))
    assert (header, places) == read_header(data)
    assert [container.read_chunk(p, data[p.offset : p.offset + p.length + 4]) for p in places] == [content, b"profile"]
    for size in (len(data) - 1, len(data) + 1):
        with pytest.raises(CorruptStreamError):
            read_header(data[:LONGEST_HEADER], size)
    claim = dict(chunks=ONE * 256, lengths=[LONGEST] * 256, model=varint(65535), quality=b"\1")
    places = read_header(forge(**claim)[:LONGEST_HEADER], LONGEST_HEADER + 256 * ((1 << 32) + 3))[1]
    assert places[0].offset == LONGEST_HEADER and len(places) == 256


# ---------------------------------------------------------------------- damage

FILE = pack(HEADER._replace(mode="RGBA", quality=50.0), (Chunk(DATA, b"first chunk"), Chunk(ALPHA, b"second"),
            Chunk(200, b"unknown"), Chunk(EXIF, b"exif")))  # fmt: skip


def test_every_prefix_is_noticed():
    for length in range(len(FILE)):
        with pytest.raises(CorruptStreamError):
            unpack(FILE[:length])
    for more in (b"\0", FILE):
        with pytest.raises(CorruptStreamError, match="behind its last chunk"):
            unpack(FILE + more)


def test_every_flipped_bit_is_noticed():
    for place in range(len(FILE)):
        for bit in range(8):
            damaged = bytearray(FILE)
            damaged[place] ^= 1 << bit
            with pytest.raises(CorruptStreamError):
                unpack(bytes(damaged))


def test_other_files():
    for data in (b"", b"\x8b", b"\x8bM", b"\x89PNG\r\n\x1a\n" + bytes(100), b"MLIC" + bytes(100)):
        with pytest.raises(CorruptStreamError, match=r"not a \.mlic file"):
            unpack(data)


# ---------------------------------------------------------------------- forgery


def test_a_forged_file_can_be_right():
    assert unpack(forge()) == (Header(2, bytes(range(6)), 3, 2), ONE)
    assert unpack(forge(quality=b"\xc8", mode=8, chunks=(*ONE, Chunk(ALPHA, b"a"))))[0] == Header(
        2, bytes(range(6)), 3, 2, "RGBA;16", 100.0
    )


FORGED = {
    "version 0": (dict(version=0), "version 0 is not known"),
    "version 2": (dict(version=2), "version 2 is not known"),
    "mode 9": (dict(mode=9), "mode 9 are not known"),
    "mode 15": (dict(mode=15), "mode 15 are not known"),
    "model 0": (dict(model=b"\0"), "makes no sense"),
    "model 65536": (dict(model=varint(65536)), "out of range"),
    "quality": (dict(quality=b"\xc9"), "makes no sense"),
    "padded varint": (dict(model=b"\x82\0"), "out of range"),
    "padded length": (dict(lengths=[b"\xa8\0"]), "out of range"),
    "endless varint": (dict(lengths=[b"\xff" * 2000]), "out of range"),
    "no more chunks": (dict(count=b"\0"), "makes no sense"),
    "256 more chunks": (dict(count=varint(256)), "out of range"),
    "unknown critical": (dict(chunks=(*ONE, Chunk(3, b""))), "chunk type 3, which is not known"),
    "unknown critical 127": (dict(chunks=(*ONE, Chunk(127, b""))), "chunk type 127"),
    "alpha of RGB": (dict(chunks=(*ONE, Chunk(ALPHA, b""))), "mode RGB with an alpha"),
    "RGBA without alpha": (dict(mode=3), "mode RGBA without an alpha"),
    "two alphas": (dict(mode=3, chunks=(*ONE, Chunk(ALPHA, b""), Chunk(ALPHA, b""))), "two alpha chunks"),
    "two profiles": (dict(chunks=(*ONE, Chunk(ICC, b""), Chunk(ICC, b""))), "two icc chunks"),
    "twice not portable": (
        dict(chunks=(*ONE, Chunk(NOT_PORTABLE, b""), Chunk(NOT_PORTABLE, b""))),
        "two not-portable chunks",
    ),
    "words on portability": (dict(chunks=(*ONE, Chunk(NOT_PORTABLE, b"no"))), "not-portable chunk of 2 bytes"),
    "something behind": (dict(tail=b"\0"), "behind its last chunk"),
    "too long": (dict(lengths=[varint(41)]), "is truncated"),
    "too short": (dict(lengths=[varint(39)]), "behind its last chunk"),
}


@pytest.mark.parametrize("claim, message", FORGED.values(), ids=FORGED)
def test_forged_files(claim, message):
    with pytest.raises(CorruptStreamError, match=message):
        unpack(forge(**claim))


def test_limits():
    with pytest.raises(LimitError, match="at most 178956970 pixels"):
        unpack(forge(LARGEST_SIDE, LARGEST_PICTURE // LARGEST_SIDE + 1))
    with pytest.raises(LimitError, match="at most 65536 a byte"):
        unpack(forge(LARGEST_SIDE, 200))
    with pytest.raises(LimitError, match="exif of 8388609 bytes"):
        unpack(forge(chunks=(*ONE, Chunk(EXIF, bytes(LARGEST_METADATA + 1)))))


def test_ancillary_chunks_are_skipped_where_unknown():
    chunks = (
        *ONE,
        Chunk(132, b"?"),
        Chunk(255, b"??"),
        Chunk(PAD, bytes(9)),
        Chunk(PAD, b"not zero"),
        Chunk(XMP, b"x"),
    )
    assert unpack(forge(chunks=chunks))[1] == (*ONE, Chunk(XMP, b"x"))
    assert [container.chunk_name(place.type) for place in read_header(forge(chunks=chunks))[1]] == [
        "data", "type 132", "type 255", "pad", "pad", "xmp",
    ]  # fmt: skip


def test_forged_headers_raise_nothing_else():
    rng = np.random.default_rng(0)
    read = 0
    for _ in range(10000):
        head = bytearray(FILE[:22])
        for place in rng.integers(3, len(head), 3):
            head[place] = rng.integers(256)
        head = bytes(head[: rng.integers(12, len(head) + 1)])
        try:
            read_header(head + crc(head) + rng.bytes(30))
            read += 1
        except MlicError:
            pass
    assert read < 100


# ---------------------------------------------------------------------- bombs


@pytest.mark.parametrize("name", inputs.bombs())
def test_bombs(name, plain_zoo, monkeypatch):
    import plain

    from mlic_jax import api, zoo
    from mlic_jax.fileformat import model_store

    # A model that fits, so that nothing is refused only because it is missing.
    monkeypatch.setattr(zoo, "name_of", lambda id: "plain")
    model = plain.artifact()
    monkeypatch.setitem(model_store._by_fingerprint, FINGERPRINT, model)
    api.decompress(api.compress(np.zeros((2, 2, 4), np.uint8), model))  # imports what there is to import
    bomb = inputs.bombs()[name]()
    began = time.perf_counter()
    with pytest.raises(MlicError):
        api.decompress_image(bomb)
    took = time.perf_counter() - began
    tracemalloc.start()
    try:
        with pytest.raises(MlicError):
            api.decompress_image(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # benchmarks/robustness.py has how long it takes where nothing else runs: milliseconds.
    assert took < 1 and peak < 64 << 20


def test_inflate():
    for length in (0, 1, 1000, 100_000):
        content = np.random.default_rng(0).bytes(length)
        stored = zlib.compress(content)
        assert inflate(stored, length, "chunk") == inflate(stored, length + 5, "chunk") == content
        if length:
            with pytest.raises(LimitError, match=f"the chunk inflates to more than {length - 1} bytes"):
                inflate(stored, length - 1, "chunk")
        for damaged in (stored + b"x", stored[:-1], stored[:-6], b"", b"x" + stored):
            with pytest.raises(MlicError):
                inflate(damaged, length, "chunk")


def test_imports_are_light():
    code = """
import sys
import mlic_jax.fileformat.container, mlic_jax.zoo, mlic_jax.atomic, mlic_jax.fileformat.metadata, mlic_jax.api
found = {"numpy", "PIL", "jax", "jaxlib", "flax", "constriction", "orbax", "tensorflow", "scipy"} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True)
