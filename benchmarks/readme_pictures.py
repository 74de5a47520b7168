"""Draws the README's crops: a photo that no weights were trained on, by both models and standard codecs.

python benchmarks/readme_pictures.py
"""

import argparse
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlic_jax import api, classical, data
from mlic_jax.evaluation.benchmark.measuring import figures

OUT = pathlib.Path(__file__).parent.parent / "docs" / "images"
PHOTO, TOP, LEFT, SIDE, ZOOM, BPP = "chelsea", 60, 140, 130, 2, 0.2
MODELS = {"KltNet Base": "base", "KltNet Tiny": "tiny"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)

    image = next(data.read_image(path) for path in data.bundled("validation") if path.stem == PHOTO)
    versions, most = [], 0
    for name, model in MODELS.items():
        stream = api.compress_to(image, model, bpp=BPP)
        decoded = api.decompress(stream)
        versions.append((name, figures(image, decoded, len(stream)), decoded))
        most = max(most, len(stream))
    for name in ("avif", "webp", "jpeg"):
        codec = classical.get(name)
        _, file = classical.match_rate(codec, image, most)
        decoded = codec.decode(file)
        versions.append((name.upper(), figures(image, decoded, len(file)), decoded))
    panels = [("original", image)]
    panels += [(f"{name}  {f['bytes'] / 1000:.1f} kB  {f['psnr_db']:.1f} dB", picture) for name, f, picture in versions]

    side, head = SIDE * ZOOM, 22
    sheet = Image.new("RGB", (len(panels) * (side + 6) - 6, side + head), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (label, picture) in enumerate(panels):
        crop = np.ascontiguousarray(picture[TOP : TOP + SIDE, LEFT : LEFT + SIDE])
        sheet.paste(Image.fromarray(crop).resize((side, side), Image.Resampling.NEAREST), (i * (side + 6), head))
        draw.text((i * (side + 6) + 2, 4), label, "black", ImageFont.load_default(13))
    sheet.save(OUT / "crops.png")
    print(f"wrote {OUT}/crops.png")


if __name__ == "__main__":
    main()
