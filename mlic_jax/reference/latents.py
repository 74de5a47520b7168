"""Codecs that send latents: their symbols block by block, and for each model the order of latents and their table rows.

What reads a model is (coder, model, height, width, quality) -> arrays by name: for every latent its symbols, int32
[h, w, C]; as NAME_rows the table rows that they were coded with; and as NAME_means the means in steps of 1/256, where
there are any. Quality is in half steps, as the header has it, or None; height and width are the picture's.
"""

from __future__ import annotations

import numpy as np

from mlic_jax.errors import CorruptStreamError
from mlic_jax.reference import exact, mixture
from mlic_jax.reference.rangecoder import Mirrored, cumulative, uniform

# -------------------------------------------------------------------------------------------------------- one latent

BLOCK = 64
LARGEST_SYMBOL = 1 << 24
ESCAPE_LENGTHS = 27
PIECE = 16
# Places of a wave that are read together.
WAVE_PIECE = 4096


def read_latent(coder: Mirrored, rows: np.ndarray, table, limit: int) -> np.ndarray:
    """The symbols of a latent, int32 [h, w, C].

    Args:
      coder: what they are read from.
      rows: int [h, w, C], the row of the table that each was coded with.
      table: of a model, see mlic_jax.entropy.tables.
      limit: the largest symbol that is possible.

    Raises CorruptStreamError.
    """
    ends = np.cumsum(table.lengths).tolist()
    first, lengths = table.first.tolist(), table.lengths.tolist()
    models = {row: cumulative(table.frequencies[ends[row] - lengths[row] : ends[row]]) for row in np.unique(rows)}
    symbols = np.empty(rows.shape, np.int32)
    for top in range(0, rows.shape[0], BLOCK):
        for left in range(0, rows.shape[1], BLOCK):
            part = rows[top : top + BLOCK, left : left + BLOCK]
            row_of = part.ravel().tolist()
            block, escaped = [0] * len(row_of), []
            for place in sorted(range(len(row_of)), key=row_of.__getitem__):  # stable: raster order within a row
                row = row_of[place]
                entry = coder.read(models[row])
                block[place] = first[row] + entry
                if entry == lengths[row] - 1:
                    escaped.append(place)
            for place, distance in zip(escaped, _read_distances(coder, len(escaped)), strict=True):
                below = first[row_of[place]] - (distance + 1) // 2
                block[place] = below if distance % 2 else block[place] + distance // 2
            if block and max(map(abs, block)) > limit:
                raise CorruptStreamError(f"a symbol is beyond {limit}")
            symbols[top : top + BLOCK, left : left + BLOCK] = np.array(block, np.int32).reshape(part.shape)
    return symbols


def _read_distances(coder: Mirrored, count: int) -> list[int]:
    """How far the escaped symbols of a block are outside of their rows."""
    lengths = [coder.read(uniform(ESCAPE_LENGTHS)) for _ in range(count)]
    values = [1 << length for length in lengths]
    for length in sorted(set(lengths)):
        for shift in range(0, length, PIECE):
            model = uniform(1 << min(PIECE, length - shift))
            for place in range(count):
                if lengths[place] == length:
                    values[place] |= coder.read(model) << shift
    return [value - 1 for value in values]


# --------------------------------------------------------------------------------------------------- the coding orders

LARGEST_HYPER_SYMBOL = 127


def by_channel(coder, name, table, height, width, limit):
    """A latent whose channels have a table row each."""
    rows = np.broadcast_to(np.arange(len(table.lengths)), (height, width, len(table.lengths)))
    return {name: read_latent(coder, rows, table, limit), f"{name}_rows": rows.astype(np.int32)}


def factorized(coder, model, height, width, quality):
    del quality
    h, w = -(-height // 16), -(-width // 16)
    return by_channel(coder, "y", model.tables["factorized_y"], h, w, LARGEST_SYMBOL)


def hyperprior(coder, model, height, width, quality, has_means):
    del quality
    h, w = -(-height // 64), -(-width // 64)
    arrays = by_channel(coder, "z", model.tables["factorized_z"], h, w, LARGEST_HYPER_SYMBOL)
    scales = exact.evaluate(model.state["h_s"], arrays["z"].astype(np.int64))
    if has_means:
        scales, means = np.split(scales, 2, axis=2)
        arrays["y_means"] = means.astype(np.int32)
    table = model.tables["gaussian"]
    rows = np.searchsorted(table.thresholds, scales, side="right")  # how many of them are <= the scale
    return {**arrays, "y": read_latent(coder, rows, table, LARGEST_SYMBOL), "y_rows": rows.astype(np.int32)}


def raster(h, w):
    """The wave of every place that sees those above, and left in its row, within 5x5."""
    return np.arange(w) + 3 * np.arange(h)[:, None]


def checkerboard(h, w):
    """The wave of every place where white ones see the black ones."""
    return (np.arange(w) + np.arange(h)[:, None]) % 2


def in_waves(waves, channels, read):
    """A latent of which places see others within 5x5.

    Args:
      waves: int [h, w].
      channels: of the latent.
      read: (surroundings int64 [n, 5, 5, C] in steps of 2^-10, zero where nothing is known; rows and columns of n
        places of a wave) -> arrays [n, C] by name, of which "" are symbols, and "_means" in steps of 1/256.

    Returns:
      arrays [h, w, C] by these names, and the values in steps of 2^-10.
    """
    reach, arrays = 2, {}
    known = np.zeros((waves.shape[0] + 2 * reach, waves.shape[1] + 2 * reach, channels), np.int64)
    for i, j in _pieces(waves):
        around = np.stack([known[row : row + 5, column : column + 5] for row, column in zip(i, j, strict=True)])
        found = read(around, i, j)
        known[i + reach, j + reach] = (256 * found[""] + found.get("_means", 0)) << 2
        for name, array in found.items():
            arrays.setdefault(name, np.zeros((*waves.shape, channels), np.int32))[i, j] = array
    return arrays, known[reach:-reach, reach:-reach]


def _pieces(waves):
    """Rows and columns of the places that are read together: of a wave in raster order, WAVE_PIECE at most."""
    for wave in np.unique(waves):
        i, j = np.nonzero(waves == wave)
        for start in range(0, len(i), WAVE_PIECE):
            yield i[start : start + WAVE_PIECE], j[start : start + WAVE_PIECE]


def by_scales(coder, table, parameters):
    """{"", "_rows", "_means"} of n places, of their scales and behind them means, [n, 2 C]."""
    scales, means = np.split(parameters, 2, axis=1)
    rows = np.searchsorted(table.thresholds, scales, side="right")
    symbols = read_latent(coder, rows[None], table, LARGEST_SYMBOL)[0].astype(np.int64)
    return {"": symbols, "_rows": rows, "_means": means}


def by_mixtures(coder, count, parameters):
    """{""} of n places, of logits, scales and means of `count` Gaussians for every entry, [n, 3 count C]."""
    places = len(parameters)
    parameters = parameters.reshape(places, 3, count, -1).transpose(1, 2, 0, 3)
    channels = parameters.shape[3]
    row = mixture.read_row(coder, parameters.reshape(3, count, -1), _read_distances, LARGEST_SYMBOL)
    return {"": row.reshape(places, channels)}


def with_hyper(coder, model, height, width):
    """(arrays of z, the values of `h_s` in steps of 2^-10)."""
    h, w = -(-height // 64), -(-width // 64)
    arrays = by_channel(coder, "z", model.tables["factorized_z"], h, w, LARGEST_HYPER_SYMBOL)
    return arrays, exact.evaluate(model.state["h_s"], arrays["z"].astype(np.int64)) << 2


def joint(coder, model, height, width, quality):
    """y in waves: a position's distributions need those above, and left in its row."""
    del quality
    arrays, hyper = with_hyper(coder, model, height, width)
    count = model.architecture.get("mixtures", 1)

    def read(around, i, j):
        context = exact.evaluate_at(model.state["context_prediction"], around) << 2
        both = np.concatenate([hyper[i, j][None], context], axis=2)
        parameters = exact.evaluate(model.state["entropy_parameters"], both)[0]
        if count > 1:
            return by_mixtures(coder, count, parameters)
        return by_scales(coder, model.tables["gaussian"], parameters)

    channels = model.state["context_prediction"]["layer_0"]["kernel"].shape[2]
    found, _ = in_waves(raster(*hyper.shape[:2]), channels, read)
    return arrays | {f"y{name}": array for name, array in found.items()}


def two_passes(coder, model, height, width, quality):
    """y in two waves: white positions see black ones."""
    del quality
    arrays, hyper = with_hyper(coder, model, height, width)
    found, _ = _in_two(coder, model, "context_prediction", "entropy_parameters", hyper)
    return arrays | {f"y{name}": array for name, array in found.items()}


def uneven_groups(coder, model, height, width, quality):
    """y in groups of channels, of each black positions and then white ones."""
    del quality
    arrays, hyper = with_hyper(coder, model, height, width)
    known: list[np.ndarray] = []
    for k in range(len(model.architecture["groups"])):
        side = hyper
        if k:
            before = exact.evaluate(model.state[f"channels_{k - 1}"], np.concatenate(known, axis=2)) << 2
            side = np.concatenate([before, hyper], axis=2)
        found, values = _in_two(coder, model, f"context_{k}", f"parameters_{k}", side)
        known.append(values)
        arrays |= {f"y_{k}{name}": array for name, array in found.items()}
    return arrays


def _in_two(coder, model, context, parameters, side):
    """A latent over a checkerboard, of two networks; what `in_waves` returns. side: values in steps of 2^-10."""
    waves, table = checkerboard(*side.shape[:2]), model.tables["gaussian"]

    def read(around, i, j):
        seen = (exact.evaluate_at(model.state[context], around) << 2) * waves[i, j][:, None]
        both = np.concatenate([seen, side[i, j][None]], axis=2)
        return by_scales(coder, table, exact.evaluate(model.state[parameters], both)[0])

    return in_waves(waves, model.state[context]["layer_0"]["kernel"].shape[2], read)


def channel_wise(coder, model, height, width, quality):
    """y in slices of channels: mean and scale of each from z and the first slices."""
    del quality
    slices, supports = model.architecture["slices"], model.architecture["supports"]
    table = model.tables["log_gaussian"]
    arrays = by_channel(
        coder, "z", model.tables["factorized_z"], -(-height // 64), -(-width // 64), LARGEST_HYPER_SYMBOL
    )
    z = arrays["z"].astype(np.int64)
    of_mean, of_scale = (exact.evaluate(model.state[name], z) << 2 for name in ("h_mean", "h_scale"))  # in 2^-10
    known: list[np.ndarray] = []  # the same
    for i in range(slices):
        seen = np.concatenate([of_mean, *known[:supports]], axis=2)
        mean = exact.evaluate(model.state[f"mean_{i}"], seen)
        scales = exact.evaluate(model.state[f"scale_{i}"], np.concatenate([of_scale, *known[:supports]], axis=2))
        rows = np.searchsorted(table.thresholds, scales, side="right")
        symbols = read_latent(coder, rows, table, LARGEST_SYMBOL).astype(np.int64)
        part = (256 * symbols + mean) << 2
        left = exact.evaluate(model.state[f"residual_{i}"], np.concatenate([seen, part], axis=2))
        known.append(part + 2 * left)
        arrays |= {f"y_{i}": symbols, f"y_{i}_rows": rows, f"y_{i}_means": mean}
    return arrays


def coarse_to_fine(coder, model, height, width, quality):
    """z1, z2 and z3, each twice as fine as the one before, which says its means and scales."""
    del quality
    table, wide = model.tables["whole_gaussian"], 522  # log-scales from here on have no phase, in steps of 1/256
    finer = by_channel(coder, "z1", model.tables["z1"], -(-height // 64), -(-width // 64), LARGEST_HYPER_SYMBOL)
    arrays, latent = dict(finer), finer["z1"].astype(np.int64)
    for level in (2, 3):
        hidden = exact.evaluate(model.state[f"hyper_synthesis_{level - 1}"], latent << 10) << 2  # values in 2^-10
        means, scales = np.split(exact.evaluate_around(model.state[f"predict_{level}"], hidden, 5), 2, axis=2)
        centres, scales = (means + 128) >> 8, np.clip(scales, -1024, 3071)
        phases = np.where(scales < wide, ((means + 128) & 255) >> 4, 16)
        rows = np.searchsorted(table.thresholds, 4096 * phases + scales + 1024, side="right")
        symbols = read_latent(coder, rows, table, LARGEST_SYMBOL)
        latent = symbols + centres
        arrays |= {f"z{level}": symbols, f"z{level}_rows": rows, f"z{level}_means": centres << 8}
    return arrays


def mosaic(height, width, step, steps):
    """Which group of channels is transmitted in a step at each place."""
    rows, columns = np.arange(height)[:, None], np.arange(width)
    if steps == 2:
        return (rows + columns) % 2 ^ step
    return 2 * (rows % 2) + columns % 2 ^ (0, 3, 2, 1)[step]


def _of_quality(coder, model, height, width, quality):
    """z of the models of every rate: (arrays by name, what reads further latents, z and the quality as values)."""
    levels = 8
    if quality is None:
        raise CorruptStreamError("the file has no quality")
    table = model.tables["log_gaussian"]

    def read(name, scales):
        rows = np.searchsorted(table.thresholds, scales, side="right")  # how many of them are <= the scale
        arrays[f"{name}_rows"] = rows.astype(np.int32)
        arrays[name] = read_latent(coder, rows, table, LARGEST_SYMBOL)
        return arrays[name].astype(np.int64)

    arrays: dict[str, np.ndarray] = {}
    h, w = -(-height // 64), -(-width // 64)
    # Levels stand 200 / 7 half steps of quality apart; place and spacing are 7 times that.
    place, spacing = quality * (levels - 1), 200
    level = min(place // spacing, levels - 2)
    beyond = place - level * spacing
    below, above = model.state["prior_z"]["log_scale"].astype(np.int64)[level : level + 2]
    scales = (below * (spacing - beyond) + above * beyond + spacing // 2) // spacing
    z = read("z", np.broadcast_to(scales, (h, w, len(scales))))
    weights = np.maximum(0, spacing - abs(place - spacing * np.arange(levels))) * 64 // spacing
    # Values in steps of 2^-10: a quarter of z, and the weights, which are multiples of 2^-6.
    return arrays, read, np.concatenate([z << 8, np.broadcast_to(weights << 4, (h, w, levels))], axis=2)


def _of_group(values, step, steps):
    """(which channels each place transmits in a step, their values), both [h, w, M / steps]."""
    count = values.shape[2] // steps
    chosen = mosaic(*values.shape[:2], step, steps)[..., None] * count + np.arange(count)
    return chosen, np.take_along_axis(values, chosen, axis=2)


def kltnet(coder, model, height, width, quality):
    steps, M = model.architecture["steps"], model.architecture["M"]
    arrays, read, values = _of_quality(coder, model, height, width, quality)
    out = exact.evaluate(model.state["h_s"], values)
    means, scales, features = out[..., :M], out[..., M : 2 * M], np.maximum(out[..., 2 * M :], 0)  # means: in 1/64
    y = np.zeros_like(means)  # in 1/64
    for step in range(steps):
        if step:
            which = np.broadcast_to(np.arange(1, steps) == step, (*y.shape[:2], steps - 1)).astype(np.int64)
            values = np.concatenate([features << 2, y << 2, which << exact.VALUE_BITS], axis=2)
            out = exact.evaluate(model.state["context"], values)
            means, scales = means + out[..., :M], scales + out[..., M:]
        chosen, mean = _of_group(means, step, steps)
        symbols = read(f"y_{step}", _of_group(scales, step, steps)[1])
        arrays[f"y_{step}_means"] = (4 * mean).astype(np.int32)
        np.put_along_axis(y, chosen, 64 * symbols + mean, axis=2)
    return arrays


def kltnet2(coder, model, height, width, quality):
    arrays, read, values = _of_quality(coder, model, height, width, quality)
    scales = exact.evaluate(model.state["scales"], values)
    for step in range(4):
        read(f"y_{step}", _of_group(scales, step, 4)[1])
    return arrays
