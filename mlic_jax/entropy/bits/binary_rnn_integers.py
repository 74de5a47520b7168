"""The prior of recurrent codecs' bits in whole numbers: what an artifact stores of it, and the waves of coding.

The network is that of mlic_jax.entropy.bits.binary_rnn. A cell depends on the row above up to three columns ahead, and
on those before it up to one more for each; so cells of equal column + 4 row do not depend on each other: a grid of
h x w cells takes w + 4 (h - 1) waves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlic_jax.entropy.bits import integers as whole
from mlic_jax.entropy.bits.prior import Wave
from mlic_jax.entropy.tables import TOTAL
from mlic_jax.errors import ModelError

if TYPE_CHECKING:
    from mlic_jax.entropy.bits.binary_rnn import BinaryRNN

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
    """One kind of layer of the network.

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


def integers(plans: Mapping[str, Plan], params: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """What coders need of trained parameters: an artifact's state.

    Args:
      plans: of the network, see `BinaryRNN.plans`.
      params: its parameters, "params" of its variables.

    Returns:
      For each layer of `plans`, {"kernel": int8 [count, inputs, features], "bias": int32 [count, features],
      "multiplier": int32, "shift": int8, both of the bias's shape}: sums of whole numbers times multiplier 2^-shift are
      steps of a table. And "tables": {"activation", "tanh", "sigmoid", "frequencies"}.

    Raises ModelError for parameters that are not finite or too large.
    """
    state = {"tables": _tables()}
    for name, plan in plans.items():
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
        state[name] = {
            "kernel": np.rint(kernel / step[:, None]).astype(np.int8),
            "bias": np.rint(bias / (step * unit)).astype(np.int32),
            "multiplier": multiplier,
            "shift": shift,
        }
    return state


def check(plans: Mapping[str, Plan], state: Mapping[str, Any]) -> None:
    """Raises ModelError unless the state is what `integers` makes: names, types, shapes, and sums within bounds."""
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


class Walk:
    """The way through the cells of one picture, iteration by iteration.

    Args:
      module: the network.
      state: see `integers`; checked.
      signs: the volume int8 [T, h, w, C]; decoders fill it as they go.
      present: bool [T, h, w].

    Grids of cells lie flat, with REACH cells of zeros all around: [places, channels]. All numbers are whole; they are
    stored as small integers, and carried in float64 where they are added up.
    """

    def __init__(self, module: BinaryRNN, state: Mapping[str, Any], signs: np.ndarray, present: np.ndarray):
        self.module, self.state, self.signs, self.present = module, state, signs, present
        self.height, self.width = signs.shape[1:3]
        self.pitch = self.width + 2 * REACH
        rows, columns = (np.arange(side) + REACH for side in signs.shape[1:3])
        self.inside = (rows[:, None] * self.pitch + columns).ravel()  # the places of cells
        self.context = np.array([(tap // 7 - REACH) * self.pitch + tap % 7 - REACH for tap in range(TAPS)])
        self.around = np.array([i * self.pitch + j for i in (-1, 0, 1) for j in (-1, 0, 1)])
        self.tables = {name: np.asarray(table, np.float64) for name, table in state["tables"].items()}
        self.memory = None  # only when it is needed: a forged size is mostly found out before

    def streams(self) -> Iterator[Iterator[Wave]]:
        """The waves of each iteration, see mlic_jax.entropy.bits.prior."""
        for k in range(len(self.signs)):
            if k:
                self._remember(k - 1)
            yield self._waves(k)

    def _grid(self, channels, cells=0):
        """int8 [places, channels], with cells [h w, channels] in raster order."""
        grid = np.zeros(((self.height + 2 * REACH) * self.pitch, channels), np.int8)
        grid[self.inside] = cells
        return grid

    def _waves(self, k: int) -> Iterator[Wave]:
        """Goes through iteration k."""
        self.codes = self._grid(self.module.channels)  # what is known of it
        module, width = self.module, self.width
        context, gates, hidden, logits = (self._layer(name, k) for name in ("context", "gates", "hidden", "logits"))
        known = self._recall(k) if module.remembers else None
        present, signs = self.present[k].reshape(-1), self.signs[k]
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
            cells, places = rows * width + columns, (rows + REACH) * self.pitch + columns + REACH
            a = self._tanh(context(_gather(self.codes, places, self.context)))
            if known is not None:
                a = np.concatenate([a, known[cells]], axis=1)
            above = (rows + 1) % 2 * (width + 2) + columns
            seen = np.concatenate([left[rows], a, _gather(h, above, np.arange(3))], axis=1)
            left[rows] = a
            output, c[columns] = self._lstm(gates(seen), c[columns])
            h[rows % 2 * (width + 2) + columns + 1] = output
            coded = present[cells]
            if not coded.all():
                rows, columns, places, output = rows[coded], columns[coded], places[coded], output[coded]
            if len(places):
                index = _bounded(logits(self._tanh(hidden(output))), whole.LARGEST_LOGIT)
                yield (k, rows, columns), frequencies[index]
                self.codes[places] = signs[rows, columns]

    def _remember(self, k: int) -> None:
        """After iteration k: its codes enter the memory."""
        if not self.module.remembers:
            return
        if self.memory is None:
            cells = (len(self.inside), self.module.hidden)
            self.h, self.c = np.zeros(cells, np.int8), np.zeros(cells, np.int32)
            self.memory = np.zeros((len(self.codes), self.module.channels), np.int8)
        wide = self._convolve("memory_wide", k, self.codes)
        narrow = self._convolve("memory_narrow", k, self._grid(self.module.hidden, wide))
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
        activations = np.empty((len(self.inside), layer.kernel.shape[1]), np.int8)
        for part in _parts(len(activations)):
            activations[part] = self._tanh(layer(_gather(grid, self.inside[part], self.around)))
        return activations

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
