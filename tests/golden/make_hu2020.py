"""How the golden files of hu2020 were made: `python tests/golden/make_hu2020.py`, once.

The weights are those at the start, of a narrow variant, enlarged so that all latents, rows and means vary, and rounded
to half precision, which packs better; the synthesis is zero. Golden files are not made again.
"""

import gzip
import json
import pathlib
import sys

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "models")]

import golden_streams  # noqa: E402
import test_hu2020  # noqa: E402

import mlic_jax  # noqa: E402
from mlic_jax import (  # noqa: E402
    data,
    reference,
)
from mlic_jax.fileformat.artifact import flatten, unflatten  # noqa: E402


def pictures():
    """{name: picture}."""
    photos = [Image.open(path).convert("RGB") for path in data.bundled()[:2]]
    photo = photos[0].crop((100, 80, 300, 210))
    return {
        "photo": photo,
        "grey": photos[1].crop((60, 90, 125, 123)).convert("L"),
        "one-pixel": photo.crop((3, 3, 4, 4)),
    }


def main():
    folder = HERE / "hu2020"
    assert not folder.exists(), "hu2020 has golden files"
    codec, made = test_hu2020.varied()
    flat = {path: np.float32(np.float16(array)) for path, array in flatten(made.params).items()}
    flat |= {path: np.zeros_like(array) for path, array in flat.items() if path.startswith("synthesis")}
    artifact = codec.export(unflatten(flat), {}, [np.asarray(pictures()["photo"])[:128, :128]])
    artifact.card = {"trained": "not at all; for tests only"}
    (HERE / "hu2020.mlicm.gz").write_bytes(gzip.compress(artifact.to_bytes(), mtime=0))
    folder.mkdir()
    expected = {}
    for name, picture in pictures().items():
        coded = mlic_jax.compress(picture, artifact)
        (folder / f"{name}.mlic").write_bytes(coded)
        found = reference.decode(coded, artifact)
        print(name, len(coded), {key: len(np.unique(array)) for key, array in found.items()})
        expected[name] = {key: golden_streams.digest(array) for key, array in found.items()}
    (HERE / "hu2020.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
