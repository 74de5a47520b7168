"""The file format: everything comes back, and nothing damaged is taken for a file."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from mlic_jax import container
from mlic_jax.container import LARGEST_PICTURE, LARGEST_SIDE, MOST_CHUNKS, Header, pack, unpack
from mlic_jax.errors import CorruptStreamError, LimitError

HEADER = Header(2, bytes(range(8)), 768, 512)


@pytest.mark.parametrize("chunks", [(), (b"",), (b"abc",), (b"a", b"", b"bc" * 100), (b"x",) * MOST_CHUNKS])
@pytest.mark.parametrize("size", [(1, 1), (127, 128), (16384, 1), (LARGEST_SIDE, LARGEST_PICTURE // LARGEST_SIDE)])
def test_comes_back(size, chunks):
    header = HEADER._replace(width=size[0], height=size[1])
    assert unpack(pack(header, chunks)) == (header, chunks)


def test_layout():
    # Version 0, byte by byte: a change here is a change of the format.
    data = pack(Header(0x0102, b"\x10" * 8, 300, 5), (b"ab", b""))
    body = b"MLIC" + b"\x00" + b"\x02\x01" + b"\x10" * 8 + b"\xac\x02" + b"\x05" + b"\x02" + b"\x02\x00" + b"ab"
    assert data == body + struct.pack("<I", zlib.crc32(body))


def test_the_header_is_small():
    chunk = bytes(2_000_000)
    assert len(pack(HEADER._replace(width=16384, height=LARGEST_PICTURE // 16384), (chunk,))) - len(chunk) <= 32


FILE = pack(HEADER, (b"first chunk", b"second"))


def test_every_prefix_is_noticed():
    for length in range(len(FILE)):
        with pytest.raises(CorruptStreamError):
            unpack(FILE[:length])
    for more in (b"\0", b"MLIC"):
        with pytest.raises(CorruptStreamError):
            unpack(FILE + more)


def test_every_flipped_bit_is_noticed():
    for place in range(len(FILE)):
        for bit in range(8):
            damaged = bytearray(FILE)
            damaged[place] ^= 1 << bit
            with pytest.raises(CorruptStreamError):
                unpack(bytes(damaged))


def resign(body):
    """With the checksum that fits, as a careful forger would write it."""
    return body + struct.pack("<I", zlib.crc32(body))


def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def forged(*numbers, rest=b"", version=0):
    start = b"MLIC" + bytes([version]) + struct.pack("<H", 2) + bytes(8)
    return resign(start + b"".join(map(varint, numbers)) + rest)


def test_forged_files():
    assert unpack(forged(3, 2, 1, 4, rest=b"abcd"))[1] == (b"abcd",)
    for version in (1, 2, 255):
        with pytest.raises(CorruptStreamError, match=f"version {version} is not known"):
            unpack(forged(3, 2, 0, version=version))
    for width, height in ((0, 1), (1, 0), (LARGEST_SIDE + 1, 1), (1, 1 << 34)):
        with pytest.raises(LimitError, match="sides of 1 to 32768"):
            unpack(forged(width, height, 0))
    with pytest.raises(LimitError, match="pixels are possible"):
        unpack(forged(LARGEST_SIDE, LARGEST_PICTURE // LARGEST_SIDE + 1, 0))
    for numbers in ((3, 2, MOST_CHUNKS + 1), (3, 2, 1 << 34), (3, 2, 1, 5), (3, 2, 2, 1 << 34, 1), (3, 2), (3,), ()):
        with pytest.raises(CorruptStreamError):
            unpack(forged(*numbers, rest=b""))
    with pytest.raises(CorruptStreamError, match="too long"):
        unpack(resign(FILE[:15] + b"\x80" * 9))


def test_forged_files_raise_nothing_else():
    rng = np.random.default_rng(0)
    for _ in range(3000):
        body = bytearray(FILE[:-4])
        for place in rng.integers(4, len(body), 3):
            body[place] = rng.integers(256)
        try:
            unpack(resign(bytes(body[: rng.integers(15, len(body) + 1)])))
        except (CorruptStreamError, LimitError):
            pass


def test_other_files():
    for data in (b"", b"M", b"\x89PNG\r\n\x1a\n" + bytes(100), b"mlic" + bytes(100)):
        with pytest.raises(CorruptStreamError, match=r"not a \.mlic file"):
            unpack(data)


def test_what_cannot_be_packed():
    for width, height in ((0, 1), (1, 0), (-1, 5), (LARGEST_SIDE + 1, 5)):
        with pytest.raises(LimitError):
            pack(HEADER._replace(width=width, height=height), ())
    with pytest.raises(LimitError, match="chunks"):
        pack(HEADER, (b"",) * (MOST_CHUNKS + 1))


def test_imports_are_light():
    code = """
import sys
import mlic_jax.container, mlic_jax.zoo, mlic_jax.files, mlic_jax.artifact
found = {"jax", "jaxlib", "flax", "constriction", "orbax", "tensorflow", "scipy"} & set(sys.modules)
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert container.VERSION == 0
