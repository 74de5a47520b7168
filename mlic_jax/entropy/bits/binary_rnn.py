"""The entropy coder of recurrent codecs: a network that predicts the bits of an iteration from bits known already.

Toderici et al., "Full Resolution Image Compression with Recurrent Neural Networks", CVPR 2017, section 3.3 (BinaryRNN),
in the form of the released trainer (`progressive`). A recurrent codec sends C bits x_k for each cell of 16 x 16 pixels
in iteration k. In raster order, those of a cell are predicted from

    context    7x7 of x_k, only what stands before the cell                        C -> H, tanh
    state      3x3 of a memory s_k of the iterations before (s_0 = 0)              C -> H, tanh
    gates      LSTM that runs down the rows: both of the above at this cell and the one to its left, and the H units
               of three cells in the row above
    hidden     H -> H, tanh;   logits   H -> C: P(bit = 1) = 1 / (1 + exp(-logit))

and when an iteration is complete, it enters the memory:

    s_{k+1} = tanh 1x1 (H -> C) of tanh 1x1 (H -> H) of an LSTM over k (H units a cell) of
              tanh 3x3 (H -> C) of tanh 3x3 (C -> H) of x_k.

Each iteration has its own weights, but for the LSTM over k. Nothing is coded of a cell that gets no bits (Johnston et
al. 2018), and its codes are 0 wherever they serve as context. The published network clips P to 0.0005 .. 0.9995; here
logits are bounded, by 255/32, which is nearly that. Masked weights, which the published figure of 5.0 million
parameters counts, do not exist here.

Decoders must compute the same P as encoders did, to the last bit. So files are coded by whole numbers (`integers`):
weights of 8 bits, activations of 8 bits, which need no calibration since tanh bounds them; nonlinear functions are
tables, made when a model is exported (mlic_jax.entropy.bits.binary_rnn_integers).
"""

from __future__ import annotations

from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mlic_jax.entropy.bits import binary_rnn_integers as whole
from mlic_jax.entropy.bits.binary_rnn_integers import LARGEST_CELL, LEAD, REACH, SIGMOID_STEPS, TANH_STEPS, TAPS, Plan
from mlic_jax.entropy.bits.integers import LARGEST_LOGIT, LOGIT_ONE
from mlic_jax.entropy.bits.prior import Wave
from mlic_jax.entropy.rangecoder import Decoder, Encoder
from mlic_jax.layers import init


class Layers(nn.Module):
    """Weights of `count` layers of one kind, its name: "kernel" [count, inputs, features], "bias" [count, features]."""

    count: int
    inputs: int
    features: int

    @nn.compact
    def __call__(self):
        bias = np.zeros(self.features)
        if self.name.endswith("gates"):  # input, forget, output, candidate
            bias[self.features // 4 : self.features // 2] = 1
        # Before training a bit costs a bit.
        kernel = init.constant(0.0) if self.name == "logits" else init.uniform((3 / self.inputs) ** 0.5)
        return {
            "kernel": self.param("kernel", kernel, (self.count, self.inputs, self.features)),
            "bias": self.param("bias", init.constant(bias), (self.count, self.features)),
        }


class BinaryRNN(nn.Module):
    """A prior of the bits of a recurrent codec (mlic_jax.entropy.bits.prior): volumes are [T, h, w, C].

    The bits of a cell are present or absent together.

    Attributes:
      channels: C, bits of a cell and iteration.
      hidden: H, features of the layers and units of the LSTMs.
      iterations: how many iterations it knows.
      progressive: False leaves out the memory of iterations before: each is coded by itself.
    """

    channels: int = 32
    hidden: int = 64
    iterations: int = 16
    progressive: bool = True

    encoder = Encoder
    decoder = Decoder

    @property
    def remembers(self) -> bool:
        """Whether there is a memory."""
        return self.progressive and self.iterations > 1

    def plans(self) -> dict[str, Plan]:
        """What layers there are."""
        C, H, T = self.channels, self.hidden, self.iterations
        tanh = np.full(max(C, H), TANH_STEPS)
        gates = np.repeat([SIGMOID_STEPS, SIGMOID_STEPS, SIGMOID_STEPS, TANH_STEPS], H)
        seen = 2 * H if self.remembers else H
        plans = {
            "context": Plan(T, TAPS * C, H, True, tanh[:H]),
            "gates": Plan(T, 2 * seen + 3 * H, 4 * H, False, gates),
            "hidden": Plan(T, H, H, False, tanh[:H]),
            "logits": Plan(T, H, C, False, np.full(C, LOGIT_ONE)),
        }
        if self.remembers:
            plans |= {
                "state": Plan(T, 9 * C, H, False, tanh[:H]),
                "memory_wide": Plan(T - 1, 9 * C, H, True, tanh[:H]),
                "memory_narrow": Plan(T - 1, 9 * H, C, False, tanh[:C]),
                "memory_gates": Plan(1, C + H, 4 * H, False, gates),
                "memory_hidden": Plan(T - 1, H, H, False, tanh[:H]),
                "memory_state": Plan(T - 1, H, C, False, tanh[:C]),
            }
        return plans

    @nn.compact
    def bits(self, signs: jax.Array, present: jax.Array) -> jax.Array:
        """Code lengths, for training on codes that are themselves not trained.

        Args:
          signs: float32 [B, T, h, w, C], -1 or +1; T <= iterations.
          present: bool, broadcasts to that shape.

        Returns:
          float32 [B, T, h, w, C], bits; 0 where not present. Differentiable in the parameters, not in the signs.
        """
        weights = {
            name: Layers(plan.count, plan.inputs, plan.features, name=name)() for name, plan in self.plans().items()
        }
        self._check_size(signs.shape)
        codes = lax.stop_gradient(jnp.where(present, signs.astype(jnp.float32), 0)).swapaxes(0, 1)  # [T, B, h, w, C]
        logits = self._logits(weights, codes)
        bits = jax.nn.softplus(-codes * logits) * np.float32(1 / np.log(2))
        return jnp.where(codes != 0, bits, 0).swapaxes(0, 1)

    def integers(self) -> dict[str, dict[str, np.ndarray]]:
        """See `mlic_jax.entropy.bits.binary_rnn_integers.integers`."""
        return whole.integers(self.plans(), self.variables["params"])

    def check(self) -> None:
        """See `mlic_jax.entropy.bits.binary_rnn_integers.check`."""
        whole.check(self.plans(), self.variables.get("state", {}))

    def streams(self, signs: np.ndarray, present: np.ndarray) -> Iterator[Iterator[Wave]]:
        """One stream for each iteration; the first K of them are those of a volume of K iterations."""
        self._check_size(signs.shape)
        walk = whole.Walk(self, self.variables["state"], signs, present[..., 0])
        return walk.streams()

    def _check_size(self, shape):
        """Raises ValueError for volumes [.., T, h, w, C] that are not of this network."""
        if shape[-4] > self.iterations or shape[-1] != self.channels:
            raise ValueError(f"codes {shape}: at most {self.iterations} iterations of {self.channels} bits are known")

    def _logits(self, weights, codes):
        """Of codes [T, B, h, w, C], row by row and all iterations at once; the same shape."""
        count, batch, height, width, _ = codes.shape
        own = {name: jax.tree.map(lambda a: a[:count], layers) for name, layers in weights.items()}
        padded = jnp.pad(codes, ((0, 0), (0, 0), (REACH, 0), (REACH, REACH), (0, 0)))

        def row(carry, inputs):
            h, c = carry
            i, *a = inputs
            rows = lax.dynamic_slice_in_dim(padded, i, LEAD, axis=2)
            taps = [rows[:, :, tap // 7, tap % 7 : tap % 7 + width] for tap in range(TAPS)]
            a = jnp.concatenate([jnp.tanh(_dense(own["context"], jnp.concatenate(taps, -1))), *a], -1)
            left = jnp.pad(a, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
            above = jnp.pad(h, ((0, 0), (0, 0), (1, 1), (0, 0)))
            seen = jnp.concatenate([left, a, *(above[:, :, j : j + width] for j in range(3))], -1)
            h, c = _lstm(_dense(own["gates"], seen), c)
            return (h, c), _dense(own["logits"], jnp.tanh(_dense(own["hidden"], h)))

        start = jnp.zeros((count, batch, width, self.hidden))
        rows = [jnp.arange(height)]
        if self.remembers:
            known = jnp.tanh(_dense(own["state"], _around(self._states(own, codes))))
            rows.append(jnp.moveaxis(known, 2, 0))
        logits = lax.scan(row, (start, start), tuple(rows))[1]
        bound = LARGEST_LOGIT / LOGIT_ONE
        return jnp.clip(jnp.moveaxis(logits, 0, 2), -bound, bound)

    def _states(self, weights, codes):
        """s_k of every iteration: [T, B, h, w, C]."""
        shared = jax.tree.map(lambda a: a[0], weights["memory_gates"])

        def remember(carry, inputs):
            h, c = carry
            x, own = inputs
            x = jnp.tanh(_dense(own["memory_wide"], _around(x)))
            x = jnp.tanh(_dense(own["memory_narrow"], _around(x)))
            h, c = _lstm(_dense(shared, jnp.concatenate([x, h], -1)), c)
            s = jnp.tanh(_dense(own["memory_state"], jnp.tanh(_dense(own["memory_hidden"], h))))
            return (h, c), s

        names = ("memory_wide", "memory_narrow", "memory_hidden", "memory_state")
        own = {name: jax.tree.map(lambda a: a[: len(codes) - 1], weights[name]) for name in names}
        start = jnp.zeros((*codes.shape[1:4], self.hidden))
        states = lax.scan(remember, (start, start), (codes[:-1], own))[1]
        return jnp.concatenate([jnp.zeros_like(codes[:1]), states])


def _dense(layers, x):
    """[.., I] by one layer; or [T, .., I] by T layers, each its own."""
    kernel, bias = layers["kernel"], layers["bias"]
    if kernel.ndim == 2:
        return (x.reshape(-1, x.shape[-1]) @ kernel + bias).reshape(*x.shape[:-1], -1)
    return (x.reshape(len(x), -1, x.shape[-1]) @ kernel + bias[:, None]).reshape(*x.shape[:-1], -1)


def _around(x):
    """3x3 of zero-padded [.., h, w, C]: [.., h, w, 9 C]."""
    height, width = x.shape[-3:-1]
    padded = jnp.pad(x, ((0, 0),) * (x.ndim - 3) + ((1, 1), (1, 1), (0, 0)))
    taps = [padded[..., i : i + height, j : j + width, :] for i in range(3) for j in range(3)]
    return jnp.concatenate(taps, -1)


def _lstm(gates, c):
    """(h, c) after one step. gates: [.., 4 H], before their sigmoids and tanh: input, forget, output, candidate."""
    i, f, o, g = jnp.split(gates, 4, -1)
    c = jnp.clip(jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g), -LARGEST_CELL, LARGEST_CELL)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c
