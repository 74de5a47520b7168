"""Files of codecs that send bits decode to the bits that they were made of: by the package, and by the reference.

`tests/golden/bits.json` lists them, with the SHA-256 of their bits; `tests/golden/make_bits.py` made them.
"""

import functools
import gzip
import json

import golden_contexts
import golden_streams as golden
import pytest
from test_bit_decoder import decoded

from mlic_jax import reference, zoo
from mlic_jax.fileformat import container
from mlic_jax.fileformat.artifact import Artifact

LIST = golden.FOLDER / "bits.json"
EXPECTED = json.loads(LIST.read_text()) if LIST.exists() else {}


@functools.cache
def weights(model):
    return Artifact.from_bytes(gzip.decompress((golden.FOLDER / f"{model}.mlicm.gz").read_bytes()))


def test_all_files_are_listed():
    models = {path.name.removesuffix(".mlicm.gz") for path in golden.FOLDER.glob("*.mlicm.gz")}
    others = {*golden_contexts.expected(), "hu2020"}  # of latents: test_golden_contexts.py, models/test_hu2020.py
    assert models == set(EXPECTED) | others and set(EXPECTED) < {name for name, _ in reference.MODELS.values()}
    for model, files in EXPECTED.items():
        assert set(golden.names(model)) == set(files) and len(files) >= 6


@pytest.mark.parametrize("model, name", [(model, name) for model, files in EXPECTED.items() for name in files])
def test_bits(model, name):
    artifact, data, wanted = weights(model), golden.content(model, name), EXPECTED[model][name]
    found = reference.decode(data, artifact)
    assert {key: golden.digest(array) for key, array in found.items()} == wanted
    header, chunks = container.unpack(data)
    parts = [chunk.content for chunk in chunks if chunk.type == container.DATA]
    theirs = decoded(zoo.codec_of(artifact), artifact, parts, (header.height, header.width), header.quality)
    (key,) = wanted.keys() & {"codes", "bits"}
    assert golden.digest(theirs[key]) == wanted[key]
