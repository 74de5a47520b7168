"""Multiply-accumulates per pixel of a latent model, part by part: what papers report as kMAC/pixel.

They are the products of matrices and convolutions in the traced program of one picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from mlic_jax.entropy import coders

if TYPE_CHECKING:
    from mlic_jax.families.latent import LatentModel

# Pixels of a side of the picture that is traced; other sizes give the same, but for constants of the whole picture.
SIDE = 512


def macs(jaxpr) -> int:
    """Multiply-accumulates of dot_general and conv_general_dilated in a jaxpr and all within it."""
    total = 0
    for equation in jaxpr.eqns:
        shapes = [v.aval.shape for v in equation.invars if hasattr(v.aval, "shape")]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(shapes[0][i] for i in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.params["dimension_numbers"].rhs_spec
            inputs = math.prod(size for axis, size in enumerate(shapes[1]) if axis != kernel[0])
            dilated = math.prod(equation.params["lhs_dilation"])
            total += math.prod(equation.outvars[0].aval.shape) * inputs // dilated
        branches = equation.params.get("branches")
        if branches:  # platform_dependent: one of them runs, the last is the plain one
            total += macs(branches[-1].jaxpr)
            continue
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += macs(inner)
    return total


def kmac_per_pixel(module: LatentModel, params: Mapping[str, Any]) -> dict[str, float]:
    """{"analysis", "probabilities", "synthesis"}; params may be shapes alone."""
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    quality = jnp.full(1, 50.0) if module.has_quality else None
    more = () if quality is None else (quality,)

    def count(method, *arguments):
        def call(params, *arguments):
            return module.apply({"params": params}, *arguments, method=method)

        return macs(jax.make_jaxpr(call)(params, *arguments).jaxpr) / SIDE**2 / 1e3

    latents = jax.eval_shape(lambda p, x: module.apply({"params": p}, x, *more, method="analyze"), params, image)

    def transmit(module, latents):
        return module.transmit(coders.Estimating(latents, quality))

    received = jax.eval_shape(lambda p, y: module.apply({"params": p}, y, method=transmit), params, latents)
    return {
        "analysis": count("analyze", image, *more),
        "probabilities": count(transmit, latents),
        "synthesis": count("synthesize", received, *more),
    }
