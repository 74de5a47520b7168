"""What a fuzzer throws at the code that reads untrusted bytes.

    python fuzz/target.py CORPUS [libFuzzer options]     fuzzes; needs atheris (pip install -e .[fuzz])
    python fuzz/target.py --replay FILE_OR_FOLDER...     runs inputs once, without atheris

The first byte of an input chooses the entry point, the rest is its input. Findings are: every exception that is not an
`MlicError`, more than two seconds, much memory, and a difference between two programs that should agree.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import sys
import time
import zlib

if __name__ == "__main__" and "--replay" not in sys.argv:
    import atheris

    instrument = functools.partial(
        atheris.instrument_imports,
        include=[
            "mlic_jax.fileformat.container",
            "mlic_jax.entropy",
            "mlic_jax.fileformat.metadata",
            "mlic_jax.fileformat.modes",
            "mlic_jax.fileformat.alpha",
        ],
    )
else:
    instrument = contextlib.nullcontext

import numpy as np

with instrument():
    from mlic_jax.entropy import rangecoder, tables
    from mlic_jax.entropy.bits import neighbours, prior
    from mlic_jax.fileformat import alpha, container, metadata, modes
from mlic_jax import reference
from mlic_jax.errors import CorruptStreamError, MlicError

LONGEST_SECONDS = 2.0


def repaired(data: bytes) -> bytes:
    """The file with checksums that fit, as far as its header can be followed."""
    data = bytearray(data)

    def seal(start, end, prefix=b""):
        crc = container.google_crc32c.value(prefix + bytes(data[start:end]))
        data[end : end + 4] = crc.to_bytes(4, "little")[: max(0, len(data) - end)]

    fields = reference.container.Fields(bytes(data))
    try:
        fields.take(4)
        sides = fields.number(4)
        fields.varint(3)
        fields.take(6 + (sides >> 30 & 1))
        table = [(container.DATA, fields.varint(5))]
        for _ in range(fields.varint(2) if sides >> 31 else 0):
            table.append((fields.number(1), fields.varint(5)))
    except CorruptStreamError:
        return bytes(data)
    at = fields.at
    seal(0, at)
    for kind, length in table:
        at += 4
        if at + length > len(data):
            break
        seal(at, at + length, bytes([kind]))
        at += length
    return bytes(data)


# ------------------------------------------------------------------------------------------------------- entry points


def read_file(data: bytes) -> None:
    """Container and header: our parser and the reference's take a file apart alike, and it has one form only."""
    for file in (data, repaired(data)):
        try:
            header, chunks = container.unpack(file)
        except MlicError:
            header = None
        try:
            other = reference.container.parse(file)
        except CorruptStreamError:
            other = None
        assert (header is None) == (other is None), "one parser refuses what the other reads"
        if header is None:
            with contextlib.suppress(MlicError):  # as `mlic info` does with a file's beginning
                container.read_header(file[: container.LONGEST_HEADER], len(file) + 1)
            continue
        assert header[:4] == (other.model_id, other.fingerprint, other.width, other.height)
        silent = (container.PAD, container.NOT_PORTABLE)
        assert chunks == tuple(c for c in other.chunks if c[0] in container.NAMES and c[0] not in silent)
        if len(chunks) == len(other.chunks):
            assert container.pack(header, chunks) == file, "two files for one content"
        container.has_alpha(header.mode), container.bit_depth(header.mode)
        [container.chunk_name(kind) for kind, _ in other.chunks]


def read_beside(data: bytes) -> None:
    """Metadata, the alpha plane, and the picture that is made of them."""
    if len(data) < 4:
        return
    mode = container.MODES[data[0] % len(container.MODES)]
    height, width, content = data[1] + 1, data[2] + 1, data[3:]
    depth = container.bit_depth(mode)
    # As it is, and compressed, so that what is behind zlib is reached.
    for coded in (content, content[:1] + zlib.compress(content[1:])):
        with contextlib.suppress(MlicError):
            plane = alpha.decode(coded, height, width, max(8, depth))
            assert plane.shape == (height, width) and plane.itemsize == max(8, depth) // 8
            assert np.array_equal(alpha.decode(alpha.encode(plane), height, width, max(8, depth)), plane)
            if container.has_alpha(mode):
                rgb = np.zeros((height, width, 3), np.uint8)
                array = modes.to_array(mode, rgb, plane)
                modes.to_pillow(mode, array)
                modes.from_array(array)
    kind = container.METADATA[data[0] % len(container.METADATA)]
    for stored in (content, zlib.compress(content), zlib.compress(content)[: data[1]]):
        with contextlib.suppress(MlicError):
            blocks = metadata.from_chunks([container.Chunk(kind, stored)])
            assert sum(map(len, blocks.values())) <= container.LARGEST_METADATA_TOTAL
            metadata.to_chunks(blocks)
            metadata.to_pillow(blocks)
    names = ("icc_profile", "exif", "xmp")
    metadata.of_pillow(dict.fromkeys(names, content), container.METADATA)


@functools.cache
def _tables():
    """Small tables with all that is hard: hardly a bit a symbol, 16 of them, long rows, rows of one symbol."""
    rng = np.random.default_rng(0)
    rows = [np.array([1.0]), np.array([0.0, 1]), np.array([0.5, 0.5]), rng.dirichlet(np.ones(20)), np.ones(3) * 1e-9]
    small = tables.build(rows, np.array([0, -1, 0, -10, -1]))
    many = tables.build(list(rng.dirichlet(np.ones(4), 300)), np.full(300, -2))
    return small, many


def _latent_of(data: bytes):
    """(models, indexes [h, w, C], limit, rest) as the first bytes say."""
    table = _tables()[data[0] & 1]
    shape = (data[1] % 70 + 1, data[2] % 3 + 1, data[3] % 4 + 1)
    if data[0] & 2:
        shape = (shape[1], shape[0], shape[2])
    rows = np.arange(np.prod(shape), dtype=np.uint32) * (data[4] + 1) % len(table.lengths)
    limit = (None, 0, 5, 127)[data[0] >> 2 & 3]
    return rangecoder.Models(table), rows.reshape(shape), limit, data[5:]


def read_symbols(data: bytes) -> None:
    """A stream of the range coder: both decoders read the same or refuse it, and what is read has no other stream."""
    if len(data) < 5:
        return
    models, rows, limit, stream = _latent_of(data)
    read_bitmap(stream, data[1] % 9 + 1, data[2] % 7 + 1)
    try:
        decoder = rangecoder.Decoder(stream)
        symbols = decoder.read(rows[None], models, limit)[0]
        decoder.finish()
    except CorruptStreamError:
        symbols = None
    try:
        coder = reference.rangecoder.Mirrored(stream)
        other = reference.latents.read_latent(
            coder, rows, models.table, rangecoder.LARGEST_SYMBOL if limit is None else limit
        )
        coder.finish()
    except CorruptStreamError:
        other = None
    assert (symbols is None) == (other is None), "one decoder refuses what the other reads"
    if symbols is not None:
        assert np.array_equal(symbols, other)
        encoder = rangecoder.Encoder()
        encoder.write(symbols, rows, models, limit)
        assert encoder.finish() == stream


def read_bitmap(stream: bytes, height: int, width: int) -> None:
    """A picture of 1 bit: both decoders read the same or refuse it, and what is read has no other stream."""
    present = np.ones((height, width, 1), bool)
    try:
        signs = prior.read(neighbours.Neighbours(), [stream], present)
    except CorruptStreamError:
        signs = None
    try:
        bits = reference.bitmap.read_bits([stream], None, height, width, None)["bits"]
    except CorruptStreamError:
        bits = None
    assert (signs is None) == (bits is None), "one decoder refuses what the other reads"
    if signs is not None:
        assert np.array_equal(signs[..., 0] > 0, bits)
        assert prior.write(neighbours.Neighbours(), signs, present) == (stream,)


def write_bitmap(data: bytes, where: int, height: int, width: int) -> None:
    """Bits: they come back. The stream, with a bit changed, goes through `read_bitmap`."""
    bits = np.resize(np.unpackbits(np.frombuffer(data, np.uint8)), (height, width, 1))
    signs, present = np.where(bits, np.int8(1), np.int8(-1)), np.ones(bits.shape, bool)
    (stream,) = prior.write(neighbours.Neighbours(), signs, present)
    assert np.array_equal(prior.read(neighbours.Neighbours(), [stream], present), signs)
    changed = bytearray(stream)
    changed[where // 8 % len(stream)] ^= 1 << where % 8
    read_bitmap(bytes(changed), height, width)


def write_symbols(data: bytes) -> None:
    """Symbols: they come back. The stream, with a bit changed, goes through `read_symbols`. Bits likewise."""
    if len(data) < 8:
        return
    models, rows, limit, rest = _latent_of(data)
    where, rest = int.from_bytes(rest[:2], "little"), rest[2:]
    write_bitmap(rest, where, data[1] % 9 + 1, data[2] % 7 + 1)
    if rest[0] & 1:  # small ones, or the input's as they are
        symbols = np.frombuffer(rest[1:], np.int8).astype(np.int32)
    else:
        symbols = np.frombuffer(rest[1 : 1 + len(rest[1:]) // 4 * 4], "<i4") >> 7
    most = rangecoder.LARGEST_SYMBOL if limit is None else limit
    symbols = np.clip(np.resize(symbols, rows.shape) if symbols.size else np.zeros(rows.shape), -most, most).astype(
        np.int32
    )
    encoder = rangecoder.Encoder()
    encoder.write(symbols, rows, models, limit)
    stream = encoder.finish()
    decoder = rangecoder.Decoder(stream)
    assert np.array_equal(decoder.read(rows, models, limit), symbols)
    decoder.finish()
    if stream:
        changed = bytearray(stream)
        changed[where // 8 % len(stream)] ^= 1 << where % 8
        read_symbols(data[:5] + bytes(changed))


ENTRY_POINTS = (read_file, read_beside, read_symbols, write_symbols)


def run(data: bytes) -> None:
    """One input."""
    if data:
        start = time.process_time()
        ENTRY_POINTS[data[0] % len(ENTRY_POINTS)](data[1:])
        seconds = time.process_time() - start
        assert seconds < LONGEST_SECONDS, f"{seconds:.1f} seconds for {len(data)} bytes"


def replay(paths) -> int:
    """Runs files, and all files in folders; returns how many."""
    files = [
        file for path in map(pathlib.Path, paths) for file in (sorted(path.iterdir()) if path.is_dir() else [path])
    ]
    for file in files:
        try:
            run(file.read_bytes())
        except BaseException:
            print(f"{file}:", file=sys.stderr)
            raise
    return len(files)


if __name__ == "__main__":
    if "--replay" in sys.argv:
        print(replay(sys.argv[2:]), "inputs without a finding")
    else:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        atheris.Setup(sys.argv, run)
        atheris.Fuzz()
