"""Golden files of models whose latents see others of their own: narrow variants, packed, of which
`tests/golden/make_contexts.py` made three files each. `contexts.json` has the SHA-256 of all symbols and table rows, of
what the decoder's networks receive in steps of 1/1024, and what the pictures look like.
"""

import functools
import gzip
import json

import golden_streams
import numpy as np
from golden_streams import FOLDER

# Name of the files -> model, arguments.
MODELS = {
    "mbt2018": ("mbt2018", {"N": 3, "M": 3}),
    "minnen2020": ("minnen2020", {"N": 2, "M": 4, "H": 2, "C": 3, "D": 2, "slices": 2, "supports": 1}),
    "cheng2020-anchor": ("cheng2020-anchor", {"N": 2}),
    "cheng2020-mixtures": ("cheng2020-anchor", {"N": 2, "mixtures": 3}),
    "cheng2020-attn": ("cheng2020-attn", {"N": 2}),
    "checkerboard2021": ("cheng2020-anchor-checkerboard", {"N": 2}),
    "elic2022": ("elic2022", {"N": 2, "M": 4, "C": 3, "D": 2, "groups": (2, 2)}),
    "bls2017": ("bls2017", {"N": 6}),
}


@functools.cache
def expected():
    """{name: {picture: {"symbols": {array: digest}, "received": digest, "look": ..}}}."""
    return json.loads((FOLDER / "contexts.json").read_text())


@functools.cache
def weights(name):
    from mlic_jax.fileformat.artifact import Artifact

    return Artifact.from_bytes(gzip.decompress((FOLDER / f"{name}.mlicm.gz").read_bytes()))


def content(name, picture):
    return (FOLDER / name / f"{picture}.mlic").read_bytes()


def by_reference(data, artifact):
    """{array: digest} of the decoder in plain NumPy."""
    from mlic_jax import reference

    return {key: golden_streams.digest(array) for key, array in reference.decode(data, artifact).items()}


def received(data, artifact):
    """Digest of what the package's decoder receives."""
    from mlic_jax import zoo
    from mlic_jax.families import latent_coding
    from mlic_jax.fileformat import container

    header, chunks = container.unpack(data)
    module = zoo.codec_of(artifact).compress.__self__.exact
    size = header.height, header.width
    values = latent_coding.receive(module, artifact, chunks[0].content, size, header.quality)
    return golden_streams.digest(np.rint(values * 1024))


def main():
    """Prints {name: {picture: digest}} of all files as they are received here."""
    found = {
        name: {picture: received(content(name, picture), weights(name)) for picture in pictures}
        for name, pictures in expected().items()
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
