"""Optimisers and learning rates as configs describe them, against optax and against arithmetic."""

import jax
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from mlic_jax.errors import UsageError
from mlic_jax.training import optimizers
from mlic_jax.training.checkpoint import differences
from mlic_jax.training.config import defaults, optimizer


def described(**changes):
    c = optimizer()
    c.clip_norm = 0.0
    c.update(changes)
    return c


def trajectory(transformation, steps=12):
    """Parameters of a small least-squares problem after every update."""
    params = {"a": np.float32([1.0, -2.0, 3.0]), "b": np.float32(0.5)}
    state = transformation.init(params)
    found = []
    for _ in range(steps):
        grads = jax.grad(lambda p: (p["a"] ** 2).sum() + (p["b"] - p["a"][0]) ** 2)(params)
        updates, state = transformation.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        found.append(np.concatenate([params["a"], params["b"][None]]))
    return np.stack(found)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("adam", {}, optax.adam(0.01)),
        ("adam", {"b1": 0.5}, optax.adam(0.01, b1=0.5)),
        ("adamw", {"weight_decay": 0.1}, optax.adamw(0.01, weight_decay=0.1)),
        ("sgd", {"momentum": 0.9}, optax.sgd(0.01, momentum=0.9)),
        ("rmsprop", {}, optax.rmsprop(0.01)),
    ],
)
def test_optimisers_are_those_of_optax(name, arguments, expected):
    made = optimizers.make(described(name=name, learning_rate=0.01, arguments=ConfigDict(arguments)))
    np.testing.assert_allclose(trajectory(made), trajectory(expected), rtol=1e-6)


def test_clipping_is_by_the_global_norm():
    made = optimizers.make(described(name="sgd", learning_rate=1.0, clip_norm=2.0))
    grads = {"a": np.float32([3.0, 0.0]), "b": np.float32([4.0])}
    updates, _ = made.update(grads, made.init(grads), grads)
    np.testing.assert_allclose(np.concatenate([updates["a"], updates["b"]]), [-1.2, 0.0, -1.6], rtol=1e-6)


def rates(config, count):
    schedule = optimizers.learning_rate(config)
    return np.array([float(schedule(step)) for step in range(count)])


def test_constant_with_warmup():
    np.testing.assert_allclose(
        rates(described(learning_rate=0.8, warmup_steps=4), 7), [0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8], atol=1e-7
    )


def test_steps_fall_at_their_boundaries_with_and_without_warmup():
    for warmup in (0, 3):
        config = described(learning_rate=1.0, schedule="steps", boundaries=(5, 8), factor=0.5, warmup_steps=warmup)
        found = rates(config, 10)
        np.testing.assert_allclose(found[warmup:], ([1.0] * 5 + [0.5] * 3 + [0.25] * 2)[warmup:], rtol=1e-6)
        np.testing.assert_allclose(found[:warmup], np.arange(warmup) / max(warmup, 1), rtol=1e-6)


def test_cosine_ends_at_the_final_fraction_after_decay_steps():
    config = described(learning_rate=2.0, schedule="cosine", decay_steps=14, warmup_steps=4, final_fraction=0.1)
    found = rates(config, 30)
    progress = np.clip((np.arange(4, 30) - 4) / 10, 0, 1)
    np.testing.assert_allclose(found[4:], 2.0 * (0.1 + 0.9 * (1 + np.cos(np.pi * progress)) / 2), rtol=1e-5)
    np.testing.assert_allclose(found[:4], [0.0, 0.5, 1.0, 1.5], rtol=1e-6)


def test_wsd_is_constant_between_warmup_and_decay():
    for warmup in (0, 4):
        config = described(learning_rate=2.0, schedule="wsd", decay_from=10, decay_steps=5, final_fraction=0.1)
        config.warmup_steps = warmup
        found = rates(config, 20)
        np.testing.assert_allclose(found[:warmup], 2.0 * np.arange(warmup) / max(warmup, 1), rtol=1e-6)
        np.testing.assert_allclose(found[warmup:11], 2.0, rtol=1e-6)
        np.testing.assert_allclose(found[10:16], 2.0 * (1 - 0.9 * np.arange(6) / 5), rtol=1e-5)
        np.testing.assert_allclose(found[15:], 0.2, rtol=1e-5)


def test_a_stable_phase_can_be_made_longer():
    short = described(schedule="wsd", warmup_steps=2, decay_from=6, decay_steps=3)
    saved = {"optimizer": short.to_dict(), "train": {"steps": 9}}
    longer = {"optimizer": {**short.to_dict(), "decay_from": 11}, "train": {"steps": 14}}
    assert not differences(saved, longer)
    np.testing.assert_array_equal(rates(short, 7), rates(described(**longer["optimizer"]), 7))
    # A config from before there was this key belongs to the same run as one of today.
    del saved["optimizer"]["decay_from"]
    assert not differences(saved, {"optimizer": short.to_dict(), "train": {"steps": 9}})
    assert differences(saved, {"optimizer": {**short.to_dict(), "decay_steps": 4}, "train": {"steps": 9}})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "adm"}, ["optimizer.name 'adm'", "adam"]),
        ({"name": "adm"}, ["soap", "muon"]),
        ({"name": "contrib"}, ["optimizer.name 'contrib'"]),  # a module of optax
        ({"name": "global_norm"}, ["optimizer.name 'global_norm'"]),  # a function, but no optimiser
        ({"schedule": "linear"}, ["optimizer.schedule 'linear'", "constant, cosine, steps, wsd"]),
        ({"schedule": "cosine", "decay_steps": 5, "warmup_steps": 5}, ["optimizer.decay_steps is 5"]),
        ({"schedule": "steps", "boundaries": (3, 9), "warmup_steps": 5}, ["optimizer.boundaries (3, 9)", "5"]),
        ({"schedule": "wsd", "decay_from": 4, "decay_steps": 9, "warmup_steps": 5}, ["optimizer.decay_from is 4", "5"]),
        ({"schedule": "wsd", "decay_from": 4}, ["optimizer.decay_steps is 0"]),
        ({"arguments": ConfigDict({"beta": 1})}, ["optimizer.arguments", "beta"]),
        ({"name": "soap", "arguments": ConfigDict({"beta": 1})}, ["optimizer.arguments", "'soap'", "beta"]),
        ({"name": "soap", "arguments": ConfigDict({"sides": "all"})}, ["'soap'", "sides is 'all'", "'one' or 'both'"]),
        ({"name": "soap", "arguments": ConfigDict({"precondition_every": 0})}, ["precondition_every is 0"]),
        ({"name": "soap", "arguments": ConfigDict({"largest": 16})}, ["smallest is 32 and largest 16"]),
        ({"name": "soap", "arguments": ConfigDict({"shampoo_beta": 1.0})}, ["shampoo_beta is 1.0"]),
        ({"name": "muon", "arguments": ConfigDict({"sides": "one"})}, ["optimizer.arguments", "'muon'", "sides"]),
        ({"name": "muon", "arguments": ConfigDict({"ns_steps": 0})}, ["ns_steps is 0"]),
        ({"name": "muon", "arguments": ConfigDict({"beta": -0.1})}, ["beta is -0.1"]),
    ],
)
def test_errors_name_the_key(changes, words):
    with pytest.raises(UsageError) as error:
        optimizers.make(described(**changes))
    assert all(word in str(error.value) for word in words)


def test_objectives_have_their_own_optimisers():
    config = defaults()
    config.schedule = ("disc", "disc", "gen")
    config.optimizer = described(name="sgd", learning_rate=0.1)
    config.optimizers = ConfigDict({"gen": {"learning_rate": 0.01}})
    made = optimizers.make_all(config)
    assert list(made) == ["disc", "gen"]
    np.testing.assert_allclose(trajectory(made["disc"]), trajectory(optax.sgd(0.1)), rtol=1e-6)
    np.testing.assert_allclose(trajectory(made["gen"]), trajectory(optax.sgd(0.01)), rtol=1e-6)
    assert config.optimizer.learning_rate == 0.1


@pytest.mark.parametrize("own", [{"critic": {"learning_rate": 0.1}}, {"gen": {"learning_rte": 0.1}}])
def test_overrides_that_nothing_reads_are_errors(own):
    config = defaults()
    config.schedule = ("disc", "gen")
    config.optimizers = ConfigDict(own)
    with pytest.raises(UsageError, match="optimizers\\.(critic|gen\\.learning_rte)"):
        optimizers.make_all(config)
