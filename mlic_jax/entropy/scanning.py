"""Serial contexts: the order in which the positions of a latent are coded where each sees others before it.

An order has the kernel's `mask`, which of its taps a position sees, and `waves`: positions of one wave do not see each
other, and none of the last wave is seen by any. A model names its order once,

    order = Raster(5)
    self.context = ExactStack((Conv(2 * M, kernel=5, mask=order.mask()),), of_values=True)

    def transmit(self, code):
        ...
        return code.scan("y", order, prior, side)

where `prior(known, side)` makes the prior of a latent of what is known of it, and of what came before it at the same
positions (`side`, or None). In training and estimates `known` is [B, h, w, C], zero where nothing is known yet. When
files are coded it is asked wave by wave: for n positions of a wave, PIECE at most, with `known` their surroundings
[n, k, k, C] and `side` a row [1, 1, n, S]. `code.exact(network, known)` makes a row [1, 1, n, F] of the former; it
takes networks whose first layer alone has a kernel, so that positions need nothing but their surroundings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from mlic_jax.errors import UsageError
from mlic_jax.layers.conv import Conv

# Positions of a wave that are coded together: memory does not grow with the picture. A multiple of the range coder's
# blocks (64), so that what tables code does not depend on it.
PIECE = 4096


@dataclasses.dataclass(frozen=True)
class Raster:
    """Every position sees those above it, and left of it in its row, within a kernel: w + (k + 1) / 2 (h - 1) waves.

    Minnen, Ballé, Toderici, "Joint autoregressive and hierarchical priors", NeurIPS 2018: mask of type A.

    Attributes:
      kernel: odd size k.
    """

    kernel: int = 5

    def mask(self) -> tuple[tuple[bool, ...], ...]:
        """k rows of k."""
        centre = (self.kernel // 2, self.kernel // 2)
        return tuple(tuple((i, j) < centre for j in range(self.kernel)) for i in range(self.kernel))

    def waves(self, height: int, width: int) -> np.ndarray:
        """int32 [h, w], counted from 0."""
        # The last that is seen of the row above stands kernel // 2 columns to the right.
        return np.int32(np.arange(width) + (self.kernel // 2 + 1) * np.arange(height)[:, None])


@dataclasses.dataclass(frozen=True)
class Checkerboard:
    """White positions see the black ones around them, black ones see none: two waves.

    He, Zheng, Sun, Wang, Qin, "Checkerboard context model for efficient learned image compression", CVPR 2021.

    Attributes:
      kernel: odd size k.
    """

    kernel: int = 5

    def mask(self) -> tuple[tuple[bool, ...], ...]:
        """k rows of k."""
        return tuple(tuple((i + j) % 2 == 1 for j in range(self.kernel)) for i in range(self.kernel))

    def waves(self, height: int, width: int) -> np.ndarray:
        """int32 [h, w], counted from 0."""
        return np.int32((np.arange(width) + np.arange(height)[:, None]) % 2)


def seen(order: Any, shape: tuple[int, ...]) -> np.ndarray:
    """bool [1, h, w, 1]: which positions of a latent of that shape, [B, h, w, C], others see."""
    waves = order.waves(*shape[1:3])
    return (waves < waves.max())[None, ..., None]


def check(network: Any, order: Any, context: bool) -> None:
    """Raises UsageError where a network's outputs depend on what is not known around their positions.

    Args:
      network: an ExactStack.
      order: see above.
      context: whether it reads the latent itself, of which the taps of `order.mask` alone are known.
    """
    first, *others = (part.layer for part in network.parts())
    fits = network.of_values and all(part.moves is None for part in network.parts())
    fits &= first.kernel <= order.kernel and all(layer.kernel == 1 for layer in others)
    fits &= all(isinstance(layer, Conv) and layer.stride == 1 for layer in (first, *others))
    if fits and context:
        beyond = (order.kernel - first.kernel) // 2
        taps = np.pad(first.taps(), beyond)
        fits = not (taps & ~np.array(order.mask())).any()
    if not fits:
        raise UsageError(
            f"the network {network.name!r} stands in a scan: networks are `of_values` there, of Conv without a stride, "
            f"the first with a kernel of at most {order.kernel}, and all others of 1; one that reads the latent has "
            "mask=order.mask()"
        )


def scan(order: Any, shape: tuple[int, ...], prior: Callable, side: np.ndarray | None, code: Callable) -> np.ndarray:
    """Codes a latent wave by wave.

    Args:
      order: see above.
      shape: of the latent, (1, h, w, C).
      prior: (known [n, k, k, C], side [1, 1, n, S] or None) -> prior of a row [1, 1, n, C].
      side: float32 [1, h, w, S], or None.
      code: (that prior, (rows, columns) int [n] of a wave's positions) -> values float32 [1, 1, n, C].

    Returns:
      The values, float32 of that shape.
    """
    _, height, width, channels = shape
    reach, offsets = order.kernel // 2, np.arange(order.kernel)
    padded = np.zeros((height + 2 * reach, width + 2 * reach, channels), np.float32)
    known = padded[reach : reach + height, reach : reach + width]
    waves = order.waves(height, width).ravel()
    places = np.argsort(waves, kind="stable")
    counts = np.bincount(waves)  # in narrow pictures some waves have none
    for wave in np.split(places, np.cumsum(counts[counts > 0])[:-1]):
        for piece in np.split(wave, range(PIECE, len(wave), PIECE)):
            rows, columns = np.divmod(piece, width)
            around = padded[rows[:, None, None] + offsets[:, None], columns[:, None, None] + offsets]
            beside = None if side is None else side[:, rows, columns][:, None]
            known[rows, columns] = code(prior(around, beside), (rows, columns))[0, 0]
    return known[None].copy()
