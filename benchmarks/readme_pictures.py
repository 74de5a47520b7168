"""Draws the README's two pictures from the demo's results.

./launch/demo.sh && python benchmarks/readme_pictures.py runs/demo
"""

import argparse
import pathlib
import shutil

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlic_jax import api, data, evaluate

OUT = pathlib.Path(__file__).parent.parent / "docs" / "images"
PHOTO, TOP, LEFT, SIDE, ZOOM = "chelsea", 60, 140, 130, 2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="workdir of the demo")
    run = parser.parse_args().run
    OUT.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "report" / "rd.png", OUT / "demo_rd.png")

    image = next(data.read_image(path) for path in data.bundled("validation") if path.stem == PHOTO)
    model = api.load_model(run / "demo.mlicm")
    stream = api.compress(image, model)
    decoded = api.decompress(stream, model)
    versions = [("mlic demo", evaluate.measure(image, decoded, len(stream)), decoded)]
    versions += [(name, *evaluate.at_equal_size(name, image, len(stream))) for name in ("jpeg", "webp")]
    panels = [("original", image)]
    panels += [(f"{name}  {f['bytes'] / 1000:.1f} kB  {f['psnr_db']:.1f} dB", picture) for name, f, picture in versions]

    side, head = SIDE * ZOOM, 22
    sheet = Image.new("RGB", (len(panels) * (side + 6) - 6, side + head), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (label, picture) in enumerate(panels):
        crop = np.ascontiguousarray(picture[TOP : TOP + SIDE, LEFT : LEFT + SIDE])
        sheet.paste(Image.fromarray(crop).resize((side, side), Image.Resampling.NEAREST), (i * (side + 6), head))
        draw.text((i * (side + 6) + 2, 4), label, "black", ImageFont.load_default(13))
    sheet.save(OUT / "demo_crops.png")
    print(f"wrote {OUT}/demo_rd.png and demo_crops.png")


if __name__ == "__main__":
    main()
