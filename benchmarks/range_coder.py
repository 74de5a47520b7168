"""Symbols per second of the range coder, and what it costs to refuse what no encoder writes.

    python benchmarks/range_coder.py

Latents of 192 channels, of pictures of 768x512 and 4096x4096. "gaussian": rows of the 64 scales, most of them small as
in a picture. "factorized": one row a channel. The decoder encodes again what it reads; the last column is the decoder
without that. Best of several runs, in millions of symbols a second of CPU time; all of it runs on one core.
"""

from __future__ import annotations

import argparse
import platform
import time

import numpy as np

from mlic_jax.entropy import rangecoder
from mlic_jax.entropy.priors.gaussian import SCALE_TABLE, scale_tables

CHANNELS = 192
SIZES = {"768x512": (1, 32, 48, CHANNELS), "4096x4096": (1, 256, 256, CHANNELS)}


class NoMirror:
    """In place of the encoder inside a decoder: takes no time."""

    def encode(self, entries, model):
        pass

    def num_words(self):
        return 0


def latent(rows: str, shape: tuple[int, ...]):
    """(symbols, indexes)."""
    rng = np.random.default_rng(0)
    if rows == "gaussian":
        indexes = np.minimum(rng.geometric(0.08, shape) - 1, len(SCALE_TABLE) - 1).astype(np.uint8)
        scales = SCALE_TABLE[indexes]
    else:
        indexes = np.broadcast_to(np.arange(shape[-1]) % len(SCALE_TABLE), shape)
        scales = np.broadcast_to(SCALE_TABLE[indexes[0, 0, 0]], shape)
    return np.rint(rng.normal(0, scales)).astype(np.int32), indexes


def best(function, runs: int) -> float:
    """CPU seconds of the fastest of several runs."""
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds)


def measure(symbols, indexes, models, runs):
    """(bytes, millions of symbols a second of the encoder, of the decoder, and of the decoder without mirror)."""

    def encode():
        encoder = rangecoder.Encoder()
        encoder.write(symbols, indexes, models)
        return encoder.finish()

    def decode():
        decoder = rangecoder.Decoder(data)
        decoded = decoder.read(indexes, models)
        decoder.finish()
        return decoded

    def decode_only():
        decoder = rangecoder.Decoder(data)
        decoder._mirror = NoMirror()
        decoder.read(indexes, models)

    data = encode()
    assert np.array_equal(decode(), symbols)
    return len(data), *(symbols.size / best(run, runs) / 1e6 for run in (encode, decode, decode_only))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    models = rangecoder.Models(scale_tables())
    print(f"{platform.processor() or platform.machine()}, millions of symbols a second, best of {runs}")
    print(f"{'picture':10} {'rows':10} {'bytes':>9} {'encode':>8} {'decode':>8} {'no mirror':>10}")
    for size, shape in SIZES.items():
        for rows in ("gaussian", "factorized"):
            count, *speeds = measure(*latent(rows, shape), models, runs)
            print(f"{size:10} {rows:10} {count:9} {speeds[0]:8.1f} {speeds[1]:8.1f} {speeds[2]:10.1f}")


if __name__ == "__main__":
    main()
