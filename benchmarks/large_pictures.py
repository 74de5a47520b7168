"""Time and memory of large pictures, which are coded window by window.

    python benchmarks/large_pictures.py --model MODEL.mlicm [--megapixels 1 4 16 64]

Each size runs in a process of its own, which makes a synthetic picture (smooth shades, edges and noise), warms up on a
small one, and then compresses and decompresses through `mlic_jax.compress` and `decompress`. Printed: seconds, also per
megapixel, and the peak of resident memory above what the process held once the picture was made.
"""

import argparse
import os
import resource
import subprocess
import sys
import time

import numpy as np

ROUNDS = 3  # of which the fastest counts


def synthetic(megapixels: float) -> np.ndarray:
    """uint8 [H, W, 3] with H : W near 3 : 4, made band by band."""
    width = int(np.sqrt(megapixels * 2**20 * 4 / 3))
    height = int(megapixels * 2**20 / width)
    image = np.empty((height, width, 3), np.uint8)
    rng = np.random.default_rng(0)
    x = np.arange(width)[None, :, None]
    for top in range(0, height, 256):
        y = np.arange(top, min(top + 256, height))[:, None, None]
        band = 128 + 60 * np.sin(x / 97 + np.arange(3)) * np.cos(y / 61) + 30 * ((x // 64 + y // 48) % 2)
        image[top : top + 256] = np.clip(band + rng.normal(size=band.shape) * 6, 0, 255)
    return image


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def one(model: str, megapixels: float) -> None:
    import mlic_jax

    image = synthetic(megapixels)
    start = resident_mib()
    artifact = mlic_jax.load_model(model)
    # Both lengths of windows, along both axes.
    warm = np.ascontiguousarray(image[:1300, :1300])
    mlic_jax.decompress(mlic_jax.compress(warm, artifact), artifact)
    rounds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        data = mlic_jax.compress(image, artifact)
        middle = time.perf_counter()
        decoded = mlic_jax.decompress(data, artifact)
        rounds.append((middle - begin, time.perf_counter() - middle))
        assert decoded.shape == image.shape
        del decoded
    coding, decoding = np.min(rounds, axis=0)
    size = image.shape[0] * image.shape[1] / 2**20
    print(
        f"{image.shape[1]}x{image.shape[0]}: {len(data)} bytes, compress {coding:.2f} s "
        f"({coding / size:.3f} s/Mpixel), decompress {decoding:.2f} s "
        f"({decoding / size:.3f} s/Mpixel), peak {peak_mib() - start:.0f} MiB above start"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="model file (.mlicm)")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return one(arguments.model, arguments.megapixels[0])
    for megapixels in arguments.megapixels:
        command = [sys.executable, __file__, "--one", "--model", arguments.model, "--megapixels", str(megapixels)]
        subprocess.run(command, check=True, env={**os.environ})


if __name__ == "__main__":
    main()
