"""The train step: pure, the same for every codec.

One step runs the objectives of the schedule one after the other, each on its own part of the batch and with its own
optimiser. A single-objective codec is the ordinary case of this, a GAN is another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mlic_jax.codec import Codec, Objective
from mlic_jax.errors import UsageError


class TrainState(NamedTuple):
    """All that a run carries from step to step.

    Attributes:
      step: int32, steps done.
      params, state: of the codec.
      optimizer: objective -> optax state of the parameters it owns.
      average: exponential moving average of params; empty without one.
      skipped: int32, objectives' updates left out so far because the loss, a gradient, or what the update would have
        left behind in parameters, state or optimiser was not finite.
      bad_steps: int32, the latest steps in a row in which that happened.
    """

    step: jax.Array
    params: Any
    state: Any
    optimizer: Mapping[str, Any]
    average: Any
    skipped: jax.Array
    bad_steps: jax.Array


def check_schedule(codec: Codec, schedule: Sequence[str]) -> None:
    """Raises UsageError for unknown objectives, or ones that own a parameter together."""
    unknown = [name for name in schedule if name not in codec.objectives]
    if unknown or not schedule:
        raise UsageError(f"schedule {tuple(schedule)} is not possible: objectives are {', '.join(codec.objectives)}")
    owner: dict[str, str] = {}
    for name in dict.fromkeys(schedule):
        for key in codec.objectives[name].owns:
            if owner.setdefault(key, name) != name:
                raise UsageError(f"objectives {owner[key]!r} and {name!r} both own the parameters {key!r}")


def _owned(tree: Mapping[str, Any], keys) -> dict[str, Any]:
    return {key: tree[key] for key in keys}


def initial_state(
    codec: Codec, params, state, optimizers: Mapping[str, optax.GradientTransformation], ema: float
) -> TrainState:
    """The state before step 0."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        state=state,
        optimizer={name: o.init(_owned(params, codec.objectives[name].owns)) for name, o in optimizers.items()},
        average=jax.tree.map(jnp.array, params) if ema else {},
        skipped=jnp.zeros((), jnp.int32),
        bad_steps=jnp.zeros((), jnp.int32),
    )


def make_step(
    codec: Codec,
    schedule: Sequence[str],
    optimizers: Mapping[str, optax.GradientTransformation],
    *,
    seed: int,
    accumulate: int = 1,
    ema: float = 0.0,
    axis: str | None = None,
) -> Callable:
    """The function (TrainState, batch) -> (TrainState, metrics).

    Args:
      codec: what is trained.
      schedule: names of objectives, in order. Position p of the batch goes to number p mod len(schedule).
      optimizers: objective -> optimiser.
      seed: of the noise.
      accumulate: micro-batches per objective; gradients and metrics are their means.
      ema: decay of the parameters' average, 0 for none; in step t it is at most (1 + t) / (10 + t).
      axis: name of the mapped device axis over which gradients, metrics and state are averaged.

    The batch, {"image": uint8 [b, H, W, 3], "position": int32 [b]}, is one device's share.
    """

    gradients = {name: _gradient_function(codec.objectives[name], seed, accumulate) for name in dict.fromkeys(schedule)}

    def train_step(train_state: TrainState, batch):
        params, state, optimizer = train_state.params, train_state.state, dict(train_state.optimizer)
        metrics, bad = {}, jnp.zeros((), jnp.int32)
        for place, name in enumerate(schedule):
            part = {key: value[place :: len(schedule)] for key, value in batch.items()}
            computed = gradients[name](params, state, part, train_state.step)
            value, measured, new_state, grads = _mean_over_devices(computed, axis) if axis else computed
            norm = optax.tree.norm(grads)
            owned = _owned(params, codec.objectives[name].owns)
            updates, new_optimizer = optimizers[name].update(grads, optimizer[name], owned)
            new = (optax.apply_updates(owned, updates), new_state, new_optimizer)
            old = (owned, state, optimizer[name])
            finite = jnp.isfinite(value) & jnp.isfinite(norm) & _all_finite(new)
            owned, state, optimizer[name] = jax.tree.map(functools.partial(jnp.where, finite), new, old)
            params = {**params, **owned}
            bad += ~finite
            prefix = f"{name}/" if len(optimizers) > 1 else ""
            metrics.update({prefix + key: v for key, v in {**measured, "grad_norm": norm}.items()})
        average = train_state.average
        if ema:
            moved = _moved_average(average, params, ema, train_state.step)
            average = jax.tree.map(functools.partial(jnp.where, bad < len(schedule)), moved, average)
        new = TrainState(
            step=train_state.step + 1,
            params=params,
            state=state,
            optimizer=optimizer,
            average=average,
            skipped=train_state.skipped + bad,
            bad_steps=jnp.where(bad > 0, train_state.bad_steps + 1, 0),
        )
        return new, {**metrics, "skipped": new.skipped, "bad_steps": new.bad_steps}

    return train_step


def _gradient_function(objective: Objective, seed: int, accumulate: int) -> Callable:
    """The function (params, state, batch, step) -> (loss, metrics, new state, gradients of what the objective owns).

    Loss, metrics and gradients are means over `accumulate` micro-batches; the state passes from one to the next.
    """

    def gradients(params, state, batch, step):
        rest = {key: value for key, value in params.items() if key not in objective.owns}

        def loss(owned, state, batch):
            # Noise depends on the example's place in the whole batch, not on the device that has it.
            key = jax.random.fold_in(jax.random.key(seed), step)
            keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(batch["position"])
            return objective.loss({**rest, **owned}, state, batch, keys, step)

        owned = _owned(params, objective.owns)
        differentiate = jax.value_and_grad(loss, has_aux=True)
        if accumulate == 1:
            (value, (metrics, state)), grads = differentiate(owned, state, batch)
            return value, metrics, state, grads

        def micro(carry, part):
            state, total = carry
            (value, (metrics, state)), grads = differentiate(owned, state, part)
            return (state, jax.tree.map(jnp.add, total, grads)), (value, metrics)

        zeros = jax.tree.map(jnp.zeros_like, owned)
        (state, grads), (value, metrics) = jax.lax.scan(micro, (state, zeros), _split(batch, accumulate))
        grads = jax.tree.map(lambda g: g / accumulate, grads)
        value, metrics = jax.tree.map(jnp.mean, (value, metrics))
        return value, metrics, state, grads

    return gradients


def _mean_over_devices(tree, axis: str):
    def mean(leaf):
        # Counters in a codec's state are the same everywhere, and their mean would turn into a float.
        return (jax.lax.pmean if jnp.issubdtype(leaf.dtype, jnp.inexact) else jax.lax.pmax)(leaf, axis)

    return jax.tree.map(mean, tree)


def _all_finite(tree) -> jax.Array:
    """Whether all numbers of a tree's arrays are finite."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in arrays]))


def _moved_average(average, params, ema: float, step):
    # A shorter memory at first, so that the average forgets the initial values soon.
    decay = jnp.minimum(ema, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), average, params)


def _split(batch, parts):
    """[b, ...] -> [parts, b / parts, ...]."""
    return jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch)
