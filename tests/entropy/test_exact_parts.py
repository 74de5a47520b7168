"""What may stand in exact networks besides convolutions and ReLUs, and sums that are split: as the oracle has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlic_jax import reference
from mlic_jax.entropy import exact_layers
from mlic_jax.entropy.exact import ExactStack
from mlic_jax.errors import ModelError, UsageError
from mlic_jax.layers import Conv, ConvTranspose, DepthToSpace, LeakyReLU, SpaceToDepth, init, relu

CHANNELS = 5
STACKS = {
    "space to depth": ExactStack((Conv(6, 3), SpaceToDepth(2), Conv(8, 1), LeakyReLU(0.2), Conv(4, 3))),
    "depth to space": ExactStack(
        (Conv(12, 3), LeakyReLU(0.5), DepthToSpace(2), Conv(6, 3), relu, Conv(8, 1), DepthToSpace(2))
    ),
    "of torch": ExactStack(
        (Conv(3, 1), SpaceToDepth(2, "torch"), Conv(12, 1), LeakyReLU(0.2), DepthToSpace(2, "torch"), Conv(4, 3))
    ),
    "tanh": ExactStack((Conv(6, 3), jnp.tanh, Conv(7, 1), relu, Conv(5, 1), jnp.tanh)),
    "split": ExactStack((ConvTranspose(7), LeakyReLU(0.2), Conv(4, 5), relu, Conv(4, 1)), split_sums=True),
}


def made(name, seed=0):
    """(stack, variables with integers, ranges, values it reads minus its medians)."""
    stack, rng = STACKS[name], np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: stack.init(key, jnp.zeros((1, 4, 4, CHANNELS))), jax.random.key(0))
    params = init.materialise(shapes["params"], jax.random.key(1))
    spread = 0.2 if name == "tanh" else 1.0  # of channels' orders of magnitude
    for layer in params.values():
        layer["kernel"] *= 10 ** rng.uniform(-spread, spread, layer["kernel"].shape[-1]).astype(np.float32)
        layer["bias"] *= 10 * spread
    medians = rng.normal(size=CHANNELS) * 2
    symbols = np.rint(rng.laplace(size=(1, 10, 36, CHANNELS)) * 3).clip(-127, 127).astype(np.float32)
    if name == "tanh":
        params["layers_0"]["kernel"] *= 0.1
    _, largest = stack.apply({"params": params}, symbols + np.float32(medians), method="measure")
    ranges = {layer: np.asarray(value).max(0) for layer, value in largest.items()}
    state = stack.apply({"params": params}, medians, ranges, method="quantise")
    return stack, {"params": params, "state": state}, ranges, symbols, np.float32(medians)


def oracle(state, x):
    return reference.exact.evaluate(state, x.astype(np.int64)[0])[None]


@pytest.mark.parametrize("name", STACKS)
def test_networks(name):
    stack, variables, ranges, symbols, medians = made(name)
    stack.apply(variables, CHANNELS, method="check")
    # In windows of two sizes, as files are coded, at ordinary values and at the largest.
    for x in (symbols, np.sign(symbols) * 127):
        found = stack.apply(variables, x, method="integers")
        np.testing.assert_array_equal(found * 256, oracle(variables["state"], x))
    found = stack.apply(variables, symbols, method="integers")
    assert found.shape == stack.output_shape(symbols.shape) and len(np.unique(found)) > 100
    wanted = np.asarray(stack.apply(variables, symbols + medians))
    error = np.abs(found - wanted).mean((0, 1, 2)) / wanted.std((0, 1, 2))
    assert np.median(error) < 0.04 and error.max() < 0.1, error
    trained = stack.apply(variables, jnp.asarray(symbols + medians), ranges, method="quantised")
    scale = np.abs(found).max((0, 1, 2))
    assert (np.abs(found - trained).mean((0, 1, 2)) <= 0.005 * scale + 1 / 256).all()


def test_split_sums_keep_the_bits_of_weights():
    """5 x 5 x 640 products: without it each weight has some 5 bits."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.1, (5, 5, 640, 2)).astype(np.float32)
    params = {"layers_0": {"kernel": kernel, "bias": np.zeros(2, np.float32)}}
    values = np.rint(rng.uniform(-100, 100, (1, 6, 6, 640))).astype(np.float32)
    ranges, errors = {"input": np.full(640, 127.0)}, []
    for split in (False, True):
        stack = ExactStack((Conv(2, 5),), of_values=True, split_sums=split)
        state = stack.apply({"params": params}, None, ranges, method="quantise")
        found = stack.apply({"params": params, "state": state}, values, method="integers")
        in_steps = values.astype(np.int64)[0] << reference.exact.VALUE_BITS
        np.testing.assert_array_equal(found[0] * 256, reference.exact.evaluate(state, in_steps))
        errors.append(np.abs(found - np.asarray(stack.apply({"params": params}, values))).mean())
    assert errors[1] < 0.2 * errors[0], errors
    # Beyond what float32 holds by itself.
    taps = state["layer_0"]["kernel"].astype(np.int64)
    extreme = 127 * np.sign(taps[..., 0])
    assert 1 << 24 < reference.exact.convolve(extreme, taps, 1, False).max() < 1 << 30
    found = stack.apply({"params": params, "state": state}, extreme[None], method="integers")
    in_steps = extreme << reference.exact.VALUE_BITS
    np.testing.assert_array_equal(found[0] * 256, reference.exact.evaluate(state, in_steps))


def test_shifts_of_split_sums():
    """At every shift, Python's integers."""
    rng = np.random.default_rng(0)
    ends = [0, 1, -1, 5, -5, (1 << 30) - 1, 1 - (1 << 30), 1 << 22, -(1 << 22), (1 << 22) + 1]
    sums = np.array([*ends, *rng.integers(1 - (1 << 30), 1 << 30, 40), *rng.integers(-4000, 4000, 40)], np.int32)
    shifts = np.arange(-16, 41, dtype=np.int32)
    found = jax.jit(exact_layers._shifted_split)(jnp.asarray(sums)[:, None], jnp.asarray(shifts))
    most = exact_layers.LARGEST_OUTPUT
    wanted = [[((int(v) << 17 - s + 40) + (1 << 56)) >> 57 for s in shifts.tolist()] for v in sums]
    np.testing.assert_array_equal(np.clip(found, -most, most), np.clip(np.array(wanted, object), -most, most))


def test_damaged_layers_are_refused():
    stack, variables, *_ = made("tanh")
    for change in (
        lambda layer: layer.update(table=layer["table"] + np.int16(1)),
        lambda layer: layer.update(table=layer["table"][:-1]),
        lambda layer: layer.pop("table"),
        lambda layer: layer.update(plan=np.append(layer["plan"], np.int32([1, 0, 1]))),
    ):
        state = {key: dict(value) for key, value in variables["state"].items()}
        change(state["layer_0"])
        with pytest.raises(ModelError, match="network"):
            stack.apply({**variables, "state": state}, CHANNELS, method="check")


@pytest.mark.parametrize(
    "layers",
    [
        (SpaceToDepth(2), Conv(4, 3)),
        (jnp.tanh, Conv(4, 3)),
        (Conv(4, 3), jnp.tanh, relu),
        (Conv(4, 3), SpaceToDepth(2), DepthToSpace(2)),
        (Conv(6, 3), DepthToSpace(2)),
    ],
)
def test_what_cannot_stand_there(layers):
    with pytest.raises(UsageError, match="of an ExactStack, .* at most one LeakyReLU .* one SpaceToDepth"):
        ExactStack(layers)
