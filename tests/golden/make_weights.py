"""How the golden files of weights that people use were made: `python tests/golden/make_weights.py NAME...`.

Weights that have files already are refused: golden files are not made again.
"""

import json
import sys

import make
from make import HERE, golden_streams

import mlic_jax
from mlic_jax import reference

# Of the pictures of make.py, and at which qualities. The last is of the encoder's search.
QUALITIES = {"hike-0": 0, "hike-1": 62.5, "otters-0": 13, "otters-1": 100, "singapore-1": 38.5, "mode-rgba": 50}
QUALITIES |= {"one-pixel": 77, "mode-l": 25}
EFFORT = {"mode-l": 2}


def main(models):
    path = HERE / "weights.json"
    expected = json.loads(path.read_text()) if path.exists() else {}
    for model in models:
        assert model not in expected, f"{model} has golden files"
        artifact, expected[model] = mlic_jax.load_model(model), {}
        (HERE / model).mkdir()
        for name, quality in QUALITIES.items():
            coded = mlic_jax.compress(make.pictures()[name], artifact, quality, effort=EFFORT.get(name, 0))
            (HERE / model / f"{name}.mlic").write_bytes(coded)
            symbols = reference.decode(coded, artifact)
            expected[model][name] = {
                "symbols": {
                    key: golden_streams.digest(array) for key, array in symbols.items() if not key.endswith("_means")
                },
                "look": golden_streams.look(mlic_jax.decompress(coded, artifact)),
            }
    path.write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
