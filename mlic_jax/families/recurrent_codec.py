"""A progressive codec of every rate from recurrent networks (mlic_jax.families.recurrent).

A stream has one chunk for each iteration; any number of leading ones is a picture. What is in them, and in which order,
stands in `Transmission`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mlic_jax.codec import Codec, Objective
from mlic_jax.entropy.bits import heights as height_maps
from mlic_jax.entropy.bits.binary_rnn import BinaryRNN
from mlic_jax.entropy.bits.coders import (
    Checking,
    Decoding,
    Encoding,
    Estimating,
    Exporting,
    Measuring,
    WithoutPriors,
    map_bits,
)
from mlic_jax.errors import CorruptStreamError, UsageError
from mlic_jax.families.base import Family
from mlic_jax.families.common import LARGEST_WIDTH, check_choices, check_whole, pad, pad_picture, padded_size
from mlic_jax.families.quality import EveryRate
from mlic_jax.families.recurrent import (
    CELL,
    Recurrent,
    binarise,
    binarise_randomly,
    decode,
    encode,
    to_input,
    unroll,
)

ENTROPY = ("binary_rnn", "single_iteration", "none")
ALLOCATIONS = ("uniform", "adaptive")
LARGEST_ITERATIONS = 64
# Of a ladder; models of more iterations show every second one.
LONGEST_LADDER = 8
_HEIGHTS = 1 << 20  # folded into an example's key where its heights are drawn; iterations count from 0


class Transmission(nn.Module):
    """What a recurrent codec sends: a map of heights, where it has one, and the codes of one iteration after another.

    Attributes:
      channels: C, bits of a cell in an iteration.
      iterations: T, at most.
      progressive: whether the prior remembers iterations before.
    """

    channels: int
    iterations: int
    progressive: bool

    def setup(self):
        self.entropy = BinaryRNN(self.channels, 2 * self.channels, self.iterations, self.progressive)

    def __call__(self, codes):
        """For the parameters: codes float [B, K, h, w, C]."""
        return self.transmit(Estimating({"codes": codes}))

    def transmit(self, code):
        """The coding order, see mlic_jax.entropy.bits.coders. Returns the codes [B, K, h, w, C], K <= T."""
        count = code.shape("codes")[1]
        heights = code.optional("heights", height_maps.HeightMap(self.iterations, count))
        present = None if heights is None else present_of(heights, count)
        return code("codes", self.entropy, present)


def present_of(heights, count: int):
    """Of which cells an iteration is sent: heights int [B, h, w] -> bool [B, count, h, w, 1]."""
    return (heights[:, None] > np.arange(count)[:, None, None])[..., None]


def _values(codes, heights):
    """What coders are given: codes [B, K, h, w, C], and heights [B, h, w] or None."""
    return {"codes": codes} if heights is None else {"codes": codes, "heights": heights}


@functools.partial(jax.jit, static_argnums=0)
def _code_lengths(transmission, params, values):
    """Bits of each iteration of one picture, float32 [K]."""
    coder = Estimating(values)
    transmission.apply({"params": params}, coder, method="transmit")
    return coder.lengths["codes"].sum((0, 2, 3, 4))


def check_recurrent(model: str, choices, code: int, iterations: int, *steps: int) -> None:
    """Raises UsageError for a wrong (name, value, known values) of choices, or numbers out of range.

    steps: of priming and diffusion, and copies of a memory.
    """
    check_choices(model, *choices)
    names = ("prime_steps", "diffuse_steps", "copies")
    check_whole(
        model,
        ("code", code, 1, LARGEST_WIDTH),
        ("iterations", iterations, 1, LARGEST_ITERATIONS),
        *((name, value, 0, 16) for name, value in zip(names, steps, strict=True)),
    )


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


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RecurrentCodec(Family):
    """The codecs of recurrent networks; see `recurrent_codec` for the fields."""

    module: Recurrent
    transmission: Transmission
    plain: bool
    allocation: str
    loss: Callable
    loss_state: Mapping[str, np.ndarray]
    masked: float
    remat: bool

    def trace(self):
        stride = self.module.stride
        image = jax.ShapeDtypeStruct((1, stride, stride, 3), jnp.float32)
        codes = jax.ShapeDtypeStruct((1, self.module.iterations, 1, 1, self.module.code), jnp.float32)
        networks = jax.eval_shape(self.module.init, jax.random.key(0), image)["params"]
        return {"params": {**networks, **jax.eval_shape(self.transmission.init, jax.random.key(0), codes)["params"]}}

    def initial_state(self, key):
        """What the loss keeps from step to step."""
        del key
        return dict(self.loss_state)

    def _transmit(self, variables, coder):
        """The codes that a decoder knows, by a coder; without the prior where bits are plain."""
        coder = WithoutPriors(coder) if self.plain else coder
        return self.transmission.apply(variables, coder, method="transmit")

    # ------------------------------------------------------------------ training

    def objectives(self):
        """ "rd" trains the networks, "entropy" the prior of their bits."""
        networks = tuple(name for name in self.boxed["params"] if name != "entropy")
        return {"rd": Objective(networks, self.rd_loss), "entropy": Objective(("entropy",), self.entropy_loss)}

    def _heights(self, keys, image):
        """int32 [B, h, w]: random heights for a share of the examples, all iterations for the others; None for all."""
        if not self.masked:
            return None
        iterations = self.module.iterations
        keys = jax.vmap(lambda key: jax.random.fold_in(key, _HEIGHTS))(keys)
        drawn = height_maps.random_heights(keys, (image.shape[1] // CELL, image.shape[2] // CELL), iterations)
        shares = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, _HEIGHTS)))(keys)
        return jnp.where((shares < self.masked)[:, None, None], drawn, iterations)

    def rd_loss(self, params, state, batch, keys, step):
        del step
        image = pad(to_input(batch["image"]), self.module.stride)

        def binarised(y, t):
            return binarise_randomly(y, jax.vmap(lambda key: jax.random.fold_in(key, t))(keys))

        shown, _ = unroll(self.module, params, image, binarised, self._heights(keys, image), self.remat)
        value, state = self.loss(image, shown, state)
        errors = 255 * jnp.abs(image - shown).mean((1, 2, 3, 4))
        total = value.mean()
        metrics = {"loss": total, "l1_255": errors.mean(), "l1_255_first": errors[0], "l1_255_last": errors[-1]}
        return total, (metrics, state)

    def entropy_loss(self, params, state, batch, keys, step):
        del step
        image = pad(to_input(batch["image"]), self.module.stride)
        heights = self._heights(keys, image)
        _, codes = unroll(self.module, params, image, lambda y, t: binarise(y), heights)
        codes = lax.stop_gradient(codes).swapaxes(0, 1)
        coder = Estimating(_values(codes, heights))
        self.transmission.apply({"params": {"entropy": params["entropy"]}}, coder, method="transmit")
        # Of each example, so that the mean does not depend on how examples are shared out to devices.
        bits = coder.lengths["codes"].sum((1, 2, 3, 4))
        total = jnp.mean(bits / jnp.abs(codes).sum((1, 2, 3, 4)))
        return total, ({"loss": total, "bits_per_code_bit": total}, state)

    # ------------------------------------------------------------------ use

    def coded(self, params, image, quality, importance=None):
        """(heights, codes int8 [K, h, w, C], pictures uint8 [K, H, W, 3]) of a padded picture."""
        iterations = self.module.iterations
        mean = float(np.clip(quality * iterations / 100, 1, iterations))
        if importance is not None:
            heights = height_maps.from_importance(importance, iterations, mean)
        elif self.allocation == "adaptive":
            pictures = np.stack([picture for _, picture in encode(self.module, params, image, iterations)])
            heights = height_maps.for_mean(height_maps.cell_errors(image, pictures), mean)
        else:  # every cell has as many iterations as any other
            heights = None
        count = int(np.clip(round(mean), 1, iterations)) if heights is None else int(heights.max())
        codes, pictures = zip(*encode(self.module, params, image, count, heights), strict=True)
        return heights, np.stack(codes), np.stack(pictures)

    def code_lengths(self, params, state, codes, heights) -> np.ndarray:
        """Bits of each iteration, [K]: by the integers where there are some, by the prior's own numbers elsewhere."""
        values = _values(codes[None], None if heights is None else heights[None])
        if not self.plain and "entropy" not in state:
            values["codes"] = values["codes"].astype(np.float32)
            lengths = _code_lengths(self.transmission, {"entropy": params["entropy"]}, values)
            return np.asarray(lengths, np.float64)
        coder = Measuring(values)
        self._transmit({"state": jax.device_get(state)}, coder)
        return coder.bits["codes"]

    def estimate_at(self, params, state, image, quality):
        params = jax.device_put(params)
        parts = [self._estimate_picture(params, state, picture, quality) for picture in np.asarray(image)]
        return {key: np.stack([part[key] for part in parts]) for key in parts[0]}

    def _estimate_picture(self, params, state, image, quality):
        (height, width), padded = image.shape[:2], pad_picture(image, self.module.stride)
        heights, codes, pictures = self.coded(params, padded, self.qualities.default if quality is None else quality)
        lengths = self.code_lengths(params, state, codes, heights)
        map_format = height_maps.HeightMap(self.module.iterations, len(codes))
        bits = lengths.sum() + map_bits(None if heights is None else heights[None], map_format)
        shown = pictures[-1, :height, :width]
        if quality is None:
            # All rates count, and both objectives: errors while the networks are trained, then what codes cost.
            passes = encode(self.module, params, padded, self.module.iterations)
            codes, pictures = map(np.stack, zip(*passes, strict=True))
            lengths = self.code_lengths(params, state, codes, None)
        errors = np.abs(pictures.astype(np.float32) - padded)
        return {
            "loss": np.float32(errors.mean() + lengths.sum() / np.abs(codes).sum(dtype=np.float64)),
            "bits": np.float32(bits),
            "mse255": np.float32(np.mean((image.astype(np.float32) - shown) ** 2)),
            "reconstruction": shown,
        }

    def shapes(self, size: tuple[int, int], count: int) -> dict[str, tuple[int, ...]]:
        """Of what is sent of one picture of that size (H, W) in so many iterations."""
        cells = tuple(side // CELL for side in padded_size(*size, self.module.stride))
        return {"codes": (1, count, *cells, self.module.code), "heights": (1, *cells)}

    def tabulate(self, variables, images):
        # What a loss keeps is of training alone, and integers are made anew.
        del images
        coder = Exporting(self.shapes((CELL, CELL), 1))
        self._transmit({"params": {"entropy": variables["params"]["entropy"]}}, coder)
        return coder.state, {}

    def check_state(self, artifact):
        self._transmit({"state": artifact.state}, Checking(self.shapes((CELL, CELL), 1)))

    def encode(self, artifact, image, quality, effort, importance):
        del effort
        stride = self.module.stride
        importance = None if importance is None else pad_picture(importance, stride)
        padded = pad_picture(image, stride)
        heights, codes, _ = self.coded(artifact.variables["params"], padded, quality, importance)
        coder = Encoding(_values(codes[None], None if heights is None else heights[None]))
        self._transmit({"state": artifact.state}, coder)
        return coder.chunks

    def decode(self, artifact, chunks, size, quality):
        del quality
        codes = self.receive(artifact, chunks, size)
        return decode(self.module, artifact.variables["params"], codes)[: size[0], : size[1]]

    def receive(self, artifact, chunks, size) -> np.ndarray:
        """The first half of `decode`, which is the same on every machine: the codes int8 [K, h, w, C] of K chunks."""
        if not 1 <= len(chunks) <= self.module.iterations:
            raise CorruptStreamError(f"a stream has {len(chunks)} chunks: 1 to {self.module.iterations} are possible")
        coder = Decoding(chunks, self.shapes(size, len(chunks)))
        codes = self._transmit({"state": artifact.state}, coder)
        coder.finish()
        return codes[0]


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
    check_choices(model, ("entropy", entropy, ENTROPY), ("allocation", allocation, ALLOCATIONS))
    if not 0 <= masked <= 1:
        raise UsageError(f"{model}: masked={masked!r} is out of range: a share from 0 to 1")
    iterations = module.iterations
    step = 1 if iterations <= LONGEST_LADDER else 2
    # Half steps: the container knows no others.
    ladder = tuple(round(200 * count / iterations) / 2 for count in range(iterations, 0, -step))[::-1]
    return RecurrentCodec(
        model=model,
        architecture=architecture,
        # All rates are validated at once.
        qualities=EveryRate(ladder, ladder[len(ladder) // 2], validated=()),
        progressive=True,
        guided=guided,
        module=module,
        transmission=Transmission(module.code, iterations, entropy != "single_iteration"),
        plain=entropy == "none",
        allocation=allocation,
        loss=loss,
        loss_state=dict(loss_state or {}),
        masked=masked,
        remat=remat,
    ).codec()
