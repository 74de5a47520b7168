"""Recurrent models: the codes of every iteration, cell by cell, by BinaryRNN in whole numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlic_jax.errors import CorruptStreamError
from mlic_jax.reference.bits import BitReader, Layer, look_up, make_layer, plain_bits, take_part, window
from mlic_jax.reference.heights import read_heights

REACH = 3
TAPS = 24
ACTIVATION_ONE, GATE_ONE = 127, 4096
LARGEST_CELL = 32 * GATE_ONE


class Predictor:
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
        outputs = [self.activate(layer(window(padded, i, j, 3, 3))) for i, j in np.ndindex(grid.shape[:2])]
        return np.array(outputs).reshape(*grid.shape[:2], -1)

    def iteration(self, k: int, data: bytes, sent: np.ndarray, memory: Memory | None, channels: int) -> np.ndarray:
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


class Memory:
    """What is known of the iterations before: the state of a cell, after any number of them."""

    def __init__(self, predictor: Predictor, shape: tuple[int, int], channels: int):
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


def read_codes(chunks, model, height, width, quality):
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
        predictor = Predictor(model.state["entropy"])
        memory = Memory(predictor, shape, channels) if predictor.remembers else None
    for k, data in enumerate([first, *chunks[1:]]):
        sent = heights > k
        if predictor is None:
            codes[k][sent] = 2 * plain_bits(data, int(sent.sum()) * channels).reshape(-1, channels) - 1
            continue
        codes[k] = predictor.iteration(k, data, sent, memory, channels)
        if memory is not None and k + 1 < len(chunks):
            memory.remember(k, codes[k])
    return {"codes": codes, **({"heights": heights} if flag == b"\1" else {})}
