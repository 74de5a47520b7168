"""The reference decoder of codecs that send bits: from the bytes of a file to its bits, in integers and NumPy.

    python -m mlic_jax.reference.bit_decoder FILE.mlic MODEL.mlicm

prints SHA-256 of the codes of a recurrent model (and its map of heights), or of the bits of li2018 (and its levels).
This is the chapter "Data chunks of codecs that send bits" of docs/format.md as a program, for the same ends as
`mlic_jax.reference.decoder`, whose container, range coder and command it has. It goes from cell to cell, and from bit
to bit: a picture of 768x512 takes some seconds with the `tiny` variants.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mlic_jax.errors import CorruptStreamError, ModelError
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.reference import decoder as reference

TOTAL = 1 << 16
EVEN = TOTAL // 2

# -------------------------------------------------------------------------------------------------------- single bits


@functools.cache
def bit_model(frequency: int) -> list[int]:
    """The range coder's model of a bit that is 1 with probability frequency / 2^16."""
    return reference.cumulative((TOTAL - frequency, frequency))


class BitReader:
    """Reads bits with frequencies of their own from one stream."""

    def __init__(self, data: bytes):
        self._coder = reference.Mirrored(data)

    def read(self, frequencies: Sequence[int]) -> list[int]:
        return [self._coder.read(bit_model(int(frequency))) for frequency in frequencies]

    def finish(self) -> None:
        """Raises CorruptStreamError unless the stream is what an encoder writes for the bits that were read."""
        self._coder.finish()


def plain_bits(data: bytes, count: int) -> np.ndarray:
    """int64 [count]: bits that were not entropy coded, the highest of a byte first. Raises CorruptStreamError."""
    bits = [byte >> place & 1 for byte in data for place in range(7, -1, -1)]
    if len(data) != (count + 7) // 8 or any(bits[count:]):
        raise CorruptStreamError(f"{len(data)} bytes do not hold {count} bits and zeros to the end of a byte")
    return np.array(bits[:count], np.int64)


def take_part(data: bytes) -> tuple[bytes, bytes]:
    """Splits what begins with a varint: as many bytes behind it, and the rest. Raises CorruptStreamError."""
    length = 0
    for at, byte in enumerate(data[:5]):
        length |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            if byte == 0 and at > 0:
                raise CorruptStreamError("the length of a map has superfluous bytes")
            if length > len(data) - at - 1:
                raise CorruptStreamError(f"a map has {length} bytes, and {len(data) - at - 1} are left")
            return data[at + 1 : at + 1 + length], data[at + 1 + length :]
    raise CorruptStreamError("the length of a map is cut off or too long")


# --------------------------------------------------------------------------------------- networks of whole numbers

LARGEST_SUM = 1 << 31
LARGEST_LOGIT = 255


class Layer(NamedTuple):
    """Sums of products, as int64, and what they become.

    Attributes:
      kernel: [inputs, outputs].
      bias, multiplier, shift: [outputs].
    """

    kernel: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """[inputs] -> floor((bias + x kernel) multiplier 2^-shift + 1/2), [outputs]."""
        product = (x @ self.kernel + self.bias) * self.multiplier
        return (2 * product + (1 << self.shift)) >> (self.shift + 1)


def make_layer(kernel, bias, multiplier, shift, largest: int, what: str) -> Layer:
    """A layer whose inputs are at most `largest`. Raises ModelError where sums could leave what all decoders hold."""
    layer = Layer(*(np.asarray(array, np.int64) for array in (kernel, bias, multiplier, shift)))
    if (abs(layer.kernel).sum(0) * largest + abs(layer.bias)).max() >= LARGEST_SUM:
        raise ModelError(f"sums of {what} can reach 2^31: the model was not exported by these rules")
    return layer


def look_up(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Of a table whose entries stand for -m .. m; beyond them counts the last one."""
    m = len(table) // 2
    return table[np.clip(index, -m, m) + m].astype(np.int64)


def window(grid: np.ndarray, row: int, column: int, rows: int, columns: int) -> np.ndarray:
    """[rows columns C] of [h, w, C], by row, column and channel."""
    return grid[row : row + rows, column : column + columns].reshape(-1)


# --------------------------------------------------------------------------------------------------------- heights

SLOPES = 4
MOST_COUNTS = 1 << 16


class Counts:
    """Of the zeros and ones in each context of a kind of bits."""

    def __init__(self, contexts: int):
        self.counts = [[1, 1] for _ in range(contexts)]

    def read(self, reader: BitReader, contexts: Sequence[int]) -> list[int]:
        """A group of bits: their frequencies are those before the group, and it is counted as a whole."""
        seen = [self.counts[context] for context in contexts]
        bits = reader.read([min(max(TOTAL * ones // (zeros + ones), 1), TOTAL - 1) for zeros, ones in seen])
        for context, bit in zip(contexts, bits, strict=True):
            self.counts[context][bit] += 2
        for pair in self.counts:
            if sum(pair) >= MOST_COUNTS:
                pair[:] = [max(count // 2, 1) for count in pair]
        return bits


def read_heights(data: bytes, shape: tuple[int, int], iterations: int) -> np.ndarray:
    """A map of heights: int64 [h, w], 1 to iterations. Raises CorruptStreamError."""
    reader, digits = BitReader(data), (iterations - 1).bit_length()
    low, high = (1 + sum(bit << i for i, bit in enumerate(reader.read([EVEN] * digits))) for _ in range(2))
    if not low <= high <= iterations:
        raise CorruptStreamError(f"heights from {low} to {high}, where the model has {iterations} iterations")
    heights = np.full(shape, low, np.int64)
    if low < high:
        levels = high - low + 1
        moved, up, more = Counts(SLOPES), Counts(SLOPES), Counts(SLOPES * levels)
        for diagonal in range(sum(shape) - 1):
            cells = [(i, diagonal - i) for i in range(shape[0]) if 0 <= diagonal - i < shape[1]]
            around = [expected_height(heights, i, j, low) for i, j in cells]
            bits = moved.read(reader, [slope for _, slope in around])
            for cell, (expected, _) in zip(cells, around, strict=True):
                heights[cell] = expected
            left = [place for place, bit in enumerate(bits) if bit]
            ways = {place: 1 if around[place][0] < high else -1 for place in left}
            either = [place for place in left if low < around[place][0] < high]
            bits = up.read(reader, [around[place][1] for place in either])
            ways.update((place, 1 if bit else -1) for place, bit in zip(either, bits, strict=True))
            # Everybody takes a step, then those that can and do take one more, and so on.
            for step in itertools.count(1):
                for place in left:
                    heights[cells[place]] += ways[place]
                left = [place for place in left if low < heights[cells[place]] < high]
                if not left:
                    break
                bits = more.read(reader, [around[place][1] * levels + step for place in left])
                left = [place for place, bit in zip(left, bits, strict=True) if bit]
    reader.finish()
    return heights


def expected_height(heights, i: int, j: int, low: int) -> tuple[int, int]:
    """What the neighbours of a cell suggest, and its context: how far they differ."""
    if i == j == 0:
        return low, SLOPES - 1
    if i == 0 or j == 0:
        return int(heights[i, j - 1] if i == 0 else heights[i - 1, j]), 0
    above, left, corner = (int(heights[cell]) for cell in ((i - 1, j), (i, j - 1), (i - 1, j - 1)))
    expected = min(max(above + left - corner, min(above, left)), max(above, left))
    return expected, min(max(abs(above - left), abs(corner - left)), SLOPES - 1)


# ------------------------------------------------------------------------------------------------ recurrent models

REACH = 3
TAPS = 24
ACTIVATION_ONE, GATE_ONE = 127, 4096
LARGEST_CELL = 32 * GATE_ONE


class _Predictor:
    """BinaryRNN in whole numbers: the layers and tables of a model."""

    def __init__(self, state: Mapping[str, Mapping[str, np.ndarray]]):
        self.arrays, self.tables = state, state["tables"]
        self.units = state["context"]["bias"].shape[1]
        self.remembers = "state" in state

    def layer(self, name: str, k: int) -> Layer:
        """Number k of a kind."""
        arrays = [self.arrays[name][part][k] for part in Layer._fields]
        return make_layer(*arrays, 1 if name in ("context", "memory_wide") else ACTIVATION_ONE, f"layer {name!r}")

    def activate(self, index: np.ndarray) -> np.ndarray:
        return look_up(self.tables["activation"], index)

    def lstm(self, gates: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[4 H] and [H] -> output and cell, [H]."""
        i, f, o = np.split(look_up(self.tables["sigmoid"], gates[: 3 * self.units]), 3)
        g = look_up(self.tables["tanh"], gates[3 * self.units :])
        c = np.clip((2 * (f * c + i * g) + GATE_ONE) // (2 * GATE_ONE), -LARGEST_CELL, LARGEST_CELL)
        shown = look_up(self.tables["tanh"], (c + 8) // 16)
        return (2 * ACTIVATION_ONE * o * shown + GATE_ONE**2) // (2 * GATE_ONE**2), c

    def around(self, name: str, k: int, grid: np.ndarray) -> np.ndarray:
        """A layer with a kernel of 3x3: [h, w, C] -> activations [h, w, outputs]."""
        layer, padded = self.layer(name, k), np.pad(grid, ((1, 1), (1, 1), (0, 0)))
        found = [self.activate(layer(window(padded, i, j, 3, 3))) for i, j in np.ndindex(grid.shape[:2])]
        return np.array(found).reshape(*grid.shape[:2], -1)

    def iteration(self, k: int, data: bytes, sent: np.ndarray, memory: _Memory | None, channels: int) -> np.ndarray:
        """The codes of iteration k, int64 [h, w, C]; sent: bool [h, w]."""
        (height, width), units, reader = sent.shape, self.units, BitReader(data)
        context, gates, hidden, logits = (self.layer(name, k) for name in ("context", "gates", "hidden", "logits"))
        known = np.zeros((height, width, 0), np.int64) if memory is None else self.around("state", k, memory.state)
        codes = np.zeros((height + REACH, width + 2 * REACH, channels), np.int64)
        # With a row of zeros above the first, and columns of zeros beside the others.
        seen = np.zeros((height + 1, width + 2, units + known.shape[2]), np.int64)
        h, c = (np.zeros((height + 1, width + 2, units), np.int64) for _ in range(2))
        for i, j in sorted(np.ndindex(height, width), key=lambda cell: (cell[1] + 4 * cell[0], cell[0])):
            before = window(codes, i, j, 4, 7)[: TAPS * channels]
            seen[i + 1, j + 1] = np.concatenate([self.activate(context(before)), known[i, j]])
            inputs = np.concatenate([seen[i + 1, j], seen[i + 1, j + 1], window(h, i, j, 1, 3)])
            h[i + 1, j + 1], c[i + 1, j + 1] = self.lstm(gates(inputs), c[i, j + 1])
            if sent[i, j]:
                index = logits(self.activate(hidden(h[i + 1, j + 1])))
                bits = reader.read(look_up(self.tables["frequencies"], index))
                codes[i + REACH, j + REACH] = 2 * np.array(bits) - 1
        reader.finish()
        return codes[REACH:, REACH : REACH + width]


class _Memory:
    """What is known of the iterations before: the state of a cell, after any number of them."""

    def __init__(self, predictor: _Predictor, shape: tuple[int, int], channels: int):
        units = predictor.units
        self.predictor = predictor
        self.h, self.c = np.zeros((*shape, units), np.int64), np.zeros((*shape, units), np.int64)
        self.state = np.zeros((*shape, channels), np.int64)

    def remember(self, k: int, codes: np.ndarray) -> None:
        """codes: of iteration k, [h, w, C]."""
        activate, layer = self.predictor.activate, self.predictor.layer
        narrow = self.predictor.around("memory_narrow", k, self.predictor.around("memory_wide", k, codes))
        gates, hidden, state = layer("memory_gates", 0), layer("memory_hidden", k), layer("memory_state", k)
        for cell in np.ndindex(narrow.shape[:2]):
            seen = np.concatenate([narrow[cell], self.h[cell]])
            self.h[cell], self.c[cell] = self.predictor.lstm(gates(seen), self.c[cell])
            self.state[cell] = activate(state(activate(hidden(self.h[cell]))))


def _recurrent(chunks, model, height, width, quality):
    if quality is None:
        raise CorruptStreamError("the file has no quality")
    architecture = model.architecture
    iterations, channels = architecture["iterations"], architecture["code"]
    stride = 32 if architecture["framework"] == "scaling" else 16
    shape = tuple(-(-side // stride) * (stride // 16) for side in (height, width))
    if not 1 <= len(chunks) <= iterations:
        raise CorruptStreamError(f"the file has {len(chunks)} data chunks: 1 to {iterations} are possible")
    first, flag = chunks[0][1:], chunks[0][:1]
    if flag not in (b"\0", b"\1"):
        raise CorruptStreamError("the first data chunk begins with neither 0 nor 1")
    heights = np.full(shape, iterations)
    if flag == b"\1":
        coded, first = take_part(first)
        heights = read_heights(coded, shape, iterations)
        if len(chunks) > heights.max():
            raise CorruptStreamError(f"the file has {len(chunks)} data chunks, and no height is above {heights.max()}")
    codes = np.zeros((len(chunks), *shape, channels), np.int64)
    predictor = memory = None
    if architecture["entropy"] != "none":
        predictor = _Predictor(model.state["entropy"])
        memory = _Memory(predictor, shape, channels) if predictor.remembers else None
    for k, data in enumerate([first, *chunks[1:]]):
        sent = heights > k
        if predictor is None:
            codes[k][sent] = 2 * plain_bits(data, int(sent.sum()) * channels).reshape(-1, channels) - 1
            continue
        codes[k] = predictor.iteration(k, data, sent, memory, channels)
        if memory is not None and k + 1 < len(chunks):
            memory.remember(k, codes[k])
    return {"codes": codes, **({"heights": heights} if flag == b"\1" else {})}


# ---------------------------------------------------------------------------------------------------------- li2018

ONE = 32  # what a bit of 1 is to a trimmed network; one of 0 is -ONE
MARGIN = 2


def trimmed_layers(arrays: Mapping[str, Mapping[str, np.ndarray]], channels: int) -> list[list[Layer]]:
    """For each layer, and each of the volume's channels, what gives the features of that channel."""
    layers = []
    for number in range(len(arrays) - 1):
        kernel, *rest = (np.asarray(arrays[f"layer_{number}"][part], np.int64) for part in Layer._fields)
        size, _, inputs, outputs = kernel.shape
        # Of inputs and outputs the channel goes first, then the feature.
        kernel = kernel.reshape(size, size, channels, inputs // channels, channels, outputs // channels)
        row, column, of, to = np.ogrid[:size, :size, :channels, :channels]
        ahead = row + column - 2 * (size // 2) + of - to
        kernel = kernel * ((ahead < 0) if number == 0 else (ahead <= 0))[:, :, :, None, :, None]
        rest = [array.reshape(channels, -1) for array in rest]
        layers.append(
            [
                make_layer(
                    kernel[..., k, :].reshape(size * size * inputs, -1),
                    *(array[k] for array in rest),
                    LARGEST_LOGIT,
                    f"layer {number} of a trimmed network",
                )
                for k in range(channels)
            ]
        )
    return layers


def read_volume(arrays: Mapping[str, np.ndarray], data: bytes, sent: np.ndarray) -> np.ndarray:
    """The bits int64 [h, w, n] of a stream, 0 where not sent. sent: bool [h, w, n]."""
    height, width, channels = sent.shape
    layers, reader = trimmed_layers(arrays, channels), BitReader(data)
    # What each layer sees, as far as it is known, with two rows and columns of zeros on all sides.
    inputs = [
        np.zeros((height + 2 * MARGIN, width + 2 * MARGIN, channels, layer["kernel"].shape[2] // channels), np.int64)
        for layer in (arrays[f"layer_{number}"] for number in range(len(layers)))
    ]
    bits = np.zeros(sent.shape, np.int64)
    places = sorted(map(tuple, np.argwhere(sent).tolist()), key=lambda place: (sum(place), place[2], place[0]))
    for _, group in itertools.groupby(places, key=sum):
        diagonal, features = list(group), []
        for number, layer in enumerate(layers):
            size, last = arrays[f"layer_{number}"]["kernel"].shape[0], number == len(layers) - 1
            cut = MARGIN - size // 2
            features = []
            for i, j, k in diagonal:
                x = layer[k](window(inputs[number], i + cut, j + cut, size, size))
                if number >= 3 and number % 2 == 1 and not last:
                    x = x + inputs[number - 1][i + MARGIN, j + MARGIN, k]
                if not last:
                    x = np.where(x < 0, (x + 2) // 4, x)
                features.append(np.clip(x, -LARGEST_LOGIT, LARGEST_LOGIT))
            if not last:
                for (i, j, k), x in zip(diagonal, features, strict=True):
                    inputs[number + 1][i + MARGIN, j + MARGIN, k] = x
        found = reader.read(look_up(arrays["frequencies"], np.array(features)[:, 0]))
        for (i, j, k), bit in zip(diagonal, found, strict=True):
            bits[i, j, k] = bit
            inputs[0][i + MARGIN, j + MARGIN, k] = ONE if bit else -ONE
    reader.finish()
    return bits


def _li2018(chunks, model, height, width, quality):
    if quality is not None:
        raise CorruptStreamError("the file has a quality, and its model has one rate")
    if len(chunks) != 1:
        raise CorruptStreamError(f"li2018 writes one data chunk, the file has {len(chunks)}")
    architecture, (data,) = model.architecture, chunks
    n, levels = architecture["n"], architecture["levels"]
    cells = -(-height // 8), -(-width // 8)

    def read(name, data, sent):
        if architecture["entropy"] != "none":
            return read_volume(model.state[name], data, sent)
        bits = np.zeros(sent.shape, np.int64)
        bits[sent] = plain_bits(data, int(sent.sum()))
        return bits

    if architecture["importance"] == "none":
        return {"bits": read("code_prior", data, np.ones((*cells, n), bool))}
    planes = levels.bit_length() - 1
    coded, data = take_part(data)
    digits = read("map_prior", coded, np.ones((*cells, planes), bool))
    level = sum(digits[..., i] << planes - 1 - i for i in range(planes))
    kept = (level + (architecture["floor_levels"] == "released")) * (n // levels)
    return {"bits": read("code_prior", data, np.arange(n) < kept[..., None]), "levels": level}


# ------------------------------------------------------------------------------------------------------ whole files

# model id -> name, and what reads its data chunks
MODELS = {7: ("li2018", _li2018), 8: ("toderici2017", _recurrent), 9: ("johnston2018", _recurrent)}


def decode_chunks(
    chunks: Sequence[bytes], model: Artifact, height: int, width: int, quality: int | None = None
) -> dict[str, np.ndarray]:
    """The bits of data chunks, which may be the first ones of a recurrent model's file; see `decode_bits`.

    Args:
      chunks: their content.
      model: the one they were written with.
      height, width: of the picture, in pixels.
      quality: in half steps, as the header has it.
    """
    for name, read in MODELS.values():
        if name == model.model:
            found = read([bytes(chunk) for chunk in chunks], model, height, width, quality)
            return {key: array.astype(np.int32) for key, array in found.items()}
    raise ModelError(f"{model.model} is no model of this decoder: it has {', '.join(n for n, _ in MODELS.values())}")


def decode_bits(data: bytes, model: Artifact) -> dict[str, np.ndarray]:
    """The bits of a file.

    Args:
      data: the file, all of it.
      model: the one it was written with.

    Returns:
      int32 arrays. Of recurrent models: "codes" [K, h, w, C], -1 or +1, and 0 for what is not sent, and "heights"
      [h, w], where the file has them. Of li2018: "bits" [h, w, n], 0 or 1, and 0 for what is not sent, and "levels"
      [h, w], where the model has an importance map.

    Raises:
      CorruptStreamError: a damaged file.
      ModelError: it was written with another model.
    """
    file, chunks = reference.data_chunks(data, model, {number: name for number, (name, _) in MODELS.items()})
    return decode_chunks(chunks, model, file.height, file.width, file.quality)


if __name__ == "__main__":
    sys.exit(reference.main(sys.argv[1:], decode_bits, "mlic_jax.reference.bit_decoder"))
