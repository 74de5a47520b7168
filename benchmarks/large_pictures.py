"""Time and memory of large pictures, which are coded window by window.

    python benchmarks/large_pictures.py --model MODEL.mlicm [--megapixels 1 4 16 64] [--rounds 3]

Each size runs in a process of its own, which makes a synthetic picture (smooth shades, edges and noise), warms up on a
small one, and then compresses and decompresses through `mlic_jax.compress` and `decompress`. Printed: seconds, also per
megapixel, and for each of the two calls the peak of resident memory above what the process held once the picture was
made (Linux only).
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

import numpy as np


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


def status_mib(field: str) -> float:
    """VmRSS, the resident memory of this process, or VmHWM, its peak since `forget_peak`."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {field}")


def forget_peak() -> None:
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def measure(model: str, megapixels: float, rounds: int) -> None:
    import mlic_jax

    image = synthetic(megapixels)
    start = status_mib("VmRSS")
    artifact = mlic_jax.load_model(model)
    # Both lengths of windows, along both axes.
    warm = np.ascontiguousarray(image[:1300, :1300])
    mlic_jax.decompress(mlic_jax.compress(warm, artifact), artifact)
    seconds, peaks = [], []
    for _ in range(rounds):
        forget_peak()
        begin = time.perf_counter()
        data = mlic_jax.compress(image, artifact)
        middle = time.perf_counter()
        compress_peak = status_mib("VmHWM")
        forget_peak()
        restart = time.perf_counter()
        decoded = mlic_jax.decompress(data, artifact)
        seconds.append((middle - begin, time.perf_counter() - restart))
        peaks.append((compress_peak, status_mib("VmHWM")))
        assert decoded.shape == image.shape
        del decoded
    coding, decoding = np.min(seconds, axis=0)
    coding_peak, decoding_peak = np.max(peaks, axis=0) - start
    size = image.shape[0] * image.shape[1] / 2**20
    print(
        f"{image.shape[1]}x{image.shape[0]}: {len(data)} bytes, "
        f"compress {coding:.2f} s ({coding / size:.3f} s/Mpixel, peak {coding_peak:.0f} MiB above start), "
        f"decompress {decoding:.2f} s ({decoding / size:.3f} s/Mpixel, peak {decoding_peak:.0f} MiB)"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="model file (.mlicm)")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--rounds", type=int, default=3, help="of which the fastest and the largest peak count")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return measure(arguments.model, arguments.megapixels[0], arguments.rounds)
    for megapixels in arguments.megapixels:
        command = [sys.executable, __file__, "--child", "--model", arguments.model]
        command += ["--megapixels", str(megapixels), "--rounds", str(arguments.rounds)]
        subprocess.run(command, check=True, env={**os.environ})


if __name__ == "__main__":
    main()
