"""Toy sources: distributions of known shape from which any number of samples can be drawn.

Balle et al., "Nonlinear Transform Coding", 2021; the sawbridge is that of Wagner and Balle, "Neural Networks Optimally
Compress the Sawbridge", 2021. A source is a pure function of a key, so that training never sees a sample twice and
every measurement can be repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.errors import UsageError

# Of the banana: standard deviations before it is bent, how much it is bent, by how much it is turned, where it lies.
BANANA_SCALES = (3.0, 0.5)
BANANA_BEND = 0.1
BANANA_ANGLE = math.radians(240)
BANANA_SHIFT = (-1.0, -1.0)
# Times at which a process is looked at.
POINTS = 1024


class Source(NamedTuple):
    """A distribution of vectors.

    Attributes:
      name: as in `source`.
      dim: the length d of a vector.
      sample: (key, n) -> float32 [n, d].
      distortion: what squared errors, summed over a vector, are multiplied by: 1, or 1 / d where it is their mean.
      log_density: [.., d] -> natural logarithm of the density [..]; None where there is no density, or none is known.
      entropy: differential entropy in bits; None as above.
      moments: x -> integrals of p(t), t p(t) and t^2 p(t) up to x, NumPy float64, for sources of one dimension.
    """

    name: str
    dim: int
    sample: Callable
    distortion: float = 1.0
    log_density: Callable | None = None
    entropy: float | None = None
    moments: Callable | None = None


def laplace() -> Source:
    """One dimension, location 0, scale 1."""

    def moments(x):
        x = np.asarray(x, np.float64)
        tail = 0.5 * np.exp(-np.abs(x))
        with np.errstate(invalid="ignore"):
            below = np.stack([tail, (x - 1) * tail, (x * x - 2 * x + 2) * tail])
            above = np.stack([1 - tail, -(x + 1) * tail, 2 - (x * x + 2 * x + 2) * tail])
        below, above = np.where(np.isneginf(x), 0.0, below), np.where(np.isposinf(x), [[1.0], [0.0], [2.0]], above)
        return np.where(x < 0, below, above)

    return Source(
        "laplace",
        1,
        lambda key, n: jax.random.laplace(key, (n, 1)),
        log_density=lambda x: -jnp.abs(x[..., 0]) - math.log(2),
        entropy=math.log2(2 * math.e),
        moments=moments,
    )


def banana_rotation() -> np.ndarray:
    """float64 [2, 2]: x + 1 = R^T u for the bent, unturned u."""
    cos, sin = math.cos(BANANA_ANGLE), math.sin(BANANA_ANGLE)
    return np.array([[cos, -sin], [sin, cos]])


def banana() -> Source:
    """Two dimensions: a Gaussian, bent along a parabola, turned and moved. All three keep volumes, so its density and
    its entropy are the Gaussian's."""
    scales, rotation = jnp.asarray(BANANA_SCALES), jnp.asarray(banana_rotation(), jnp.float32)
    shift = jnp.asarray(BANANA_SHIFT)

    def sample(key, n):
        z = scales * jax.random.normal(key, (n, 2))
        u = jnp.stack([z[:, 0], z[:, 1] - BANANA_BEND * z[:, 0] ** 2], -1)
        return u @ rotation + shift  # the rows are R^T u

    def log_density(x):
        u = (x - shift) @ rotation.T
        z = jnp.stack([u[..., 0], u[..., 1] + BANANA_BEND * u[..., 0] ** 2], -1)
        return -0.5 * ((z / scales) ** 2).sum(-1) - jnp.log(2 * jnp.pi * scales.prod())

    entropy = math.log2(2 * math.pi * math.e * math.prod(BANANA_SCALES))
    return Source("banana", 2, sample, log_density=log_density, entropy=entropy)


def sawbridge(points: int = POINTS, stationary: bool = False, order: int = 1) -> Source:
    """B(t) = t - 1(t > Z) for Z uniform in 0..1, on `points` times from 0 to 1. Its distortion is a mean.

    Args:
      points: d.
      stationary: looks at B((t + V) mod 1) for V uniform in 0..1.
      order: the sum of so many, independent, over the root of their number.
    """
    times = jnp.linspace(0.0, 1.0, points)

    def one(key, n):
        jump, start = jax.random.uniform(key, (2, n, 1))
        t = (times + start) % 1.0 if stationary else times
        return t - (t > jump)

    def sample(key, n):
        keys = jax.random.split(key, order)
        return sum(one(key, n) for key in keys) / math.sqrt(order)

    return Source("sawbridge", points, sample, distortion=1 / points)


def ramp(points: int = POINTS) -> Source:
    """(t + V) mod 1 - 1/2 for V uniform in 0..1, on `points` times in 0..1, 1 left out. Its distortion is a mean."""
    times = jnp.arange(points) / points

    def sample(key, n):
        return (times + jax.random.uniform(key, (n, 1))) % 1.0 - 0.5

    return Source("ramp", points, sample, distortion=1 / points)


def sinusoid(points: int = POINTS) -> Source:
    """sin(2 pi (t + V)) for V uniform in 0..1, on `points` times in 0..1, 1 left out. Its distortion is a mean."""
    times = jnp.arange(points) / points

    def sample(key, n):
        return jnp.sin(2 * jnp.pi * (times + jax.random.uniform(key, (n, 1))))

    return Source("sinusoid", points, sample, distortion=1 / points)


def sphere(dim: int = 3, width: float = 0.0) -> Source:
    """Uniform on the unit sphere in `dim` dimensions; with a width in 0..2 the radius is uniform in 1 -+ width / 2."""
    if dim < 2 or not 0 <= width < 2:
        raise UsageError(f"a sphere of {dim} dimensions and width {width}: 2 or more, and 0 to below 2, are possible")
    area = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)

    def sample(key, n):
        direction, radius = jax.random.split(key)
        x = jax.random.normal(direction, (n, dim))
        x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        return x * (1 + width * jax.random.uniform(radius, (n, 1), minval=-0.5, maxval=0.5))

    def log_density(x):
        r = jnp.linalg.norm(x, axis=-1)
        return jnp.where(jnp.abs(r - 1) <= width / 2, -jnp.log(width * area * r ** (dim - 1)), -jnp.inf)

    return Source("sphere", dim, sample, log_density=log_density if width else None)


SOURCES = {f.__name__: f for f in (laplace, banana, sawbridge, ramp, sinusoid, sphere)}


def source(name: str | Source, **options) -> Source:
    """A source by its name, with its options; a `Source` as it is. Raises UsageError for a name that is none."""
    if isinstance(name, Source):
        return name
    if name not in SOURCES:
        raise UsageError(f"no source is called {name!r}; there are {', '.join(SOURCES)}")
    return SOURCES[name](**options)


def draw(name: str | Source, n: int, seed: int = 0, **options) -> np.ndarray:
    """float32 [n, d] samples of a source, by `source`."""
    return np.asarray(source(name, **options).sample(jax.random.key(seed), n))
