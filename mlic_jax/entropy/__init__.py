"""Entropy models: priors of latents, the coders that read them, exact networks, orders of serial contexts.

In a Flax model of one's own:

    class Codec(nn.Module):
        @nn.compact
        def __call__(self, image, noise):
            y = Stack((Conv(32, kernel=5, stride=4), GDN(), Conv(8, kernel=5, stride=4)))(image) + noise
            back = ConvTranspose(32, kernel=5, stride=4), GDN(inverse=True), ConvTranspose(3, kernel=5, stride=4)
            return Stack(back)(y), DeepFactorized(8).bits(y)

Besides Gaussians, `LogLaplace` and `LogLogistic` are priors of other shapes, with a `mixture` where a subclass names
one; `WholeGaussian` is for latents rounded to whole numbers, `DitheredGaussian` for universal quantisation,
`SoftRounded` for soft rounding (proxy "soft"), and `ZeroMean` has a scale for each channel. `run_length_encode` packs
numbers that are nearly all zero without a model.

Public are the names below. They are imported when they are first asked for: coding a file needs few of them.
"""

from mlic_jax import imported_when_used

_HOME = {
    "Checkerboard": "scanning",
    "DeepFactorized": "priors.factorized",
    "DitheredGaussian": "priors.adapters",
    "ExactStack": "exact",
    "ExactSurroundings": "exact_surroundings",
    "Gaussian": "priors.gaussian",
    "LogGaussian": "priors.gaussian",
    "LogLaplace": "priors.gaussian",
    "LogLogistic": "priors.gaussian",
    "LogMixture": "priors.gaussian",
    "Mixture": "priors.mixture",
    "Raster": "scanning",
    "Rounding": "rounding",
    "SoftRounded": "priors.adapters",
    "WholeGaussian": "priors.whole",
    "ZeroMean": "priors.zero_mean",
    "power_law_penalty": "sparse",
    "run_length_decode": "sparse",
    "run_length_encode": "sparse",
    "straight_through_round": "coders",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    return imported_when_used(__name__, _HOME, name)


def __dir__():
    return __all__
