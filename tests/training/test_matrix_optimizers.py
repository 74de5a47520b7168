"""SOAP and Muon: against Adam, against the symmetries they are made for, and through a checkpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toys

from mlic_jax.training import optimizers, parallel
from mlic_jax.training.config import defaults
from mlic_jax.training.matrix_optimizers import muon, orthogonalise, rotated_sides, soap
from mlic_jax.training.train import train


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def orthogonal(size, seed):
    return np.linalg.qr(random(size, size, seed=seed))[0]


def updates(optimizer, gradients, params=None):
    """The update that each gradient gives, and the last state."""
    params = jax.tree.map(jnp.zeros_like, gradients[0]) if params is None else params
    state, found, step = optimizer.init(params), [], jax.jit(optimizer.update)
    for gradient in gradients:
        update, state = step(gradient, state, params)
        found.append(jax.device_get(update))
    return found, state


def matrices(state):
    """parameter -> `Matrix` of a state of `soap`."""
    found = state[0].inner_states["matrices"].inner_state.matrices
    return {name: matrix for name, matrix in found.items() if hasattr(matrix, "bases")}


def steps_to_solve(optimizer, target, most=400):
    """Steps until an ill-conditioned quadratic of a matrix, in a basis of no axis, is 1e-4 of what it was."""
    left, right = orthogonal(16, 1), orthogonal(16, 2)
    scales = np.geomspace(1, 1e-2, 16).astype(np.float32)

    def loss(x):
        return jnp.sum((scales[:, None] * (left @ (x - target) @ right) * scales) ** 2)

    @jax.jit
    def step(x, state):
        value, gradient = jax.value_and_grad(loss)(x)
        update, state = optimizer.update(gradient, state, x)
        return optax.apply_updates(x, update), state, value

    x = jnp.zeros_like(target)
    state, first = optimizer.init(x), float(loss(x))
    for count in range(most):
        x, state, value = step(x, state)
        if value < 1e-4 * first:
            return count
    return most


# ---------------------------------------------------------------------- SOAP


@pytest.mark.parametrize(
    ("shape", "one", "both"),
    [
        ((3, 3, 64, 96), ("in",), ("in", "out")),
        ((96, 64), ("out",), ("in", "out")),
        ((64, 64), ("out",), ("in", "out")),
        ((64, 600), ("in",), ("in",)),
        ((600, 700), (), ()),
        ((3, 3, 1, 64), (), ()),
        ((8, 192), (), ()),
        ((192,), (), ()),
        ((), (), ()),
    ],
)
def test_which_sides_are_rotated(shape, one, both):
    assert rotated_sides(shape, "one", 32, 512) == one
    assert rotated_sides(shape, "both", 32, 512) == both


def test_one_side_keeps_one_small_factor():
    params = {"kernel": random(3, 3, 4, 6), "bias": random(6)}
    kept = {sides: matrices(soap(0.1, smallest=4, sides=sides).init(params)) for sides in ("one", "both")}
    assert list(kept["one"]) == ["kernel"]
    shapes = {sides: jax.tree.map(jnp.shape, found["kernel"].factors) for sides, found in kept.items()}
    assert shapes == {"one": {"in": (4, 4)}, "both": {"in": (4, 4), "out": (6, 6)}}
    assert kept["one"]["kernel"].mean.shape == (9, 4, 6)


def test_other_parameters_are_adams():
    gradients = [{"bias": random(6, seed=i), "gains": random(2, 6, seed=i)} for i in range(5)]
    for ours in (soap(0.1, b1=0.8, b2=0.9), muon(0.1, adam_b1=0.8, adam_b2=0.9)):
        found, _ = updates(ours, gradients)
        wanted, _ = updates(optax.adam(0.1, b1=0.8, b2=0.9), gradients)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, wanted)


@pytest.mark.parametrize("sides", ["one", "both"])
def test_where_eigenvectors_are_axes_soap_is_adam_a_step_late(sides):
    # The factors of diagonal gradients are diagonal.
    gradients = [np.diag(np.arange(1, 7) * (1 + 0.3 * np.sin(i + np.arange(6)))).astype(np.float32) for i in range(6)]
    found, state = updates(soap(0.1, smallest=4, sides=sides, precondition_every=2), gradients)
    wanted, _ = updates(optax.adam(0.1, b1=0.95, b2=0.95), gradients[1:])
    np.testing.assert_array_equal(found[0], 0)
    np.testing.assert_allclose(found[1:], wanted, atol=1e-6)


def test_the_first_update_is_zero_and_not_the_second():
    found, _ = updates(soap(0.1, smallest=4), [random(2, 2, 4, 6, seed=i) for i in range(2)])
    assert found[0].shape == (2, 2, 4, 6)
    np.testing.assert_array_equal(found[0], 0)
    # Adam's second update is of the size of the learning rate: turned back, its root mean square is the same.
    np.testing.assert_allclose(np.sqrt(np.mean(found[1] ** 2)), 0.1, rtol=1e-3)


@pytest.mark.parametrize("zeros", [False, True])
def test_bases_change_on_schedule_and_stay_orthogonal(zeros):
    optimizer = soap(0.1, smallest=4, sides="both", precondition_every=3)
    params = np.zeros((3, 3, 4, 6), np.float32)
    state, before, changed = optimizer.init(params), None, []
    for i in range(8):
        _, state = optimizer.update(random(3, 3, 4, 6, seed=i) * (not zeros), state, params)
        bases = state[0].inner_states["matrices"].inner_state.matrices.bases
        for size, side in ((4, "in"), (6, "out")):
            np.testing.assert_allclose(bases[side].T @ bases[side], np.eye(size), atol=1e-5)
        if before is not None and not toys.same(before, bases):
            changed.append(i + 1)
        before = bases
    assert changed == ([] if zeros else [3, 6])


def test_bases_become_eigenvectors_of_the_factors():
    # A mean gradient whose singular values differ, and noise: the factors settle, and so do the bases.
    mean = orthogonal(6, 1) @ np.diag([32, 16, 8, 4, 2, 1]).astype(np.float32) @ orthogonal(6, 2)
    optimizer = soap(0.1, smallest=4, sides="both", precondition_every=2)
    gradients = [random(6, 6)] * 2 + [mean] * 400
    _, state = updates(optimizer, gradients)
    matrix = state[0].inner_states["matrices"].inner_state.matrices
    for side in ("in", "out"):
        turned = matrix.bases[side].T @ matrix.factors[side] @ matrix.bases[side]
        np.testing.assert_allclose(turned - np.diag(np.diag(turned)), 0, atol=1e-3)
        np.testing.assert_allclose(np.sort(np.diag(turned)), 4.0 ** np.arange(6), rtol=1e-3)


def test_a_refresh_turns_the_first_moment_with_the_bases():
    gradients = [random(2, 8, 6, seed=i) for i in range(9)]
    mean = np.zeros((2, 8, 6), np.float32)
    for gradient in gradients[1:]:
        mean = 0.95 * mean + 0.05 * gradient
    for every in (2, 4, 100):
        _, state = updates(soap(0.1, smallest=4, sides="both", precondition_every=every), gradients)
        matrix = state[0].inner_states["matrices"].inner_state.matrices
        found = matrix.bases["in"] @ matrix.mean @ matrix.bases["out"].T
        np.testing.assert_allclose(found, mean, atol=1e-5)


@pytest.mark.parametrize("sides", ["one", "both"])
def test_rotating_the_gradients_rotates_the_updates(sides):
    # Columns can be rotated with one side (the smaller, that of the output); rows only with both.
    left, right = orthogonal(8, 3) if sides == "both" else np.eye(8, dtype=np.float32), orthogonal(6, 4)
    gradients = [random(2, 8, 6, seed=i) for i in range(7)]
    optimizer = soap(0.1, smallest=4, sides=sides, precondition_every=3)
    found, _ = updates(optimizer, [left @ gradient @ right for gradient in gradients])
    wanted, _ = updates(optimizer, gradients)
    np.testing.assert_allclose(found, left @ np.stack(wanted) @ right, atol=2e-4)
    adam, _ = updates(optax.adam(0.1), [left @ gradient @ right for gradient in gradients])
    plain, _ = updates(optax.adam(0.1), gradients)
    assert np.abs(adam - left @ np.stack(plain) @ right).max() > 0.05  # as Adam's do not


def test_soap_needs_fewer_steps_than_adam():
    target = random(16, 16)
    adam = min(steps_to_solve(optax.adam(rate, b1=0.95, b2=0.95), target) for rate in (0.03, 0.1, 0.3))
    both = min(steps_to_solve(soap(rate, smallest=4, sides="both"), target) for rate in (0.03, 0.1, 0.3))
    assert both < 0.7 * adam


def test_weight_decay_is_of_matrices_alone():
    params = {"kernel": random(4, 6), "bias": random(6)}
    still = jax.tree.map(jnp.zeros_like, params)
    for optimizer in (soap(0.1, smallest=4, weight_decay=0.5), muon(0.1, smallest=4, weight_decay=0.5)):
        (found,), _ = updates(optimizer, [still], params)
        np.testing.assert_allclose(found["kernel"], -0.05 * params["kernel"], rtol=1e-6)
        np.testing.assert_array_equal(found["bias"], 0)


# ---------------------------------------------------------------------- Muon


@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (3, 3, 32, 40), (1, 1, 32, 32)])
def test_muons_singular_values_are_near_one(shape):
    (found,), _ = updates(muon(1.0), [random(*shape)])
    matrix = found.reshape(-1, shape[-1])
    values = np.linalg.svd(matrix / (0.2 * np.sqrt(max(matrix.shape))), compute_uv=False)
    assert values[:-1].min() > 0.6 and values.max() < 1.2  # the least one of a square may be nearly 0
    # What Adam's updates are, at the same learning rate.
    np.testing.assert_allclose(np.sqrt(np.mean(matrix**2)), 0.2, rtol=0.2)


def test_orthogonalising_keeps_singular_vectors_and_agrees_with_optax():
    x = orthogonal(40, 1)[:, :24] @ np.diag(np.geomspace(1, 1e-2, 24)).astype(np.float32) @ orthogonal(24, 2)
    found = np.asarray(orthogonalise(x, 5))
    turned = orthogonal(40, 1)[:, :24].T @ found @ orthogonal(24, 2).T
    np.testing.assert_allclose(turned - np.diag(np.diag(turned)), 0, atol=1e-3)
    assert np.diag(turned).min() > 0.6 and np.diag(turned).max() < 1.2
    reference = optax.contrib.scale_by_muon(nesterov=False)
    wanted, _ = reference.update(x, reference.init(x))
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    np.testing.assert_allclose(orthogonalise(x.T, 5), found.T, atol=1e-6)
    np.testing.assert_array_equal(orthogonalise(np.zeros_like(x), 5), 0)


# ---------------------------------------------------------------------- in a run

RUNS = {
    "soap": {"smallest": 3, "sides": "both", "precondition_every": 3},
    "muon": {"smallest": 3},
}


def _mean(gradient):
    return jax.tree.map(lambda g: jax.lax.pmean(g, parallel.AXIS), gradient)


@pytest.mark.parametrize("name", RUNS)
def test_devices_do_not_change_an_update(name):
    optimizer = {"soap": soap, "muon": muon}[name](0.1, **RUNS[name])
    gradients = [{"kernel": random(3, 4, seed=i), "bias": random(4, seed=i)} for i in range(7)]
    params = jax.tree.map(jnp.zeros_like, gradients[0])
    mapped = parallel.pmap(lambda state, gradient: optimizer.update(_mean(gradient), state)[::-1])
    state, plain_state = parallel.replicate(optimizer.init(params)), optimizer.init(params)
    step = jax.jit(optimizer.update)
    for gradient in gradients:
        state, update = mapped(state, jax.tree.map(lambda g: np.stack([g] * jax.device_count()), gradient))
        plain, plain_state = step(gradient, plain_state)
        assert toys.same(update, plain)
    assert toys.same(state, plain_state)


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_is_an_undisturbed_run(name, toy_zoo, tmp_path):
    changes = {"optimizer.name": name, "optimizer.arguments": RUNS[name], "optimizer.learning_rate": 0.02}

    def run(workdir, **more):
        config = toys.config({**changes, **more}, "toy", bad_gradients=(0, 9))
        return jax.device_get(parallel.local(train(config, workdir, quiet=True)))

    whole = run(tmp_path / "whole")
    for steps in (1, 8, 12, 20):
        parts = run(tmp_path / "parts", **{"train.steps": steps})
    assert toys.same(parts, whole)
    assert int(whole.skipped) == 2
    losses = [record["loss"] for record in toys.lines(tmp_path / "whole") if record["loss"]]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["muon", "soap"])
def test_optimisers_that_find_no_matrix_say_so(name):
    config = defaults()
    config.optimizer.name = name

    def said(side):
        states = {"rd": optimizers.make(config.optimizer).init({"kernel": jnp.zeros((3, 3, side, 40))})}
        return optimizers.without_matrices(config, states)

    assert said(32) == []
    assert [f"{name!r} is Adam here" in line and "32 channels on both sides" in line for line in said(31)] == [True]
    config.optimizer.arguments.smallest = 31
    assert said(31) == []
