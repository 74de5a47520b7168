"""Time to compress and decompress a picture with models of published width.

    python benchmarks/coding.py [--width 768 --height 512]

Weights are random, which makes no difference to the networks, and symbols few, which flatters the entropy coder; its
own speed is `benchmarks/range_coder.py`. Printed: seconds by the clock and of the processor, the least of five rounds,
and what the first picture takes, which compiles.
"""

import argparse
import functools
import time

import jax
import numpy as np

from mlic_jax import data, zoo

MODELS = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean")


def picture(height, width):
    """uint8 [H, W, 3]: a bundled photo, repeated."""
    photo = data.read_image(data.bundled()[0])
    times = (-(-height // photo.shape[0]), -(-width // photo.shape[1]), 1)
    return np.ascontiguousarray(np.tile(photo, times)[:height, :width])


def timed(function):
    """(result, seconds by the clock, seconds of the processor)."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - clock, time.process_time() - processor


def least(function, rounds):
    """The least seconds by the clock and of the processor."""
    return np.min([timed(function)[1:] for _ in range(rounds)], axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--N", type=int, default=128)
    parser.add_argument("--M", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    image = picture(arguments.height, arguments.width)
    print(f"{arguments.width}x{arguments.height}, N={arguments.N}, M={arguments.M}; {jax.devices()[0].device_kind}")
    print("| model | compress, s | of the processor | first | decompress, s | of the processor | first |")
    print("|---|---|---|---|---|---|---|")
    for name in MODELS:
        codec = zoo.make(name, N=arguments.N, M=arguments.M)
        artifact = codec.export(*codec.init(jax.random.key(0), (64, 64, 3)))
        compress = functools.partial(codec.compress, artifact, image)
        chunks, first, _ = timed(compress)
        cells = [*least(compress, arguments.rounds), first]
        decompress = functools.partial(codec.decompress, artifact, chunks, image.shape[:2])
        _, first, _ = timed(decompress)
        cells += [*least(decompress, arguments.rounds), first]
        print(f"| {name} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
