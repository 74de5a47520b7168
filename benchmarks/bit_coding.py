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

from mlic_jax.entropy.bits import binary_rnn, trimmed
from mlic_jax.layers import init


def seconds(function, *arguments):
    """(result, the less of two times)."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        result = function(*arguments)
        times.append(time.perf_counter() - began)
    return result, min(times)


def parameters(module, *shapes):
    boxed = jax.eval_shape(module.init, jax.random.key(0), *shapes)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: a + 0.02 * rng.normal(size=a.shape), init.materialise(boxed, jax.random.key(0)))


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


def recurrent(name, width, height, code, iterations, **options):
    module = binary_rnn.BinaryRNN(code, 2 * code, iterations, **options)
    params = parameters(module, jax.ShapeDtypeStruct((1, iterations, 1, 1, code), np.float32))
    state, shape = binary_rnn.integers(module, params), (-(-height // 16), -(-width // 16))
    codes = 2 * bits_of(np.random.default_rng(0), (iterations, *shape, code)) - 1
    chunks, encode_s = seconds(binary_rnn.encode, module, state, codes)
    decoded, decode_s = seconds(binary_rnn.decode, module, state, chunks, shape)
    np.testing.assert_array_equal(decoded, codes)
    lengths = binary_rnn.code_length(module, state, codes).tolist()
    report(f"BinaryRNN, {name}", f"{shape[1]}x{shape[0]} cells of {code} bits", encode_s, decode_s, chunks, lengths)


def convolutional(name, width, height, channels, features, blocks, share):
    module = trimmed.TrimmedConv(channels, features, blocks)
    shapes = [jax.ShapeDtypeStruct((1, 1, 1, channels), kind) for kind in (np.float32, bool)]
    state, shape = trimmed.integers_of(module, parameters(module, *shapes)), (-(-height // 8), -(-width // 8))
    rng = np.random.default_rng(0)
    bits = bits_of(rng, (*shape, channels))
    kept = np.clip(rng.normal(share, 0.2, shape), 0, 1) * channels
    sent = np.arange(channels) < kept[..., None]
    data, encode_s = seconds(trimmed.encode, module, state, bits, sent)
    decoded, decode_s = seconds(trimmed.decode, module, state, data, sent)
    np.testing.assert_array_equal(decoded[sent], bits[sent])
    lengths = [trimmed.code_length(module, state, bits, sent).sum()]
    size = f"{shape[1]}x{shape[0]} cells of {channels} bits, {sent.mean():.0%} sent"
    report(f"trimmed convolutions, {name}", size, encode_s, decode_s, [data], lengths)


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
