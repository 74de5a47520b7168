"""The coders of an export, which walk a model's coding order (mlic_jax.entropy.coders) for what an artifact needs.

`Calibrating` measures activations on pictures, `Tabulating` makes tables and integers, `Checking` looks at those of an
artifact that was read.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy.coders import Estimating, center_of, models_of, ranges_of


class Calibrating(Estimating):
    """Finds how large activations become. `largest`: network -> {"layer_i": [C]}, over all latents given."""

    def __init__(self, latents, quality=None):
        super().__init__(latents, quality)
        self.largest: dict[str, dict[str, jax.Array]] = {}

    def exact(self, network, latent, prior=None):
        del prior
        output, largest = network.measure(latent)
        before = self.largest.get(network.name, {})  # a network can be used more than once
        self.largest[network.name] = {
            name: jnp.maximum(value.max(0), before.get(name, 0)) for name, value in largest.items()
        }
        return output


class Tabulating:
    """Collects what an artifact needs of every prior and exact network, with NumPy alone.

    `tables`: family -> Table. `state`: the numbers on which encoder and decoder must agree, as the collection "state".

    Args:
      shapes: name -> (1, h, w, C), of latents of any size.
      largest: network -> {"layer_i": [C]}, from `Calibrating`, for networks that were not trained with rounding.
    """

    def __init__(self, shapes, largest, quality=None):
        self.shapes, self.largest, self.tables, self.state, self.quality = shapes, largest, {}, {}, quality

    def __call__(self, name, prior):
        if prior.family not in self.tables:
            self.tables[prior.family] = prior.tabulate()
        self.state.update(prior.export_state())
        return np.zeros(self.shapes[name], np.float32)

    def exact(self, network, latent, prior=None):
        ranges = ranges_of(network) or self.largest[network.name]
        self.state[network.name] = network.quantise(None if prior is None else prior.medians(), ranges)
        return np.zeros(network.output_shape(latent.shape), np.float32)


class Checking:
    """Raises ModelError unless an artifact has what its coding order needs: medians, tables, integers within bounds.

    Args:
      shapes: name -> (1, h, w, C), of latents of any size.
      models: family -> rangecoder.Models.
    """

    def __init__(self, shapes, models, quality=None):
        self.shapes, self.models, self.quality = shapes, models, quality

    def __call__(self, name, prior):
        prior.indexes(self.shapes[name], models_of(prior, self.models).table)
        return np.zeros(self.shapes[name], np.float32) + center_of(prior)

    def exact(self, network, latent, prior=None):
        del prior
        network.check(latent.shape[-1])
        return np.zeros(network.output_shape(latent.shape), np.float32)
