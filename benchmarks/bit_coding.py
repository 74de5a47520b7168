"""Seconds and bytes of the coders of bits, for a picture of 768x512 (or --size), without the networks around them.

    python benchmarks/bit_coding.py

Bits are random and correlated as those of a picture are, weights random: neither changes how long it takes. Bytes are
held against the sum of -log2 P of the integer probabilities, chunk by chunk.
"""

from __future__ import annotations

import argparse
import time

import jax
import numpy as np

from mlic_jax.entropy.bits import prior
from mlic_jax.entropy.bits.binary_rnn import BinaryRNN
from mlic_jax.entropy.bits.trimmed import TrimmedConv
from mlic_jax.layers import init


def seconds(function, *arguments):
    """(result, the less of two times)."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        result = function(*arguments)
        times.append(time.perf_counter() - began)
    return result, min(times)


def with_integers(module, *shape):
    """The prior as coders see it, with random weights; shape: of some volume, with a batch."""
    volume = jax.ShapeDtypeStruct(shape, np.float32), jax.ShapeDtypeStruct(shape, bool)
    boxed = jax.eval_shape(lambda *volume: module.init(jax.random.key(0), *volume, method="bits"), *volume)["params"]
    params, rng = init.materialise(boxed, jax.random.key(0)), np.random.default_rng(0)
    params = jax.tree.map(lambda a: a + 0.02 * rng.normal(size=a.shape), params)
    return module.bind({"state": module.bind({"params": params}).integers()})


def bits_of(rng, shape):
    """int8, 0 or 1: signs of smooth noise."""
    return (rng.normal(size=shape).cumsum(-3).cumsum(-2) > 0).astype(np.int8)


def report(name, size, encode_s, decode_s, chunks, lengths):
    worst = max((8 * len(chunk) - length) / 8 for chunk, length in zip(chunks, lengths, strict=True))
    total, ideal = sum(map(len, chunks)), sum(lengths) / 8
    print(
        f"{name}: {size}, {len(chunks)} chunks of {total} bytes, {total / ideal - 1:+.2%} beside -log2 P "
        f"(at most {worst:.0f} bytes a chunk); encode {encode_s:.2f} s, decode {decode_s:.2f} s"
    )


def measure(name, size, module, signs, present):
    """Codes a volume int8 of which `present` says what is coded."""
    chunks, encode_s = seconds(prior.write, module, signs, present)
    decoded, decode_s = seconds(prior.read, module, chunks, present)
    np.testing.assert_array_equal(decoded, signs)
    report(name, size, encode_s, decode_s, chunks, prior.code_lengths(module, signs, present).tolist())


def recurrent(name, width, height, code, iterations, **options):
    module = with_integers(BinaryRNN(code, 2 * code, iterations, **options), 1, iterations, 1, 1, code)
    shape = -(-height // 16), -(-width // 16)
    signs = 2 * bits_of(np.random.default_rng(0), (iterations, *shape, code)) - 1
    size = f"{shape[1]}x{shape[0]} cells of {code} bits"
    measure(f"BinaryRNN, {name}", size, module, signs, np.ones(signs.shape, bool))


def convolutional(name, width, height, channels, features, blocks, share):
    module = with_integers(TrimmedConv(channels, features, blocks), 1, 1, 1, channels)
    rng, shape = np.random.default_rng(0), (-(-height // 8), -(-width // 8))
    bits = bits_of(rng, (*shape, channels))
    kept = np.clip(rng.normal(share, 0.2, shape), 0, 1) * channels
    present = np.arange(channels) < kept[..., None]
    size = f"{shape[1]}x{shape[0]} cells of {channels} bits, {present.mean():.0%} sent"
    measure(f"trimmed convolutions, {name}", size, module, (2 * bits - 1) * present, present)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="768x512", help="width x height in pixels")
    width, height = map(int, parser.parse_args().size.split("x"))
    recurrent("published width", width, height, 32, 16)
    recurrent("published width, without memory", width, height, 32, 16, progressive=False)
    recurrent("tiny", width, height, 32, 8)
    convolutional("published width", width, height, 64, 4, 3, 0.35)
    convolutional("published, high rate", width, height, 128, 4, 3, 0.45)
    convolutional("tiny", width, height, 16, 2, 1, 0.35)


if __name__ == "__main__":
    main()
