"""The train step as a pure function on one device, with toy codecs. Several devices: test_parallel.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toys

from mlic_jax.errors import UsageError
from mlic_jax.training.step import check_schedule, initial_state, make_step

SGD = optax.sgd(0.1)


def make_batch(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8),
        "position": np.arange(count, dtype=np.int32),
    }


def start(codec, schedule=("rd",), optimizer=SGD, ema=0.0, **options):
    """(jitted step, first state)."""
    made = dict.fromkeys(schedule, optimizer)
    params, state = codec.init(jax.random.key(3), (16, 16, 3))
    step = jax.jit(make_step(codec, schedule, made, **{"seed": 0, "ema": ema, **options}))
    return step, jax.tree.map(jnp.asarray, initial_state(codec, params, state, made, ema))


def test_an_sgd_step_is_the_gradient_of_the_mean_loss():
    codec, batch = toys.toy(), make_batch(8)
    step, before = start(codec)
    after, metrics = step(before, batch)

    keys = jax.vmap(lambda p: jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), p))(batch["position"])
    loss = codec.objectives["rd"].loss
    (value, _), grads = jax.value_and_grad(loss, has_aux=True)(before.params, before.state, batch, keys, before.step)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, before.params, grads)
    for found, wanted in zip(jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-5)
    assert int(after.step) == 1
    assert int(after.state["count"]) == 1


def test_types_do_not_change_in_a_step():
    # A weak or another type in the new state would compile the step a second time.
    for codec, schedule in ((toys.toy(), ("rd",)), (toys.toy_gan(), ("disc", "gen"))):
        step, before = start(codec, schedule, optax.adam(optax.linear_schedule(0, 1, 10)), ema=0.9)
        after, _ = jax.eval_shape(step, before, make_batch(8))
        assert jax.tree.structure(after) == jax.tree.structure(before)
        for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
            assert (new.shape, new.dtype, new.weak_type) == (old.shape, old.dtype, old.weak_type)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_changes_nothing_but_memory(parts):
    step, state = start(toys.toy())
    split, _ = start(toys.toy(), accumulate=parts)
    other = state
    for turn in range(5):
        batch = make_batch(8, turn)
        state, metrics = step(state, batch)
        other, split_metrics = split(other, batch)
        for key in ("loss", "grad_norm", "bpp"):
            np.testing.assert_allclose(split_metrics[key], metrics[key], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert int(other.state["count"]) == 5 * parts  # a codec's state sees every micro-batch, in turn


def test_noise_belongs_to_the_example_and_to_the_step():
    step, state = start(toys.toy())
    batch = make_batch(8)
    order = np.random.default_rng(1).permutation(8)
    one, two = step(state, batch)[1], step(state, {key: value[order] for key, value in batch.items()})[1]
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-6)
    elsewhere = step(state, {**batch, "position": batch["position"] + 8})[1]
    later = step(state._replace(step=state.step + 1), batch)[1]
    seeded = start(toys.toy(), seed=1)[0](state, batch)[1]
    losses = [float(metrics["loss"]) for metrics in (one, elsewhere, later, seeded)]
    assert len(set(losses)) == 4


def positions(mean_of_powers, count):
    """The positions that an objective of `toys.toy_gan` saw."""
    bits = round(float(mean_of_powers) * count)
    return [position for position in range(32) if bits >> position & 1]


def test_each_objective_gets_its_positions_of_the_batch():
    codec = toys.toy_gan()
    step, state = start(codec, ("disc", "gen"))
    metrics = step(state, make_batch(8))[1]
    assert positions(metrics["disc/seen"], 4) == [0, 2, 4, 6]
    assert positions(metrics["gen/seen"], 4) == [1, 3, 5, 7]

    step, state = start(codec, ("critic",) * 5 + ("gen",))
    metrics = step(state, make_batch(12))[1]
    assert positions(metrics["gen/seen"], 2) == [5, 11]
    assert positions(metrics["critic/seen"], 2) == [4, 10]  # the last of its five turns


def test_objectives_run_in_order_on_what_they_own():
    codec, batch = toys.toy_gan(), make_batch(8)
    step, before = start(codec, ("disc", "gen"))
    after, metrics = step(before, batch)

    def by_hand(name, turn, params):
        part = {key: value[turn::2] for key, value in batch.items()}
        keys = jax.vmap(lambda p: jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), p))(part["position"])
        grads = jax.grad(codec.objectives[name].loss, has_aux=True)(params, {}, part, keys, 0)[0]
        return {
            key: jax.tree.map(lambda p, g: p - 0.1 * g, value, grads[key])
            if key in codec.objectives[name].owns
            else value
            for key, value in params.items()
        }

    # The generator's turn sees the discriminator as its own turn left it.
    expected = by_hand("gen", 1, by_hand("disc", 0, before.params))
    for found, wanted in zip(jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert {"disc/loss", "gen/loss", "disc/grad_norm", "gen/grad_norm", "skipped", "bad_steps"} <= set(metrics)


def test_schedules_that_cannot_be():
    check_schedule(toys.toy_gan(), ("critic",) * 5 + ("gen",))
    with pytest.raises(UsageError, match="'disc' and 'gen' both own the parameters 'w'"):
        check_schedule(toys.toy_gan(overlap=True), ("disc", "gen"))
    with pytest.raises(UsageError, match="'disc' and 'critic' both own"):
        check_schedule(toys.toy_gan(), ("disc", "critic", "gen"))
    with pytest.raises(UsageError, match="objectives are disc, critic, gen"):
        check_schedule(toys.toy_gan(), ("rd",))
    with pytest.raises(UsageError, match="not possible"):
        check_schedule(toys.toy(), ())


# What a step that is left out leaves as it was.
HELD = ("params", "optimizer", "state", "average")


@pytest.mark.parametrize("damage", [np.nan, np.float32(1e38)])
def test_an_update_that_is_not_finite_is_left_out(damage):
    """Loss and gradient are finite: what the optimiser makes of them, or keeps of them, is not."""
    optimizer = optax.chain(optax.trace(0.9), optax.scale(100.0))
    step, state = start(toys.toy(), optimizer=optimizer, ema=0.5)
    healthy, _ = step(state, make_batch(8))
    broken = healthy._replace(optimizer=jax.tree.map(lambda a: a + damage, healthy.optimizer))
    after, metrics = step(broken, make_batch(8, 1))
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
    assert [toys.same(getattr(after, part), getattr(broken, part)) for part in HELD] == [True] * len(HELD)
    assert (int(after.skipped), int(after.bad_steps)) == (1, 1)


@pytest.mark.parametrize("kind", ["bad_losses", "bad_gradients"])
def test_a_step_that_is_not_finite_is_left_out(kind):
    step, state = start(toys.toy(**{kind: (2, 3, 5)}), optimizer=optax.adam(0.01), ema=0.5)
    skipped, streaks = [], []
    for number in range(7):
        new, metrics = step(state, make_batch(8, number))
        unchanged = [toys.same(getattr(new, part), getattr(state, part)) for part in HELD]
        assert unchanged == [number in (2, 3, 5)] * len(HELD), number
        assert np.isfinite(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(new)])).all()
        assert int(new.step) == number + 1
        skipped.append(int(metrics["skipped"]))
        streaks.append(int(metrics["bad_steps"]))
        state = new
    assert skipped == [0, 0, 1, 2, 2, 3, 3]
    assert streaks == [0, 0, 1, 2, 0, 1, 0]


def test_the_average_follows_the_parameters():
    step, state = start(toys.toy(), ema=0.75)
    expected = jax.tree.map(np.float64, state.params)
    assert toys.same(state.average, state.params)
    for number in range(40):
        state, _ = step(state, make_batch(8, number))
        decay = min(0.75, (1 + number) / (10 + number))  # 0.75 from step 26 on
        expected = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * np.float64(p), expected, state.params)
    for found, wanted in zip(jax.tree.leaves(state.average), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert not toys.same(state.average, state.params)
    assert start(toys.toy())[1].average == {}
