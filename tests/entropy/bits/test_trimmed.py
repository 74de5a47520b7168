"""Trimmed convolutions: causality along diagonals, whole numbers as defined, and streams that come back."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlic_jax.entropy.bits import prior, trimmed
from mlic_jax.entropy.bits.integers import LARGEST_LOGIT, LOGIT_ONE
from mlic_jax.errors import CorruptStreamError, ModelError
from mlic_jax.fileformat.artifact import flatten
from mlic_jax.layers import init

N = 4


@functools.cache
def network(channels=N, features=2, blocks=1, noise=0.3):
    """(module, params, state of whole numbers) with noise on all weights: nothing is zero as it is at first."""
    module = trimmed.TrimmedConv(channels, features, blocks)
    volume = (1, 2, 2, channels)
    some = (jax.ShapeDtypeStruct(volume, jnp.float32), jax.ShapeDtypeStruct(volume, bool))
    boxed = jax.eval_shape(lambda *some: module.init(jax.random.key(0), *some, method="bits"), *some)["params"]
    params = init.materialise(boxed, jax.random.key(1))
    rng = np.random.default_rng(0)
    params = {
        name: (a + noise * rng.normal(size=a.shape) / (len(a.shape) > 1 and np.prod(a.shape[:-1]) ** 0.5 or 1)).astype(
            np.float32
        )
        for name, a in params.items()
    }
    return module, params, module.bind({"params": params}).integers()


def volume(shape, share=1.0, seed=0):
    """(bits int8, sent) of random places."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, shape).astype(np.int8), rng.random(shape) < share


def signs_of(bits, sent):
    """The volume that coders see, int8: -1 or 1, and 0 where not sent."""
    return np.where(sent, 2 * bits - 1, 0).astype(np.int8)


def in_floats(module, params, bits, sent):
    """Bits that each of a batch costs, by the network in floating point."""
    return module.apply({"params": params}, 2.0 * bits - 1, sent, method="bits")


def encode(module, state, bits, sent):
    (data,) = prior.write(module.bind({"state": state}), signs_of(bits, sent), sent)
    return data


def decode(module, state, data, sent):
    """Bits int8, 0 where not sent."""
    signs = prior.read(module.bind({"state": state}), (data,), sent)
    assert signs.dtype == np.int8
    np.testing.assert_array_equal(np.abs(signs), sent)
    return (signs > 0).astype(np.int8)


def code_length(module, state, bits, sent):
    (length,) = prior.code_lengths(module.bind({"state": state}), signs_of(bits, sent), sent)
    return length


def logits(module, params, bits, sent):
    """Of the float network: [h, w, n]."""
    return np.asarray(module.apply({"params": params}, (2.0 * bits - 1)[None], sent[None], method="logits")[0])


def probabilities(module, state, bits, sent):
    """The frequencies int [h, w, n] with which files are coded."""
    volume = np.zeros(sent.shape, int)
    (waves,) = module.bind({"state": state}).streams(signs_of(bits, sent), sent)
    for places, frequencies in waves:
        volume[places] = frequencies
    return volume


def lengths_of_files(module, state, bits, sent):
    """Bits that each takes, float [h, w, n]; 0 where not sent."""
    of_ones = probabilities(module, state, bits, sent) / 65536
    return -np.log2(np.where(sent, np.where(bits == 1, of_ones, 1 - of_ones), 1))


DIAGONAL = np.add.outer(np.add.outer(np.arange(6), np.arange(5)), np.arange(N))


@pytest.mark.parametrize("share", [1.0, 0.7])
def test_a_bit_changes_later_diagonals_only(share):
    module, params, state = network()
    bits, sent = volume(DIAGONAL.shape, share)
    of_float = logits(module, params, bits, sent)
    of_files = probabilities(module, state, bits, sent)
    for place in ((2, 2, 1), (0, 0, 0), (5, 4, 3), (3, 0, 2)):
        if not sent[place]:
            continue
        changed = bits.copy()
        changed[place] ^= 1
        earlier = sent & (DIAGONAL <= sum(place))
        np.testing.assert_array_equal(probabilities(module, state, changed, sent)[earlier], of_files[earlier])
        different = logits(module, params, changed, sent)
        np.testing.assert_array_equal(different[earlier], of_float[earlier])
        later = sent & (DIAGONAL == sum(place) + 1)
        if place == (2, 2, 1):  # and it does change something
            assert np.abs(different - of_float)[later].max() > 1e-3
            assert (probabilities(module, state, changed, sent) != of_files)[later].any()


def test_the_weights_that_stay_are_those_of_the_definition():
    for layer in trimmed.layers(trimmed.TrimmedConv(3, 2, 1)):
        found, half = trimmed.trimming(layer, 3), layer.kernel // 2
        assert found.shape == (layer.kernel, layer.kernel, 3 * layer.inputs, 3 * layer.outputs)
        for a, b, c, k in np.ndindex(found.shape):
            seen = a - half + b - half + c // layer.inputs
            here = k // layer.outputs
            assert found[a, b, c, k] == (seen < here if layer.strict else seen <= here)


def test_the_first_place_knows_nothing_and_what_is_not_sent_is_of_no_account():
    module, params, state = network()
    bits, sent = volume((3, 4, N), 0.6)
    sent[0, 0, 0] = True
    first = {float(logits(module, params, b, sent)[0, 0, 0]) for b in (bits, 1 - bits)}
    assert len(first) == 1 and len({probabilities(module, state, b, sent)[0, 0, 0] for b in (bits, 1 - bits)}) == 1
    # Bits that are not sent cost nothing and change nothing, in training as in files.
    other = np.where(sent, bits, 1 - bits)
    for values in (bits, other):
        lengths = np.asarray(in_floats(module, params, values[None], sent[None])[0])
        assert (lengths[~sent] == 0).all() and (lengths[sent] > 0).all()
    np.testing.assert_array_equal(logits(module, params, bits, sent), logits(module, params, other, sent))
    assert encode(module, state, bits, sent) == encode(module, state, other, sent)
    expected = lengths_of_files(module, state, bits, sent).sum()
    assert code_length(module, state, bits, sent) == pytest.approx(expected, rel=1e-9)


MASKS = {
    "none": lambda shape, rng: np.zeros(shape, bool),
    "all": lambda shape, rng: np.ones(shape, bool),
    "first channels": lambda shape, rng: np.arange(shape[2]) < rng.integers(0, shape[2] + 1, (*shape[:2], 1)),
    "anything": lambda shape, rng: rng.random(shape) < 0.4,
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 3)])
def test_streams_come_back(size, mask):
    module, _, state = network()
    rng = np.random.default_rng(3)
    shape = (*size, N)
    sent = MASKS[mask](shape, rng)
    for bits in (rng.integers(0, 2, shape), np.zeros(shape, int), np.indices(shape).sum(0) % 2):
        data = encode(module, state, bits, sent)
        found = decode(module, state, data, sent)
        assert found.dtype == np.int8
        np.testing.assert_array_equal(found, np.where(sent, bits, 0))
        assert 8 * len(data) <= 1.01 * code_length(module, state, bits, sent) + 128


def test_the_order_is_diagonals_then_channels_then_rows():
    sent = np.random.default_rng(0).random((4, 5, 3)) < 0.6
    found = [(i + j + k, k, i, j) for places in trimmed.diagonals(sent) for i, j, k in zip(*places, strict=True)]
    expected = sorted((i + j + k, k, i, j) for i, j, k in zip(*np.nonzero(sent), strict=True))
    assert found == expected
    assert all(len(set(np.sum(places, axis=0))) == 1 for places in trimmed.diagonals(sent))


def by_definition(module, state, bits, sent):
    """Frequencies at every place, place by place, in Python's integers."""
    height, width, n = sent.shape
    plan = trimmed.layers(module)
    x = LOGIT_ONE * np.where(sent, 2 * bits.astype(int) - 1, 0)[..., None]
    kept = [x]
    for number, layer in enumerate(plan):
        arrays, half = {key: a.astype(int) for key, a in state[f"layer_{number}"].items()}, layer.kernel // 2
        y = np.zeros((height, width, n, layer.outputs), int)
        for i, j, k in zip(*np.nonzero(sent), strict=True):
            for f in range(layer.outputs):
                out = k * layer.outputs + f
                total = int(arrays["bias"][out])
                for a in range(max(0, i - half), min(height, i + half + 1)):
                    for b in range(max(0, j - half), min(width, j + half + 1)):
                        for c in range(n):
                            if a + b + c < i + j + k + (not layer.strict):
                                weights = arrays["kernel"][a - i + half, b - j + half]
                                for g in range(layer.inputs):
                                    total += int(kept[-1][a, b, c, g]) * int(weights[c * layer.inputs + g, out])
                shift = int(arrays["shift"][out])
                value = (2 * total * int(arrays["multiplier"][out]) + (1 << shift)) >> (shift + 1)
                if layer.adds:
                    value += int(kept[-2][i, j, k, f])
                if number + 1 < len(plan) and value < 0:
                    value = (value + 2) // 4  # a quarter, rounded half up
                y[i, j, k, f] = max(-LARGEST_LOGIT, min(LARGEST_LOGIT, value))
        kept.append(y)
    return np.where(sent, state["frequencies"][kept[-1][..., 0] + LARGEST_LOGIT], 0)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_whole_numbers_are_those_of_the_definition(share):
    module, _, state = network(channels=3, noise=1.0)
    bits, sent = volume((3, 4, 3), share, seed=2)
    np.testing.assert_array_equal(probabilities(module, state, bits, sent), by_definition(module, state, bits, sent))


def test_features_are_clipped_alike():
    """Weights so large that features and logits run into their bounds."""
    module, params, _ = network()
    params = {name: a * (20 if name.startswith("kernel") else 1) for name, a in params.items()}
    state = module.bind({"params": params}).integers()
    bits, sent = volume((4, 4, N))
    lengths = np.asarray(in_floats(module, params, bits[None], sent[None])[0])
    found = lengths_of_files(module, state, bits, sent)
    assert lengths.max() > 7  # bounds are reached: 255 / 32 is 11.5 bits
    assert np.mean(np.abs(found - lengths) < 0.5) > 0.9


def correlated(rng, count, side=8, n=N):
    """Bits that mostly repeat their neighbour to the left or the channel before: [count, side, side, n]."""
    bits = rng.integers(0, 2, (count, side, side, n))
    for k in range(n):
        for j in range(side):
            repeated = rng.random((count, side)) < 0.8
            source = bits[:, :, j - 1, k] if j else bits[:, :, j, k - 1]
            if j or k:
                bits[:, :, j, k] = np.where(repeated, source, bits[:, :, j, k])
    return bits.astype(np.int8)


@functools.cache
def trained():
    """(module, state, params) after a short training on correlated bits of which 70 % are sent."""
    module, params, _ = network(features=3, noise=0.0)
    rng = np.random.default_rng(0)
    bits = correlated(rng, 512)
    sent = np.arange(N) < rng.integers(1, N + 1, (512, 8, 8, 1))
    optimizer = optax.adam(1e-2)

    def step(carry, i):
        params, moments = carry
        chosen = jax.random.randint(jax.random.fold_in(jax.random.key(0), i), (8,), 0, len(bits))

        def loss(params):
            found = in_floats(module, params, jnp.asarray(bits)[chosen], jnp.asarray(sent)[chosen])
            return found.sum() / jnp.asarray(sent)[chosen].sum()

        value, gradients = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), moments), value

    run = jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(80)))
    (params, _), values = jax.device_get(run(params))
    assert values[0] == pytest.approx(1, abs=0.1)
    return module, module.bind({"params": params}).integers(), params


def test_a_trained_network_saves_bits_in_whole_numbers_too():
    module, state, params = trained()
    rng = np.random.default_rng(9)
    bits = correlated(rng, 4)
    sent = np.arange(N) < rng.integers(1, N + 1, (4, 8, 8, 1))
    in_float = float(in_floats(module, params, bits, sent).sum())
    found = sum(code_length(module, state, b, s) for b, s in zip(bits, sent, strict=True))
    assert found / sent.sum() < 0.9
    assert found == pytest.approx(in_float, rel=0.01)
    for one, mask in zip(bits, sent, strict=True):
        data = encode(module, state, one, mask)
        np.testing.assert_array_equal(decode(module, state, data, mask)[mask], one[mask])


def test_gradients_are_those_of_finite_differences():
    module, params, _ = network()
    bits, sent = volume((3, 3, N), 0.7)

    @jax.jit
    def total(params):
        return in_floats(module, params, bits[None], sent[None]).sum()

    gradients = jax.jit(jax.grad(total))(params)
    rng = np.random.default_rng(0)
    for name in ("kernel_1", "kernel_3", "bias_0"):
        direction = rng.normal(size=params[name].shape).astype(np.float32)
        there, back = ({**params, name: params[name] + s * 1e-3 * direction} for s in (1, -1))
        expected = float(total(there) - total(back)) / 2e-3
        assert float((gradients[name] * direction).sum()) == pytest.approx(expected, rel=0.03, abs=0.05)
    assert (np.asarray(gradients["kernel_1"])[trimmed.trimming(trimmed.layers(module)[1], N) == 0] == 0).all()


def test_damaged_streams():
    module, state, _ = trained()
    bits, sent = volume((5, 6, N), 0.8)
    data = encode(module, state, bits, sent)
    rng = np.random.default_rng(0)
    refused = 0
    damaged = [data[:-1], data[:-4], data + bytes(4), b""]
    for _ in range(40):
        at = rng.integers(len(data))
        damaged.append(data[:at] + bytes([data[at] ^ rng.integers(1, 256)]) + data[at + 1 :])
    for one in damaged:
        try:
            found = decode(module, state, one, sent)
        except CorruptStreamError:
            refused += 1
        else:
            assert (found != np.where(sent, bits, 0)).any()
    assert refused >= 4


def test_damaged_states():
    module, params, state = network()
    trimmed.check(module, state)
    flat = flatten(state)
    for name, array in flat.items():
        for wrong in (array[:-1], array.astype(np.float32), None):
            broken = copy.deepcopy(state)
            *parents, last = name.split("/")
            node = broken[parents[0]] if parents else broken
            if wrong is None:
                del node[last]
            else:
                node[last] = wrong
            with pytest.raises(ModelError):
                trimmed.check(module, broken)
    for name, value in (("frequencies", 0), ("frequencies", 1 << 16), ("shift", -1), ("bias", 1 << 30)):
        broken = copy.deepcopy(state)
        (broken if name == "frequencies" else broken["layer_0"])[name].flat[0] = value
        with pytest.raises(ModelError, match=name):
            trimmed.check(module, broken)
    with pytest.raises(ModelError):
        trimmed.check(module, {})
    with pytest.raises(ModelError, match="too large"):
        trimmed.integers_of(module, {**params, "kernel_1": params["kernel_1"] * np.float32(1e9)})
    # Dead weights beside a bias are no reason to fail.
    dead = trimmed.integers_of(module, {**params, "kernel_1": 0 * params["kernel_1"], "bias_1": params["bias_1"] + 100})
    trimmed.check(module, dead)
