"""Exact networks: integers that equal the oracle's, bounds that hold, and what they cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlic_jax import reference
from mlic_jax.entropy import exact
from mlic_jax.entropy.exact import ExactStack
from mlic_jax.errors import ModelError
from mlic_jax.layers import init
from mlic_jax.layers.conv import Conv, ConvTranspose
from mlic_jax.layers.stack import LeakyReLU, Stack, relu

CHANNELS = 5
STACKS = {
    "hyperprior": ExactStack((ConvTranspose(6), relu, ConvTranspose(7), relu, Conv(8, 3), relu)),
    "mean-scale": ExactStack((ConvTranspose(9), LeakyReLU(0.01), ConvTranspose(7), LeakyReLU(0.01), Conv(8, 3))),
    "context": ExactStack((Conv(9, 5), relu, Conv(9, 1), LeakyReLU(0.25), Conv(4, 3, 2))),
    "one layer": ExactStack((Conv(4, 3),)),
}
every = pytest.mark.parametrize("name", STACKS)


def symbols(shape=(1, 6, 8, CHANNELS), seed=0, largest=127):
    """Mostly small, as symbols are, with a few as large as they may be."""
    rng = np.random.default_rng(seed)
    found = np.rint(rng.laplace(size=shape) * rng.choice([0.5, 3, 60], size=shape[-1])).clip(-largest, largest)
    return found.astype(np.float32)


@functools.cache
def made(name, gain=1.0):
    """(stack, params, medians) with weights that span three orders of magnitude between channels."""
    stack = STACKS[name]
    shapes = jax.eval_shape(lambda key: stack.init(key, jnp.zeros((1, 4, 4, CHANNELS))), jax.random.key(0))
    params = init.materialise(shapes["params"], jax.random.key(1))
    rng = np.random.default_rng(2)
    for layer in params.values():
        layer["kernel"] *= gain * 10 ** rng.uniform(-1.5, 1.5, layer["kernel"].shape[-1]).astype(np.float32)
        layer["bias"] *= 10
    return stack, params, rng.normal(size=CHANNELS) * 2


def quantised(name, gain=1.0, x=None):
    """(stack, variables with integers, medians, ranges)."""
    stack, params, medians = made(name, gain)
    latent = (symbols() if x is None else x) + medians.astype(np.float32)
    _, largest = stack.apply({"params": params}, latent, method="measure")
    ranges = {layer: np.asarray(value).max(0) for layer, value in largest.items()}
    integers = stack.apply({"params": params}, medians, ranges, method="quantise")
    return stack, {"params": params, "state": integers}, medians, ranges


def oracle(variables, x):
    return reference.exact.evaluate(variables["state"], x.astype(np.int64)[0])[None]


@every
@pytest.mark.parametrize("size", [(1, 1), (11, 30)], ids=str)
def test_float32_holds_what_int64_computes(name, size):
    stack, variables, _, _ = quantised(name)
    whole = jax.jit(functools.partial(stack.apply, method="integers_whole"))
    shape = (1, *(2 * n for n in size), CHANNELS)
    for x in (symbols(shape, 3), np.full(shape, 127.0), np.full(shape, -127.0), symbols(shape, 4).clip(-1, 1) * 127):
        found = stack.apply(variables, x, method="integers")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found * 256, oracle(variables, x))
        np.testing.assert_array_equal(whole(variables, jnp.asarray(x)), found)


@every
def test_integers_follow_the_network(name):
    stack, variables, medians, _ = quantised(name)
    x = symbols()
    wanted = np.asarray(stack.apply(variables, x + medians.astype(np.float32)))
    found = stack.apply(variables, x, method="integers")
    error = np.abs(found - wanted).mean((0, 1, 2)) / wanted.std((0, 1, 2))
    # Three layers of 8 bits: a mean error of some hundredths of what the output varies.
    assert np.median(error) < 0.02 and error.max() < 0.08


@every
def test_medians_stop_at_the_border(name):
    # The constant channels carry the medians and end at the picture's border, as what they stand for does.
    stack, variables, medians, _ = quantised(name)
    x = np.zeros((1, 12, 12, CHANNELS), np.float32)
    wanted = np.asarray(stack.apply(variables, x + medians.astype(np.float32)))
    found = stack.apply(variables, x, method="integers")
    first = variables["state"]["layer_0"]
    kernel = first["kernel"].copy()
    kernel[:, :, -2:] = 0
    variables["state"]["layer_0"] = {**first, "kernel": kernel}
    without = stack.apply(variables, x, method="integers")
    border = [(slice(None), slice(0, 2)), (slice(None), slice(None), slice(-2, None)), (slice(None), slice(5, 7))]
    for part in border:
        error, missing = (np.abs(y[part] - wanted[part]).mean() for y in (found, without))
        assert error < 0.3 * missing


@every
def test_training_sees_what_files_will_have(name):
    stack, variables, medians, ranges = quantised(name)
    x = symbols()
    found = stack.apply(variables, x, method="integers")
    trained = stack.apply(variables, jnp.asarray(x + medians.astype(np.float32)), ranges, method="quantised")
    scale = np.abs(found).max((0, 1, 2))
    # Not the rounding of biases and medians; half a step of 8 bits where one is on the other side of a border.
    assert (np.abs(found - trained).mean((0, 1, 2)) <= 0.003 * scale + 1 / 256).all()


def test_gradients_pass_the_rounding():
    stack, params, medians = made("mean-scale")
    x = jnp.asarray(symbols() + medians.astype(np.float32))
    _, largest = stack.apply({"params": params}, x, method="measure")
    ranges = {layer: value.max(0) for layer, value in largest.items()}
    weights = np.random.default_rng(5).normal(size=8)

    def loss(params, rounding):
        y = (
            stack.apply({"params": params}, x, ranges, method="quantised")
            if rounding
            else stack.apply({"params": params}, x)
        )
        return (y * weights).mean()

    rough, smooth = (jax.grad(loss)(params, rounding) for rounding in (True, False))
    for layer in params:
        one, other = (grads[layer]["kernel"] for grads in (rough, smooth))
        assert np.vdot(one, other) > 0.95 * np.linalg.norm(one) * np.linalg.norm(other)


def test_what_would_not_be_exact_is_halved_until_it_is():
    # Weights of one sign and full size in every tap: 8 bits would leave the bound.
    stack = ExactStack((Conv(3, 5), relu, Conv(2, 5)))
    shapes = jax.eval_shape(lambda key: stack.init(key, jnp.zeros((1, 4, 4, 40))), jax.random.key(0))
    params = init.materialise(shapes["params"], jax.random.key(1))
    params["layers_0"]["kernel"][:] = 1.0
    params["layers_2"]["kernel"][:] = -3.0
    params["layers_0"]["bias"][:] = [0, 1e5, -1e5]
    ranges = {"layer_0": np.full(3, 127.0 * 1000)}
    integers = stack.apply({"params": params}, np.zeros(40), ranges, method="quantise")
    kernel = integers["layer_0"]["kernel"]
    assert kernel.max() < 127, "no channel had to give way, the case is too easy"
    for value in (127, -127):
        x = np.full((1, 9, 9, 40), value, np.int64)
        total = reference.exact.convolve(
            np.concatenate([x[0], x[0, ..., :2] * 0], -1), kernel.astype(np.int64), 1, False
        )
        assert np.abs(total + integers["layer_0"]["bias"]).max() < exact.LARGEST_SUM
    variables = {"params": params, "state": integers}
    x = np.full((1, 9, 9, 40), 127.0, np.float32)
    np.testing.assert_array_equal(stack.apply(variables, x, method="integers") * 256, oracle(variables, x))
    stack.apply(variables, 40, method="check")


def test_bound_counts_what_can_meet():
    # One output of a transposed layer sees the taps of its own phase only.
    kernel, bias = np.zeros((5, 5, 1, 1)), np.zeros(1)
    kernel[::2, ::2] = 100
    kernel[1::2, 1::2] = -50
    sums = exact._largest_sum(kernel, bias, (0, 255), False, (2, 1))
    assert sums == 9 * 100 * 255
    assert exact._largest_sum(kernel, bias + 7, (0, 255), False, (2, 0)) == 9 * 100 * 255 + 7
    assert exact._largest_sum(kernel, bias, (-32, 255), False, (2, 0)) == 9 * 100 * 255 + 4 * 50 * 32


def damage(integers, layer, name, change):
    other = {key: dict(value) for key, value in integers.items()}
    other[layer][name] = change(other[layer][name].copy())
    return other


DAMAGES = {
    "a layer is missing": lambda i: {key: value for key, value in i.items() if key != "layer_1"},
    "an array is missing": lambda i: {**i, "layer_1": {"kernel": i["layer_1"]["kernel"]}},
    "another type": lambda i: damage(i, "layer_0", "kernel", lambda a: a.astype(np.int16)),
    "another shape": lambda i: damage(i, "layer_0", "bias", lambda a: a[:-1]),
    "another stride": lambda i: damage(i, "layer_2", "plan", lambda a: a + np.array([1, 0, 0, 0, 0], np.int32)),
    "a wider range": lambda i: damage(i, "layer_0", "plan", lambda a: a * 2),
    "a bias beyond the bound": lambda i: damage(i, "layer_1", "bias", lambda a: a * 0 + (1 << 23)),
    "a shift beyond the bound": lambda i: damage(i, "layer_1", "shift", lambda a: a * 0 + 100),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_integers_are_refused(name):
    stack, variables, _, _ = quantised("mean-scale")
    stack.apply(variables, CHANNELS, method="check")
    with pytest.raises(ModelError, match="network"):
        stack.apply({**variables, "state": DAMAGES[name](variables["state"])}, CHANNELS, method="check")


def test_dead_channels_and_zero_ranges():
    stack, params, medians = made("mean-scale")
    params = jax.tree.map(np.copy, params)
    params["layers_0"]["kernel"][..., 0] = 0
    params["layers_2"]["bias"][1] = -1e4
    ranges = {"layer_0": np.zeros(9), "layer_1": np.full(7, -5.0)}
    variables = {"params": params, "state": stack.apply({"params": params}, medians, ranges, method="quantise")}
    stack.apply(variables, CHANNELS, method="check")
    x = symbols()
    np.testing.assert_array_equal(stack.apply(variables, x, method="integers") * 256, oracle(variables, x))


# --- Invariance, and what it is invariant of.


def permuted(stack, params, order):
    """The same network with the first hidden channels in another order: the same function, other sums."""
    params = jax.tree.map(np.asarray, params)
    first, second = params["layers_0"], params["layers_2"]
    return stack, {
        **params,
        "layers_0": {"kernel": first["kernel"][..., order], "bias": first["bias"][order]},
        "layers_2": {"kernel": second["kernel"][:, :, order], "bias": second["bias"]},
    }


def wide(seed=0):
    """(stack, params, symbols), wide enough that floating-point sums depend on their order."""
    stack = ExactStack((ConvTranspose(64), relu, ConvTranspose(64), relu, Conv(48, 3), relu))
    shapes = jax.eval_shape(lambda key: stack.init(key, jnp.zeros((1, 4, 4, 32))), jax.random.key(0))
    params = init.materialise(shapes["params"], jax.random.key(seed))
    params["layers_4"]["bias"] += 0.5
    return stack, params, symbols((1, 16, 24, 32), seed, 20)


def test_order_of_sums():
    from mlic_jax.entropy.priors.gaussian import SCALE_MAX, SCALE_MIN

    stack, params, x = wide()
    order = np.random.default_rng(0).permutation(64)
    _, other = permuted(stack, params, order)
    _, largest = stack.apply({"params": params}, x, method="measure")
    ranges = {layer: np.asarray(value).max(0) for layer, value in largest.items()}
    integers = stack.apply({"params": params}, np.zeros(32), ranges, method="quantise")
    shuffled = {
        "layer_0": {**integers["layer_0"]},
        "layer_1": {**integers["layer_1"], "kernel": integers["layer_1"]["kernel"][:, :, order]},
        "layer_2": integers["layer_2"],
    }
    for name in ("kernel", "bias", "shift"):
        shuffled["layer_0"][name] = integers["layer_0"][name][..., order]
    one, two = (stack.apply({"params": params, "state": s}, x, method="integers") for s in (integers, shuffled))
    np.testing.assert_array_equal(one, two)

    # The negative control: in floating point the same permutation changes bits, and with them rows of the table.
    one, two = (Stack.__call__.__get__(stack.bind({"params": p}))(jnp.asarray(x)) for p in (params, other))
    one, two = np.asarray(one), np.asarray(two)
    assert (one != two).mean() > 0.3 and np.abs(one - two).max() < 1e-4
    boundaries = np.exp(np.linspace(np.log(SCALE_MIN), np.log(SCALE_MAX), 4_000_000))
    assert (np.searchsorted(boundaries, one) != np.searchsorted(boundaries, two)).any()


# ---------------------------------------------------------------------- networks that read values

VALUES = {
    "context": ExactStack((Conv(9, 3), relu, Conv(7, 1), relu, Conv(4, 1)), cores=(3, 5), of_values=True),
    "up": ExactStack((ConvTranspose(6), relu, ConvTranspose(7), relu, Conv(8, 1)), cores=(2, 3), of_values=True),
}
of_values = pytest.mark.parametrize("name", VALUES)


def values(shape, seed=0):
    """Multiples of 2^-10 whose sizes differ by channel, some beyond what the network has room for; and as integers."""
    rng = np.random.default_rng(seed)
    integers = np.rint(rng.laplace(size=shape) * 2.0 ** rng.integers(3, 14, shape[-1])).astype(np.int64)
    return (integers / 1024).astype(np.float32), integers


@functools.cache
def made_of_values(name):
    stack = VALUES[name]
    shapes = jax.eval_shape(lambda key: stack.init(key, jnp.zeros((1, 4, 4, CHANNELS))), jax.random.key(0))
    params = init.materialise(shapes["params"], jax.random.key(1))
    x, _ = values((1, 6, 8, CHANNELS))
    _, largest = stack.apply({"params": params}, x, method="measure")
    ranges = {layer: 0.7 * np.asarray(value).max(0) for layer, value in largest.items()}
    integers = stack.apply({"params": params}, None, ranges, method="quantise")
    return stack, {"params": params, "state": integers}, ranges


@of_values
@pytest.mark.parametrize("size", [(1, 1), (7, 16)], ids=str)
def test_values_are_read_alike_by_all(name, size):
    stack, variables, _ = made_of_values(name)
    x, integers = values((1, *size, CHANNELS), 3)
    found = stack.apply(variables, x, method="integers")
    wanted = reference.exact.evaluate(variables["state"], integers[0])[None]
    np.testing.assert_array_equal(found * 256, wanted)
    whole = jax.jit(functools.partial(stack.apply, method="integers_whole"))
    np.testing.assert_array_equal(whole(variables, jnp.asarray(x)), found)
    assert size == (1, 1) or len(np.unique(found)) > 50
    stack.apply(variables, CHANNELS, method="check")


@of_values
def test_integers_of_values_follow_the_network(name):
    stack, variables, ranges = made_of_values(name)
    # Nothing is clipped at the input where calibration saw it: 0.7 of the range is.
    x, _ = values((1, 6, 8, CHANNELS))
    x = np.clip(x, -ranges["input"], ranges["input"]).astype(np.float32)
    wanted = np.asarray(stack.apply(variables, x))
    found = stack.apply(variables, x, method="integers")
    error = np.abs(found - wanted).mean((0, 1, 2)) / wanted.std((0, 1, 2))
    assert np.median(error) < 0.05 and error.max() < 0.2
    trained = stack.apply(variables, jnp.asarray(x), ranges, method="quantised")
    scale = np.abs(found).max((0, 1, 2))
    assert (np.abs(found - trained).mean((0, 1, 2)) <= 0.003 * scale + 1 / 256).all()


@pytest.mark.parametrize("step", [-10, -3, 0, 5, 8])
def test_inputs_are_rounded_half_up_and_clipped(step):
    # Around every tie, in steps of 2^-10, by integers: floor(x 2^-step + 1/2).
    ties = (2 * np.arange(-130, 131) + 1) * 2 ** max(step + 9, 0)
    integers = np.unique(np.concatenate([ties - 1, ties, ties + 1, [-(1 << 23), 1 << 23, 0]]))
    integers = integers[integers.astype(np.float32) == integers]  # what float32 holds
    x = (integers / 1024).astype(np.float32)
    shift = step + 10
    wanted = np.clip((2 * integers + (1 << shift)) >> (shift + 1), -127, 127)
    exponents = np.full(1, step, np.int8)
    for xp in (np, jnp):
        found = exact.to_input(xp.asarray(x)[:, None], xp.asarray(exponents), xp)
        np.testing.assert_array_equal(np.asarray(found)[:, 0], wanted)
    assert {-127, 127} <= set(wanted)


def test_steps_of_inputs_are_as_fine_as_there_is_room():
    largest = np.array([0, 127, 127.1, 254, 1e9, 2.0**-10, 1.0])
    found = exact._input_step(largest, np)
    # At most 127 steps, and not so with half the step, but for the ends of what is possible.
    assert found.tolist() == [-10, 0, 1, 1, 8, -10, -6]


def without_step(integers):
    return {key: value for key, value in integers.items() if key != "input"}


def with_step(change):
    return lambda integers: {**integers, "input": change(integers["input"])}


DAMAGED_VALUES = {
    "no step": without_step,
    "another name": with_step(lambda i: {"steps": i["step"]}),
    "more than a step": with_step(lambda i: {**i, "more": i["step"]}),
    "another type of step": with_step(lambda i: {"step": i["step"].astype(np.int32)}),
    "a step too few": with_step(lambda i: {"step": i["step"][:-1]}),
    "a step too small": with_step(lambda i: {"step": np.full_like(i["step"], -11)}),
    "a step too large": with_step(lambda i: {"step": np.full_like(i["step"], 9)}),
    "medians": lambda i: damage(i, "layer_0", "kernel", lambda a: np.concatenate([a, a[:, :, :2]], axis=2)),
    "a bias beyond the bound": lambda i: damage(i, "layer_0", "bias", lambda a: a * 0 + (1 << 23)),
    "sums beyond the bound": lambda i: damage(
        i, "layer_1", "bias", lambda a: np.full_like(a, (1 << 23) - 1 - 255 * 127)
    ),
}


@pytest.mark.parametrize("name", DAMAGED_VALUES)
def test_damaged_networks_of_values_are_refused(name):
    stack, variables, _ = made_of_values("context")
    state = DAMAGED_VALUES[name](variables["state"])
    with pytest.raises(ModelError, match="network"):
        stack.apply({**variables, "state": state}, CHANNELS, method="check")


def test_a_kernel_beyond_the_bound_is_refused():
    # Nine taps of 600 channels: full weights of one sign leave 2^23 where the middle ones do not.
    stack = ExactStack((Conv(1, 3),), of_values=True)
    layer = {
        "kernel": np.full((3, 3, 600, 1), 12, np.int8), "bias": np.zeros(1, np.int32), "shift": np.zeros(1, np.int8),
        "plan": np.array(stack.plans()[0], np.int32),
    }  # fmt: skip
    state = {"input": {"step": np.zeros(600, np.int8)}, "layer_0": layer}
    assert 9 * 600 * 12 * 127 < exact.LARGEST_SUM < 9 * 600 * 13 * 127
    stack.apply({"state": state}, 600, method="check")
    layer["kernel"] = layer["kernel"] + np.int8(1)
    with pytest.raises(ModelError, match="sums are exact"):
        stack.apply({"state": state}, 600, method="check")
