"""How the golden files of codecs that send bits were made: `python tests/golden/make_bits.py RUN...`.

The runs, one of each model, were of the smallest variants (`--config configs/X.py:toy`), with more steps. Of a model
only what decides bits is kept: its networks are zeros here, and the model files are compressed. Models that have files
already are refused: golden files are not made again; a new version of the format gets files of its own beside these.
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

import golden_streams  # noqa: E402

import mlic_jax  # noqa: E402
from mlic_jax import (  # noqa: E402
    data,
    reference,
    zoo,
)
from mlic_jax.fileformat import container  # noqa: E402
from mlic_jax.fileformat.artifact import Artifact  # noqa: E402
from mlic_jax.training.runs import export_run  # noqa: E402

LARGEST_MODEL = 60_000  # bytes


def pictures():
    """{name: picture}, six of them."""
    photos = [Image.open(path).convert("RGB") for path in data.bundled()[:4]]
    crops = [photo.crop((100, 80, 100 + w, 80 + h)) for photo, (w, h) in zip(photos, SIZES, strict=True)]
    alpha = Image.radial_gradient("L").resize(crops[1].size)
    return {
        "photo": crops[0],
        "alpha": Image.merge("RGBA", [*crops[1].split(), alpha]),
        "guided": crops[2],
        "flat": Image.new("RGB", (130, 40), (90, 120, 30)),
        "grey": crops[3].convert("L"),
        "one-pixel": crops[0].crop((3, 3, 4, 4)),
    }


SIZES = ((112, 80), (70, 50), (96, 100), (33, 65))


def main(runs):
    path = HERE / "bits.json"
    expected = json.loads(path.read_text()) if path.exists() else {}
    for run in runs:
        trained = export_run(run, "latest")
        assert trained.model not in expected, f"{trained.model} has golden files"
        card = {"trained": f"{trained.card['step']} steps on photos with free licences; for tests only"}
        networks = jax.tree.map(np.zeros_like, trained.params)
        artifact = Artifact(trained.model, trained.architecture, networks, trained.state, {}, card)
        model = gzip.compress(artifact.to_bytes(), mtime=0)
        assert len(model) < LARGEST_MODEL, (
            f"the model takes {len(model)} bytes: it needs fewer bits a cell, or iterations"
        )
        codec = zoo.codec_of(trained)
        files, digests = {}, {}
        for i, (name, picture) in enumerate(pictures().items()):
            quality = codec.traits.ladder[-1 - i % len(codec.traits.ladder)] if codec.traits.ladder else None
            guide = np.linspace(0, 1, picture.width) * np.ones((picture.height, 1)) if name == "guided" else None
            guide = guide if codec.traits.guided else None
            written = mlic_jax.compress(picture, trained, quality, metadata="none", importance=guide)
            header, chunks = container.unpack(written)
            files[name] = container.pack(header._replace(fingerprint=artifact.fingerprint), chunks)
            bits = reference.decode(files[name], artifact)
            digests[name] = {key: golden_streams.digest(array) for key, array in bits.items()}
        folder = HERE / artifact.model
        folder.mkdir()
        (HERE / f"{artifact.model}.mlicm.gz").write_bytes(model)
        for name, content in files.items():
            (folder / f"{name}.mlic").write_bytes(content)
        expected[artifact.model] = digests
    path.write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
