"""A codec of every rate from networks that run again and again, each time on what is left of the picture.

Such a model is a Flax module of the class `Recurrent`, of which `recurrent_codec` makes a `mlic_jax.codec.Codec`.
Iteration t is

    y = analyze(encoder's state, image, decoder's state)        float [B, h, w, C] in (-1, 1)
    code = binarised y, in {-1, +1}                             what is sent, C bits of a cell of 16x16 pixels
    decoder's state = synthesize(decoder's state, code)         has the picture of all codes so far

and the encoder runs the decoder too, so that it knows what is left. A stream has one chunk for each iteration. Cells
may have heights, numbers of iterations that are sent of them: what is not sent is 0 for the networks.

The first chunk begins with a byte, 1 where a map of heights follows and else 0; the map is a varint of its length and
what `entropy.heights` wrote. The rest of it, and all of the others, are the codes of an iteration: what
`entropy.binary_rnn` wrote, or bits, eight to a byte from the highest on.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mlic_jax.codec import Chunks, Codec, Objective
from mlic_jax.entropy.bits import binary_rnn, raw
from mlic_jax.entropy.bits import heights as height_maps
from mlic_jax.errors import CorruptStreamError, UsageError
from mlic_jax.families.latent import LARGEST_WIDTH, pad, pad_picture
from mlic_jax.fileformat.artifact import Artifact, check_arrays
from mlic_jax.layers import init as initialisers
from mlic_jax.layers import windows
from mlic_jax.layers.precision import in_float32
from mlic_jax.layers.windows import to_float

CELL = 16  # pixels
ENTROPY = ("binary_rnn", "single_iteration", "none")
ALLOCATIONS = ("uniform", "adaptive")
LARGEST_ITERATIONS = 64
# Of a ladder; models of more iterations show every second one.
LONGEST_LADDER = 8
_HEIGHTS = 1 << 20  # folded into an example's key where its heights are drawn; iterations count from 0


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


# ---------------------------------------------------------------------- streams


class Stream(NamedTuple):
    """What chunks hold: heights int32 [h, w] or None, and the coded iterations as bytes."""

    heights: np.ndarray | None
    parts: tuple[bytes, ...]


def pack(stream: Stream, iterations: int) -> Chunks:
    """The chunks of a stream; iterations: what heights are at most."""
    if stream.heights is None:
        start = b"\0"
    else:
        start = b"\1" + raw.with_length(height_maps.encode(stream.heights, iterations))
    return (start + stream.parts[0], *stream.parts[1:])


def unpack(chunks: Chunks, shape: tuple[int, int], iterations: int) -> Stream:
    """The reverse of `pack`, for leading chunks; shape: (h, w) of the cells. Raises CorruptStreamError."""
    if not 1 <= len(chunks) <= iterations:
        raise CorruptStreamError(f"a stream has {len(chunks)} chunks: 1 to {iterations} are possible")
    first, heights = bytes(chunks[0]), None
    if not first or first[0] > 1:
        raise CorruptStreamError("a stream does not say whether it has heights: its first byte is neither 0 nor 1")
    first, flag = first[1:], first[0]
    if flag:
        coded, first = raw.split(first)
        heights = height_maps.decode(coded, shape, iterations)
        if len(chunks) > heights.max():
            raise CorruptStreamError(f"a stream has {len(chunks)} chunks, and no height is above {heights.max()}")
    return Stream(heights, (first, *map(bytes, chunks[1:])))


def _sent(heights, t, shape):
    """bool [h, w]: the cells of which iteration t is sent."""
    return np.ones(shape, bool) if heights is None else heights > t


def to_bits(codes: np.ndarray, heights: np.ndarray | None) -> tuple[bytes, ...]:
    """Codes int8 [K, h, w, C] as bits, each iteration's in bytes of its own."""
    shape = codes.shape[1:3]
    return tuple(raw.pack(code[_sent(heights, t, shape)].ravel() > 0) for t, code in enumerate(codes))


def from_bits(parts: tuple[bytes, ...], shape: tuple[int, int, int], heights: np.ndarray | None) -> np.ndarray:
    """The reverse: int8 [K, h, w, C]; shape: (h, w, C). Raises CorruptStreamError."""
    codes = np.zeros((len(parts), *shape), np.int8)
    for t, part in enumerate(parts):
        sent = _sent(heights, t, shape[:2])
        bits = raw.unpack(part, int(sent.sum()) * shape[2])
        codes[t][sent] = 2 * bits.reshape(-1, shape[2]).astype(np.int8) - 1
    return codes


# ---------------------------------------------------------------------- the codec


def check_recurrent(model: str, choices, code: int, iterations: int, *steps: int) -> None:
    """Raises UsageError for a wrong (name, value, known values) of choices, or numbers out of range.

    steps: of priming and diffusion, and copies of a memory.
    """
    for name, value, known in choices:
        if type(value) is not type(known[0]) or value not in known:
            raise UsageError(f"{model}: {name} {value!r} is not known: use one of {', '.join(map(str, known))}")
    ranges = [("code", code, 1, LARGEST_WIDTH), ("iterations", iterations, 1, LARGEST_ITERATIONS)]
    ranges += [
        (name, value, 0, 16) for name, value in zip(("prime_steps", "diffuse_steps", "copies"), steps, strict=True)
    ]
    for name, value, least, most in ranges:
        if type(value) is not int or not least <= value <= most:
            raise UsageError(f"{model}: {name}={value!r} is out of range: whole numbers from {least} to {most}")


def mean_absolute(image: jax.Array, shown: jax.Array, state: Mapping[str, Any]):
    """The papers' loss: the mean of |image - shown| over all iterations, in steps of 8 bits.

    Args:
      image: float [B, H, W, 3] in -1/2..1/2.
      shown: the pictures of all iterations, float [T, B, H, W, 3].
      state: of the loss: none.

    Returns:
      float [B], and the new state.
    """
    return 255 * jnp.abs(image - shown).mean((0, 2, 3, 4)), state


def recurrent_codec(
    module: Recurrent,
    *,
    model: str,
    architecture: Mapping[str, Any],
    entropy: str = ENTROPY[0],
    allocation: str = ALLOCATIONS[0],
    guided: bool = False,
    loss: Callable = mean_absolute,
    loss_state: Mapping[str, np.ndarray] | None = None,
    masked: float = 0.0,
    remat: bool = True,
) -> Codec:
    """A trainable codec with the objectives "rd", of the networks, and "entropy", of the coder of their bits.

    Args:
      module: the networks.
      model: its name in the zoo.
      architecture: keyword arguments of its factory that rebuild it.
      entropy: "binary_rnn"; the same without what it remembers of iterations before, "single_iteration"; or "none" for
        bits as they are, where the weights are those of "binary_rnn".
      allocation: "uniform", or "adaptive": heights by the errors of each cell (Johnston et al. 2018, section 3.3).
      guided: whether a user's importance map is taken, for heights of his own.
      loss: as `mean_absolute`.
      loss_state: values to begin with of what the loss keeps from step to step, float32 arrays.
      masked: share of training examples whose codes are sent to random heights, so that networks know zeros.
      remat: see `unroll`.

    Returns:
      The Codec. At quality q a cell has q T / 100 iterations, in the mean where there are heights.

    Raises:
      UsageError: entropy, allocation or masked out of range.
    """
    for name, value, known in (("entropy", entropy, ENTROPY), ("allocation", allocation, ALLOCATIONS)):
        if value not in known:
            raise UsageError(f"{model}: {name} {value!r} is not known: use one of {', '.join(known)}")
    if not 0 <= masked <= 1:
        raise UsageError(f"{model}: masked={masked!r} is out of range: a share from 0 to 1")
    iterations, stride = module.iterations, module.stride
    coder = binary_rnn.BinaryRNN(
        channels=module.code,
        hidden=2 * module.code,
        iterations=iterations,
        progressive=entropy != "single_iteration",
    )
    of_loss = dict(loss_state or {})
    step = 1 if iterations <= LONGEST_LADDER else 2
    # Half steps: the container knows no others.
    ladder = tuple(round(200 * count / iterations) / 2 for count in range(iterations, 0, -step))[::-1]
    default = ladder[len(ladder) // 2]

    @functools.cache
    def shapes():
        image = jax.ShapeDtypeStruct((1, stride, stride, 3), jnp.float32)
        codes = jax.ShapeDtypeStruct((1, iterations, 1, 1, module.code), jnp.float32)
        found = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
        return {**found, "entropy": jax.eval_shape(coder.init, jax.random.key(0), codes)["params"]}

    def init(key, image_shape):
        del image_shape
        return initialisers.materialise(shapes(), key), dict(of_loss)

    # ------------------------------------------------------------------ training

    def masks(keys, image):
        """int32 [B, h, w]: random heights for a share of the examples, all iterations for the others; None for all."""
        if not masked:
            return None
        keys = jax.vmap(lambda key: jax.random.fold_in(key, _HEIGHTS))(keys)
        shape = image.shape[1] // CELL, image.shape[2] // CELL
        drawn = height_maps.random_heights(keys, shape, iterations)
        chosen = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, _HEIGHTS)))(keys) < masked
        return jnp.where(chosen[:, None, None], drawn, iterations)

    def of_networks(params, state, batch, keys, step):
        del step
        image = pad(to_input(batch["image"]), stride)

        def binarised(y, t):
            return binarise_randomly(y, jax.vmap(lambda key: jax.random.fold_in(key, t))(keys))

        shown, _ = unroll(module, params, image, binarised, masks(keys, image), remat)
        value, state = loss(image, shown, state)
        errors = 255 * jnp.abs(image - shown).mean((1, 2, 3, 4))
        total = value.mean()
        metrics = {"loss": total, "l1_255": errors.mean(), "l1_255_first": errors[0], "l1_255_last": errors[-1]}
        return total, (metrics, state)

    def of_coder(params, state, batch, keys, step):
        del step
        image = pad(to_input(batch["image"]), stride)
        _, codes = unroll(module, params, image, lambda y, t: binarise(y), masks(keys, image))
        codes = lax.stop_gradient(codes).swapaxes(0, 1)
        bits = coder.apply({"params": params["entropy"]}, codes)
        # Of each example, so that the mean does not depend on how examples are shared out to devices.
        total = jnp.mean(bits.sum((1, 2, 3, 4)) / jnp.abs(codes).sum((1, 2, 3, 4)))
        return total, ({"loss": total, "bits_per_code_bit": total}, state)

    # ------------------------------------------------------------------ use

    def count_of(quality):
        return int(np.clip(round(quality * iterations / 100), 1, iterations))

    def heights_of(params, image, quality, importance):
        """int32 [h, w], or None where every cell has as many iterations as any other."""
        mean = float(np.clip(quality * iterations / 100, 1, iterations))
        if importance is not None:
            return height_maps.from_importance(importance, iterations, mean)
        if allocation == "uniform":
            return None
        pictures = np.stack([picture for _, picture in encode(module, params, image, iterations)])
        return height_maps.for_mean(height_maps.cell_errors(image, pictures), mean)

    def coded(params, image, quality, importance=None):
        """(heights, codes int8 [K, h, w, C], pictures uint8 [K, H, W, 3]) of a padded picture."""
        heights = heights_of(params, image, quality, importance)
        count = count_of(quality) if heights is None else int(heights.max())
        codes, pictures = zip(*encode(module, params, image, count, heights), strict=True)
        return heights, np.stack(codes), np.stack(pictures)

    @jax.jit
    def estimated_lengths(params, codes):
        return coder.apply({"params": params["entropy"]}, codes).sum((0, 2, 3, 4))

    def code_lengths(params, state, codes, heights):
        """Bits of each iteration, [K]: of the integers where there are some, the coder's own."""
        if entropy == "none":
            return np.abs(codes).sum((1, 2, 3), dtype=np.float64)
        if "entropy" in state:
            return binary_rnn.code_length(coder, jax.device_get(state["entropy"]), codes, heights)
        return np.asarray(estimated_lengths(params, codes[None].astype(np.float32)), np.float64)

    def estimate_one(params, state, image, quality):
        size, padded = image.shape[:2], pad_picture(image, stride)
        chosen = default if quality is None else float(quality)
        heights, codes, pictures = coded(params, padded, chosen)
        lengths = code_lengths(params, state, codes, heights)
        bits = lengths.sum() + 8 * len(pack(Stream(heights, (b"",)), iterations)[0])
        shown = pictures[-1, : size[0], : size[1]]
        if quality is None:
            # All rates count, and both objectives: errors while the networks are trained, then what codes cost.
            codes, pictures = map(np.stack, zip(*encode(module, params, padded, iterations), strict=True))
            lengths = code_lengths(params, state, codes, None)
        errors = np.abs(pictures.astype(np.float32) - padded)
        return {
            "loss": np.float32(errors.mean() + lengths.sum() / np.abs(codes).sum(dtype=np.float64)),
            "bits": np.float32(bits),
            "mse255": np.float32(np.mean((image.astype(np.float32) - shown) ** 2)),
            "reconstruction": shown,
        }

    def estimate(params, state, image, quality=None):
        params = jax.device_put(params)
        found = [estimate_one(params, state, one, quality) for one in np.asarray(image)]
        return {key: np.stack([one[key] for one in found]) for key in found[0]}

    def export(params, state, images=None):
        del state, images
        params = jax.device_get(params)
        check_arrays(nn.meta.unbox(shapes()), params, model)
        # What a loss keeps is of training alone, and integers are made anew.
        integers = {} if entropy == "none" else {"entropy": binary_rnn.integers(coder, params["entropy"])}
        return Artifact(model, architecture, params, integers, {})

    checked: weakref.WeakSet[Artifact] = weakref.WeakSet()

    def check(artifact):
        if artifact not in checked:
            check_arrays(nn.meta.unbox(shapes()), artifact.params, artifact.model)
            if entropy != "none":
                binary_rnn.check(coder, artifact.state.get("entropy", {}))
            checked.add(artifact)

    def settled(quality, error):
        if quality is None or not 0 <= quality <= 100:
            raise error(f"{model} needs a quality, a number from 0 to 100, not {quality!r}")
        return float(quality)

    def compress(artifact, image, quality=None, effort=0, importance=None) -> Chunks:
        quality = settled(quality, UsageError)
        if effort:
            raise UsageError(f"{model} has no effort but 0")
        image = np.asarray(image)
        if importance is not None:
            if not guided:
                raise UsageError(f"{model} takes no importance map")
            importance = np.asarray(importance)
            if importance.shape != image.shape[:2]:
                raise UsageError(
                    f"the importance map is {importance.shape}: {image.shape[:2]}, as the picture, is needed"
                )
            importance = pad_picture(importance, stride)
        check(artifact)
        heights, codes, _ = coded(artifact.variables["params"], pad_picture(image, stride), quality, importance)
        if entropy == "none":
            parts = to_bits(codes, heights)
        else:
            parts = binary_rnn.encode(coder, artifact.state["entropy"], codes, heights)
        return pack(Stream(heights, parts), iterations)

    def decompress(artifact, chunks, size, quality=None):
        settled(quality, CorruptStreamError)
        check(artifact)
        height, width = (-(-side // stride) * stride // CELL for side in size)
        heights, parts = unpack(chunks, (height, width), iterations)
        if entropy == "none":
            codes = from_bits(parts, (height, width, module.code), heights)
        else:
            codes = binary_rnn.decode(coder, artifact.state["entropy"], parts, (height, width), heights)
        return decode(module, artifact.variables["params"], codes)[: size[0], : size[1]]

    owned = tuple(key for key in shapes() if key != "entropy")
    objectives = {"rd": Objective(owned, of_networks), "entropy": Objective(("entropy",), of_coder)}
    return Codec(
        init,
        objectives,
        estimate,
        export,
        compress,
        decompress,
        ladder,
        default,
        progressive=True,
        guided=guided,
    )
