"""What an encoder can do with more time: fit the latents to this one picture, by gradient.

Analysis gives latents that are good on average. Any others that the decoder reads are allowed, so the encoder may look
for better ones: descent on the loss of training with the picture's own latents as unknowns. Rounding is made gradual by
stochastic Gumbel annealing: Yang, Bamler, Mandt, "Improving inference for neural image compression", NeurIPS 2020,
section 3.2; learning rate and temperatures were chosen anew, for few steps (docs/training.md). The decoder stays as it
is.

Large pictures are refined in overlapping tiles of one size.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mlic_jax.entropy import coders
from mlic_jax.layers.windows import to_float

# Steps of descent for effort 2 to 9; below, there are none.
STEPS = (4, 8, 16, 32, 64, 128, 256, 512)
# Sides of tiles and of the overlap between neighbours, in pixels: multiples of every stride.
TILE, OVERLAP = 768, 128


class Recipe(NamedTuple):
    """How latents descend.

    Attributes:
      learning_rate: of Adam, in steps of quantisation.
      hot, cold: temperature of the first and the last step; it falls geometrically.
    """

    learning_rate: float = 0.02
    hot: float = 0.3
    cold: float = 0.05


class Annealing(coders._Summing):
    """A coder that rounds at random, towards the nearer integer the more often the nearer it is and the colder it is.

    Args:
      latents: name -> [B, h, w, C].
      key: PRNG key.
      temperature: scalar > 0.
      quality: float [B] or None.
    """

    def __init__(self, latents, key, temperature, quality=None):
        super().__init__(latents, quality)
        self.key, self.temperature = key, temperature

    def __call__(self, name, prior):
        self.key, key = jax.random.split(self.key)
        center = prior.center
        offset = self.latents[name] - center
        below = jax.lax.stop_gradient(jnp.floor(offset))
        # Distances to the two neighbours, kept off the ends where atanh has a pole.
        up = jnp.clip(offset - below, 1e-4, 1 - 1e-4)
        gumbel = jax.random.logistic(key, offset.shape)  # the difference of two Gumbel variables
        logit = (jnp.arctanh(up) - jnp.arctanh(1 - up)) / self.temperature
        chosen = below + jax.nn.sigmoid((logit + gumbel) / self.temperature)
        if prior.limit is not None:
            chosen = jnp.clip(chosen, -prior.limit, prior.limit)
        self._count(name, prior, chosen + center)
        return chosen + center

    def exact(self, network, latent, prior=None):
        """In floating point: gradients pass."""
        del prior
        return network(latent)


def _loss(module, variables, latents, image, quality, weight, make_coder):
    """(weight 255^2 MSE + bpp of one picture, what the coder has counted)."""
    coder = make_coder(latents, quality=quality)
    more = () if quality is None else (quality,)
    received = module.apply(variables, coder, method="transmit")
    reconstruction = module.apply(variables, received, *more, method="synthesize")
    error = jnp.mean((reconstruction - to_float(image)) ** 2)
    pixels = image.shape[1] * image.shape[2]
    return weight * 255.0**2 * error + sum(bits[0] for bits in coder.bits.values()) / pixels


@functools.partial(jax.jit, static_argnums=(0, 6, 7))
def _descend(module, variables, image, latents, quality, weight, steps, recipe):
    """The latents that reached the lowest loss when rounded, of those after 0, a quarter, ... and all of the steps."""
    optimizer = optax.adam(recipe.learning_rate)

    def rounded(latents):
        return _loss(module, variables, latents, image, quality, weight, coders.Estimating)

    def step(carry, i):
        latents, moments = carry
        temperature = recipe.hot * (recipe.cold / recipe.hot) ** (i / max(steps - 1, 1))
        make_coder = functools.partial(Annealing, key=jax.random.fold_in(jax.random.key(0), i), temperature=temperature)
        gradient = jax.grad(lambda latents: _loss(module, variables, latents, image, quality, weight, make_coder))(
            latents
        )
        # Adam's steps do not depend on the gradient's size; per pixel it would drown in Adam's epsilon.
        gradient = jax.tree.map(lambda g: g * (image.shape[1] * image.shape[2]), gradient)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(latents, updates), moments), None

    parts = 4 if steps % 4 == 0 else 1
    best, least = latents, rounded(latents)
    carry = (latents, optimizer.init(latents))
    for part in range(parts):
        numbers = jnp.arange(part * steps // parts, (part + 1) * steps // parts)
        carry, _ = jax.lax.scan(step, carry, numbers)
        loss = rounded(carry[0])
        best = jax.tree.map(lambda new, old, better=loss < least: jnp.where(better, new, old), carry[0], best)
        least = jnp.minimum(loss, least)
    return best


def tiles(length: int, side: int, overlap: int) -> list[tuple[int, int, int]]:
    """Where tiles of one side lie on an axis: (origin, start, stop) of each, the part start..stop is its own.

    A tile that is longer than the axis is the axis. Neighbours share `overlap` or more; each owns half of it.
    """
    if length <= side:
        return [(0, 0, length)]
    count = -(-(length - overlap) // (side - overlap))
    unit = overlap // 2
    origins = [round(i * (length - side) / (count - 1) / unit) * unit for i in range(count)]
    origins[-1] = length - side
    middles = [(left + side + right) // 2 // unit * unit for left, right in zip(origins, origins[1:], strict=False)]
    return list(zip(origins, [0, *middles], [*middles, length], strict=True))


def refine(module, variables, image: np.ndarray, latents, quality: np.ndarray | None, weight: float, steps: int):
    """Better latents for one picture.

    Args:
      module: a LatentModel, in float32.
      variables: {"params", "state"}.
      image: uint8 [1, H, W, 3], sides multiples of the module's stride.
      latents: name -> NumPy [1, h, w, C], from `analyze`: where the descent begins.
      quality: float [1], or None for models of one rate.
      weight: of the squared error in the loss.
      steps: of descent.

    Returns:
      As latents; they are never worse, as far as the model's estimate in floating point can tell.
    """
    _, height, width, _ = image.shape
    params = {"params": variables["params"]}
    result = {name: latent.copy() for name, latent in latents.items()}
    for top, first_row, last_row in tiles(height, TILE, OVERLAP):
        for left, first_column, last_column in tiles(width, TILE, OVERLAP):
            part = image[:, top : top + TILE, left : left + TILE]
            # How many pixels a latent's sample stands for differs from latent to latent.
            scales = {name: height // latent.shape[1] for name, latent in latents.items()}
            begin = {
                name: latent[
                    :,
                    top // scales[name] : (top + TILE) // scales[name],
                    left // scales[name] : (left + TILE) // scales[name],
                ]
                for name, latent in latents.items()
            }
            found = jax.device_get(_descend(module, params, part, begin, quality, weight, steps, Recipe()))
            for name, latent in found.items():
                scale = scales[name]
                rows, columns = (
                    slice(first_row // scale, last_row // scale),
                    slice(first_column // scale, last_column // scale),
                )
                result[name][:, rows, columns] = latent[
                    :,
                    (first_row - top) // scale : (last_row - top) // scale,
                    (first_column - left) // scale : (last_column - left) // scale,
                ]
    return result
