"""Pictures of 1 bit by the codec for them, beside PNG, WebP without loss, and fax (CCITT group 4).

    python benchmarks/one_bit.py [--images FOLDER]

Pages of text are drawn, clean and as a scanner might see them; photos, bundled or of a folder, are cut at half of the
range, and dithered (Floyd and Steinberg). Printed: bytes of whole files and seconds of one processor. Every file is
decoded again and compared.
"""

import argparse
import io
import pathlib
import time

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import mlic_jax
from mlic_jax import data

OTHERS = {
    "PNG": {"format": "png", "optimize": True},
    "WebP": {"format": "webp", "lossless": True, "quality": 100, "method": 6},
    "group 4": {"format": "tiff", "compression": "group4"},
}
LETTERS = list("eeeettttaaaooiinnsshhrrddlluucmfwyp        ,.ABST")


def page(height: int, width: int, size: int, noise: float) -> np.ndarray:
    """bool [height, width]: lines of letters `size` high, white noise of that standard deviation, cut at half."""
    rng, image = np.random.default_rng(0), Image.new("L", (width, height), 255)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    for top in range(size, height - 2 * size, int(1.4 * size)):
        line = "".join(rng.choice(LETTERS, int(1.7 * (width - 2 * size) / size)))
        draw.text((size, top), line, font=font, fill=0)
    return np.asarray(image) + rng.normal(size=(height, width)) * noise >= 128


def pictures(folder):
    yield "page, clean", page(2200, 1600, 36, 0)
    yield "page, scanned", page(2200, 1600, 36, 40)
    yield "small letters", page(900, 700, 14, 0)
    photos = sorted(pathlib.Path(folder).glob("*.png")) if folder else data.bundled("validation")
    for path in photos:
        grey = Image.open(path).convert("L")
        yield f"{path.stem}, cut", np.asarray(grey) >= 128
        yield f"{path.stem}, dithered", np.asarray(grey.convert("1"))


def size_of(picture, options):
    file = io.BytesIO()
    image = Image.fromarray(picture)
    (image.convert("RGB") if options["format"] == "webp" else image).save(file, **options)
    return len(file.getvalue())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="folder of PNG files (default: bundled photos)")
    images = parser.parse_args().images
    print("| picture | size |", " | ".join(OTHERS), "| ours | encode, s | decode, s |")
    print("|---|---|" + "---|" * len(OTHERS) + "---|---|---|")
    for name, picture in pictures(images):
        begin = time.process_time()
        file = mlic_jax.compress(picture, "bitmap")
        middle = time.process_time()
        if not np.array_equal(mlic_jax.decompress(file), picture):
            raise SystemExit(f"{name} did not come back")
        seconds = f"{middle - begin:.2f} | {time.process_time() - middle:.2f}"
        sizes = " | ".join(f"{size_of(picture, options)}" for options in OTHERS.values())
        print(f"| {name} | {picture.shape[1]}x{picture.shape[0]} | {sizes} | {len(file)} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
