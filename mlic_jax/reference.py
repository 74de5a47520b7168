"""The reference decoder: from the bytes of a file to its symbols, in plain Python integers and NumPy.

    python -m mlic_jax.reference FILE.mlic MODEL.mlicm

prints SHA-256 of the symbols of every latent, and of the table rows they were coded with. This is docs/format.md as a
program, and the oracle of the tests: it shares no line with the container, the range coder and the networks that users
run, and imports neither jax nor constriction, so it will still read today's files when those are gone. Clear before
fast: a picture of 768x512 takes seconds.

It stops at the symbols. Everything behind them, from the symbols to pixels, is floating point and need not be exact.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from mlic_jax.artifact import Artifact
from mlic_jax.entropy.tables import Table
from mlic_jax.errors import CorruptStreamError, MlicError, ModelError

# ------------------------------------------------------------------------------------------------------ the container

SIGNATURE = b"\x8bML"
VERSION = 1
MODES = 9
MODES_WITH_ALPHA = (1, 3, 6, 8)
MOST_PIXELS = 178_956_970
PIXELS_PER_BYTE = 65536
DATA, ALPHA, ANCILLARY = 0, 1, 128
METADATA = (128, 129, 130)
LARGEST_METADATA = 8 << 20


class File(NamedTuple):
    """What a file holds.

    Attributes:
      mode: 0..8.
      height, width: in pixels.
      model_id: what chose the codec.
      fingerprint: the first 6 bytes of the SHA-256 of the weights.
      quality: in half steps, 0..200, or None.
      chunks: (type, content) in the order of the file.
    """

    mode: int
    height: int
    width: int
    model_id: int
    fingerprint: bytes
    quality: int | None
    chunks: tuple[tuple[int, bytes], ...]


@functools.cache
def _crc32c_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli; RFC 3720, appendix B.4)."""
    table, crc = _crc32c_table(), 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class _Bytes:
    """Takes a file apart from its beginning."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) < count:
            raise CorruptStreamError(f"the file ends at byte {len(self.data)}, {count} are needed from {self.at} on")
        self.at += count
        return part

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def varint(self, longest: int) -> int:
        """Seven bits a byte, low ones first; all bytes but the last have their high bit set; at most `longest`."""
        value = 0
        for i in range(longest):
            byte = self.number(1)
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                if byte == 0 and i > 0:
                    raise CorruptStreamError("a number in the header has superfluous bytes")
                return value
        raise CorruptStreamError("a number in the header is too long")


def parse(data: bytes) -> File:
    """Takes a file of format version 1 apart. Raises CorruptStreamError for anything else."""
    reader = _Bytes(bytes(data))
    if reader.take(3) != SIGNATURE:
        raise CorruptStreamError("not a .mlic file")
    version, mode = divmod(reader.number(1), 16)
    if version != VERSION:
        raise CorruptStreamError(f"format version {version} is not known: {VERSION} is")
    if mode >= MODES:
        raise CorruptStreamError(f"picture mode {mode} is not known")
    size = reader.number(4)
    width, height = (size & 0x7FFF) + 1, (size >> 15 & 0x7FFF) + 1
    has_quality, has_more_chunks = size >> 30 & 1, size >> 31
    if width * height > min(MOST_PIXELS, PIXELS_PER_BYTE * len(data)):
        raise CorruptStreamError(f"{width}x{height} pixels are too many for {len(data)} bytes")
    model_id = reader.varint(3)
    if not 1 <= model_id <= 65535:
        raise CorruptStreamError(f"model id {model_id} is out of range: 1 to 65535")
    fingerprint = reader.take(6)
    quality = reader.number(1) if has_quality else None
    if has_quality and quality > 200:
        raise CorruptStreamError(f"quality {quality / 2} is out of range: 0 to 100")
    announced = [(DATA, reader.varint(5))]
    if has_more_chunks:
        count = reader.varint(2)
        if not 1 <= count <= 255:
            raise CorruptStreamError(f"{count} further chunks are announced: 1 to 255 are possible")
        announced += [(reader.number(1), reader.varint(5)) for _ in range(count)]
    crc = crc32c(data[: reader.at])
    if reader.number(4) != crc:
        raise CorruptStreamError("the header's checksum does not fit")
    kinds = [kind for kind, _ in announced]
    if kinds.count(ALPHA) != (mode in MODES_WITH_ALPHA) or any(kinds.count(kind) > 1 for kind in METADATA):
        raise CorruptStreamError(f"chunks of types {kinds} make no picture of mode {mode}")
    chunks = []
    for kind, length in announced:
        if kind not in (DATA, ALPHA) and kind < ANCILLARY:
            raise CorruptStreamError(f"the file has a chunk of type {kind}, which cannot be left out and is not known")
        if kind in METADATA and length > LARGEST_METADATA:
            raise CorruptStreamError(f"{length} bytes of metadata: at most {LARGEST_METADATA} are possible")
        content = reader.take(length)
        if reader.number(4) != crc32c(bytes([kind]) + content):
            raise CorruptStreamError(f"the checksum of a chunk of type {kind} does not fit")
        chunks.append((kind, content))
    if reader.at != len(data):
        raise CorruptStreamError("something follows the last chunk")
    return File(mode, height, width, model_id, fingerprint, quality, tuple(chunks))


# ---------------------------------------------------------------------------------------------------- the range coder

PRECISION = 24
WORD = 32
_LOW_WORD = (1 << WORD) - 1
_WHOLE_RANGE = (1 << 2 * WORD) - 1


def cumulative(frequencies) -> list[int]:
    """Where the entries of a table row begin in 0..2^24, and 2^24: the row's model.

    Entry i begins at i + floor(K_i (2^24 - n) / 2^16), K_i the sum of the frequencies before it, n their number.
    """
    n, below, starts = len(frequencies), 0, []
    for i, frequency in enumerate(map(int, frequencies)):
        starts.append(i + (below * ((1 << PRECISION) - n) >> 16))
        below += frequency
    return [*starts, 1 << PRECISION]


@functools.cache
def uniform(n: int) -> list[int]:
    """The model of n entries of one probability; what is left over goes to the last one."""
    return [*(i * ((1 << PRECISION) // n) for i in range(n)), 1 << PRECISION]


class RangeDecoder:
    """Reads entries from a stream of 32-bit words; behind its end it reads zeros."""

    def __init__(self, words: list[int]):
        self._words, self._at = words, 0
        self._range = _WHOLE_RANGE
        self._offset = self._next() << WORD | self._next()  # how far into the range the stream points

    def _next(self):
        self._at += 1
        return self._words[self._at - 1] if self._at <= len(self._words) else 0

    def read(self, model: list[int]) -> int:
        scale = self._range >> PRECISION
        quantile = self._offset // scale
        if quantile >> PRECISION:
            raise CorruptStreamError("the stream points behind the last entry")
        entry = bisect.bisect_right(model, quantile) - 1
        self._offset -= scale * model[entry]
        self._range = scale * (model[entry + 1] - model[entry])
        if self._range <= _LOW_WORD:
            self._range <<= WORD
            self._offset = self._offset << WORD | self._next()
        return entry


class RangeEncoder:
    """Writes what RangeDecoder reads."""

    def __init__(self):
        self._words = []
        self._low, self._range = 0, _WHOLE_RANGE

    def write(self, entry: int, model: list[int]) -> None:
        scale = self._range >> PRECISION
        self._low += scale * model[entry]
        self._range = scale * (model[entry + 1] - model[entry])
        if self._low > _WHOLE_RANGE:
            self._low &= _WHOLE_RANGE
            _carry(self._words)
        if self._range <= _LOW_WORD:
            self._words.append(self._low >> WORD)
            self._low = (self._low & _LOW_WORD) << WORD
            self._range <<= WORD

    def finish(self) -> list[int]:
        """The words; more can be written afterwards, as if this had not been called."""
        words = self._words.copy()
        if self._range == _WHOLE_RANGE:  # nothing was written: the first entry makes it smaller for good
            return words
        last = self._low + _LOW_WORD >> WORD
        end = self._low + self._range >> WORD
        if last > _LOW_WORD:
            _carry(words)
        words.append(last & _LOW_WORD)
        if end == last:  # not all that begins with this word is inside the range: with a zero behind it, it is
            words.append(0)
        return words


def _carry(words):
    """Adds one to a number of 32-bit digits, most significant first. A range never carries out of the first one."""
    at = len(words) - 1
    while words[at] == _LOW_WORD:
        words[at] = 0
        at -= 1
    words[at] += 1


# -------------------------------------------------------------------------------------------------------- the latents

BLOCK = 64
LARGEST_SYMBOL = 1 << 24
ESCAPE_LENGTHS = 27
PIECE = 16


class Mirrored:
    """A decoder that encodes again what it reads: only what an encoder writes is a stream."""

    def __init__(self, data: bytes):
        if len(data) % 4:
            raise CorruptStreamError(f"a stream of {len(data)} bytes is not a whole number of 32-bit words")
        self._words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
        self._decoder, self._encoder = RangeDecoder(self._words), RangeEncoder()

    def read(self, model):
        entry = self._decoder.read(model)
        self._encoder.write(entry, model)
        return entry

    def finish(self):
        if self._encoder.finish() != self._words:
            raise CorruptStreamError("the stream is not what an encoder writes for its symbols")


def _read_latent(coder, rows: np.ndarray, table: Table, limit: int) -> np.ndarray:
    """The symbols int32 [h, w, C] that were coded with these rows."""
    ends = np.cumsum(table.lengths).tolist()
    first, lengths = table.first.tolist(), table.lengths.tolist()
    models = {row: cumulative(table.frequencies[ends[row] - lengths[row] : ends[row]]) for row in np.unique(rows)}
    symbols = np.empty(rows.shape, np.int32)
    for top in range(0, rows.shape[0], BLOCK):
        for left in range(0, rows.shape[1], BLOCK):
            part = rows[top : top + BLOCK, left : left + BLOCK]
            row_of = part.ravel().tolist()
            found, escaped = [0] * len(row_of), []
            for place in sorted(range(len(row_of)), key=row_of.__getitem__):  # stable: raster order within a row
                row = row_of[place]
                entry = coder.read(models[row])
                found[place] = first[row] + entry
                if entry == lengths[row] - 1:
                    escaped.append(place)
            for place, distance in zip(escaped, _read_distances(coder, len(escaped)), strict=True):
                below = first[row_of[place]] - (distance + 1) // 2
                found[place] = below if distance % 2 else found[place] + distance // 2
            if found and max(map(abs, found)) > limit:
                raise CorruptStreamError(f"a symbol is beyond {limit}")
            symbols[top : top + BLOCK, left : left + BLOCK] = np.array(found, np.int32).reshape(part.shape)
    return symbols


def _read_distances(coder, count: int) -> list[int]:
    """How far the escaped symbols of a block are outside of their rows."""
    lengths = [coder.read(uniform(ESCAPE_LENGTHS)) for _ in range(count)]
    values = [1 << length for length in lengths]
    for length in sorted(set(lengths)):
        for shift in range(0, length, PIECE):
            model = uniform(1 << min(PIECE, length - shift))
            for place in range(count):
                if lengths[place] == length:
                    values[place] |= coder.read(model) << shift
    return [value - 1 for value in values]


# ------------------------------------------------------------------------------------------------- the exact networks


VALUE_BITS = 10  # the values that a network reads, where it reads no symbols, are multiples of 2^-10


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int, transposed: bool) -> np.ndarray:
    """int64 [h, w, Cin], [k, k, Cin, Cout] -> int64 [H, W, Cout]; zeros outside, k // 2 on both sides.

    Plain: out[y, x] = sum over i, j of kernel[i, j] in[y stride + i - k // 2, x stride + j - k // 2], of size
    ceil(h / stride). Transposed: the plain convolution with stride 1 of the input with stride - 1 zeros behind every
    row and column, of size h stride.
    """
    height, width, channels = x.shape
    if transposed:
        spread = np.zeros((height * stride, width * stride, channels), np.int64)
        spread[::stride, ::stride] = x
        return convolve(spread, kernel, 1, False)
    size = kernel.shape[0]
    padded = np.pad(x, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    height, width = -(-height // stride), -(-width // stride)
    out = np.zeros((height, width, kernel.shape[3]), np.int64)
    for i in range(size):
        for j in range(size):
            out += padded[i:, j:][: height * stride : stride, : width * stride : stride] @ kernel[i, j]
    return out


def requantise(v: np.ndarray, shift: np.ndarray, slope: int, low: int, high: int) -> np.ndarray:
    """floor(v 2^-shift + 1/2), below zero times slope / 512 and rounded so again, clipped. All int64, exact.

    A slope of 512 is no activation at all. Any other sees at least -2^15.
    """
    up, down = np.maximum(-shift, 0), np.maximum(shift, 0)
    u = ((v << up) * 2 + (1 << down)) >> (down + 1)
    if slope != 512:
        u = np.where(u < 0, (np.maximum(u, -(1 << 15)) * slope + 256) >> 9, u)
    return np.clip(u, low, high)


def evaluate(layers: Mapping[str, Mapping[str, np.ndarray]], x: np.ndarray) -> np.ndarray:
    """An exact network.

    Args:
      layers: "layer_0", "layer_1", ... -> kernel, bias, shift, plan; and "input" -> step, for networks of values.
      x: int64 [h, w, C], the symbols of a latent, or values in steps of 2^-10.

    Returns:
      int64 [H, W, C'].
    """
    if "input" in layers:
        x = requantise(x, layers["input"]["step"].astype(np.int64) + VALUE_BITS, 512, -127, 127)
    else:
        constants = np.broadcast_to(np.array([1, 128]), (*x.shape[:2], 2))
        x = np.concatenate([x, constants], axis=2)
    for i in range(len(layers) - ("input" in layers)):
        layer = {name: array.astype(np.int64) for name, array in layers[f"layer_{i}"].items()}
        stride, transposed, slope, low, high = layer["plan"].tolist()
        v = convolve(x, layer["kernel"], stride, bool(transposed)) + layer["bias"]
        if v.size and abs(v).max() >= 1 << 23:
            raise ModelError(f"layer {i} of an exact network exceeds 2^23: the model was not exported by these rules")
        x = requantise(v, layer["shift"], slope, low, high)
    return x


# --------------------------------------------------------------------------------------------------- the coding orders

LARGEST_HYPER_SYMBOL = 127


def _by_channel(coder, name, table, height, width, limit):
    """A latent whose channels have a table row each."""
    rows = np.broadcast_to(np.arange(len(table.lengths)), (height, width, len(table.lengths)))
    return {name: _read_latent(coder, rows, table, limit), f"{name}_rows": rows.astype(np.int32)}


def _factorized(coder, model, height, width, quality):
    del quality
    h, w = -(-height // 16), -(-width // 16)
    return _by_channel(coder, "y", model.tables["factorized_y"], h, w, LARGEST_SYMBOL)


def _hyperprior(coder, model, height, width, quality, has_means):
    del quality
    h, w = -(-height // 64), -(-width // 64)
    found = _by_channel(coder, "z", model.tables["factorized_z"], h, w, LARGEST_HYPER_SYMBOL)
    scales = evaluate(model.state["h_s"], found["z"].astype(np.int64))
    if has_means:
        scales, means = np.split(scales, 2, axis=2)
        found["y_means"] = means.astype(np.int32)
    table = model.tables["gaussian"]
    rows = np.searchsorted(table.thresholds, scales, side="right")  # how many of them are <= the scale
    return {**found, "y": _read_latent(coder, rows, table, LARGEST_SYMBOL), "y_rows": rows.astype(np.int32)}


def _mosaic(height, width, step, steps):
    """Which group of channels is transmitted in a step at each place."""
    rows, columns = np.arange(height)[:, None], np.arange(width)
    if steps == 2:
        return (rows + columns) % 2 ^ step
    return 2 * (rows % 2) + columns % 2 ^ (0, 3, 2, 1)[step]


def _of_quality(coder, model, height, width, quality):
    """z of the models of every rate: (what is found, what reads further latents, z and the quality as values)."""
    levels = 8
    if quality is None:
        raise CorruptStreamError("the file has no quality")
    table = model.tables["log_gaussian"]

    def read(name, scales):
        rows = np.searchsorted(table.thresholds, scales, side="right")  # how many of them are <= the scale
        found[f"{name}_rows"] = rows.astype(np.int32)
        found[name] = _read_latent(coder, rows, table, LARGEST_SYMBOL)
        return found[name].astype(np.int64)

    found: dict[str, np.ndarray] = {}
    h, w = -(-height // 64), -(-width // 64)
    # Levels stand 200 / 7 half steps of quality apart; place and spacing are 7 times that.
    place, spacing = quality * (levels - 1), 200
    level = min(place // spacing, levels - 2)
    beyond = place - level * spacing
    below, above = model.state["prior_z"]["log_scale"].astype(np.int64)[level : level + 2]
    scales = (below * (spacing - beyond) + above * beyond + spacing // 2) // spacing
    z = read("z", np.broadcast_to(scales, (h, w, len(scales))))
    weights = np.maximum(0, spacing - abs(place - spacing * np.arange(levels))) * 64 // spacing
    # Values in steps of 2^-10: a quarter of z, and the weights, which are multiples of 2^-6.
    return found, read, np.concatenate([z << 8, np.broadcast_to(weights << 4, (h, w, levels))], axis=2)


def _of_group(values, step, steps):
    """(which channels each place transmits in a step, their values), both [h, w, M / steps]."""
    count = values.shape[2] // steps
    chosen = _mosaic(*values.shape[:2], step, steps)[..., None] * count + np.arange(count)
    return chosen, np.take_along_axis(values, chosen, axis=2)


def _kltnet(coder, model, height, width, quality):
    steps, M = model.architecture["steps"], model.architecture["M"]
    found, read, values = _of_quality(coder, model, height, width, quality)
    out = evaluate(model.state["h_s"], values)
    means, scales, features = out[..., :M], out[..., M : 2 * M], np.maximum(out[..., 2 * M :], 0)  # means: in 1/64
    y = np.zeros_like(means)  # in 1/64
    for step in range(steps):
        if step:
            which = np.broadcast_to(np.arange(1, steps) == step, (*y.shape[:2], steps - 1)).astype(np.int64)
            values = np.concatenate([features << 2, y << 2, which << VALUE_BITS], axis=2)
            out = evaluate(model.state["context"], values)
            means, scales = means + out[..., :M], scales + out[..., M:]
        chosen, mean = _of_group(means, step, steps)
        symbols = read(f"y_{step}", _of_group(scales, step, steps)[1])
        found[f"y_{step}_means"] = (4 * mean).astype(np.int32)
        np.put_along_axis(y, chosen, 64 * symbols + mean, axis=2)
    return found


def _kltnet2(coder, model, height, width, quality):
    found, read, values = _of_quality(coder, model, height, width, quality)
    scales = evaluate(model.state["scales"], values)
    for step in range(4):
        read(f"y_{step}", _of_group(scales, step, 4)[1])
    return found


# model id -> name, and what reads its latents
MODELS = {
    1: ("bmshj2018-factorized", _factorized),
    2: ("bmshj2018-hyperprior", functools.partial(_hyperprior, has_means=False)),
    3: ("mbt2018-mean", functools.partial(_hyperprior, has_means=True)),
    4: ("kltnet", _kltnet),
    10: ("kltnet2", _kltnet2),
}


def decode_stream(
    stream: bytes, model: Artifact, height: int, width: int, quality: int | None = None
) -> dict[str, np.ndarray]:
    """The symbols of a data chunk; see `decode_symbols`. quality: in half steps, as the header has it."""
    for name, read in MODELS.values():
        if name == model.model:
            coder = Mirrored(stream)
            found = read(coder, model, height, width, quality)
            coder.finish()
            return found
    raise ModelError(f"{model.model} is no model of this decoder: it has {', '.join(n for n, _ in MODELS.values())}")


def data_chunks(data: bytes, model: Artifact, names: Mapping[int, str]) -> tuple[File, list[bytes]]:
    """A file taken apart, and the content of its data chunks.

    Args:
      data: the file.
      model: the one it was written with.
      names: id -> name of the models that the caller can read.

    Raises:
      CorruptStreamError: a damaged file.
      ModelError: it was written with another model, or with one that is not among the names.
    """
    file = parse(data)
    if file.model_id not in names:
        raise ModelError(f"the file was written by a model with id {file.model_id}, which this decoder does not know")
    name = names[file.model_id]
    if name != model.model or file.fingerprint != model.fingerprint[:6]:
        wanted = f"{name} {file.fingerprint.hex()}"
        raise ModelError(f"the file was written with {wanted}, not with {model.model} {model.fingerprint.hex()}")
    return file, [content for kind, content in file.chunks if kind == DATA]


def decode_symbols(data: bytes, model: Artifact) -> dict[str, np.ndarray]:
    """The symbols of a file.

    Args:
      data: the file.
      model: the one it was written with.

    Returns:
      int32 arrays [h, w, C]: for every latent ("y", and "z" where there is one) its symbols under its name, the table
      rows they were coded with as "y_rows", and the means in steps of 1/256, where there are any, as "y_means":
      the latent is y + y_means / 256.

    Raises:
      CorruptStreamError: a damaged file.
      ModelError: it was written with another model.
    """
    file, streams = data_chunks(data, model, {number: name for number, (name, _) in MODELS.items()})
    if len(streams) != 1:
        raise CorruptStreamError(f"{model.model} writes one data chunk, the file has {len(streams)}")
    return decode_stream(streams[0], model, file.height, file.width, file.quality)


def main(arguments: list[str], decode: Callable = decode_symbols, name: str = "mlic_jax.reference") -> int:
    """Prints one line for every array that `decode` finds in a file. name: of the module that is run."""
    if len(arguments) != 2:
        print(f"usage: python -m {name} FILE.mlic MODEL.mlicm", file=sys.stderr)
        return 2
    try:
        with open(arguments[0], "rb") as file:
            data = file.read()
        for key, array in decode(data, Artifact.load(arguments[1])).items():
            shape = "x".join(map(str, array.shape))
            print(hashlib.sha256(array.astype("<i4").tobytes()).hexdigest(), shape, key)
    except (MlicError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 3)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
