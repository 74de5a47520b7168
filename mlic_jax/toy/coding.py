"""Toy latents as bytes, by the range coder that .mlic files are written with.

Nothing of a model is in the bytes: both ends hold the same `Coder`. Tables are made once, in float64 by NumPy, and a
row is chosen by the channel and, with dither, by the position: noise that both ends know comes from a hash of a
counter, in integers, so that it is the same everywhere.
"""

from __future__ import annotations

import numpy as np

from mlic_jax.entropy import rangecoder, tables
from mlic_jax.errors import UsageError
from mlic_jax.toy import priors
from mlic_jax.toy.training import Trained

# Values that known noise takes, (i + 1) / 16 - 1/2: as in TensorFlow Compression.
LEVELS = (np.arange(15) + 1) / 16 - 0.5
SEED = 1234
# What of a channel's probability is not in its table; symbols there are escaped.
TAIL_MASS = 2.0**-16


def hashed(counter: np.ndarray, seed: int = SEED) -> np.ndarray:
    """uint32 numbers without any pattern, from integers: two rounds of xor, shift and multiplication."""
    x = np.asarray(counter).astype(np.uint32) + np.uint32(0x9E3779B9 * seed % 2**32)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def dither(n: int, channels: int, seed: int = SEED) -> np.ndarray:
    """int32 [n, channels]: indexes of LEVELS, the same on both ends."""
    counter = np.arange(n * channels, dtype=np.uint32).reshape(n, channels)
    return ((hashed(counter, seed).astype(np.uint64) * len(LEVELS)) >> np.uint64(32)).astype(np.int32)


class Coder:
    """Codes samples with a trained model.

    Args:
      trained: the model.
      offset: see `Trained.offset`; not with dither.
      dithered: rounds to integers plus noise that both ends know.
      lam, step: where the model leaves them open.
    """

    def __init__(
        self,
        trained: Trained,
        offset: str = "zero",
        dithered: bool = False,
        lam: float | None = None,
        step: float = 1.0,
    ):
        if dithered and offset != "zero":
            raise UsageError(f"offset {offset!r} with dither: known noise takes the place of an offset")
        self.trained, self.dithered, self.to = trained, dithered, (lam, step)
        fixed = trained.offset(offset, *self.to)
        # [levels, C]: what integers are moved by. One level without dither.
        self.offsets = np.repeat(LEVELS[:, None], trained.channels, 1) if dithered else fixed[None]
        self._models = rangecoder.Models(self._tabulate())

    def _tabulate(self):
        """Rows for each level of each channel: [levels, C], raveled."""
        prior, gain, count = self.trained.prior(), self.trained.gain(*self.to), self.trained.channels
        low, center, high = (gain * priors.quantiles(*prior, p, count) for p in (TAIL_MASS / 2, 0.5, 1 - TAIL_MASS / 2))
        # Rows begin at or below 0: symbols are distances from the integer next to the median.
        self.centers = np.round(center - self.offsets).astype(np.int64)
        rows, firsts = [], []
        for offset, centers in zip(self.offsets, self.centers):
            first = np.clip(np.floor(low - offset) - centers, -tables.WIDEST, 0).astype(np.int64)
            last = np.clip(np.ceil(high - offset) - centers, 0, tables.WIDEST).astype(np.int64)
            symbols = np.arange(first.min(), last.max() + 1)
            values = symbols[:, None] + centers + offset
            mass = np.exp(priors.log_interval(*prior, (values - 0.5) / gain, (values + 0.5) / gain, np))
            for c in range(count):
                rows.append(mass[(symbols >= first[c]) & (symbols <= last[c]), c])
                firsts.append(first[c])
        return tables.build(rows, np.array(firsts))

    def _rows(self, n: int):
        """Level and row of every entry, [n, C] each."""
        count = self.trained.channels
        level = dither(n, count) if self.dithered else np.zeros((n, count), np.int32)
        return level, level * count + np.arange(count, dtype=np.int32)

    def _received(self, symbols, level):
        channel = np.arange(self.trained.channels)
        return (symbols + self.centers[level, channel] + self.offsets[level, channel]).astype(np.float32)

    def symbols(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of samples [n, d]: integers [n, C], and the values they stand for, float32 [n, C]."""
        level, _ = self._rows(len(x))
        channel = np.arange(self.trained.channels)
        exact = self.trained.analysis(x, *self.to) - self.offsets[level, channel]
        symbols = np.round(exact).astype(np.int64) - self.centers[level, channel]
        return symbols, self._received(symbols, level)

    def code_length(self, x: np.ndarray) -> float:
        """Bits that an ideal code by the prior would take for samples [n, d]."""
        _, values = self.symbols(x)
        prior, gain = self.trained.prior(), self.trained.gain(*self.to)
        values = values.astype(np.float64)
        logarithm = priors.log_interval(*prior, (values - 0.5) / gain, (values + 0.5) / gain, np)
        return float(-logarithm.sum() / np.log(2))

    def encode(self, x: np.ndarray) -> bytes:
        """Samples [n, d] as bytes."""
        encoder = rangecoder.Encoder()
        encoder.write(self.symbols(x)[0], self._rows(len(x))[1], self._models)
        return encoder.finish()

    def decode(self, data: bytes, n: int) -> np.ndarray:
        """n samples, float32 [n, d]. Raises CorruptStreamError for bytes that `encode` does not write."""
        level, rows = self._rows(n)
        decoder = rangecoder.Decoder(data)
        symbols = decoder.read(rows, self._models)
        decoder.finish()
        return self.trained.synthesis(self._received(symbols, level), *self.to)
