"""Whether a model leaves a frame: errors at a picture's border beside those inside, and beside JPEG's own.

    python benchmarks/borders.py --images /data/kodak --model jiang2017.mlicm [--quality 26] [--grey]

Prints, for frames of 1, 2, 4, 8 and 16 pixels, the mean squared error of the frame over that of the rest, averaged
over pictures (geometric mean), for the model and for JPEG at the quality whose file is nearest in size. Photographs
have less detail at their border than inside, or more; so JPEG's ratio, whose blocks know nothing of the border, is what
a ratio without artefacts looks like, and their quotient is the figure to read: 1 is no frame. Scanned photographs (as
Kodak's) end in dark or blurred rows, which no codec at half the size can show: `--crop 16` takes them off.
"""

import argparse

import numpy as np

from mlic_jax import api, classical, data
from mlic_jax.metrics import registry

FRAMES = (1, 2, 4, 8, 16)


def ratio(original, decoded, width):
    """Mean squared error in the outer `width` pixels over that inside."""
    error = (original.astype(float) - decoded) ** 2
    inside = np.zeros(error.shape[:2], bool)
    inside[width:-width, width:-width] = True
    return error[~inside].mean() / error[inside].mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of pictures")
    parser.add_argument("--model", required=True, action="append", help="model file (.mlicm); may be given again")
    parser.add_argument("--quality", type=float, help="of the model (default: its own)")
    parser.add_argument(
        "--crop", type=int, default=0, help="pixels to take off every side first: scans end in dark rows"
    )
    parser.add_argument("--grey", action="store_true", help="measure the pictures' luma")
    arguments = parser.parse_args()
    pictures = [data.read_image(path) for path in data.list_images(arguments.images)]
    if arguments.crop:
        kept = slice(arguments.crop, -arguments.crop)
        pictures = [np.ascontiguousarray(picture[kept, kept]) for picture in pictures]
    if arguments.grey:
        pictures = [np.repeat(registry.luma(picture), 3, axis=2) for picture in pictures]
    print("| model | " + " | ".join(f"{width} px" for width in FRAMES) + " |")
    print("|---" * (len(FRAMES) + 1) + "|")
    jpeg = classical.get("jpeg")
    for path in arguments.model:
        model = api.load_model(path)
        ours, theirs = [], []
        for picture in pictures:
            file = api.compress(picture, model, arguments.quality)
            decoded = api.decompress(file, model)
            _, nearest = classical.match_rate(jpeg, picture, len(file))
            ours.append([ratio(picture, decoded, width) for width in FRAMES])
            theirs.append([ratio(picture, jpeg.decode(nearest), width) for width in FRAMES])
        ours, theirs = (np.exp(np.mean(np.log(values), axis=0)) for values in (ours, theirs))
        for name, values in ((path, ours), ("JPEG of that size", theirs), ("quotient", ours / theirs)):
            print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |")


if __name__ == "__main__":
    main()
