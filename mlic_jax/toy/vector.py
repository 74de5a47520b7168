"""Entropy-constrained vector quantisation: what transform codes are compared with, where dimensions are few.

Two ways to the same codebook: `ecvq` alternates assignments, centroids and frequencies (Chou, Lookabaugh, Gray,
"Entropy-constrained vector quantization", 1989); `vecvq` learns codewords and probabilities by gradient descent (Balle
et al., "Nonlinear Transform Coding", 2021), where the cross-entropy of the probabilities stands for the rate, and
bounds it.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mlic_jax.errors import UsageError
from mlic_jax.toy.points import Point, point
from mlic_jax.toy.sources import Source, source

# Numbers held in memory at a time.
_CHUNK = 1 << 24
# The iteration goes over so many samples until it stands still, and only then over all.
_FIRST_SAMPLES = 20_000
# What vecvq's codewords start from, where they are not samples; (spread, codewords).
_UNIFORM_START = {"laplace": 20.0}


class VectorCode(NamedTuple):
    """A codebook with ideal entropy coding.

    Attributes:
      codewords: float64 [m, d].
      probabilities: float64 [m].
      rate, distortion, loss: see `points.Point`; of samples that the codebook was not made from.
      lam: the trade-off it was made for.
      source: what it was made for.
    """

    codewords: np.ndarray
    probabilities: np.ndarray
    rate: float
    distortion: float
    loss: float
    lam: float
    source: Source

    @property
    def point(self) -> Point:
        return Point(self.rate, self.distortion, self.loss)


def assign(x: np.ndarray, codewords: np.ndarray, probabilities: np.ndarray, weight: float) -> np.ndarray:
    """The cheapest codeword of each sample: bits plus weight times squared error.

    Args:
      x: [n, d].
      codewords: [m, d].
      probabilities: [m].
      weight: lam times the source's `distortion`.

    Returns:
      int64 [n].
    """
    offset = (weight * (codewords**2).sum(-1) - np.log2(probabilities)).astype(np.float32)
    scaled = (2 * weight * codewords.T).astype(np.float32)
    chunk = max(1, _CHUNK // 16 // len(codewords))
    parts = [np.argmin(offset - x[i : i + chunk].astype(np.float32) @ scaled, axis=-1) for i in range(0, len(x), chunk)]
    return np.concatenate(parts)


def measure(given: Source, codewords, probabilities, lam: float, samples: int, seed: int) -> Point:
    """What a codebook costs on fresh samples."""
    rate = distortion = 0.0
    chunk = min(samples, max(1, _CHUNK // given.dim))
    count = -(-samples // chunk)
    for i in range(count):
        x = np.asarray(given.sample(jax.random.fold_in(jax.random.key(seed), i), chunk), np.float64)
        index = assign(x, codewords, probabilities, lam * given.distortion)
        rate -= np.log2(probabilities[index]).mean() / count
        distortion += given.distortion * ((x - codewords[index]) ** 2).sum(-1).mean() / count
    return point(rate, distortion, lam)


def _lloyd(x, codewords, probabilities, weight, tolerance, iterations):
    before = np.inf
    for _ in range(iterations):
        index = assign(x, codewords, probabilities, weight)
        counts = np.bincount(index, minlength=len(codewords))
        used = counts > 0
        sums = np.stack([np.bincount(index, column, len(codewords)) for column in x.T], -1)
        codewords = sums[used] / counts[used, None]
        probabilities = counts[used] / len(x)
        # Within its cell a codeword's squared error is the cell's second moment less that of its centroid.
        distortion = ((x**2).sum() - (counts[used, None] * codewords**2).sum()) / len(x)
        loss = -(probabilities * np.log2(probabilities)).sum() + weight * distortion
        if before - loss < tolerance * abs(loss):
            break
        before = loss
    return codewords, probabilities, loss


def _without(x, codewords, probabilities, loss, weight):
    """Takes out codewords, the rarest first, as long as the loss falls: Lloyd's iteration alone drops those only that
    nobody wants, and stops at codebooks that are too large."""
    i = 0
    while i < len(codewords) > 1:
        rest = np.delete(np.arange(len(codewords)), np.argsort(probabilities)[i])
        tried = _lloyd(x, codewords[rest], probabilities[rest] / probabilities[rest].sum(), weight, 1e-4, 30)
        if tried[2] < loss:
            codewords, probabilities, loss = tried
        else:
            i += 1
    return codewords, probabilities


def ecvq(
    name: str | Source = "banana",
    lam: float = 1.0,
    codewords: int = 256,
    samples: int = 200_000,
    seed: int = 0,
    tolerance: float = 1e-6,
    iterations: int = 1000,
    **options,
) -> VectorCode:
    """The codebook of the alternating iteration, less codewords that nobody wants or that are better left out.

    Args:
      name, options: as for `sources.source`.
      lam: what a unit of distortion costs, in bits.
      codewords: as many samples are the first codebook.
      samples: it is made from so many.
      tolerance: relative; the iteration stops where an improvement of the loss is smaller.

    Raises UsageError for lam not above 0.
    """
    if not lam > 0:
        raise UsageError(f"lam is {lam}: it must be above 0")
    given = source(name, **options)
    drawn, first, fresh = jax.random.split(jax.random.key(seed), 3)
    x = np.asarray(given.sample(drawn, samples), np.float64)
    book = np.asarray(given.sample(first, codewords), np.float64)
    probabilities = np.full(codewords, 1 / codewords)
    weight = lam * given.distortion
    few = x[: min(_FIRST_SAMPLES, _CHUNK // 8 // given.dim)]
    start = _lloyd(few, book, probabilities, weight, tolerance, iterations)
    found = [
        _lloyd(x, *candidate, weight, tolerance, iterations) for candidate in (start[:2], _without(few, *start, weight))
    ]
    book, probabilities, _ = min(found, key=lambda result: result[2])
    cost = measure(given, book, probabilities, lam, samples, int(jax.random.randint(fresh, (), 0, 2**30)))
    return VectorCode(book, probabilities, *cost, lam, given)


def _first_codebook(given, codewords, key):
    spread = _UNIFORM_START.get(given.name)
    if spread:
        return jax.random.uniform(key, (codewords, given.dim), minval=-spread, maxval=spread)
    book = given.sample(key, codewords)
    # Samples of a process of one phase lie on a curve, and equal ones would never part.
    return book + (0.1 * jax.random.normal(key, book.shape) if given.distortion < 1 else 0.0)


def vecvq(
    name: str | Source = "banana",
    lam: float = 1.0,
    codewords: int = 256,
    steps: int = 15_000,
    batch: int = 1024,
    learning_rate: float = 1e-2,
    logit_scale: float = 1.0,
    samples: int = 200_000,
    seed: int = 0,
    **options,
) -> VectorCode:
    """The codebook of stochastic gradient descent (Adam; the rate falls to a tenth, a hundredth and a thousandth at a
    half, three and seven eighths of the steps).

    Args:
      name, lam, codewords, samples, options: as for `ecvq`; samples are only measured.
      batch: samples of a step, each drawn once.
      logit_scale: probabilities are softmax(logits / logit_scale).
    """
    if not lam > 0:
        raise UsageError(f"lam is {lam}: it must be above 0")
    given = source(name, **options)
    first, noise, drawn, fresh = jax.random.split(jax.random.key(seed), 4)
    params = {
        "codewords": _first_codebook(given, codewords, first),
        "logits": logit_scale / 10 * jax.random.normal(noise, (codewords,)),
    }
    optimiser = optax.adam(falling(learning_rate, steps))
    weight = lam * given.distortion

    def loss(params, x):
        bits = -jax.nn.log_softmax(params["logits"] / logit_scale) / jnp.log(2.0)
        book = params["codewords"]
        cost = bits + weight * ((book**2).sum(-1) - 2 * x @ book.T)
        index = jax.lax.stop_gradient(jnp.argmin(cost, -1))
        return (bits[index] + weight * ((x - book[index]) ** 2).sum(-1)).mean()

    @functools.partial(jax.jit, static_argnums=2, donate_argnums=(0, 1))
    def run(params, state, count, start):
        def step(carry, i):
            params, state = carry
            gradient = jax.grad(loss)(params, given.sample(jax.random.fold_in(drawn, i), batch))
            updates, state = optimiser.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), start + jnp.arange(count))[0]

    params, _ = run(params, optimiser.init(params), steps, 0)
    book = np.asarray(params["codewords"], np.float64)
    probabilities = np.asarray(jax.nn.softmax(params["logits"] / logit_scale), np.float64)
    used = probabilities > 1e-12
    book, probabilities = book[used], probabilities[used]
    cost = measure(given, book, probabilities, lam, samples, int(jax.random.randint(fresh, (), 0, 2**30)))
    return VectorCode(book, probabilities, *cost, lam, given)


def falling(learning_rate: float, steps: int):
    """A tenth, a hundredth and a thousandth of the rate from 1/2, 3/4 and 7/8 of the steps on."""
    return optax.piecewise_constant_schedule(learning_rate, {int(steps * part): 0.1 for part in (0.5, 0.75, 0.875)})
