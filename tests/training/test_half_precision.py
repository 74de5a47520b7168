"""`train.bfloat16` for every model: networks compute in bfloat16, and losses, gradients and states are float32."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from mlic_jax.training.config import load
from mlic_jax.training.runs import make_codec

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
NAMES = (
    "bmshj2018_hyperprior", "mbt2018_mean", "mbt2018", "minnen2020", "cheng2020_attn", "hu2020", "kltnet", "kltnet2",
    "jiang2017", "talebi2020", "li2018", "toderici2017", "johnston2018",
)  # fmt: skip


def made(name, bfloat16):
    """(codec, its trained objectives, function (params, state) -> losses and gradients, params, state)."""
    path = CONFIGS / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = load(f"{path}:{getattr(module, 'SMALLEST', 'tiny')}", [])
    config.train.bfloat16 = bfloat16
    codec = make_codec(config)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    objective = codec.objectives[config.schedule[0]]
    batch = {"image": small.crops(2, 64), "position": np.arange(2, dtype=np.int32)}
    keys = jax.vmap(jax.random.key)(jnp.arange(2))

    def loss(owned, state):
        return objective.loss({**params, **owned}, state, batch, keys, 0)

    owned = {name: params[name] for name in objective.owns}
    return jax.value_and_grad(loss, has_aux=True), owned, state


def computed_in_bfloat16(jaxpr):
    """How many products and convolutions of bfloat16 there are, within calls too."""
    found = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found += equation.invars[0].aval.dtype == jnp.bfloat16
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, jax.extend.core.ClosedJaxpr)
        ):
            inner = getattr(inner, "jaxpr", inner)
            if isinstance(inner, jax.extend.core.Jaxpr):
                found += computed_in_bfloat16(inner)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_model_has_it(name):
    run, owned, state = made(name, True)
    traced, shapes = jax.make_jaxpr(run, return_shape=True)(owned, state)
    assert computed_in_bfloat16(traced.jaxpr) > 5
    ((loss, (metrics, after)), gradients) = shapes
    assert {leaf.dtype for leaf in jax.tree.leaves((loss, metrics, gradients))} == {jnp.dtype("float32")}
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, after)
    assert all(jax.tree.leaves(same))
    plain = jax.make_jaxpr(made(name, False)[0])(owned, state)
    assert computed_in_bfloat16(plain.jaxpr) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_losses_are_about_those_of_float32(name):
    exact, half = (jax.jit(run)(owned, state) for run, owned, state in (made(name, False), made(name, True)))
    assert half[0][0] == pytest.approx(exact[0][0], rel=0.05) and half[0][0] != exact[0][0]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(half))
