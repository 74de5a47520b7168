"""minnen2020: its size, what a slice depends on, and files that the reference decoder reads."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
import small

from mlic_jax import api, reference, zoo
from mlic_jax.entropy import coders
from mlic_jax.errors import UsageError
from mlic_jax.families import latent_coding
from mlic_jax.fileformat.artifact import Artifact, flatten, unflatten
from mlic_jax.models import minnen2020

WIDTHS = {"N": 4, "M": 6, "H": 5, "C": 5, "D": 4, "slices": 3, "supports": 1}
MODULE = minnen2020.ChannelWise(**WIDTHS)


@functools.cache
def varied():
    """(codec, artifact) of larger weights than at the start: many rows, and slices that matter to others."""
    codec = zoo.make("minnen2020", **WIDTHS)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    flat = flatten(params)
    for path in flat:
        if path.endswith("kernel") and not path.startswith("g_s"):
            flat[path] = flat[path] * (2 if path.startswith("scale") else 4)
    return codec, codec.export(unflatten(flat), state, list(small.crops(2, 64)))


@pytest.mark.parametrize(("supports", "millions", "kmac"), [(5, 114.0, 581), (10, 119.4, 602)])
def test_size_of_the_paper_s_model(supports, millions, kmac):
    """As counted in the authors' code."""
    codec = zoo.make("minnen2020", supports=supports)
    shapes = nn.meta.unbox(
        latent_coding.boxed_params(minnen2020.ChannelWise(**minnen2020.PAPER | {"supports": supports}))
    )
    assert sum(array.size for array in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(millions, abs=0.06)
    assert sum(codec.kmac_per_pixel().values()) == pytest.approx(kmac, rel=0.02)


def test_a_slice_depends_on_the_first_ones():
    """Of y_0, changed: all slices' bits; of y_1: no other's, since one slice is a support."""
    _, artifact = varied()
    rng = np.random.default_rng(0)
    latents = {f"y_{i}": np.float32(rng.normal(0, 5, (1, 4, 4, 2))) for i in range(3)}
    latents["z"] = np.float32(rng.normal(0, 2, (1, 1, 1, 4)))

    @jax.jit
    def bits(latents):
        coder = coders.Estimating(latents)
        received = MODULE.apply({"params": artifact.params}, coder, method="transmit")
        return coder.bits, received

    before, received = bits(latents)
    for changed, others in (("y_0", {"y_1", "y_2"}), ("y_1", set()), ("y_2", set())):
        after, _ = bits({**latents, changed: latents[changed] + 3})
        assert {name for name in before if name != changed and before[name] != after[name]} == others
    # What is handed on is not what was coded: half a step at most is predicted of what rounding left.
    left = np.abs(received - np.concatenate([latents[f"y_{i}"] for i in range(3)], -1))
    assert 0.5 < left.max() <= 1


@pytest.mark.parametrize("size", [(70, 130), (1, 1)])
def test_the_reference_decoder_reads_its_files(size):
    codec, made = varied()
    artifact = Artifact.from_bytes(made.to_bytes())  # its tables of the hyperbolic tangent are like in no other model
    assert artifact.fingerprint == made.fingerprint
    image = np.ascontiguousarray(small.photos()[0][: size[0], : size[1]])
    found = reference.decode(api.compress(image, artifact), artifact)
    stream = codec.compress(artifact, image, None)[0]
    received = latent_coding.receive(MODULE, artifact, stream, size)
    coded = np.concatenate([found[f"y_{i}"] + found[f"y_{i}_means"] / 256 for i in range(3)], axis=-1)
    assert np.abs(received[0] - coded).max() <= 0.5
    if size != (1, 1):
        assert np.abs(received[0] - coded).max() > 0.1
        assert all(len(np.unique(found[f"y_{i}"])) > 3 and len(np.unique(found[f"y_{i}_rows"])) > 3 for i in range(3))


def test_arguments_that_make_no_sense():
    for changes, message in (({"slices": 4}, "slices=4, M=6"), ({"supports": -1}, "supports=-1"), ({"C": 0}, "C=0")):
        with pytest.raises(UsageError, match=message):
            zoo.make("minnen2020", **{**WIDTHS, **changes})
