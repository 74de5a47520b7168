"""What may stand for the rounding of coefficients, by name: `ROUNDINGS`; `layer.simulate` has the table.

Each is a function of z, the coefficient in steps of the quantisation table ([B, blocks, 8, 8]), and of one PRNG
key per example, which all but "noise" ignore.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

SOFT_ALPHA = 5.0  # of `soft`: a gradient of 2.5 midway between integers, of 0.07 at them
FOURIER_TERMS = 10  # of `fourier`, as in its source


@jax.custom_jvp
def straight_through(smooth: jax.Array, exact: jax.Array) -> jax.Array:
    """`exact`, with the gradient of `smooth`. Adding their difference instead would round once more."""
    del smooth
    return exact


@straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    return primals[1], tangents[0]


def half_away(z: jax.Array) -> jax.Array:
    """z to the nearest integer, halves away from zero.

    Coefficients are multiples of 1/8 over the step, so that exact halves are frequent. An accelerator may divide with
    an error of two units in the last place; 1e-4 is more than that and less than the distance of any other coefficient
    to a half, which is at least 1 / (16 * 255).
    """
    return jnp.sign(z) * jnp.floor(jnp.abs(z) + (0.5 + 1e-4))


def hard(z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
    """Rounded, without gradient."""
    del keys
    return jax.lax.stop_gradient(half_away(z))


def ste(z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
    """Rounded, with the gradient of the identity (Theis et al. 2017; Bengio et al. 2013)."""
    del keys
    return straight_through(z, half_away(z))


def cubic(z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
    """round(z) + (z - round(z))^3 (Shin and Song 2017)."""
    del keys
    nearest = jax.lax.stop_gradient(half_away(z))
    return nearest + (z - nearest) ** 3


def ste_cubic(z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
    """Rounded, with the gradient of `cubic` (Reich et al. 2024)."""
    return straight_through(cubic(z), half_away(z))


def noise(z: jax.Array, keys: jax.Array) -> jax.Array:
    """z and noise uniform in -1/2..1/2, as rounding errors of wide distributions are (Balle et al. 2017)."""
    draw = jax.vmap(lambda key: jax.random.uniform(key, z.shape[1:], z.dtype, -0.5, 0.5))
    return z + draw(keys)


def sin(z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
    """z - sin(2 pi z) / (2 pi) (Korus and Memon 2019)."""
    del keys
    return z - jnp.sin(2 * math.pi * z) / (2 * math.pi)


def fourier(z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
    """z less the first ten terms of the Fourier series of the rounding error (Xing et al. 2021)."""
    del keys
    # The error's period is 1: the fraction keeps the arguments small, where float32 knows them well.
    angle = 2 * math.pi * (z - jax.lax.stop_gradient(jnp.floor(z)))
    terms = [(-1) ** (k + 1) / (k * math.pi) * jnp.sin(k * angle) for k in range(1, FOURIER_TERMS + 1)]
    return z - sum(terms)


def soft(z: jax.Array, keys: jax.Array | None = None) -> jax.Array:
    """A sigmoid from each integer to the next, scaled to meet them (Agustsson and Theis 2020)."""
    del keys
    below = jax.lax.stop_gradient(jnp.floor(z))
    return below + 0.5 + jnp.tanh(SOFT_ALPHA * (z - below - 0.5)) / (2 * math.tanh(SOFT_ALPHA / 2))


ROUNDINGS = {
    "hard": hard,
    "ste": ste,
    "cubic": cubic,
    "ste_cubic": ste_cubic,
    "noise": noise,
    "sin": sin,
    "fourier": fourier,
    "soft": soft,
}
# Those whose result is integers, as a file holds them.
INTEGER = frozenset({"hard", "ste", "ste_cubic"})
