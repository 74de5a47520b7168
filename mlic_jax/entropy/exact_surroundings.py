"""Exact networks that see a small square around each position, and nothing beyond."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy.exact import ExactStack, exact_window, to_input

# Squares whose integers are computed at a time, unless a row has more.
_AT_ONCE = 1024


def surroundings(x, side: int, padded: bool = False):
    """The square around each position, zeros beyond the picture.

    Args:
      x: [B, h, w, C], NumPy or JAX.
      side: of the squares, odd.
      padded: whether side // 2 samples around the positions are part of x already.

    Returns:
      [B h w, side, side, C], positions in raster order.
    """
    xp, reach = np if isinstance(x, np.ndarray) else jnp, side // 2
    if not padded:
        x = xp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    height, width = (length - 2 * reach for length in x.shape[1:3])
    # Slices, whose gradient is a sum of paddings: that of a gather is slow.
    shifted = [x[:, i : i + height, j : j + width] for i in range(side) for j in range(side)]
    return xp.stack(shifted, axis=3).reshape(-1, side, side, x.shape[-1])


class ExactSurroundings(ExactStack):
    """An `ExactStack` that is run on the square around each position as on a picture of its own.

    Its layers make one sample of a square. Convolutions in it see zeros beyond the square, so that this is no
    convolution of the whole: what they make of a sample depends on where in the square it lies.

    Attributes:
      side: of the squares, odd.
    """

    side: int = 5

    def __call__(self, x: jax.Array, quality=None) -> jax.Array:
        """[B, h, w, C] -> [B, h, w, C']."""
        return self._each(lambda squares: self.within(squares, None, quality), x)

    def measure(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """See ExactStack."""
        y, largest = super().measure(surroundings(x, self.side))
        largest = {name: value.reshape(len(x), -1, value.shape[-1]).max(1) for name, value in largest.items()}
        return y.reshape(*x.shape[:3], -1), largest

    def quantised(self, x: jax.Array, ranges: Mapping[str, jax.Array]) -> jax.Array:
        """See ExactStack."""
        return self._each(lambda squares: ExactStack.quantised(self, squares, ranges), x)

    def integers(self, symbols: np.ndarray) -> np.ndarray:
        """See ExactStack."""
        alone, variables = self.unbind()
        variables = jax.device_put({"state": dict(variables["state"])})
        x = np.asarray(symbols, np.float32)
        if self.of_values:
            x = to_input(x, np.asarray(self.get_variable("state", "input")["step"]), np)
        reach = self.side // 2
        padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
        rows, found = max(1, _AT_ONCE // (len(x) * x.shape[2])), []
        for top in range(0, x.shape[1], rows):
            squares = surroundings(padded[:, top : top + rows + 2 * reach], self.side, padded=True)
            # Few counts: programs are compiled for each.
            count = len(squares)
            squares = np.pad(squares, ((0, (1 << (count - 1).bit_length()) - count), (0, 0), (0, 0), (0, 0)))
            outputs = np.asarray(exact_window(alone, variables, squares, None))[:count]
            found.append(outputs.reshape(len(x), -1, x.shape[2], outputs.shape[-1]))
        return np.concatenate(found, axis=1)

    def integers_whole(self, symbols: jax.Array) -> jax.Array:
        """See ExactStack."""
        return self._each(lambda squares: ExactStack.integers_whole(self, squares), symbols)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of an input [B, h, w, C]."""
        return (*shape[:3], self.parts()[-1].features)

    def _each(self, function: Callable, x: jax.Array) -> jax.Array:
        """What a function of squares makes of those around each position."""
        return function(surroundings(x, self.side)).reshape(*x.shape[:3], -1)
