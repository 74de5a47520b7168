"""What packing a model costs: files and pictures of two model files of the same weights, beside each other.

    python benchmarks/packing.py FULL.mlicm PACKED.mlicm --images kodak --limit 8 --qualities 0,25,50,75,100
    python benchmarks/packing.py FULL.mlicm PACKED.mlicm --limit 2 --qualities 10,90 --kernels synthesis/

Both are encoded as the second's card says. A line for each picture and quality: bytes, PSNR of 8-bit RGB, and by how
many percent bits change at equal PSNR, by the slope of the first model's curve at that quality. At the end, means.

With --kernels it rounds each packed kernel whose name begins so alone, and prints for each picture (its middle) and
quality the mean squared difference, in 8-bit steps, that this makes to what is decoded from the same latents: which
kernels should keep 16 bits.
"""

import argparse

import jax.numpy as jnp
import numpy as np

from mlic_jax import api, runtime, zoo
from mlic_jax.cli import common
from mlic_jax.families import latent_coding
from mlic_jax.families.calibration import pictures as middles
from mlic_jax.fileformat.artifact import flatten, unflatten
from mlic_jax.metrics import psnr


def coded(image, model, quality):
    """(bytes, PSNR in dB) of a picture, by its file."""
    data = api.compress(image, model, quality)
    return len(data), psnr.psnr_db(image, api.decompress(data, model))


def costs(full, packed, pictures, qualities):
    rows = []
    for name, image in pictures:
        sizes, shown = np.transpose([coded(image, full, quality) for quality in qualities])
        packed_sizes, packed_shown = np.transpose([coded(image, packed, quality) for quality in qualities])
        rate, db = 100 * (packed_sizes / sizes - 1), packed_shown - shown
        cost = rate - db * 100 * np.gradient(np.log(sizes), shown)
        rows.append((rate, db, cost))
        for i, quality in enumerate(qualities):
            print(
                f"{name}, quality {quality:g}: {sizes[i]:.0f} bytes, {shown[i]:.3f} dB; packed {rate[i]:+.2f} % of "
                f"bytes, {db[i]:+.4f} dB: {cost[i]:+.2f} % of bits at equal PSNR",
                flush=True,
            )
    rate, db, cost = np.mean(rows, axis=0)
    for i, quality in enumerate(qualities):
        print(f"mean of {len(rows)}, quality {quality:g}: {rate[i]:+.2f} %, {db[i]:+.4f} dB: {cost[i]:+.2f} %")
    print(f"mean of all: {cost.mean():+.2f} % of bits at equal PSNR")


def kernels(full, packed, images, qualities, prefix):
    module = zoo.codec_of(full).compress.__self__.exact  # of families.latent
    whole, rounded = flatten(full.params), flatten(packed.params)
    received = []
    for image in images:
        for quality in qualities:
            _, latents = latent_coding.encode(module, full, image, quality)
            received.append((jnp.asarray(latents), jnp.asarray([quality], jnp.float32)))

    def shown(params):
        variables = {"params": unflatten(params), "state": full.state}
        return [255 * np.asarray(module.apply(variables, *one, method="synthesize")) for one in received]

    before = shown(whole)
    names = [name for name in packed.packed if name.startswith(prefix) and (whole[name] != rounded[name]).any()]
    for what, some in [("all", names), *((name, [name]) for name in names)]:
        after = shown({**whole, **{name: rounded[name] for name in some}})
        changes = [np.mean((a - b) ** 2) for a, b in zip(after, before, strict=True)]
        print(f"{what}: {' '.join(f'{change:.4f}' for change in changes)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("full")
    parser.add_argument("packed")
    parser.add_argument("--images", help="folder (default: the bundled photos held out from training)")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--qualities", default="0,25,50,75,100", help="two or more, with commas between")
    parser.add_argument("--kernels", metavar="PREFIX")
    arguments = parser.parse_args()
    runtime.prepare_jax()
    pictures = common.pictures(arguments.images, arguments.limit)
    qualities = [float(word) for word in arguments.qualities.split(",")]
    models = full, packed = api.load_model(arguments.full), api.load_model(arguments.packed)
    full.card["encoder"] = packed.encoder
    if arguments.kernels is not None:
        kernels(*models, middles([image for _, image in pictures]), qualities, arguments.kernels)
    else:
        costs(*models, pictures, qualities)


if __name__ == "__main__":
    main()
