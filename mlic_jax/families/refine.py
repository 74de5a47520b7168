"""What an encoder can do with more time: fit the latents to this one picture.

Analysis gives latents that are good on average. Any others that the decoder reads are allowed, so the encoder may look
for better ones: those that minimise bits + weight * squared error of this picture. Latents are integers around their
means, so plain descent does not apply; proximal gradient descent does (ISTA; Beck and Teboulle, "A fast iterative
shrinkage-thresholding algorithm for linear inverse problems", 2009): a step along the gradient of everything but a
symbol's own bits, and then the best symbol for its own bits and the distance from there, which is `Encoding`'s rounding
for rate. The gradient comes through the whole decoder and through all probabilities that depend on a symbol. The
decoder stays as it is.

Stochastic Gumbel annealing (Yang, Bamler, Mandt, NeurIPS 2020), the usual way, gained a fifth as much in 64 steps:
docs/lab/encoder.md. Large pictures are refined in overlapping tiles of one size.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy import coders
from mlic_jax.layers import windows
from mlic_jax.layers.windows import to_float

# Iterations for effort 1 to 9.
STEPS = (1, 2, 3, 5, 8, 12, 18, 27, 40)
# Sides of tiles and of the overlap between neighbours, in pixels: multiples of every stride.
TILE, OVERLAP = 768, 128
# How far the first and the last step go. 1 would solve a linear codec at once; a trained synthesis amplifies some
# errors much more, and symbols settle when steps become short.
PACES = 0.4, 0.04


class _Probing(coders.Estimating):
    """Codes as Estimating; `probes`, zeros, are added to what a decoder knows, so that one can differentiate by it."""

    def __init__(self, latents, probes, quality, rounding):
        super().__init__(latents, quality, rounding)
        self.probes, self.coded = probes, {}

    def __call__(self, name, prior):
        self.coded[name] = super().__call__(name, prior)
        return self.coded[name] + self.probes.get(name, 0.0)

    def exact(self, network, latent, prior=None):
        """In floating point: gradients pass."""
        del prior
        return network(latent)


@functools.partial(jax.jit, static_argnums=(0,))
def _step(module, variables, image, latents, quality, weight, pace):
    """(bits + weight * squared error of what the latents are coded as, the latents to try next)."""
    more = () if quality is None else (quality,)

    def cost(probes):
        coder = _Probing(latents, probes, quality, module.refined)
        received = module.apply(variables, coder, method="transmit")
        reconstruction = module.apply(variables, received, *more, method="synthesize")
        # Per pixel there are three errors, and the weight is that of their mean.
        # What is beyond black or white is shown as these: it costs nothing there, and frees what reaches further.
        shown = jnp.clip(reconstruction, 0, 1)
        squared = jnp.sum((shown - to_float(image)) ** 2) * (255.0**2 / 3)
        return weight * squared + sum(bits.sum() for bits in coder.bits.values()), coder.coded

    probes = {name: jnp.zeros(latents[name].shape) for name in module.refined.weights if name in latents}
    (value, coded), gradients = jax.value_and_grad(cost, has_aux=True)(probes)
    following = dict(latents)
    for name, gradient in gradients.items():
        solved = coded[name] - gradient / (2 * module.refined.curvature)
        following[name] = latents[name] + pace * (solved - latents[name])
    return value, following


def _descend(module, variables, image, latents, quality, weight, steps):
    """The latents of least cost among those of all iterations, the first ones included."""
    best, least = latents, np.inf
    for pace in np.linspace(*PACES, steps + 1, dtype=np.float32):
        value, following = _step(module, variables, image, latents, quality, np.float32(weight), pace)
        if value < least:
            best, least = latents, value
        latents = following
    return best


def refine(module, variables, image: np.ndarray, latents, quality: np.ndarray | None, weight: float, steps: int):
    """Better latents for one picture.

    Args:
      module: a LatentModel with `refined`, in float32.
      variables: {"params", "state"}.
      image: uint8 [1, H, W, 3], sides multiples of the module's stride.
      latents: name -> NumPy [1, h, w, C], from `analyze`: where the descent begins.
      quality: float [1], or None for models of one rate.
      weight: of the squared error in the loss.
      steps: iterations.

    Returns:
      As latents; they are never worse, as far as the model's estimate in floating point can tell.
    """
    params = {"params": variables["params"]}
    # How many pixels a latent's sample stands for differs from latent to latent; the coarsest one's are a cell.
    scales = {name: image.shape[1] // latent.shape[1] for name, latent in latents.items()}
    cell = max(scales.values())
    result = {name: latent.copy() for name, latent in latents.items()}
    for tile in windows.cover([side // cell for side in image.shape[1:3]], lambda n: _tiles(n, cell)):
        begin = {name: windows.cut(latent, tile, cell // scales[name]) for name, latent in latents.items()}
        better = _descend(module, params, windows.cut(image, tile, cell), begin, quality, weight, steps)
        for name, latent in jax.device_get(better).items():
            windows.paste(result[name], latent, tile, cell // scales[name])
    return result


def _tiles(length, cell):
    return windows.spans_within(length, TILE // cell, OVERLAP // cell)
