"""Photos as Pillow's JPEG takes and gives them, for the tests of mlic_jax.jpeg."""

import io

import numpy as np
from PIL import Image

QUALITIES = (5, 10, 30, 50, 75, 95)
# A name for each way to sample, the mode that Pillow calls it, and the layer's argument.
KINDS = {"grey": ("L", "4:2:0"), "4:4:4": ("RGB", "4:4:4"), "4:2:0": ("RGB", "4:2:0")}


def photo(path, kind="4:2:0", box=None):
    """uint8 [h, w, c]; box is (left, top, right, bottom)."""
    image = Image.open(path).convert("RGB")
    image = np.asarray((image.crop(box) if box else image).convert(KINDS[kind][0]))
    return image.reshape(*image.shape[:2], -1)


def pillow(image, quality, kind="4:2:0", **options):
    """uint8 [h, w, c] -> (file, decoded)."""
    if image.shape[-1] == 3:
        options["subsampling"] = KINDS[kind][1]
    out = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(out, "JPEG", quality=quality, **options)
    return out.getvalue(), np.asarray(Image.open(out)).reshape(image.shape)
