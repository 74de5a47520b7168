"""Improved lossy image compression with priming and spatially adaptive bit rates for recurrent networks.

Johnston, Vincent, Minnen, Covell, Singh, Chinen, Hwang, Shor, Toderici, CVPR 2018, https://arxiv.org/abs/1703.10114.
The networks of Toderici et al. 2017 (models.toderici2017), and three things more:

    priming    E runs k times on the picture, D k times on the first code, for their states alone: every place has heard
               of its surroundings before the first bit is sent, and the first picture is not of empty states. No bits.
               Diffusion is the same between all iterations. Hidden states are convolved 3x3 in all layers.
    loss       |image - picture| weighted by 1 - SSIM of 8x8 blocks: hard blocks count for more.
    SABR       cells of 16x16 pixels have heights, numbers of iterations that are sent of them, by their errors
               (entropy.heights). The map of heights is in the file, codes beyond are 0 for both sides.

Our choices, where the paper's text could not be had: plain GRU cells and additive reconstruction; windows of SSIM that
are the blocks; a running mean of 1 - SSIM for each iteration, since one for all would take weight from the later ones;
the rules for heights; training with random heights, so that networks know what is not sent.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mlic_jax.codec import Codec
from mlic_jax.errors import UsageError
from mlic_jax.families.recurrent_codec import ALLOCATIONS, ENTROPY, mean_absolute, recurrent_codec
from mlic_jax.layers.precision import Precision
from mlic_jax.models.toderici2017 import networks

LOSSES = ("l1", "ssim_l1")
BLOCK = 8  # pixels, of the weighted loss
# SSIM's constants, of values in a range of 1.
C1, C2 = 0.01**2, 0.03**2
# Of the running mean of (1 - SSIM) / 2, and the least that it and a block's weight may be.
DECAY, LEAST_MEAN, LEAST_WEIGHT = 0.99, 1e-3, 0.05
PUBLISHED = {"divisor": 1, "code": 32, "iterations": 16}
TINY = {"divisor": 16, "code": 32, "iterations": 6}
TOY = {"divisor": 32, "code": 8, "iterations": 3}


def blocks(x: jax.Array) -> jax.Array:
    """[.., H, W, C] -> [.., H/8, W/8, 64, C]."""
    *leading, height, width, channels = x.shape
    x = x.reshape(*leading, height // BLOCK, BLOCK, width // BLOCK, BLOCK, channels)
    x = jnp.swapaxes(x, -4, -3)
    return x.reshape(*leading, height // BLOCK, width // BLOCK, BLOCK * BLOCK, channels)


def block_ssim(x: jax.Array, y: jax.Array) -> jax.Array:
    """SSIM of 8x8 blocks, the block being its window, mean over channels: [.., H, W, C] -> [.., H/8, W/8]."""
    x, y = blocks(x), blocks(y)
    mean_x, mean_y = x.mean(-2), y.mean(-2)
    variances = x.var(-2) + y.var(-2)
    covariance = ((x - mean_x[..., None, :]) * (y - mean_y[..., None, :])).mean(-2)
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return (luminance * (2 * covariance + C2) / (variances + C2)).mean(-1)


def weigh(image: jax.Array, shown: jax.Array, mean: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How blocks count, S / mean(S) of S = (1 - SSIM) / 2; no gradient.

    Args:
      image: float [B, H, W, 3] in -1/2..1/2.
      shown: float [T, B, H, W, 3].
      mean: float [T], the running mean of S; 0 before the first step, in which all blocks count the same.

    Returns:
      Weights [T, B, H/8, W/8], and the new running mean [T].
    """
    # SSIM is of values from 0 on.
    S = lax.stop_gradient((1 - block_ssim(image + 0.5, shown + 0.5)) / 2)
    now = S.mean((1, 2, 3))
    begun = mean > 0
    weights = jnp.maximum(S / jnp.maximum(mean, LEAST_MEAN)[:, None, None, None], LEAST_WEIGHT)
    weights = jnp.where(begun[:, None, None, None], weights, 1.0)
    return weights, jnp.where(begun, DECAY * mean + (1 - DECAY) * now, jnp.maximum(now, LEAST_MEAN))


def ssim_weighted(image: jax.Array, shown: jax.Array, state) -> tuple[jax.Array, dict]:
    """The weighted loss, in place of recurrent_codec.mean_absolute; state: {"weighting": {"mean": float [T]}}."""
    weights, mean = weigh(image, shown, state["weighting"]["mean"])
    errors = blocks(jnp.abs(image - shown)).mean((-2, -1))
    return 255 * (weights * errors).mean((0, 2, 3)), {**state, "weighting": {"mean": mean}}


def johnston2018(
    cell: str = "gru",
    framework: str = "additive",
    divisor: int = 1,
    code: int = 32,
    iterations: int = 16,
    copies: int = 4,
    hidden_kernels: str = "3x3",
    prime_steps: int = 3,
    diffuse_steps: int = 0,
    loss: str = "ssim_l1",
    masked: float = 0.5,
    entropy: str = ENTROPY[0],
    allocation: str = ALLOCATIONS[1],
    remat: bool = True,
    precision: Precision | None = None,
    dtype: jnp.dtype | None = None,
) -> Codec:
    """The codec, with the objectives "rd" (the networks) and "entropy" (the entropy coder alone, afterwards).

    Args:
      cell, framework, divisor, code, iterations, copies, entropy, remat, precision, dtype: see models.toderici2017.
      hidden_kernels: "3x3", or "2017" for those of Toderici et al.
      prime_steps: k, runs of either network for its state before the first iteration.
      diffuse_steps: the same before every other one.
      loss: "ssim_l1", or "l1" as in 2017.
      masked: share of training examples with random heights.
      allocation: "adaptive" (SABR), or "uniform": the same number of iterations everywhere. The weights are the same.

    Raises:
      UsageError: an argument out of range.
    """
    if loss not in LOSSES:
        raise UsageError(f"johnston2018: loss {loss!r} is not known: use one of {', '.join(LOSSES)}")
    architecture: dict[str, Any] = {
        "cell": cell, "framework": framework, "divisor": divisor, "code": code, "iterations": iterations,
        "copies": copies, "hidden_kernels": hidden_kernels, "prime_steps": prime_steps, "diffuse_steps": diffuse_steps,
    }  # fmt: skip
    module = networks("johnston2018", **architecture, precision=precision, dtype=dtype)
    weighted = loss == "ssim_l1"
    return recurrent_codec(
        module,
        model="johnston2018",
        architecture={**architecture, "entropy": entropy, "allocation": allocation},
        entropy=entropy,
        allocation=allocation,
        guided=True,
        loss=ssim_weighted if weighted else mean_absolute,
        loss_state={"weighting": {"mean": np.zeros(iterations, np.float32)}} if weighted else None,
        masked=masked,
        remat=remat,
    )
