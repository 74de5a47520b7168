"""Parameters and multiply-accumulates per pixel of a latent model, part by part.

    python benchmarks/complexity.py --config configs/kltnet.py:tiny

Counts the products of matrices and convolutions in the traced program of a 512x512 picture (other sizes give the same):
what papers report as kMAC/pixel. Encoding is analysis and what decides probabilities; decoding is that, and synthesis.
"""

import argparse
import math

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax import zoo
from mlic_jax.entropy import coders
from mlic_jax.training.config import load

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


def module_of(codec):
    """The Flax module of a codec of mlic_jax.families.latent: its functions are methods of what holds it."""
    return codec.compress.__self__.module


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    config = load(parser.parse_args().config, [])
    codec = zoo.make(config.model.name, **config.model.arguments.to_dict())
    module = module_of(codec)
    params, _ = codec.init(jax.random.key(0), (64, 64, 3))
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
    parts = {
        "analysis": count("analyze", image, *more),
        "probabilities": count(transmit, latents),
        "synthesis": count("synthesize", received, *more),
    }
    for name, value in params.items():
        print(f"{name:15} {sum(np.size(a) for a in jax.tree.leaves(value)) / 1e6:7.3f} million parameters")
    print(f"{'all':15} {sum(np.size(a) for a in jax.tree.leaves(params)) / 1e6:7.3f} million parameters")
    for name, value in parts.items():
        print(f"{name:15} {value:7.2f} kMAC/pixel")
    print(f"{'encoding':15} {parts['analysis'] + parts['probabilities']:7.2f} kMAC/pixel")
    print(f"{'decoding':15} {parts['probabilities'] + parts['synthesis']:7.2f} kMAC/pixel")


if __name__ == "__main__":
    main()
