"""Metadata comes back as it was, but for orientations, which are 1 wherever they were written."""

import numpy as np
import pytest
from pictures import exif, tags_of
from PIL import Image

from mlic_jax.errors import CorruptStreamError, LimitError, UsageError
from mlic_jax.fileformat import metadata
from mlic_jax.fileformat.container import EXIF, ICC, LARGEST_METADATA, XMP, Chunk


def test_choose():
    assert metadata.choose("all") == {ICC, EXIF, XMP} and metadata.choose("none") == set()
    assert metadata.choose("exif") == {EXIF} and metadata.choose("xmp,icc") == {ICC, XMP}
    for words in ("", "icc;exif", "icc,", "data", "all,icc", "ICC"):
        with pytest.raises(UsageError, match="use all, none, or some of icc,exif,xmp"):
            metadata.choose(words)


def test_chunks():
    kept = {ICC: b"profile" * 100, EXIF: b"", XMP: bytes(range(256))}
    chunks = metadata.to_chunks(kept)
    assert [chunk.type for chunk in chunks] == [ICC, EXIF, XMP] and len(chunks[0].content) < 50
    assert metadata.from_chunks(chunks) == kept
    assert metadata.from_chunks([Chunk(0, b"data"), *chunks], {XMP}) == {XMP: kept[XMP]}


def test_limits():
    whole = {ICC: bytes(LARGEST_METADATA), EXIF: bytes(LARGEST_METADATA)}
    assert metadata.from_chunks(metadata.to_chunks(whole)) == whole
    with pytest.raises(LimitError, match="exif of 8388609 bytes.*--metadata"):
        metadata.to_chunks({EXIF: bytes(LARGEST_METADATA + 1)})
    with pytest.raises(LimitError, match="metadata of 16777217 bytes.*--metadata"):
        metadata.to_chunks({**whole, XMP: b"x"})
    with pytest.raises(LimitError, match="xmp chunk inflates to more than 0 bytes"):
        metadata.from_chunks([*metadata.to_chunks(whole), *metadata.to_chunks({XMP: b"x"})])
    with pytest.raises(CorruptStreamError, match="icc chunk is damaged"):
        metadata.from_chunks([Chunk(ICC, b"not zlib")])


@pytest.mark.parametrize("endian", "<>")
def test_exif_is_patched_in_place(endian):
    for orientation in range(1, 9):
        original = exif(orientation, endian)
        kept = metadata.of_pillow({"exif": original}, {EXIF})[EXIF]
        assert original.startswith(b"Exif\0\0") and not kept.startswith(b"Exif")
        assert sum(a != b for a, b in zip(original[6:], kept, strict=True)) == (orientation != 1)
        assert tags_of(metadata.to_pillow({EXIF: kept})["exif"]) == {**tags_of(original), 0x0112: 1}
        assert metadata.of_pillow({"exif": original[6:]}, {EXIF})[EXIF] == kept  # as PNG and WebP have it


def test_orientation_of_other_types():
    base = exif(6)[6:]
    at = base.index(bytes([0x12, 0x01, 3, 0]))
    for type, value, expected in (
        (4, b"\6\0\0\0", b"\1\0\0\0"),
        (1, b"\6abc", b"\1abc"),
        (9, b"\6\0\0\0", b"\1\0\0\0"),
    ):
        odd = base[: at + 2] + bytes([type]) + base[at + 3 : at + 8] + value + base[at + 12 :]
        kept = metadata.of_pillow({"exif": odd}, {EXIF})[EXIF]
        assert kept[at + 8 : at + 12] == expected and len(kept) == len(odd)


def test_damaged_exif_is_kept_as_it_is():
    base = exif(6)[6:]
    for damaged in (b"x", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\4", b"II+\0" + base[4:]):
        assert metadata.of_pillow({"exif": damaged}, {EXIF})[EXIF] == damaged
    for length in range(1, len(base)):
        assert len(metadata.of_pillow({"exif": base[:length]}, {EXIF})[EXIF]) == length
    rng = np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(base)
        for place in rng.integers(0, 30, 3):
            damaged[place] = rng.integers(256)
        assert len(metadata.of_pillow({"exif": bytes(damaged)}, {EXIF})[EXIF]) == len(base)
    loop = b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\1\0\0\0\6\0\0\0" * 10  # announces 65535 entries
    assert metadata.of_pillow({"exif": loop}, {EXIF})[EXIF].count(b"\6") == 0


def test_xmp_orientation():
    for start, end in ((b'<x tiff:Orientation="', b'" a="8"/>'), (b"<tiff:Orientation>", b"</tiff:Orientation>")):
        assert metadata.of_pillow({"xmp": start + b"6" + end}, {XMP})[XMP] == start + b"1" + end


def test_what_info_may_hold():
    tags = Image.Exif()
    tags[0x0112] = 3
    found = metadata.of_pillow({"exif": tags, "xmp": "text", "icc_profile": None, "dpi": (72, 72)}, {ICC, EXIF, XMP})
    assert set(found) == {EXIF, XMP} and found[XMP] == b"text" and tags_of(found[EXIF])[0x0112] == 1
    assert metadata.of_pillow({"icc_profile": b"p", "xmp": b"x"}, {XMP}) == {XMP: b"x"}
