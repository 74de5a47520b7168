"""Priors of bits: what coders ask of one, and coding by it, wave by wave.

A **volume** is int8 [h, w, n], or [T, h, w, n] of T iterations, each of which is a stream of its own: -1 or +1 for a
bit 0 or 1, and 0 where no bit is present. Which bits are present the decoder knows beforehand. A prior gives each bit a
probability that depends on bits before it alone. Bits that do not depend on each other form a **wave**; a prior goes
through a volume wave by wave (`streams`), and encoder and decoder follow it alike: so the order is stated once, by the
prior, and both sides compute the same probabilities.

Probabilities are whole numbers out of 2^16, computed by whole numbers: see mlic_jax.entropy.bits.integers. In training
and for estimates a prior gives code lengths in floating point (`bits`), for whole batches at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from mlic_jax.entropy.tables import TOTAL

# Indexes of bits in a volume, as NumPy takes them, and int32 of the shape that they select: 2^16 P(bit = 1).
Wave = tuple[Any, np.ndarray]


class BitPrior(Protocol):
    """A prior of bits: mlic_jax.entropy.bits.binary_rnn, .trimmed and .raw have them.

    Attributes:
      name: under which an artifact's state has its integers; None where it needs none.
      encoder: () -> what `write_bits(bits, frequencies)` writes to, and `finish()` gives the bytes of.
      decoder: (bytes) -> what `read_bits(frequencies)` reads from; `finish()` raises unless all has been read.
    """

    name: str | None
    encoder: Callable
    decoder: Callable

    def bits(self, signs: jax.Array, present: jax.Array) -> jax.Array:
        """Code lengths by the parameters, differentiable in these.

        Args:
          signs: float32 [B, (T,) h, w, n], -1 or +1; of no account where not present.
          present: bool, broadcasts to the shape of signs.

        Returns:
          float32 of the shape of signs, bits; 0 where not present.
        """

    def integers(self) -> Mapping[str, Any]:
        """What an artifact stores under `name` in its state, from the parameters. Raises ModelError."""

    def check(self) -> None:
        """Raises ModelError unless the state is what `integers` makes: names, types, shapes, and sums within bounds."""

    def streams(self, signs: np.ndarray, present: np.ndarray) -> Iterable[Iterator[Wave]]:
        """Goes through a volume by the integers of the state.

        Args:
          signs: the volume, int8. Decoders give zeros.
          present: bool of its shape.

        Returns:
          For each stream its waves. `signs` must hold the bits of a wave before the next one is asked for.

        Raises ValueError for a volume that the prior does not know.
        """


def write(prior: BitPrior, signs: np.ndarray, present: np.ndarray) -> tuple[bytes, ...]:
    """The streams of a volume int8, of which `present` says what is coded. Raises ValueError for other volumes."""
    if signs.dtype != np.int8 or (np.abs(signs) != present).any():
        raise ValueError(f"a volume {signs.dtype} {signs.shape} is not int8, -1 or +1 where present and 0 elsewhere")
    parts = []
    for waves in prior.streams(signs, present):
        encoder = prior.encoder()
        for places, frequencies in waves:
            encoder.write_bits(signs[places] > 0, frequencies)
        parts.append(encoder.finish())
    return tuple(parts)


def read(prior: BitPrior, parts: Sequence[bytes], present: np.ndarray) -> np.ndarray:
    """The volume whose streams `write` made, of the shape of `present`.

    Raises CorruptStreamError: the streams cannot be that.
    """
    signs = np.zeros(present.shape, np.int8)
    for waves, part in zip(prior.streams(signs, present), parts, strict=True):
        decoder = prior.decoder(part)
        for places, frequencies in waves:
            signs[places] = 2 * decoder.read_bits(frequencies) - 1
        decoder.finish()
    return signs


def code_lengths(prior: BitPrior, signs: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Bits that each stream of `write` needs by the probabilities of files: float64 [streams], -log2 P."""
    lengths = []
    for waves in prior.streams(signs, present):
        length = 0.0
        for places, frequencies in waves:
            chances = np.where(signs[places] > 0, frequencies, TOTAL - frequencies)
            length -= np.log2(chances / TOTAL).sum()
        lengths.append(length)
    return np.array(lengths, np.float64)
