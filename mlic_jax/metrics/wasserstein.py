"""Wasserstein distortion: from fidelity to realism by one number for each place.

Qiu, Wagner, Ballé, Theis, "Wasserstein distortion: unifying fidelity and realism", CISS 2024. Around each place, the
statistics of features of both pictures are compared, pooled over a width sigma that grows where the eye looks away:
for sigma = 0 that is the squared error, for a large one textures of equal statistics are equal. Statistics are means
and standard deviations, as of Gaussians; pooling is a pyramid of binomial filters, whose level i has a width of 2^i.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mlic_jax.errors import InputError

# Below it the gradient of a standard deviation would be without bounds.
_LEAST_VARIANCE = 1e-8


def wasserstein_distortion(
    features: jax.Array, others: jax.Array, log2_sigma: jax.Array | float, levels: int = 5
) -> jax.Array:
    """The distortion of each picture, float [B].

    Args:
      features, others: of both pictures, float [B, H, W, C]: pixels, or the outputs of a network's layer.
      log2_sigma: the base-2 logarithm of the width, [B, H, W] or a number: 0 and less compare single samples, values
        between levels interpolate.
      levels: of the pyramid; larger widths count as the last. Sides are multiples of 2^levels.

    Raises InputError for other sides, or shapes that differ.
    """
    if features.shape != others.shape or any(side % 2**levels for side in features.shape[1:3]):
        raise InputError(
            f"features are {list(features.shape)} and {list(others.shape)}: equal shapes [B, H, W, C] with sides that "
            f"are multiples of {2**levels} are needed for {levels} levels"
        )
    width = jnp.clip(jnp.broadcast_to(log2_sigma, features.shape[:3]), 0, levels)
    total = jnp.zeros(len(features))
    for level, (mine, theirs) in enumerate(zip(_statistics(features, levels), _statistics(others, levels))):
        distance = sum((a - b) ** 2 for a, b in zip(mine, theirs)).sum(-1)
        share = jnp.maximum(0, 1 - jnp.abs(_mean_of_blocks(width, 2**level) - level))
        total += (share * distance).mean((1, 2))
    return total


def _statistics(x, levels):
    """(mean, standard deviation) of every level, [B, H / 2^i, W / 2^i, C]; at the first there is one sample."""
    mean, square = x, x**2
    found = [(mean, jnp.zeros_like(mean))]
    for _ in range(levels):
        mean, square = _halved(mean), _halved(square)
        found.append((mean, jnp.sqrt(jnp.maximum(square - mean**2, _LEAST_VARIANCE))))
    return found


def _halved(x):
    """[B, h, w, C] -> [B, h / 2, w / 2, C] by the filter (1, 3, 3, 1) / 8 along both axes, the edge repeated."""
    for axis in (1, 2):
        x = jnp.moveaxis(x, axis, 0)
        x = jnp.concatenate([x[:1], x, x[-1:]])
        x = (x[0:-3:2] + 3 * x[1:-2:2] + 3 * x[2:-1:2] + x[3::2]) / 8
        x = jnp.moveaxis(x, 0, axis)
    return x


def _mean_of_blocks(x, size):
    batch, height, width = x.shape
    return x.reshape(batch, height // size, size, width // size, size).mean((2, 4))
