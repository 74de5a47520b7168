"""Convolutional recurrent cells: a state [B, h, w, C] at every place, which convolutions mix with the input.

Toderici et al. 2017, "Full Resolution Image Compression with Recurrent Neural Networks", section 3.1. Every cell is a
Flax module

    start(batch, height, width) -> state                    all zeros; the size is that of outputs
    __call__(state, x [B, stride h, stride w, Cin], inside) -> (state, output [B, h, w, features])

where `inside` is the part of h x w that is picture (None: all of it; layers/windows.py): hidden states and outputs are
zero elsewhere, so that every convolution sees around the picture what its own padding would be. The input is to be.
It is convolved 3x3 with the layer's stride, and whose hidden state is convolved with `hidden_kernel`; the
convolutions of all gates are one. Names: s is the logistic function, * a convolution, products are of single samples.
"""

from __future__ import annotations

import hashlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.layers.conv import Conv
from mlic_jax.layers.precision import Precision
from mlic_jax.layers.windows import mask

# What is added to the forget gate's sum, so that a cell remembers before it has learned to.
FORGET = 1.0
# Output samples of one image up to which, on a CPU, a convolution is one product.
SMALL = 256


def convolution(features: int, kernel: int, stride: int = 1, *, gain: float = 1.0, **options) -> Conv:
    """A Conv as recurrent networks have them: kernels begin normal, and tiny images are one product."""
    return Conv(features, kernel, stride, gain=gain, product_up_to=SMALL, **options)


class _Cell(nn.Module):
    """What all cells are told.

    Attributes:
      features: channels of state and output.
      stride: of the output grid.
      hidden_kernel: odd size of the kernels of hidden states.
      gain: inputs' kernels begin normal with this over the square root of their fan in.
      precision: of products, see layers/precision.py.
      dtype: of convolutions; states, and what becomes of them, are float32.
    """

    features: int
    stride: int = 1
    hidden_kernel: int = 1
    gain: float = 1.0
    precision: Precision | None = None
    dtype: jnp.dtype | None = None

    def start(self, batch: int, height: int, width: int):
        return jnp.zeros((batch, height, width, self.features))

    def of_input(self, count, x):
        """[B, h, w, count]: the input's part of the gates' sums, and their biases."""
        options = {"gain": self.gain, "precision": self.precision, "dtype": self.dtype}
        return convolution(count, 3, self.stride, name="input", **options)(x).astype(jnp.float32)

    def of_hidden(self, count, hidden, name="hidden"):
        options = {"use_bias": False, "precision": self.precision, "dtype": self.dtype}
        return convolution(count, self.hidden_kernel, name=name, **options)(hidden).astype(jnp.float32)


class LSTM(_Cell):
    """i, f, o = s(W * x + U * h + b), j = tanh(W * x + U * h + b), c' = f c + i j, h' = o tanh(c')."""

    def start(self, batch, height, width):
        zeros = super().start(batch, height, width)
        return zeros, zeros

    @nn.compact
    def __call__(self, state, x, inside=None):
        memory, hidden = state
        count = 4 * self.features
        i, f, o, j = jnp.split(self.of_input(count, x) + self.of_hidden(count, hidden), 4, axis=-1)
        memory = nn.sigmoid(f + FORGET) * memory + nn.sigmoid(i) * jnp.tanh(j)
        hidden = mask(nn.sigmoid(o) * jnp.tanh(memory), inside)
        return (memory, hidden), hidden


class GRU(_Cell):
    """z, r = s(W * x + U * h + b), h' = (1 - z) h + z tanh(W * x + U * (r h) + b); the output is h'.

    With residuals, as the paper has it: h' has a_h (W_h * h) added, and the output is h' + a_x (W_ox * x). The state
    that is carried on is h', not the output.

    Attributes:
      residual: a_h = a_x, 0.1 in the paper; None for the plain cell, which has none of these kernels.
    """

    residual: float | None = None

    @nn.compact
    def __call__(self, hidden, x, inside=None):
        n = self.features
        plain = self.residual is None
        of_input = self.of_input(3 * n if plain else 4 * n, x)
        of_hidden = self.of_hidden(2 * n if plain else 3 * n, hidden)
        z, r = jnp.split(nn.sigmoid(of_input[..., : 2 * n] + of_hidden[..., : 2 * n]), 2, axis=-1)
        candidate = jnp.tanh(of_input[..., 2 * n : 3 * n] + self.of_hidden(n, r * hidden, "candidate"))
        hidden = (1 - z) * hidden + z * candidate
        if plain:
            hidden = mask(hidden, inside)
            return hidden, hidden
        hidden = mask(hidden + self.residual * of_hidden[..., 2 * n :], inside)
        return hidden, mask(hidden + self.residual * of_input[..., 3 * n :], inside)


class AssociativeLSTM(_Cell):
    """An LSTM whose memory is complex and holds several copies under permuted keys (Danihelka et al. 2016).

    Units are complex, half as many as features; k numbers the copies, P_k is a fixed permutation of units, and
    bound(z) = z / max(1, |z|):

        f, i, o = s(.)  real;  j, r_in, r_out = bound(.)  complex, of sums as in the LSTM
        c_k' = f c_k + (P_k r_in) i j
        h'   = o bound(mean_k (P_k r_out) c_k'), real parts first, then imaginary ones

    Attributes:
      features: even.
      copies: of the memory.
    """

    copies: int = 4

    def start(self, batch, height, width):
        zeros = jnp.zeros((batch, height, width, self.copies, self.features // 2))
        return zeros, zeros, super().start(batch, height, width)

    @nn.compact
    def __call__(self, state, x, inside=None):
        real, imaginary, hidden = state
        n = self.features // 2
        sums = self.of_input(9 * n, x) + self.of_hidden(9 * n, hidden)
        f, i, o, *complex_ones = jnp.split(sums, 9, axis=-1)
        f, i, o = nn.sigmoid(f + FORGET)[..., None, :], nn.sigmoid(i)[..., None, :], nn.sigmoid(o)
        j, key_in, key_out = (bound(*complex_ones[k : k + 2]) for k in (0, 2, 4))
        written = _product(tuple(self._permuted(part) for part in key_in), [i * part[..., None, :] for part in j])
        real, imaginary = f * real + written[0], f * imaginary + written[1]
        read = _product(tuple(self._permuted(part) for part in key_out), (real, imaginary))
        read = bound(*(part.mean(-2) for part in read))
        hidden = mask(jnp.concatenate([o * part for part in read], axis=-1), inside)
        return (real, imaginary, hidden), hidden

    def _permuted(self, x):
        """[.., n] -> [.., copies, n], by a product: a gather's gradient would be a slow scatter. Sums of one term."""
        chosen = np.eye(x.shape[-1], dtype=np.float32)[permutations(self.copies, x.shape[-1]).ravel()]
        y = jnp.dot(x, chosen.T, precision=jax.lax.Precision.HIGHEST)
        return y.reshape(*x.shape[:-1], self.copies, x.shape[-1])


def permutations(copies: int, units: int) -> np.ndarray:
    """int [copies, units]: copy k of unit u is unit [k, u]. From hashes, so that no library's generator decides it."""

    def order(copy):
        return sorted(range(units), key=lambda unit: hashlib.sha256(f"{copy} {unit}".encode()).digest())

    return np.array([order(copy) for copy in range(copies)])


def bound(real: jax.Array, imaginary: jax.Array) -> tuple[jax.Array, jax.Array]:
    """z / max(1, |z|)."""
    factor = jax.lax.rsqrt(jnp.maximum(real**2 + imaginary**2, 1.0))
    return real * factor, imaginary * factor


def _product(a, b):
    """Of two complex arrays."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]
