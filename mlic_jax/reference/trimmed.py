"""li2018: the bits of its code and of its importance map, by trimmed convolutions in whole numbers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from mlic_jax.errors import CorruptStreamError
from mlic_jax.reference.bits import LARGEST_LOGIT, BitReader, Layer, look_up, make_layer, plain_bits, take_part, window

ONE = 32  # what a bit of 1 is to a trimmed network; one of 0 is -ONE
MARGIN = 2


def trimmed_layers(arrays: Mapping[str, Mapping[str, np.ndarray]], channels: int) -> list[list[Layer]]:
    """For each layer, and each of the volume's channels, what gives the features of that channel."""
    layers = []
    for number in range(len(arrays) - 1):
        kernel, *rest = (np.asarray(arrays[f"layer_{number}"][part], np.int64) for part in Layer._fields)
        size, _, inputs, outputs = kernel.shape
        # Of inputs and outputs the channel goes first, then the feature.
        kernel = kernel.reshape(size, size, channels, inputs // channels, channels, outputs // channels)
        row, column, of, to = np.ogrid[:size, :size, :channels, :channels]
        ahead = row + column - 2 * (size // 2) + of - to
        kernel = kernel * ((ahead < 0) if number == 0 else (ahead <= 0))[:, :, :, None, :, None]
        rest = [array.reshape(channels, -1) for array in rest]
        layers.append(
            [
                make_layer(
                    kernel[..., k, :].reshape(size * size * inputs, -1),
                    *(array[k] for array in rest),
                    LARGEST_LOGIT,
                    f"layer {number} of a trimmed network",
                )
                for k in range(channels)
            ]
        )
    return layers


def read_volume(arrays: Mapping[str, np.ndarray], data: bytes, sent: np.ndarray) -> np.ndarray:
    """The bits int64 [h, w, n] of a stream, 0 where not sent. sent: bool [h, w, n]."""
    height, width, channels = sent.shape
    layers, reader = trimmed_layers(arrays, channels), BitReader(data)
    # What each layer sees, as far as it is known, with two rows and columns of zeros on all sides.
    inputs = [
        np.zeros((height + 2 * MARGIN, width + 2 * MARGIN, channels, layer["kernel"].shape[2] // channels), np.int64)
        for layer in (arrays[f"layer_{number}"] for number in range(len(layers)))
    ]
    bits = np.zeros(sent.shape, np.int64)
    places = sorted(map(tuple, np.argwhere(sent).tolist()), key=lambda place: (sum(place), place[2], place[0]))
    for _, group in itertools.groupby(places, key=sum):
        diagonal, features = list(group), []
        for number, layer in enumerate(layers):
            size, last = arrays[f"layer_{number}"]["kernel"].shape[0], number == len(layers) - 1
            cut = MARGIN - size // 2
            features = []
            for i, j, k in diagonal:
                x = layer[k](window(inputs[number], i + cut, j + cut, size, size))
                if number >= 3 and number % 2 == 1 and not last:
                    x = x + inputs[number - 1][i + MARGIN, j + MARGIN, k]
                if not last:
                    x = np.where(x < 0, (x + 2) // 4, x)
                features.append(np.clip(x, -LARGEST_LOGIT, LARGEST_LOGIT))
            if not last:
                for (i, j, k), x in zip(diagonal, features, strict=True):
                    inputs[number + 1][i + MARGIN, j + MARGIN, k] = x
        values = reader.read(look_up(arrays["frequencies"], np.array(features)[:, 0]))
        for (i, j, k), bit in zip(diagonal, values, strict=True):
            bits[i, j, k] = bit
            inputs[0][i + MARGIN, j + MARGIN, k] = ONE if bit else -ONE
    reader.finish()
    return bits


def read_bits(chunks, model, height, width, quality):
    if quality is not None:
        raise CorruptStreamError("the file has a quality, and its model has one rate")
    if len(chunks) != 1:
        raise CorruptStreamError(f"li2018 writes one data chunk, the file has {len(chunks)}")
    architecture, (data,) = model.architecture, chunks
    n, levels = architecture["n"], architecture["levels"]
    cells = -(-height // 8), -(-width // 8)

    def read(name, data, sent):
        if architecture["entropy"] != "none":
            return read_volume(model.state[name], data, sent)
        bits = np.zeros(sent.shape, np.int64)
        bits[sent] = plain_bits(data, int(sent.sum()))
        return bits

    if architecture["importance"] == "none":
        return {"bits": read("code_prior", data, np.ones((*cells, n), bool))}
    planes = levels.bit_length() - 1
    coded, data = take_part(data)
    digits = read("map_prior", coded, np.ones((*cells, planes), bool))
    level = sum(digits[..., i] << planes - 1 - i for i in range(planes))
    kept = (level + (architecture["floor_levels"] == "released")) * (n // levels)
    return {"bits": read("code_prior", data, np.arange(n) < kept[..., None]), "levels": level}
