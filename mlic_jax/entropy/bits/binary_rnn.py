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
tables, made when a model is exported. A cell depends on the row above up to three columns ahead, and on those before
it up to one more for each; so cells of equal column + 4 row do not depend on each other. Encoder and decoder go through
a grid of h x w cells in w + 4 (h - 1) steps, by one and the same function, `_Walk.waves`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mlic_jax.entropy.bits import integers as whole
from mlic_jax.entropy.rangecoder import Decoder, Encoder
from mlic_jax.entropy.tables import TOTAL
from mlic_jax.errors import CorruptStreamError, ModelError
from mlic_jax.layers import init

# How far the context reaches to the left, right and up, in cells; its 7x7 taps that stand before the centre.
REACH = 3
TAPS = 24
# Columns by which a row is ahead of the next.
LEAD = REACH + 1
# Values of the LSTMs' cells do not leave this.
LARGEST_CELL = 32.0

# --- Whole numbers: an activation of 1 is ACTIVATION_ONE, a gate or cell of 1 is GATE_ONE.
ACTIVATION_ONE = 127
GATE_ONE = 4096
# Tables have entries at -LARGEST_INDEX .. LARGEST_INDEX, TANH_STEPS or SIGMOID_STEPS of them to 1.
LARGEST_INDEX = 1024
TANH_STEPS = 256
SIGMOID_STEPS = 128
_LARGEST_BIAS = 1 << 24
# Cells that are worked on together where they do not depend on each other.
_BLOCK = 2048


class Plan(NamedTuple):
    """One kind of layer.

    Attributes:
      count: how many there are, one for an iteration.
      inputs, features: sizes; taps are inputs like any other, in raster order and before the channels.
      of_codes: reads codes, else activations.
      steps: of the table that its sums look up, or of logits, to 1: [features].
    """

    count: int
    inputs: int
    features: int
    of_codes: bool
    steps: np.ndarray


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
    """Probabilities of the bits of a recurrent codec.

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
        found = {
            "context": Plan(T, TAPS * C, H, True, tanh[:H]),
            "gates": Plan(T, 2 * seen + 3 * H, 4 * H, False, gates),
            "hidden": Plan(T, H, H, False, tanh[:H]),
            "logits": Plan(T, H, C, False, np.full(C, whole.LOGIT_ONE)),
        }
        if self.remembers:
            found |= {
                "state": Plan(T, 9 * C, H, False, tanh[:H]),
                "memory_wide": Plan(T - 1, 9 * C, H, True, tanh[:H]),
                "memory_narrow": Plan(T - 1, 9 * H, C, False, tanh[:C]),
                "memory_gates": Plan(1, C + H, 4 * H, False, gates),
                "memory_hidden": Plan(T - 1, H, H, False, tanh[:H]),
                "memory_state": Plan(T - 1, H, C, False, tanh[:C]),
            }
        return found

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        """Code lengths, for training on codes that are themselves not trained.

        Args:
          codes: float [B, T, h, w, C], -1 or +1, and 0 for what is not sent; T <= iterations.

        Returns:
          float32 [B, T, h, w, C]: bits that each costs, 0 where nothing is sent. Differentiable in the parameters, not
          in the codes.
        """
        weights = {
            name: Layers(plan.count, plan.inputs, plan.features, name=name)() for name, plan in self.plans().items()
        }
        if codes.shape[1] > self.iterations or codes.shape[-1] != self.channels:
            raise ValueError(
                f"codes {codes.shape}: at most {self.iterations} iterations of {self.channels} bits are known"
            )
        codes = lax.stop_gradient(codes.astype(jnp.float32)).swapaxes(0, 1)  # [T, B, h, w, C]
        logits = self._logits(weights, codes)
        bits = jax.nn.softplus(-codes * logits) * np.float32(1 / np.log(2))
        return jnp.where(codes != 0, bits, 0).swapaxes(0, 1)

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
        bound = whole.LARGEST_LOGIT / whole.LOGIT_ONE
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


# ---------------------------------------------------------------------- choosing whole numbers


def _tables():
    """name -> integers at -LARGEST_INDEX .. LARGEST_INDEX; and the frequencies of logits."""
    index = np.arange(-LARGEST_INDEX, LARGEST_INDEX + 1)
    tanh, sigmoid = np.tanh(index / TANH_STEPS), 1 / (1 + np.exp(-index / SIGMOID_STEPS))
    return {
        "activation": np.rint(ACTIVATION_ONE * tanh).astype(np.int8),
        "tanh": np.rint(GATE_ONE * tanh).astype(np.int32),
        "sigmoid": np.rint(GATE_ONE * sigmoid).astype(np.int32),
        "frequencies": whole.frequencies(),
    }


# name -> (dtype, entries, least, greatest)
_TABLES = {
    "activation": ("int8", 2 * LARGEST_INDEX + 1, -ACTIVATION_ONE, ACTIVATION_ONE),
    "tanh": ("int32", 2 * LARGEST_INDEX + 1, -GATE_ONE, GATE_ONE),
    "sigmoid": ("int32", 2 * LARGEST_INDEX + 1, 0, GATE_ONE),
    "frequencies": ("int32", 2 * whole.LARGEST_LOGIT + 1, 1, TOTAL - 1),
}


def integers(module: BinaryRNN, params: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """What coders need of trained parameters: an artifact's state.

    Args:
      module: the network.
      params: its parameters, "params" of its variables.

    Returns:
      For each layer of `plans`, {"kernel": int8 [count, inputs, features], "bias": int32 [count, features],
      "multiplier": int32, "shift": int8, both of the bias's shape}: sums of whole numbers times multiplier 2^-shift are
      steps of a table. And "tables": {"activation", "tanh", "sigmoid", "frequencies"}.

    Raises ModelError for parameters that are not finite or too large.
    """
    found = {"tables": _tables()}
    for name, plan in module.plans().items():
        kernel, bias = (np.asarray(params[name][part], np.float64) for part in ("kernel", "bias"))
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise ModelError(f"bit predictor, layer {name!r}: its parameters are not finite")
        unit = 1.0 if plan.of_codes else 1 / ACTIVATION_ONE
        # A scale for each feature of each iteration.
        step = np.stack([whole.quantise(one)[1] for one in kernel])
        step = np.maximum(step, np.abs(bias) / (unit * _LARGEST_BIAS))
        try:
            multiplier, shift = whole.multiplier_of(step * unit * plan.steps)
        except ValueError as reason:
            raise ModelError(f"bit predictor, layer {name!r}: weights as large as {np.abs(kernel).max()}") from reason
        found[name] = {
            "kernel": np.rint(kernel / step[:, None]).astype(np.int8),
            "bias": np.rint(bias / (step * unit)).astype(np.int32),
            "multiplier": multiplier,
            "shift": shift,
        }
    return found


def check(module: BinaryRNN, state: Mapping[str, Any]) -> None:
    """Raises ModelError unless the state is what `integers` makes: names, types, shapes, and sums within bounds."""
    plans = module.plans()
    _check_names("", state, {*plans, "tables"})
    _check_names("tables", state["tables"], set(_TABLES))
    for name, (dtype, entries, least, greatest) in _TABLES.items():
        table = _checked(f"tables/{name}", state["tables"][name], dtype, (entries,))
        if table.min() < least or table.max() > greatest:
            raise ModelError(f"bit predictor, table {name!r}: its entries are not within {least} to {greatest}")
    for name, plan in plans.items():
        dtypes = {"kernel": "int8", "bias": "int32", "multiplier": "int32", "shift": "int8"}
        _check_names(name, state[name], set(dtypes))
        rows = (plan.count, plan.features)
        shapes = {"kernel": (plan.count, plan.inputs, plan.features)}
        layer = {
            part: _checked(f"{name}/{part}", state[name][part], dtype, shapes.get(part, rows))
            for part, dtype in dtypes.items()
        }
        kernel, bias = (np.abs(layer[part].astype(np.float64)) for part in ("kernel", "bias"))
        sums = kernel.sum(1) * (1 if plan.of_codes else ACTIVATION_ONE) + bias
        exact = kernel.max() <= whole.LARGEST_WEIGHT and sums.max() < whole.LARGEST_SUM
        multiplier, shift = layer["multiplier"], layer["shift"]
        exact &= multiplier.min() >= 1 and multiplier.max() < 1 << 15
        exact &= whole.SHIFTS[0] <= shift.min() and shift.max() <= whole.SHIFTS[1]
        if not exact:
            raise ModelError(f"bit predictor, layer {name!r} can leave the range in which its sums are exact")


def _check_names(folder, found, needed):
    if not isinstance(found, Mapping) or set(found) != needed:
        raise ModelError(f"bit predictor: {', '.join(sorted(needed))} are needed in state/{folder}: export it again")


def _checked(name, array, dtype, shape):
    array = np.asarray(array)
    if array.dtype != dtype or array.shape != shape:
        raise ModelError(f"bit predictor: {name} is {array.dtype} {array.shape}, {dtype} {shape} is needed")
    return array


# ---------------------------------------------------------------------- coding


class _Walk:
    """The way through the cells of one picture, iteration by iteration.

    Grids of cells lie flat, with REACH cells of zeros all around: [places, channels]. All numbers are whole; they are
    stored as small integers, and carried in float64 where they are added up.
    """

    def __init__(self, module, state, size, heights):
        self.module, self.state = module, state
        self.height, self.width = size
        self.pitch = self.width + 2 * REACH
        rows, columns = (np.arange(side) + REACH for side in size)
        self.inside = (rows[:, None] * self.pitch + columns).ravel()  # the places of cells
        self.heights = None if heights is None else self._grid(heights.reshape(-1, 1), np.int32)[:, 0]
        self.context = np.array([(tap // 7 - REACH) * self.pitch + tap % 7 - REACH for tap in range(TAPS)])
        self.around = np.array([i * self.pitch + j for i in (-1, 0, 1) for j in (-1, 0, 1)])
        self.tables = {name: np.asarray(table, np.float64) for name, table in state["tables"].items()}
        self.memory = None  # only when it is needed: a forged size is mostly found out before

    def _grid(self, cells, dtype):
        """[cells, n] in raster order -> [places, n]."""
        grid = np.zeros(((self.height + 2 * REACH) * self.pitch, cells.shape[1]), dtype)
        grid[self.inside] = cells
        return grid

    def begin(self, codes: np.ndarray | None) -> None:
        """Before an iteration. codes: int8 [h, w, C], or None where they are still to be found out."""
        shape = (len(self.inside), self.module.channels)
        self.codes = self._grid(np.zeros(shape, np.int8) if codes is None else codes.reshape(shape), np.int8)

    def found(self) -> np.ndarray:
        """The codes of this iteration, int8 [h, w, C]."""
        return self.codes[self.inside].reshape(self.height, self.width, -1)

    def waves(self, k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Goes through iteration k.

        Yields (places [n], frequencies int32 [n, C]): 2^16 times the probability that bits of cells are 1. Their codes
        must stand at these places of `codes` when the next are asked for.
        """
        module, width = self.module, self.width
        context, gates, hidden, logits = (self._layer(name, k) for name in ("context", "gates", "hidden", "logits"))
        known = self._recall(k) if module.remembers else None
        frequencies = np.asarray(self.state["tables"]["frequencies"])
        # Of each row what was seen at its last cell; of each column the LSTM's cell; of each column, and of rows of
        # even and odd number, its output: a row's are needed until the next has passed.
        left = np.zeros((self.height, len(gates.kernel[: -3 * module.hidden]) // 2))
        c = np.zeros((width, module.hidden))
        h = np.zeros((2 * (width + 2), module.hidden))
        for wave in range(width + LEAD * (self.height - 1)):
            first, last = max(0, -(-(wave - width + 1) // LEAD)), min(self.height - 1, wave // LEAD)
            if first > last:  # a grid narrower than LEAD
                continue
            rows = np.arange(first, last + 1)
            columns = wave - LEAD * rows
            places = (rows + REACH) * self.pitch + columns + REACH
            a = self._tanh(context(_gather(self.codes, places, self.context)))
            if known is not None:
                a = np.concatenate([a, known[rows * width + columns]], axis=1)
            above = (rows + 1) % 2 * (width + 2) + columns
            seen = np.concatenate([left[rows], a, _gather(h, above, np.arange(3))], axis=1)
            left[rows] = a
            output, c[columns] = self._lstm(gates(seen), c[columns])
            h[rows % 2 * (width + 2) + columns + 1] = output
            if self.heights is not None:
                sent = self.heights[places] > k
                places, output = places[sent], output[sent]
            if len(places):
                index = _bounded(logits(self._tanh(hidden(output))), whole.LARGEST_LOGIT)
                yield places, frequencies[index]

    def remember(self, k: int) -> None:
        """After iteration k: its codes enter the memory."""
        if not self.module.remembers:
            return
        if self.memory is None:
            cells = (len(self.inside), self.module.hidden)
            self.h, self.c = np.zeros(cells, np.int8), np.zeros(cells, np.int32)
            self.memory = np.zeros((len(self.codes), self.module.channels), np.int8)
        narrow = self._convolve("memory_narrow", k, self._grid(self._convolve("memory_wide", k, self.codes), np.int8))
        names = (("memory_gates", 0), ("memory_hidden", k), ("memory_state", k))
        gates, hidden, state = (self._layer(name, i) for name, i in names)
        for part in _parts(len(narrow)):
            seen = np.concatenate([narrow[part], self.h[part]], axis=1).astype(np.float64)
            h, c = self._lstm(gates(seen), self.c[part].astype(np.float64))
            self.h[part], self.c[part] = h, c
            self.memory[self.inside[part]] = self._tanh(state(self._tanh(hidden(h))))

    def _recall(self, k):
        """int8 or float64 [cells, H]: what the memory says."""
        if self.memory is not None:
            return self._convolve("state", k, self.memory)
        layer = self._layer("state", k)
        return np.broadcast_to(self._tanh(layer(np.zeros((1, len(layer.kernel))))), (len(self.inside), len(layer.bias)))

    def _convolve(self, name, k, grid):
        """tanh of a 3x3 convolution of [places, n]: int8 [cells, features]."""
        layer = self._layer(name, k)
        found = np.empty((len(self.inside), layer.kernel.shape[1]), np.int8)
        for part in _parts(len(found)):
            found[part] = self._tanh(layer(_gather(grid, self.inside[part], self.around)))
        return found

    def _layer(self, name, k):
        layer = self.state[name]
        kernel, bias = (np.asarray(layer[part][k], np.float64) for part in ("kernel", "bias"))
        return _Layer(kernel, bias, np.ldexp(np.float64(layer["multiplier"][k]), -np.int32(layer["shift"][k])))

    def _tanh(self, steps):
        """Activations, float64."""
        return self.tables["activation"][_bounded(steps, LARGEST_INDEX)]

    def _lstm(self, gates, c):
        """As the function of floats: steps [n, 4 H] and cells [n, H] -> activations and cells [n, H]."""
        units = c.shape[1]
        index = _bounded(gates, LARGEST_INDEX)
        i, f, o = np.split(self.tables["sigmoid"][index[:, : 3 * units]], 3, axis=1)
        g = self.tables["tanh"][index[:, 3 * units :]]
        c = np.floor((f * c + i * g) * (1 / GATE_ONE) + 0.5)
        c = np.clip(c, -LARGEST_CELL * GATE_ONE, LARGEST_CELL * GATE_ONE)
        shown = self.tables["tanh"][_bounded(np.floor(c * (TANH_STEPS / GATE_ONE) + 0.5), LARGEST_INDEX)]
        return np.floor(o * shown * (ACTIVATION_ONE / GATE_ONE**2) + 0.5), c


class _Layer(NamedTuple):
    """Sums of whole numbers, rescaled to steps; see `mlic_jax.entropy.bits.integers.rescale`."""

    kernel: np.ndarray
    bias: np.ndarray
    factor: np.ndarray  # multiplier 2^-shift, exactly

    def __call__(self, x):
        return np.floor((whole.product(x, self.kernel) + self.bias) * self.factor + 0.5)


def _gather(grid, places, offsets):
    """[places, n] at [m] places, with offsets [taps] -> float64 [m, taps n]."""
    return grid[places[:, None] + offsets].reshape(len(places), -1).astype(np.float64)


def _bounded(steps, largest):
    """Indexes into a table of -largest .. largest."""
    return np.clip(steps, -largest, largest).astype(np.intp) + largest


def _parts(count):
    return [slice(start, start + _BLOCK) for start in range(0, count, _BLOCK)]


def _check_codes(module, codes, heights):
    """Raises ValueError unless codes int8 [T, h, w, C] are -1 or +1 where they are sent, and else 0."""
    if codes.ndim != 4 or codes.shape[0] > module.iterations or codes.shape[3] != module.channels:
        raise ValueError(f"codes {codes.shape}: [T, h, w, {module.channels}] with T <= {module.iterations} are needed")
    for k, one in enumerate(codes):
        sent = True if heights is None else (heights > k)[..., None]
        if (np.abs(one) != sent).any():
            raise ValueError(f"codes of iteration {k} are not -1 or +1 where they are sent, and 0 elsewhere")


def encode(
    module: BinaryRNN, state: Mapping[str, Any], codes: np.ndarray, heights: np.ndarray | None = None
) -> tuple[bytes, ...]:
    """Codes the bits of one picture.

    Args:
      module: the network.
      state: see `integers`; checked.
      codes: int8 [T, h, w, C], -1 or +1, and 0 beyond a cell's height.
      heights: int [h, w], how many iterations of each cell are sent; None for all.

    Returns:
      One chunk for each iteration. The first K of them are those of a picture of K iterations.

    Raises ValueError for other codes.
    """
    _check_codes(module, codes, heights)
    walk, chunks = _Walk(module, state, codes.shape[1:3], heights), []
    for k, one in enumerate(codes):
        coder = Encoder()
        walk.begin(one)
        for places, frequencies in walk.waves(k):
            coder.write_bits(walk.codes[places] > 0, frequencies)
        chunks.append(coder.finish())
        if k + 1 < len(codes):
            walk.remember(k)
    return tuple(chunks)


def decode(
    module: BinaryRNN,
    state: Mapping[str, Any],
    chunks: tuple[bytes, ...],
    shape: tuple[int, int],
    heights: np.ndarray | None = None,
) -> np.ndarray:
    """The codes int8 [K, h, w, C] of K chunks that `encode` wrote, the first ones.

    Args:
      module, state, heights: as they were for `encode`.
      chunks: the first K chunks.
      shape: (h, w), cells.

    Raises CorruptStreamError: the chunks cannot be that.
    """
    if len(chunks) > module.iterations:
        raise CorruptStreamError(f"{len(chunks)} iterations, where the model knows {module.iterations}")
    walk, found = _Walk(module, state, shape, heights), []
    for k, chunk in enumerate(chunks):
        coder = Decoder(chunk)
        walk.begin(None)
        for places, frequencies in walk.waves(k):
            walk.codes[places] = 2 * coder.read_bits(frequencies) - 1
        coder.finish()
        found.append(walk.found())
        if k + 1 < len(chunks):
            walk.remember(k)
    return np.stack(found) if found else np.zeros((0, *shape, module.channels), np.int8)


def code_length(
    module: BinaryRNN, state: Mapping[str, Any], codes: np.ndarray, heights: np.ndarray | None = None
) -> np.ndarray:
    """Bits that each iteration needs by the probabilities of files, float64 [T]; arguments as of `encode`."""
    _check_codes(module, codes, heights)
    walk, lengths = _Walk(module, state, codes.shape[1:3], heights), np.zeros(len(codes))
    for k, one in enumerate(codes):
        walk.begin(one)
        for places, frequencies in walk.waves(k):
            chances = np.where(walk.codes[places] > 0, frequencies, TOTAL - frequencies)
            lengths[k] -= np.log2(chances / TOTAL).sum()
        if k + 1 < len(codes):
            walk.remember(k)
    return lengths
