"""How near the differentiable JPEG layer comes to the files that Pillow writes, and what it costs.

    python benchmarks/jpeg_layer.py --images KODAK

Four tables: agreement of the decoded pixels (PSNR between the layer's and Pillow's, 100 dB for equal ones), the sizes
counted exactly, the sizes estimated (whole files and scans alone, over all photos and qualities), and the time of
value and gradient on the first photo.
"""

import argparse
import io
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mlic_jax import jpeg
from mlic_jax.metrics import psnr

QUALITIES = (5, 10, 20, 30, 50, 75, 90, 95)
KINDS = {"grey": ("L", "4:4:4"), "4:4:4": ("RGB", "4:4:4"), "4:2:0": ("RGB", "4:2:0")}
# Columns of the first table: what is done without rounding coefficients to integers, or anything else.
VARIANTS = {
    "ste": {},
    "cubic": dict(rounding="cubic"),
    "sin": dict(rounding="sin"),
    "no integers": dict(integers=False),
}
simulate = jax.jit(jpeg.simulate, static_argnames=("subsampling", "rounding", "integers"))


def pillow(pixels, quality, subsampling, optimise):
    """(bytes of the file, bytes outside its scan, decoded pixels)."""
    options = {} if pixels.shape[-1] == 1 else {"subsampling": subsampling}
    out = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.save(out, "JPEG", quality=quality, optimize=optimise, **options)
    data, position = out.getvalue(), 2
    while data[position + 1] != 0xDA:
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    header = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big") + 2
    return len(data), header, np.asarray(Image.open(out)).reshape(pixels.shape)


def measure(pixels, kind, quality):
    """One photo at one quality, as a dict of numbers."""
    subsampling = KINDS[kind][1]
    image = pixels[None].astype(np.float32)
    row = {"quality": quality, "area": pixels.shape[0] * pixels.shape[1]}
    for codes in jpeg.HUFFMANS:
        row["file", codes], row["header", codes], expected = pillow(pixels, quality, subsampling, codes == "optimised")
    for name, options in VARIANTS.items():
        decoded, coefficients = simulate(image, quality, subsampling=subsampling, **options)
        row["psnr", name] = min(100, psnr.psnr_db(np.rint(decoded[0]).astype(np.uint8), expected))
        if name == "ste":
            row["equal"] = bool((np.asarray(decoded[0]) == expected).all())
            integers = jpeg.quantised(coefficients)
            for codes in jpeg.HUFFMANS:
                row["count", codes] = jpeg.scan_bits(integers, huffman=codes)[0] / 8
                for proxy in jpeg.PROXIES:
                    row[proxy, codes] = float(jpeg.rate(coefficients, proxy=proxy, huffman=codes)[0]) / 8
                    scan = float(jpeg.rate(coefficients, proxy=proxy, huffman=codes, header=0)[0]) / 8
                    row["scan", proxy, codes] = scan
    return row


def column(rows, key):
    return np.array([row[key] for row in rows])


def by_quality(rows, value):
    return " ".join(f"{value([row for row in rows if row['quality'] == quality]):6.1f}" for quality in QUALITIES)


def report(kind, rows):
    equal = column(rows, "equal")
    print(f"\n{kind}: {equal.sum()} of {len(equal)} decoded images are equal to Pillow's in every sample")
    print(f"{'':30} " + " ".join(f"{f'Q{quality}':>6}" for quality in QUALITIES))
    for name in VARIANTS:
        print(f"{name + ', mean dB':30} " + by_quality(rows, lambda part: column(part, ("psnr", name)).mean()))  # noqa: B023
        print(f"{name + ', min dB':30} " + by_quality(rows, lambda part: column(part, ("psnr", name)).min()))  # noqa: B023
    for codes in jpeg.HUFFMANS:
        size, header = column(rows, ("file", codes)), column(rows, ("header", codes))
        error = 100 * np.abs((header + column(rows, ("count", codes))) / size - 1)
        print(f"{codes}: exact count + header against the file: mean {error.mean():.2f} %, max {error.max():.2f} %")
        for proxy in jpeg.PROXIES:
            for what, key, truth in (("file", (proxy, codes), size), ("scan", ("scan", proxy, codes), size - header)):
                estimate, area = column(rows, key), column(rows, "area")
                error = 100 * np.abs(estimate / truth - 1)
                r = np.corrcoef(estimate / area, truth / area)[0, 1]
                spread = " ".join(f"{error[column(rows, 'quality') == quality].mean():.1f}" for quality in QUALITIES)
                print(
                    f"{codes}, {proxy}, {what}: MAPE {error.mean():.1f} %, max {error.max():.0f} %, r {r:.4f}, "
                    f"by quality {spread}"
                )


def milliseconds(function, argument, repeats=5):
    jax.block_until_ready(function(argument))
    start = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(function(argument))
    return 1000 * (time.perf_counter() - start) / repeats


def times(pixels, kind):
    image = jnp.asarray(pixels[None], jnp.float32)

    def value(x):
        return jpeg.simulate(x, 50, subsampling=KINDS[kind][1])

    def loss(x):
        decoded, coefficients = value(x)
        return ((decoded - 128) ** 2).mean() + jpeg.rate(coefficients).mean()

    height, width = pixels.shape[:2]
    forward, gradient = milliseconds(jax.jit(value), image), milliseconds(jax.jit(jax.value_and_grad(loss)), image)
    print(f"{kind}, {width}x{height}: value {forward:.0f} ms, value, rate and gradient {gradient:.0f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=pathlib.Path, required=True, help="a folder of PNGs")
    paths = sorted(parser.parse_args().images.glob("*.png"))
    if not paths:
        parser.error("no PNG in the folder")
    for kind, (mode, _) in KINDS.items():
        rows = []
        for path in paths:
            image = Image.open(path).convert("RGB").convert(mode)
            # One program for both: a portrait lies on its side.
            image = image.transpose(Image.Transpose.ROTATE_90) if image.height > image.width else image
            pixels = np.asarray(image).reshape(image.height, image.width, -1)
            rows += [measure(pixels, kind, quality) for quality in QUALITIES]
        report(kind, rows)
        times(pixels, kind)


if __name__ == "__main__":
    main()
