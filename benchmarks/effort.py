"""What an effort of the encoder buys: bits at equal PSNR beside effort 0, and processor seconds, on a few pictures.

    python benchmarks/effort.py base --images kodak --limit 3 --efforts 4 9 --qualities 12.5,37.5,62.5,87.5

`mlic benchmark --models base base@9` measures whole curves on whole sets, which takes hours with a large model. A line
for each picture, and the BD-rate (Akima, PSNR) of the means over pictures.
"""

import argparse
import time

import numpy as np

from mlic_jax import api, runtime
from mlic_jax.cli import common
from mlic_jax.metrics import bd, psnr


def coded(image, model, quality, effort):
    """(bits per pixel, PSNR in dB, processor seconds of the encoder) of a picture, by its file."""
    began = time.process_time()
    data = api.compress(image, model, quality, effort=effort)
    seconds = time.process_time() - began
    return 8 * len(data) / (image.shape[0] * image.shape[1]), psnr.psnr_db(image, api.decompress(data, model)), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--images", help="folder (default: the bundled photos held out from training)")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--efforts", type=int, nargs="+", default=[9])
    parser.add_argument("--qualities", default="12.5,37.5,62.5,87.5", help="four or more, with commas between")
    arguments = parser.parse_args()
    runtime.prepare_jax()
    model = api.load_model(arguments.model)
    qualities = [float(word) for word in arguments.qualities.split(",")]
    rows = {}
    for name, image in common.pictures(arguments.images, arguments.limit):
        for effort in (0, *arguments.efforts):
            found = [coded(image, model, quality, effort) for quality in qualities]
            rows.setdefault(effort, []).append(found)
            words = ", ".join(f"{bpp:.4f} bpp {db:.3f} dB {seconds:.0f} s" for bpp, db, seconds in found)
            print(f"{name}, effort {effort}: {words}", flush=True)
    anchor = np.mean(rows[0], axis=0)
    for effort in arguments.efforts:
        means = np.mean(rows[effort], axis=0)
        change = bd.bd_rate(anchor[:, :2], means[:, :2]).value
        print(f"effort {effort}, mean of {len(rows[0])}: {change:+.2f} % of bits, {means[:, 2].mean():.0f} s to encode")


if __name__ == "__main__":
    main()
