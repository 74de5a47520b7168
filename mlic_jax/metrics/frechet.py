"""The Fréchet distance between the features of two sets of pictures, each taken for a Gaussian.

Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, "GANs trained by a two time-scale update rule converge to a local
Nash equilibrium", NeurIPS 2017, equation 6: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). With features of Inception it
is FID; with others it is to be called by their names. `of_features` makes a metric of sets of any features:

    registry.register(registry.set_distance("fd-alex", "fd_alex", "FD (AlexNet)", frechet.of_features(features)))

What is kept of a picture is its features' number, sum and products, so that sets of any size take no more room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mlic_jax.errors import InputError
from mlic_jax.metrics.sets import OfSet


def of_features(features: Callable[[np.ndarray], np.ndarray]) -> OfSet:
    """A metric of sets.

    Args:
      features: uint8 [H, W, 3] -> float [n, F], of n patches or positions of the picture, F the same for all pictures.
    """

    def part(original, decoded):
        return [float(number) for image in (original, decoded) for number in _moments(features(image))]

    return OfSet(part, distance)


def between(features: np.ndarray, others: np.ndarray) -> float:
    """The distance of two sets of features, [n, F] and [m, F]; nan of fewer than two."""
    return distance([np.concatenate([_moments(features), _moments(others)])])


def _moments(features):
    """[n, F] -> the vector of n, F sums, and F^2 sums of products."""
    features = np.asarray(features, np.float64)
    return np.concatenate([[len(features)], features.sum(0), (features.T @ features).ravel()])


def distance(parts: Sequence[Sequence[float]]) -> float:
    """The distance between originals and decoded pictures; nan of fewer than two features.

    Raises InputError for pictures whose features are not of one length.
    """
    if len({len(part) for part in parts}) > 1:
        raise InputError("the pictures of a set have features of different lengths")
    both = np.split(np.sum(parts, axis=0), 2)
    if min(moments[0] for moments in both) < 2:
        return float("nan")
    (mean, covariance), (other_mean, other_covariance) = map(_gaussian, both)
    # The eigenvalues of C1 C2 are those of C1^(1/2) C2 C1^(1/2), which is symmetric.
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other_covariance @ root), 0)).sum()
    apart = np.sum((mean - other_mean) ** 2)
    return float(apart + np.trace(covariance) + np.trace(other_covariance) - 2 * shared)


def _gaussian(moments):
    """Mean [F] and covariance [F, F]."""
    count = moments[0]
    length = (np.sqrt(4 * len(moments) - 3) - 1) / 2  # of F^2 + F + 1 numbers
    sums, products = np.split(moments[1:], [round(length)])
    mean = sums / count
    return mean, (products.reshape(len(mean), -1) - count * np.outer(mean, mean)) / (count - 1)
