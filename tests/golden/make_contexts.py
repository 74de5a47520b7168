"""How the golden files of models with contexts were made: `python tests/golden/make_contexts.py MODEL...`.

Their weights are those at the start, of the narrowest variants, enlarged so that symbols, rows and means vary. Models
that have files already are refused: golden files are not made again; a new version of the format gets files of its own
beside these.
"""

import gzip
import json
import pathlib
import sys

import jax
import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import golden_contexts  # noqa: E402
import golden_streams  # noqa: E402

import mlic_jax  # noqa: E402
from mlic_jax import (  # noqa: E402
    data,
    zoo,
)
from mlic_jax.fileformat.artifact import flatten, unflatten  # noqa: E402

LARGEST_MODEL = 90_000  # bytes


def pictures():
    """{name: picture}, three of them."""
    photos = [Image.open(path).convert("RGB") for path in data.bundled()[:2]]
    photo = photos[0].crop((100, 80, 230, 150))
    return {
        "photo": photo,
        "grey": photos[1].crop((60, 90, 125, 123)).convert("L"),
        "one-pixel": photo.crop((3, 3, 4, 4)),
    }


def enlarged(params):
    """More than training gives on small pictures: of the latents, and of all that tells how they are distributed."""
    flat = flatten(params)
    for path, array in flat.items():
        if path.endswith("kernel") and not path.startswith("g_s"):
            flat[path] = array * np.float32(3 if path.startswith("g_a") else 2)
    return unflatten(flat)


def main(names):
    path = HERE / "contexts.json"
    expected = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        assert name not in expected, f"{name} has golden files"
        model, arguments = golden_contexts.MODELS[name]
        codec = zoo.make(model, **arguments)
        params, state = codec.init(jax.random.key(0), (64, 64, 3))
        photo = np.asarray(pictures()["photo"])
        artifact = codec.export(enlarged(params), state, [photo[:64, :64]])
        artifact.card = {"trained": "not at all; for tests only"}
        packed = gzip.compress(artifact.to_bytes(), mtime=0)
        assert len(packed) <= LARGEST_MODEL, f"{name}: {len(packed)} bytes"
        (HERE / f"{name}.mlicm.gz").write_bytes(packed)
        folder = HERE / name
        folder.mkdir()
        expected[name] = {}
        for title, picture in pictures().items():
            coded = mlic_jax.compress(picture, artifact)
            (folder / f"{title}.mlic").write_bytes(coded)
            expected[name][title] = {
                "symbols": golden_contexts.by_reference(coded, artifact),
                "received": golden_contexts.received(coded, artifact),
                "look": golden_streams.look(mlic_jax.decompress(coded, artifact)),
            }
        path.write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
