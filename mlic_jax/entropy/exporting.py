"""The coders of an export, which walk a model's coding order (mlic_jax.entropy.coders) for what an artifact needs.

`Guarding` looks for what encoder and decoder could not agree on, before a model is trained. `Calibrating` measures
activations on pictures, `Tabulating` makes tables and integers, `Checking` looks at those of an artifact that was read.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy import scanning
from mlic_jax.entropy.coders import AtOnce, center_of, models_of, ranges_of
from mlic_jax.entropy.exact import LARGEST_INPUT
from mlic_jax.errors import UsageError
from mlic_jax.layers.stack import Stack


class _Traced(np.ndarray):
    """What a network computed in floating point, and what was computed of it: it differs between machines."""


class Guarding:
    """Raises UsageError where a coding order leaves the parse path: where what decides a row of a table, or what an
    exact network reads, comes from a JAX function or from a network in floating point; where two priors share a table;
    where a network reads a latent without a limit. It walks like a decoder, on zeros.

    Args:
      shapes: name -> (1, h, w, C), of latents of any size.
      portable: False for a model that may leave the parse path, since it says that its files are not portable.
    """

    _order: Any = None  # while scanning

    def __init__(self, shapes, quality=None, portable=True):
        self.shapes, self.quality, self.portable, self.places = shapes, quality, portable, {}

    def __call__(self, name, prior):
        if isinstance(prior, nn.Module):
            if self.places.setdefault(prior.family, prior.path) != prior.path:
                paths = " and ".join(".".join(path) for path in (self.places[prior.family], prior.path))
                raise UsageError(f"the priors {paths} share the table {prior.family!r}: give each a family of its own")
            return np.zeros(self.shapes[name], np.float32)
        for field, value in getattr(prior, "_asdict", dict)().items():
            if field != "mean":  # symbols are distances from it: it decides no row
                self._check(value, f"{field} of the prior of {name!r}")
        return np.zeros(self.shapes[name], np.float32) + center_of(prior)

    def scan(self, name, order, prior, side=None):
        """As decoders do, of one position."""
        shape = self.shapes[name]
        self._order = order
        around = np.zeros((1, order.kernel, order.kernel, shape[3]), np.float32)
        result = self(name, prior(around, None if side is None else side[:, :1, :1]))
        self._order = None
        return result

    def exact(self, network, latent, prior=None):
        self._check(latent, f"what the network {network.name!r} reads")
        if self._order is not None:
            scanning.check(network, self._order, context=latent.shape[1] > 1)
            return np.zeros((1, 1, 1, network.parts()[-1].features), np.float32)
        limit = None if prior is None else prior.limit
        if prior is not None and not network.of_values and not (limit and limit <= LARGEST_INPUT):
            raise UsageError(
                f"the network {network.name!r} reads a latent whose prior has the limit {limit}: it is exact for "
                f"symbols of at most {LARGEST_INPUT}, as in limit={LARGEST_INPUT}"
            )
        return np.zeros(network.output_shape(latent.shape), np.float32)

    def walk(self, apply) -> None:
        """Calls `apply(self)`, which has to walk the coding order; networks in it are not evaluated but marked."""

        def mark(call, args, kwargs, context):
            if context.method_name == "__call__" and isinstance(context.module, Stack):
                shape = jax.eval_shape(lambda x: call(jnp.asarray(x), *args[1:], **kwargs), np.asarray(args[0])).shape
                return np.zeros(shape, np.float32).view(_Traced)
            return call(*args, **kwargs)

        with nn.intercept_methods(mark):
            apply(self)

    def _check(self, value, what):
        if self.portable and isinstance(value, jax.Array):
            raise UsageError(
                f"{what} comes from a JAX function: between `code.exact` and a prior only operators (+, *, [...]) and "
                "NumPy may stand, whose results are the same on every machine; or let the model say `portable = False`"
            )
        if self.portable and isinstance(value, _Traced):
            raise UsageError(
                f"{what} comes from a network in floating point, which computes otherwise on other machines: make it "
                "an ExactStack, and call it by `code.exact`; or let the model say `portable = False`"
            )


class Calibrating(AtOnce):
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


class _Walking:
    """What coders share that give zeros for latents."""

    def scan(self, name, order, prior, side=None):
        del order
        return self(name, prior(np.zeros(self.shapes[name], np.float32), side))


class Tabulating(_Walking):
    """Collects what an artifact needs of every prior and exact network, with NumPy alone.

    `tables`: family -> Table. `state`: the numbers on which encoder and decoder must agree, as the collection "state".

    Args:
      shapes: name -> (1, h, w, C), of latents of any size.
      largest: network -> {"layer_i": [C]}, from `Calibrating`, for networks that were not trained with rounding.
    """

    def __init__(self, shapes, largest, quality=None):
        self.shapes, self.largest, self.tables, self.state, self.quality = shapes, largest, {}, {}, quality

    def __call__(self, name, prior):
        if prior.family is not None and prior.family not in self.tables:
            self.tables[prior.family] = prior.tabulate()
        self.state.update(prior.export_state())
        return np.zeros(self.shapes[name], np.float32)

    def exact(self, network, latent, prior=None):
        ranges = ranges_of(network) or self.largest[network.name]
        self.state[network.name] = network.quantise(None if prior is None else prior.medians(), ranges)
        return np.zeros(network.output_shape(latent.shape), np.float32)


class Checking(_Walking):
    """Raises ModelError unless an artifact has what its coding order needs: medians, tables, integers within bounds.

    Args:
      shapes: name -> (1, h, w, C), of latents of any size.
      models: family -> rangecoder.Models.
    """

    def __init__(self, shapes, models, quality=None):
        self.shapes, self.models, self.quality = shapes, models, quality

    def __call__(self, name, prior):
        if prior.family is not None:
            prior.indexes(self.shapes[name], models_of(prior, self.models).table)
        return np.zeros(self.shapes[name], np.float32) + center_of(prior)

    def exact(self, network, latent, prior=None):
        del prior
        network.check(latent.shape[-1])
        return np.zeros(network.output_shape(latent.shape), np.float32)
