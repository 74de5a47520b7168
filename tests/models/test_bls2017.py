"""bls2017: its size, its layers against plain ones, and a file for the reference decoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax import lax

from mlic_jax import api, reference, zoo
from mlic_jax.families import latent_coding
from mlic_jax.fileformat.artifact import flatten
from mlic_jax.models import bls2017


@pytest.mark.parametrize(("N", "millions", "kmac"), [(128, 1.77, 22), (192, 3.94, 48)])
def test_size(N, millions, kmac):
    codec = zoo.make("bls2017", N=N)
    shapes = jax.tree.leaves(latent_coding.boxed_params(bls2017.Bls2017(N=N, M=N)))
    count = sum(box.value.size if hasattr(box, "value") else box.size for box in shapes)
    assert count / 1e6 == pytest.approx(millions, abs=0.01)
    assert sum(codec.kmac_per_pixel().values()) == pytest.approx(kmac, rel=0.03)


def _gdn(x, params, power):
    beta, gamma = np.maximum(params["beta"], 1e-3) ** 2, np.maximum(params["gamma"], 2.0**-18) ** 2
    return x * (beta + jnp.einsum("bhwj,ij->bhwi", x * x, gamma)) ** power


def test_layers_are_the_paper_s():
    """By the plain operations: padding k // 2 of strided convolutions, and their transposes."""
    model, image = bls2017.Bls2017(N=4, M=4), small.crops(1, 32) / np.float32(255)
    codec = zoo.make("bls2017", N=4)
    params, _ = codec.init(jax.random.key(0), (32, 32, 3))
    numbers = {path: np.asarray(array) for path, array in flatten(params).items()}

    def layer(x, net, i, stride):
        kernel, pad = numbers[f"{net}/layers_{i}/kernel"], numbers[f"{net}/layers_{i}/kernel"].shape[0] // 2
        if net == "g_a":
            y = lax.conv_general_dilated(x, kernel, (stride,) * 2, [(pad, pad)] * 2, dimension_numbers=DIMENSIONS)
        else:
            pads = [(pad, pad + stride - 1)] * 2
            more = {"lhs_dilation": (stride,) * 2, "dimension_numbers": DIMENSIONS}
            y = lax.conv_general_dilated(x, kernel, (1, 1), pads, **more)
        return y + numbers.get(f"{net}/layers_{i}/bias", 0)

    @jax.jit
    def plain(x):
        for i, stride in ((0, 4), (2, 2)):
            x = _gdn(layer(x, "g_a", i, stride), params["g_a"][f"layers_{i + 1}"], -0.5)
        y = x = layer(x, "g_a", 4, 2)
        for i, stride in ((0, 2), (2, 2)):
            x = _gdn(layer(x, "g_s", i, stride), params["g_s"][f"layers_{i + 1}"], 0.5)
        return y, layer(x, "g_s", 4, 4)

    @jax.jit
    def ours(x):
        y = model.apply({"params": params}, x, method="analyze")["y"]
        return y, model.apply({"params": params}, y, method="synthesize")

    for one, other in zip(ours(image), plain(image), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert "g_a/layers_4/bias" not in numbers


DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def test_the_reference_decoder_reads_its_files():
    codec = zoo.make("bls2017", N=4)
    params, state = codec.init(jax.random.key(0), (32, 32, 3))
    params["g_a"]["layers_4"]["kernel"] = params["g_a"]["layers_4"]["kernel"] * 40
    artifact = codec.export(params, state, list(small.crops(2, 32)))
    image = np.ascontiguousarray(small.photos()[0][:50, :70])
    found = reference.decode(api.compress(image, artifact), artifact)
    stream = codec.compress(artifact, image, None)[0]
    received = latent_coding.receive(bls2017.Bls2017(N=4, M=4), artifact, stream, image.shape[:2])
    np.testing.assert_allclose(found["y"] + artifact.state["prior_y"]["medians"], received[0], atol=1e-5)
    assert len(np.unique(found["y"])) > 10
