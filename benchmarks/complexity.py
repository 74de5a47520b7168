"""Parameters and multiply-accumulates per pixel of a latent model, part by part.

    python benchmarks/complexity.py --config configs/kltnet.py:tiny

Counts the products of matrices and convolutions in the traced program of a 512x512 picture (other sizes give the same):
what papers report as kMAC/pixel. Encoding is analysis and what decides probabilities; decoding is that, and synthesis.
"""

import argparse

import jax
import numpy as np

from mlic_jax import zoo
from mlic_jax.families.complexity import kmac_per_pixel
from mlic_jax.training.config import load


def family_of(codec):
    """The mlic_jax.families.latent.LatentCodec whose methods are a codec's functions."""
    return codec.compress.__self__


def module_of(codec):
    """The Flax module of a codec of a latent model."""
    return family_of(codec).module


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    config = load(parser.parse_args().config, [])
    codec = zoo.make(config.model.name, **config.model.arguments.to_dict())
    params, _ = codec.init(jax.random.key(0), (64, 64, 3))
    work = kmac_per_pixel(module_of(codec), params)
    for name, value in params.items():
        print(f"{name:15} {sum(np.size(a) for a in jax.tree.leaves(value)) / 1e6:7.3f} million parameters")
    print(f"{'all':15} {sum(np.size(a) for a in jax.tree.leaves(params)) / 1e6:7.3f} million parameters")
    for name, value in work.items():
        print(f"{name:15} {value:7.2f} kMAC/pixel")
    print(f"{'encoding':15} {work['analysis'] + work['probabilities']:7.2f} kMAC/pixel")
    print(f"{'decoding':15} {work['probabilities'] + work['synthesis']:7.2f} kMAC/pixel")


if __name__ == "__main__":
    main()
