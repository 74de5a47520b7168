"""Networks that run again and again, each time on what is left of the picture.

Such a model is a Flax module of the class `Recurrent`, of which mlic_jax.families.recurrent_codec makes a codec.
Iteration t is

    y = analyze(encoder's state, image, decoder's state)        float [B, h, w, C] in (-1, 1)
    code = binarised y, in {-1, +1}                             what is sent, C bits of a cell of 16x16 pixels
    decoder's state = synthesize(decoder's state, code)         has the picture of all codes so far

and the encoder runs the decoder too, so that it knows what is left. Cells may have heights, numbers of iterations that
are sent of them: what is not sent is 0 for the networks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mlic_jax.layers import windows
from mlic_jax.layers.precision import in_float32
from mlic_jax.layers.windows import to_float

CELL = 16  # pixels


class Recurrent(nn.Module):
    """Base of such models.

    Attributes:
      code: bits of a cell in an iteration.
      iterations: at most.
      prime_steps: how many times either network runs before the first iteration, on the input it will have in it, for
        its state alone (Johnston et al. 2018). The decoder's input is the first code: this costs no bits.
      diffuse_steps: the same before every other iteration.

    Methods of subclasses, besides `analyze` and `synthesize`:
      start(batch, height, width) -> the states of encoder and decoder at the beginning, for so many pixels.
      analyze, synthesize: take a further argument `inside`, the part of their window that is picture (in pixels, see
        layers/windows.py; None: all of it). Image and code are zero elsewhere; what is shown has to be, and every layer
        has to see zeros there, as its own padding would be.
      shown(decoder's state) -> float [B, H, W, 3] in -1/2..1/2, the picture.
      stride: int, sides of images must be multiples.
    """

    code: int
    iterations: int
    prime_steps: int
    diffuse_steps: int

    def __call__(self, image):
        """One iteration, in which every parameter takes part: image float [B, H, W, 3] -> [B, H, W, 3]."""
        of_encoder, of_decoder = self.start(*image.shape[:3])
        _, y = self.analyze(of_encoder, image, of_decoder)
        return self.shown(self.synthesize(of_decoder, y))


def to_input(image: jax.Array) -> jax.Array:
    """uint8 -> what networks see, in -1/2..1/2."""
    return to_float(image) - 0.5


def binarise(y: jax.Array) -> jax.Array:
    """-1 or +1, as in use: +1 for zero."""
    return jnp.where(y >= 0, 1.0, -1.0)


def binarise_randomly(y: jax.Array, keys: jax.Array) -> jax.Array:
    """-1 or +1 whose mean is y [B, ...] in -1..1; the gradient is that of the identity. keys: [B]."""
    drawn = jax.vmap(lambda key: jax.random.uniform(key, y.shape[1:]))(keys)
    code = jnp.where(drawn < (1 + y) / 2, 1.0, -1.0)
    return y + lax.stop_gradient(code - y)


# ---------------------------------------------------------------------- iterations


def _analyze(module, params, state, image, decoder_state, further, inside=None):
    """The encoder's part of an iteration, after `further` runs for the state alone."""

    def run(state):
        return module.apply({"params": params}, state, image, decoder_state, inside, method="analyze")

    return run(_after(lambda state: run(state)[0], state, further))


def _synthesize(module, params, state, code, further, inside=None):
    """The decoder's. What it shows before the last run is not looked at: only the networks' states go on."""

    def run(state):
        return module.apply({"params": params}, state, code, inside, method="synthesize")

    # Of a state, networks' own are the first; the rest is the picture, and what follows from it.
    return run(_after(lambda state: (run(state)[0], *state[1:]), state, further))


def _after(run, state, times):
    """The state after so many runs, a number that may be traced; None for none, for which no loop is compiled."""
    return state if times is None else lax.fori_loop(0, times, lambda _, s: run(s), state)


def unroll(
    module: Recurrent,
    params: Mapping[str, Any],
    image: jax.Array,
    binarised: Callable,
    heights: jax.Array | None = None,
    remat: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """All iterations in one program, for training.

    Args:
      image: float [B, H, W, 3] in -1/2..1/2, sides multiples of the stride.
      binarised: (y [B, h, w, C], t) -> code of iteration t.
      heights: int [B, h, w], iterations that are sent of a cell; None for all.
      remat: compute what is within an iteration again for the gradient.

    Returns:
      The pictures of all iterations, float [T, B, H, W, 3], and their codes [T, B, h, w, C].
    """

    def iteration(states, t, further):
        of_encoder, of_decoder = states
        of_encoder, y = _analyze(module, params, of_encoder, image, of_decoder, further)
        code = binarised(y, t)
        if heights is not None:
            code = code * (t < heights)[..., None]
        of_decoder = _synthesize(module, params, of_decoder, code, further)
        return (of_encoder, of_decoder), (module.shown(of_decoder), code)

    if remat:
        iteration = jax.checkpoint(iteration, prevent_cse=False, static_argnums=2)
    states, first = module.apply({"params": params}, *image.shape[:3], method="start"), 0
    found = []
    if module.prime_steps != module.diffuse_steps:
        states, one = iteration(states, 0, module.prime_steps or None)
        found, first = [jax.tree.map(lambda a: a[None], one)], 1
    further = module.diffuse_steps or None
    _, rest = lax.scan(lambda states, t: iteration(states, t, further), states, jnp.arange(first, module.iterations))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found, rest)


# In use an iteration is two programs, whatever its number: encoders run the very one that shows decoders their picture.
# Pictures of all sizes share those of a ladder of windows (layers/windows.py).


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _start(module, params, height, width):
    return module.apply({"params": params}, 1, height, width, method="start")


@functools.partial(jax.jit, static_argnums=0)
def _encode(module, params, state, image, decoder_state, sent, inside, further):
    state, y = _analyze(module, params, state, image, decoder_state, further, inside)
    return state, binarise(y) * sent


@functools.partial(jax.jit, static_argnums=0)
def _decode(module, params, state, code, inside, further):
    return _synthesize(module, params, state, code, further, inside)


class _Frame(NamedTuple):
    """The window in which a picture of size (height, width) in cells is coded."""

    window: windows.Window
    size: tuple[int, int]

    @property
    def inside(self) -> windows.Inside:
        return self.window.inside(self.size, CELL)

    def start(self, module, params):
        return _start(module, params, *(CELL * span.length for span in self.window))

    def cells(self, x: np.ndarray) -> np.ndarray:
        """[h, w, C] of cells -> float32 [1, h', w', C], zeros around it."""
        return windows.cut(x[None].astype(np.float32), self.window, 1)


def _frame(height, width):
    (window,) = windows.cover((height, width), lambda length: (windows.ladder_span(length),))
    return _Frame(window, (height, width))


def _further(module, t):
    """How many runs come before iteration t; a number that a program is not compiled for."""
    if module.prime_steps == module.diffuse_steps == 0:
        return None
    return np.int32(module.diffuse_steps if t else module.prime_steps)


def encode(
    module: Recurrent, params: Mapping[str, Any], image: np.ndarray, iterations: int, heights: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Codes a picture.

    Args:
      image: uint8 [H, W, 3], sides multiples of the stride.
      iterations: how many.
      heights: int [h, w], iterations that are sent of a cell; None for all.

    Yields for each iteration its code, int8 [h, w, C], and its picture, uint8 [H, W, 3].
    """
    module = in_float32(module)
    height, width = (side // CELL for side in image.shape[:2])
    frame = _frame(height, width)
    of_encoder, state = frame.start(module, params)
    # By NumPy, for which nothing is compiled; zero, around the picture, is a grey.
    seen = windows.cut(image[None] * np.float32(1 / 255) - np.float32(0.5), frame.window, CELL)
    for t in range(iterations):
        sent = frame.cells((np.ones((height, width), bool) if heights is None else heights > t)[..., None])
        of_encoder, code = _encode(module, params, of_encoder, seen, state, sent, frame.inside, _further(module, t))
        state = _decode(module, params, state, code, frame.inside, _further(module, t))
        yield np.asarray(code)[0, :height, :width].astype(np.int8), _picture(module, state, frame.size)


def decode(module: Recurrent, params: Mapping[str, Any], codes: np.ndarray) -> np.ndarray:
    """Codes int8 [K, h, w, C] -> uint8 [16 h, 16 w, 3], the picture of the last of them."""
    module = in_float32(module)
    frame = _frame(*codes.shape[1:3])
    _, state = frame.start(module, params)
    for t, code in enumerate(codes):
        state = _decode(module, params, state, frame.cells(code), frame.inside, _further(module, t))
    return _picture(module, state, frame.size)


def _picture(module, state, size):
    """uint8 [H, W, 3] of size (h, w) in cells: as `to_uint8`, by NumPy."""
    shown = np.asarray(module.shown(state))[0, : CELL * size[0], : CELL * size[1]]
    return np.rint(np.clip(shown + np.float32(0.5), 0, 1) * np.float32(255)).astype(np.uint8)
