"""What is known exactly: closed forms, bounds and eigenvectors that codes are held against."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np
from scipy import optimize, special

from mlic_jax.errors import TrainingError, UsageError
from mlic_jax.toy.points import Point, point
from mlic_jax.toy.sources import BANANA_BEND, BANANA_SCALES, BANANA_SHIFT, Source, banana_rotation, source

# A basis is refused where estimated components are still correlated by more than this.
MOST_CORRELATION = 1e-2


def _entropy_of(p: float) -> float:
    """Bits of one binary event."""
    return float((special.entr(p) + special.entr(1 - p)) / math.log(2))


def laplace_ecsq(lam: float) -> tuple[Point, float, float]:
    """The best scalar quantiser of the Laplace source, from a closed form in two numbers.

    Sullivan, "Efficient scalar quantization of exponential and Laplacian random variables", 1996: beyond the cell
    around zero all cells are equally wide, because an exponential tail looks the same from everywhere.

    Returns:
      What it costs, the half width of the cell around zero, and the width of the others.
    """

    def cost(numbers):
        half, width = np.exp(numbers)
        outside, stay = math.exp(-half), math.exp(-width)
        geometric = _entropy_of(stay) / (1 - stay)
        rate = _entropy_of(outside) + outside * (1 + geometric)
        within = 1 - width**2 * stay / (1 - stay) ** 2
        return rate, 2 - (half**2 + 2 * half + 2) * outside + outside * within

    def loss(numbers):
        rate, distortion = cost(numbers)
        return rate + lam * distortion

    options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000, "maxfev": 4000}
    start = np.log([2.2, 3.1]) - 0.5 * math.log(lam)
    found = optimize.minimize(loss, start, method="Nelder-Mead", options=options)
    half, width = np.exp(found.x)
    return point(*cost(found.x), lam), float(half), float(width)


def phase_distortion(name: str, cells: float) -> float:
    """Mean squared error of a process with one uniform phase, if that phase is told to 1 in `cells`, equally wide.

    The sawbridge's is 1 / 6n (at a time t in a cell of width w a fraction p of the jumps has happened, and p (1 - p)
    averages to 1/6 over it); those of the ramp, 1 / 6n - 1 / 12n^2, and of the sinusoid, (1 - sinc(1/n)^2) / 2, follow
    in the same way. For times that are a continuum, and for the sawbridge neither stationary nor of a higher order.
    """
    width = 1 / cells
    if name == "sawbridge":
        return width / 6
    if name == "ramp":
        return width / 6 - width**2 / 12
    if name == "sinusoid":
        return 0.5 * (1 - np.sinc(width) ** 2)
    raise UsageError(f"{name!r} has no closed form here; sawbridge, ramp and sinusoid have")


def phase_code(name: str, lam: float) -> tuple[Point, int]:
    """The best code of equal cells for the sawbridge, the ramp or the sinusoid: what it costs, and its cells."""
    most = 2 + int(lam)  # cells beyond lam / 6 ln 2 cost more than they save
    points = [point(math.log2(n), phase_distortion(name, n), lam) for n in range(1, most + 1)]
    best = min(range(most), key=lambda i: points[i].loss)
    return points[best], best + 1


def banana_moments() -> tuple[np.ndarray, np.ndarray]:
    """Mean [2] and covariance [2, 2] of the banana."""
    rotation = banana_rotation()
    along, across = np.square(BANANA_SCALES)
    mean = rotation.T @ [0.0, -BANANA_BEND * along] + BANANA_SHIFT
    return mean, rotation.T @ np.diag([along, across + 2 * (BANANA_BEND * along) ** 2]) @ rotation


class Basis(NamedTuple):
    """An orthonormal transform.

    Attributes:
      mean: [d].
      vectors: [k, d], orthonormal rows, the most energetic first.
      variances: [k] along them.
    """

    mean: np.ndarray
    vectors: np.ndarray
    variances: np.ndarray


def klt(name: str | Source, count: int | None = None, samples: int = 200_000, seed: int = 1, **options) -> Basis:
    """The Karhunen-Loeve transform of a source, from samples.

    Args:
      name, options: as for `sources.source`.
      count: of vectors that are kept; all without it.
      samples: as many are used for the estimate, and again as many to check it.

    Raises TrainingError where components of fresh samples are correlated by more than MOST_CORRELATION.
    """
    given = source(name, **options)

    def sums(seed, vectors, mean):
        total, square, chunk = 0.0, 0.0, max(1, min(samples, 2**24 // given.dim))
        for i in range(-(-samples // chunk)):
            x = np.asarray(given.sample(jax.random.fold_in(jax.random.key(seed), i), chunk), np.float64)
            x = (x - mean) @ vectors.T
            total, square = total + x.sum(0), square + x.T @ x
        n = chunk * -(-samples // chunk)
        return total / n, square / n - np.outer(total, total) / n**2

    mean, covariance = sums(seed, np.eye(given.dim), 0.0)
    variances, vectors = np.linalg.eigh(covariance)
    order = np.argsort(-variances)[:count]
    basis = Basis(mean, vectors.T[order], np.maximum(variances[order], 0.0))
    _, check = sums(seed + 1, basis.vectors, mean)
    scale = np.sqrt(np.maximum(np.diag(check), 1e-12 * check.max()))
    worst = np.abs(check / np.outer(scale, scale) - np.diag(np.diag(check) / scale**2)).max()
    if worst > MOST_CORRELATION:
        raise TrainingError(f"components are still correlated by {worst:.3f}: take more samples than {samples}")
    return basis


def sawbridge_klt(points: int, count: int) -> Basis:
    """Of the sawbridge, which has the covariance of the Brownian bridge: sqrt(2) sin(pi k t), variances 1 / (pi k)^2.

    Vectors are scaled to length 1, and variances to sums of squares over `points` times; exact as their number grows.
    """
    k = np.arange(1, count + 1)
    vectors = np.sin(np.pi * np.outer(k, np.linspace(0, 1, points)))
    vectors = np.linalg.qr(vectors.T)[0].T
    return Basis(np.zeros(points), vectors, points / (np.pi * k) ** 2)


def daubechies(points: int) -> np.ndarray:
    """[points, points]: the orthonormal wavelet transform with four taps, periodic, down to two numbers.

    Daubechies, "Orthonormal bases of compactly supported wavelets", 1988. Raises UsageError unless points is a power
    of two, 4 or more.
    """
    if points < 4 or points & (points - 1):
        raise UsageError(f"{points} points: the wavelet transform takes a power of two, 4 or more")
    root = math.sqrt(3)
    low = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * math.sqrt(2))
    high = low[::-1] * [1, -1, 1, -1]
    whole, size = np.eye(points), points
    while size >= 4:
        level = np.zeros((size, size))
        for i in range(size // 2):
            for tap in range(4):
                level[i, (2 * i + tap) % size] += low[tap]
                level[size // 2 + i, (2 * i + tap) % size] += high[tap]
        whole[:size] = level @ whole[:size]
        size //= 2
    return whole


def shannon_lower_bound(name: str | Source, lam: float) -> Point:
    """h(X) - (d/2) log2(2 pi e D / d) + lam D at its smallest: below what any code, of whatever length, reaches.

    Shannon's bound, for squared error summed over a vector. Where it asks for a negative rate, the bound is rate 0 and
    says nothing about distortion: it is useful from some two bits per vector on. Raises UsageError for a source whose
    entropy is not known.
    """
    given = source(name)
    if given.entropy is None:
        raise UsageError(f"the entropy of {given.name} is not known; those of laplace and banana are")
    distortion = given.dim / (2 * lam * math.log(2))
    rate = given.entropy - given.dim / 2 * math.log2(2 * math.pi * math.e * distortion / given.dim)
    return point(max(rate, 0.0), distortion if rate > 0 else 0.0, lam)


def blahut_arimoto(
    name: str | Source, lam: float, step: float | None = None, iterations: int = 2000, gap: float = 1e-3
) -> tuple[Point, float]:
    """The rate-distortion function where its slope is -lam: what codes of endless blocks can reach, and none surpass.

    Blahut, "Computation of channel capacity and rate-distortion functions", 1972, on a grid that the source's density
    is integrated over; reproductions lie on the same grid.

    Args:
      name: laplace or banana (a density, in one or two dimensions).
      step: of the grid; without it a fraction of the width that cells have at this lam.
      iterations: at most.
      gap: in bits; the iteration stops where the loss is known to within it.

    Returns:
      The point, and a lower bound on its loss, for the source on the grid (Csiszar's, of the dual problem).
    """
    x, mass = _grid(source(name), lam, step)
    q = np.full(len(x), 1 / len(x))
    square = (x**2).sum(-1)
    distance = np.maximum(square[:, None] + square[None] - 2 * x @ x.T, 0.0)
    kernel = np.exp(-lam * math.log(2) * distance)
    for _ in range(iterations):
        total = kernel @ q
        gain = (mass / total) @ kernel
        loss, bound = -(mass * np.log2(total)).sum(), -(mass * np.log2(total)).sum() - math.log2(gain.max())
        if loss - bound < gap:
            break
        q = q * gain
    joint = (mass / total)[:, None] * kernel * q
    distortion = (joint * distance).sum()
    return point(loss - lam * distortion, distortion, lam), float(bound)


def _grid(given: Source, lam: float, step: float | None):
    """Points [n, d] that carry all but 1e-5 of the source, and their probabilities [n]."""
    if given.log_density is None or given.dim > 2:
        raise UsageError(f"{given.name} has no density in one or two dimensions; laplace and banana have")
    x = np.asarray(given.sample(jax.random.key(0), 200_000), np.float64)
    low, high = x.min(0), x.max(0)
    if step is None:
        step = 0.12 / math.sqrt(lam) if given.dim == 1 else 0.4 / math.sqrt(lam)
    axes = [np.arange(a - step, b + 2 * step, step) for a, b in zip(low, high)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, given.dim)
    mass = np.exp(np.asarray(given.log_density(points), np.float64))
    mass /= mass.sum()
    order = np.argsort(-mass)
    kept = order[: 1 + np.searchsorted(np.cumsum(mass[order]), 1 - 1e-5)]
    return points[kept], mass[kept] / mass[kept].sum()
