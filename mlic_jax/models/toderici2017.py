"""Full resolution image compression with recurrent neural networks: every pass codes what the passes before left over.

Toderici, Vincent, Johnston, Hwang, Minnen, Shor, Covell, CVPR 2017, https://arxiv.org/abs/1608.05148. One model has
every rate: pass t sends as many bits as any other, and a decoder shows the picture of as many passes as it has.

    residual -> E -> B -> bits -> D -> correction;  picture += correction;  residual = image - picture

    E  3x3 conv 64 / 2;  cells 256 / 2, 512 / 2, 512 / 2
    B  1x1 conv, tanh, sign: 32 bits for each 16x16 pixels
    D  1x1 conv 512;  cells 512, 512, 256, 128, each with depth-to-space x2 behind it;  1x1 conv 3, tanh / 2

Cells are those of layers.recurrent; their kernels are 3x3 for inputs, for hidden states 1x1 but in the last two of D.
The frameworks are the paper's (section 3.2): what D says is the picture ("one_shot"), or a correction ("additive"), or
a correction that is small where a gain is large ("scaling"); the gain is a network's, of the picture decoded so far.

The paper leaves open, and we took: values of pixels in -1/2..1/2 and tanh / 2 at the end, of the public PyTorch
implementation; four copies in the associative LSTM; its plain LSTM in E; biases; 1 added to forget gates.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mlic_jax.codec import Codec
from mlic_jax.families.recurrent import Recurrent
from mlic_jax.families.recurrent_codec import ENTROPY, check_recurrent, recurrent_codec
from mlic_jax.layers.precision import Precision
from mlic_jax.layers.recurrent import GRU, LSTM, AssociativeLSTM, convolution
from mlic_jax.layers.space import depth_to_space, space_to_depth
from mlic_jax.layers.windows import Inside, mask

CELLS = ("lstm", "gru", "residual_gru", "associative_lstm")
FRAMEWORKS = ("one_shot", "additive", "scaling")
RESIDUAL = 0.1  # a_h and a_x of the residual GRU
# Of the hidden states in E1..E3 and D1..D4.
HIDDEN_KERNELS = {"2017": ((1, 1, 1), (1, 1, 3, 3)), "3x3": ((3, 3, 3), (3, 3, 3, 3))}
# The paper's widths; a model's are these by its divisor.
E_CONV, E_CELLS = 64, (256, 512, 512)
D_CONV, D_CELLS = 512, (512, 512, 256, 128)
# Those of D are not below these: depth-to-space leaves a fourth, of which three colours are made in the end.
D_LEAST = (32, 32, 32, 16)
DIVISORS = (1, 2, 4, 8, 16, 32)
PUBLISHED = {"divisor": 1, "code": 32, "iterations": 16}
TINY = {"divisor": 16, "code": 32, "iterations": 8}
TOY = {"divisor": 32, "code": 8, "iterations": 3}


# Initial gains of inputs' kernels in E, in D, and of B's. Gates half open make of a small input a fourth, so that E
# needs much for untrained bits to say something of the picture; D needs little, or it learns first to keep their noise
# low.
E_GAIN, D_GAIN, B_GAIN = 4.0, 0.5, 4.0
# An associative memory multiplies three bounded numbers, which are to begin near their bounds.
ASSOCIATIVE_GAIN = 4.0


def make_cell(
    kind: str, features: int, stride: int, hidden_kernel: int, copies: int, gain: float, **options: Any
) -> nn.Module:
    """A cell by its name in CELLS."""
    shared = {"features": features, "stride": stride, "hidden_kernel": hidden_kernel, **options}
    if kind == "lstm":
        return LSTM(gain=gain, **shared)
    if kind == "associative_lstm":
        return AssociativeLSTM(gain=ASSOCIATIVE_GAIN, copies=copies, **shared)
    return GRU(gain=gain, residual=RESIDUAL if kind == "residual_gru" else None, **shared)


class Encoder(nn.Module):
    """E and B: what is left over, [B, H, W, 3] -> code before its sign, [B, H/16, W/16, code] in (-1, 1)."""

    cell: str
    divisor: int
    code: int
    kernels: tuple[int, int, int]
    precision: Precision | None = None
    dtype: jnp.dtype | None = None

    def setup(self):
        options = {"precision": self.precision, "dtype": self.dtype}
        # The associative memory is the decoder's alone.
        kind = "lstm" if self.cell == "associative_lstm" else self.cell
        self.first = convolution(E_CONV // self.divisor, 3, 2, **options)
        widths = zip(E_CELLS, self.kernels, strict=True)
        self.cells = [
            make_cell(kind, width // self.divisor, 2, kernel, 0, E_GAIN, **options) for width, kernel in widths
        ]
        self.last = convolution(self.code, 1, gain=B_GAIN, **options)

    def start(self, batch, height, width):
        return tuple(cell.start(batch, height // n, width // n) for cell, n in zip(self.cells, (4, 8, 16), strict=True))

    def __call__(self, states, x, inside=None):
        inside = scaled(inside, 1, 2)
        x, after = mask(self.first(x), inside), []
        for cell, state in zip(self.cells, states, strict=True):
            inside = scaled(inside, 1, 2)
            state, x = cell(state, x, inside)
            after.append(state)
        return tuple(after), jnp.tanh(self.last(x).astype(jnp.float32))


class Decoder(nn.Module):
    """D: code [B, H/16, W/16, code] -> picture or correction, [B, H, W, 3] in (-1/2, 1/2)."""

    cell: str
    divisor: int
    kernels: tuple[int, int, int, int]
    copies: int
    precision: Precision | None = None
    dtype: jnp.dtype | None = None

    def setup(self):
        options = {"precision": self.precision, "dtype": self.dtype}
        self.first = convolution(D_CONV // self.divisor, 1, **options)
        widths = [max(width // self.divisor, least) for width, least in zip(D_CELLS, D_LEAST, strict=True)]
        self.cells = [
            make_cell(self.cell, width, 1, kernel, self.copies, D_GAIN, **options)
            for width, kernel in zip(widths, self.kernels, strict=True)
        ]
        self.last = convolution(3, 1, **options)

    def start(self, batch, height, width):
        scales = (16, 8, 4, 2)
        return tuple(cell.start(batch, height // n, width // n) for cell, n in zip(self.cells, scales, strict=True))

    def __call__(self, states, code, inside=None):
        inside = scaled(inside, 1, 16)
        x, after = mask(self.first(code), inside), []
        for cell, state in zip(self.cells, states, strict=True):
            state, x = cell(state, x, inside)
            x, inside = depth_to_space(x, 2, order="torch"), scaled(inside, 2)
            after.append(state)
        return tuple(after), mask(jnp.tanh(self.last(x).astype(jnp.float32)) / 2, inside)


class Gain(nn.Module):
    """Picture [B, H, W, 3] -> [B, H/32, W/32, 1], by how much what is left over is enlarged: above 1."""

    precision: Precision | None = None
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, shown, inside=None):
        x, options = shown, {"precision": self.precision, "dtype": self.dtype}
        for _ in range(4):
            inside = scaled(inside, 1, 2)
            x = mask(nn.elu(convolution(32, 3, 2, **options)(x)), inside)
        # A convolution 2x2 of stride 2.
        return nn.elu(convolution(1, 1, **options)(space_to_depth(x, 2, order="torch"))).astype(jnp.float32) + 2


class Toderici2017(Recurrent):
    """E, B, D, and G in the scaling framework; those of Johnston et al. 2018 are the same with other options."""

    cell: str
    framework: str
    divisor: int
    hidden_kernels: str
    copies: int
    precision: Precision | None = None
    dtype: jnp.dtype | None = None

    @property
    def stride(self):
        return 32 if self.framework == "scaling" else 16

    def setup(self):
        of_encoder, of_decoder = HIDDEN_KERNELS[self.hidden_kernels]
        self.encoder = Encoder(self.cell, self.divisor, self.code, of_encoder, self.precision, self.dtype)
        self.decoder = Decoder(self.cell, self.divisor, of_decoder, self.copies, self.precision, self.dtype)
        if self.framework == "scaling":
            self.gain = Gain(self.precision, self.dtype)

    def start(self, batch, height, width):
        gain = jnp.ones((batch, height // 32, width // 32, 1)) if self.framework == "scaling" else None
        of_decoder = (self.decoder.start(batch, height, width), jnp.zeros((batch, height, width, 3)), gain)
        return self.encoder.start(batch, height, width), of_decoder

    def shown(self, state):
        return state[1]

    def analyze(self, state, image, decoder_state, inside=None):
        _, shown, gain = decoder_state
        left = image - shown
        return self.encoder(state, left if gain is None else left * hold(gain), inside)

    def synthesize(self, state, code, inside=None):
        states, shown, gain = state
        states, said = self.decoder(states, code, inside)
        if self.framework == "one_shot":
            return states, said, gain
        if gain is None:
            return states, shown + said, gain
        shown = shown + said / hold(gain)
        return states, shown, self.gain(shown, inside)


def scaled(inside: Inside | None, factor: int, divisor: int = 1) -> Inside | None:
    """The part of a window that is picture, after a layer that changes lengths by factor / divisor."""
    return None if inside is None else inside.scaled(Fraction(factor, divisor))


def hold(gain: jax.Array) -> jax.Array:
    """The gain of every 32x32 pixels, for each of them: [B, h, w, 1] -> [B, 32 h, 32 w, 1]."""
    batch, height, width, _ = gain.shape
    wide = jnp.broadcast_to(gain[:, :, None, :, None], (batch, height, 32, width, 32, 1))
    return wide.reshape(batch, 32 * height, 32 * width, 1)


def networks(
    model: str,
    *,
    cell: str,
    framework: str,
    divisor: int,
    code: int,
    iterations: int,
    hidden_kernels: str,
    copies: int,
    prime_steps: int = 0,
    diffuse_steps: int = 0,
    precision: Precision | None = None,
    dtype: jnp.dtype | None = None,
) -> Toderici2017:
    """The checked networks of `model`; arguments as in `toderici2017` and `johnston2018`. Raises UsageError."""
    check_recurrent(
        model,
        (("cell", cell, CELLS), ("framework", framework, FRAMEWORKS), ("divisor", divisor, DIVISORS),
         ("hidden_kernels", hidden_kernels, tuple(HIDDEN_KERNELS))),
        code, iterations, prime_steps, diffuse_steps, copies,
    )  # fmt: skip
    return Toderici2017(
        code=code,
        iterations=iterations,
        prime_steps=prime_steps,
        diffuse_steps=diffuse_steps,
        cell=cell,
        framework=framework,
        divisor=divisor,
        hidden_kernels=hidden_kernels,
        copies=copies,
        precision=precision,
        dtype=dtype,
    )


def toderici2017(
    cell: str = "lstm",
    framework: str = "additive",
    divisor: int = 1,
    code: int = 32,
    iterations: int = 16,
    copies: int = 4,
    entropy: str = ENTROPY[0],
    remat: bool = True,
    precision: Precision | None = None,
    dtype: jnp.dtype | None = None,
) -> Codec:
    """The codec, with the objectives "rd" (E, B, D and G) and "entropy" (the entropy coder alone, afterwards).

    Args:
      cell: one of CELLS.
      framework: one of FRAMEWORKS.
      divisor: of the paper's widths, one of DIVISORS.
      code: bits of 16x16 pixels in a pass.
      iterations: passes, at most.
      copies: of an associative LSTM's memory.
      entropy: one of recurrent_codec.ENTROPY: how bits are coded.
      remat: in training, compute what is within a pass again for the gradient: a fraction of the memory, a third more
        time.
      precision: of products in training, see layers/precision.py.
      dtype: of convolutions in training; float32 where None.

    Raises:
      UsageError: an argument out of range.
    """
    architecture: dict[str, Any] = {
        "cell": cell, "framework": framework, "divisor": divisor, "code": code, "iterations": iterations,
        "copies": copies,
    }  # fmt: skip
    module = networks("toderici2017", **architecture, hidden_kernels="2017", precision=precision, dtype=dtype)
    return recurrent_codec(
        module, model="toderici2017", architecture={**architecture, "entropy": entropy}, entropy=entropy, remat=remat
    )
