"""How the golden files were made: `python tests/golden/make.py RUN...`, with the workdirs of the runs of new models.

They were narrow models (`--config configs/X.py:tiny`) trained for 4000 steps, and KltNet (`configs/kltnet.py:toy`, four
steps of transmission) for 2000. Models that have files already are refused: golden files are not made again; a new
version of the format gets files of its own beside these.
"""

import json
import pathlib
import sys

import numpy as np
from PIL import Image, ImageOps

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import golden_streams  # noqa: E402

import mlic_jax  # noqa: E402
from mlic_jax import (  # noqa: E402
    data,
    reference,
    zoo,
)
from mlic_jax.training.runs import export_run  # noqa: E402


def pictures():
    """{name: picture}: two parts of every bundled photo, and one of every mode."""
    found = {}
    for i, path in enumerate(data.bundled()):
        photo = Image.open(path).convert("RGB")
        for part, (x, y) in enumerate([(0.1, 0.2), (0.6, 0.5)]):
            width, height = (272, 208) if part else (192 + 5 * i, 144 + 3 * i)
            left, top = int(x * (photo.width - width)), int(y * (photo.height - height))
            found[f"{path.stem}-{part}"] = photo.crop((left, top, left + width, top + height))
    small = found["wren-0"].crop((0, 0, 70, 50))
    alpha = Image.radial_gradient("L").resize(small.size)
    grey = np.asarray(ImageOps.grayscale(small)).astype(np.uint16) * 257
    found.update(
        {
            "mode-l": ImageOps.grayscale(small),
            "mode-la": Image.merge("LA", [ImageOps.grayscale(small), alpha]),
            "mode-rgba": Image.merge("RGBA", [*small.split(), alpha]),
            "mode-1": small.convert("1"),
            "mode-l16": grey,
            "mode-la16": np.stack([grey, np.asarray(alpha).astype(np.uint16) * 200], -1),
            "mode-rgb16": np.asarray(small).astype(np.uint16) * 257,
            "mode-rgba16": np.dstack([np.asarray(small), np.asarray(alpha)]).astype(np.uint16) * 257,
            "one-pixel": small.crop((3, 3, 4, 4)),
            "metadata": with_metadata(small.copy()),
        }
    )
    return found


def with_metadata(image):
    from PIL import ImageCms

    exif = image.getexif()
    exif[0x0112], exif[0x010E] = 6, "turned to the right"
    image.info["exif"] = exif.tobytes()
    image.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.info["xmp"] = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    return image


def main(runs):
    expected, looks = (json.loads((HERE / name).read_text()) for name in ("symbols.json", "looks.json"))
    for run in runs:
        artifact = export_run(run, "latest")
        assert artifact.model not in expected, f"{artifact.model} has golden files"
        artifact.card = {"trained": f"{artifact.card['step']} steps on photos with free licences; for tests only"}
        ladder = zoo.codec_of(artifact).traits.ladder
        artifact.save(HERE / f"{artifact.model}.mlicm")
        folder = HERE / artifact.model
        folder.mkdir()
        expected[artifact.model], looks[artifact.model] = {}, {}
        for i, (name, picture) in enumerate(pictures().items()):
            quality = ladder[i % len(ladder)] + 0.5 * (i % 2) * (i < 9) if ladder else None
            coded = mlic_jax.compress(picture, artifact, quality)
            (folder / f"{name}.mlic").write_bytes(coded)
            symbols = reference.decode(coded, artifact)
            decoded = mlic_jax.decompress(coded, artifact)
            expected[artifact.model][name] = {
                key: golden_streams.digest(array) for key, array in symbols.items() if not key.endswith("_means")
            }
            looks[artifact.model][name] = golden_streams.look(decoded)
    (HERE / "symbols.json").write_text(json.dumps(expected, indent=1) + "\n")
    (HERE / "looks.json").write_text(json.dumps(looks, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
