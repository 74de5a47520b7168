"""The deep factorized density against float64: normalization, tails, medians, tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from scipy import special

from mlic_jax.entropy import tables
from mlic_jax.entropy.priors import factorized
from mlic_jax.entropy.priors.factorized import FILTERS, LIKELIHOOD_FLOOR, DeepFactorized
from mlic_jax.errors import ModelError

CHANNELS = 6


def fresh():
    module = DeepFactorized(CHANNELS)
    boxed = jax.eval_shape(
        lambda key: module.init(key, jnp.zeros((1, 1, 1, CHANNELS)), method="likelihood"), jax.random.key(0)
    )
    from mlic_jax.layers.init import materialise

    return materialise(boxed["params"], jax.random.key(3))


def narrow():
    """As after training: spread over a few symbols, skewed, off centre."""
    rng = np.random.default_rng(1)
    params = {name: array + rng.normal(0, 0.4, array.shape).astype(np.float32) for name, array in fresh().items()}
    params["matrix_0"] += np.linspace(0.5, 6, CHANNELS, dtype=np.float32)[:, None, None]
    return params


def symmetric():
    """Odd logits: the median is exactly 0."""
    return {name: array * (0 if name.startswith("bias") else 1) for name, array in fresh().items()}


CASES = {"fresh": fresh, "narrow": narrow, "symmetric": symmetric}
cases = pytest.mark.parametrize("params", [make() for make in CASES.values()], ids=CASES)


def logits64(params, x):
    """The paper's recursion, written once more, one channel and one number at a time in float64."""
    out = np.empty((CHANNELS, len(x)))
    for c in range(CHANNELS):
        v = np.asarray(x, np.float64)[None]
        for k in range(len(FILTERS) + 1):
            v = np.log1p(np.exp(params[f"matrix_{k}"][c].astype(np.float64))) @ v + params[f"bias_{k}"][c]
            if k < len(FILTERS):
                v = v + np.tanh(params[f"factor_{k}"][c].astype(np.float64)) * np.tanh(v)
        out[c] = v[0]
    return out


def mass64(params, x):
    upper, lower = logits64(params, x + 0.5), logits64(params, x - 0.5)
    sign = np.where(upper + lower > 0, -1, 1)
    return np.abs(special.expit(sign * upper) - special.expit(sign * lower))


def likelihood(params, x):
    """[n] -> [C, n]."""
    x = jnp.broadcast_to(jnp.asarray(x, jnp.float32)[None, None, :, None], (1, 1, len(x), CHANNELS))
    return np.asarray(DeepFactorized(CHANNELS).apply({"params": params}, x, method="likelihood"))[0, 0].T


def center(params, **state):
    module = DeepFactorized(CHANNELS)
    return np.asarray(module.apply({"params": params, **state}, method=lambda m: m.center))


@cases
def test_sums_to_one(params):
    x = np.arange(-3000, 3001)
    found = likelihood(params, x).astype(np.float64)
    found[found <= LIKELIHOOD_FLOOR] = 0
    np.testing.assert_allclose(found.sum(1), 1, rtol=0, atol=2e-6)
    np.testing.assert_allclose(mass64(params, x).sum(1), 1, rtol=0, atol=1e-6)


@cases
def test_keeps_its_digits_in_both_tails(params):
    x = np.arange(-3000, 3001)
    found, expected = likelihood(params, x), mass64(params, x)
    assert (found >= LIKELIHOOD_FLOOR * (1 - 1e-6)).all()
    bits, expected_bits = -np.log2(found), -np.log2(np.maximum(expected, LIKELIHOOD_FLOOR))
    np.testing.assert_allclose(bits, expected_bits, rtol=0, atol=1e-3)


@cases
def test_cumulative_logits_rise(params):
    x = np.linspace(-300, 300, 2001)
    lists = [[params[f"{kind}_{k}"] for k in range(n)] for kind, n in (("matrix", 5), ("bias", 5), ("factor", 4))]
    x32 = jnp.broadcast_to(jnp.asarray(x, jnp.float32), (CHANNELS, 1, len(x)))
    found = np.asarray(factorized.cumulative_logits(x32, *lists))[:, 0]
    assert (np.diff(found) > 0).all()
    np.testing.assert_allclose(found, logits64(params, x), rtol=1e-5, atol=1e-5)


@cases
def test_medians(params):
    searched = center(params)
    assert np.abs(logits64(params, searched)[np.arange(CHANNELS), np.arange(CHANNELS)]).max() < 2e-6
    exact = factorized.quantiles(params, [0.5])[:, 0]
    assert np.abs(logits64(params, exact)[np.arange(CHANNELS), np.arange(CHANNELS)]).max() < 1e-9
    np.testing.assert_allclose(searched, exact, rtol=1e-4, atol=1e-5)


@cases
def test_quantiles_hit_their_probabilities(params):
    probabilities = [1e-9, 1e-3, 0.25, 0.9, 1 - 1e-6]
    found = factorized.quantiles(params, probabilities)
    for n, p in enumerate(probabilities):
        reached = logits64(params, found[:, n])[np.arange(CHANNELS), np.arange(CHANNELS)]
        np.testing.assert_allclose(reached, special.logit(p), rtol=1e-8)


def test_medians_of_the_state_win():
    state = {"state": {"medians": np.arange(CHANNELS, dtype=np.float32)}}
    np.testing.assert_array_equal(center(fresh(), **state), np.arange(CHANNELS))
    with pytest.raises(ModelError, match="medians"):
        center(fresh(), state={"medians": np.zeros(CHANNELS + 1, np.float32)})


def test_an_exact_median_is_not_impossible():
    # upper = -lower there: a sign function of their sum is 0, and would leave no probability at all.
    at_zero = likelihood(symmetric(), [0.0])
    np.testing.assert_allclose(at_zero, mass64(symmetric(), np.array([0.0])), rtol=1e-4)


@cases
def test_gradients_are_finite(params):
    x = jnp.asarray(np.random.default_rng(0).normal(0, 100, (2, 3, 3, CHANNELS)), jnp.float32)

    def bits(params, x):
        return DeepFactorized(CHANNELS).apply({"params": params}, x, method="bits").sum()

    for array in jax.tree.leaves(jax.grad(bits, argnums=(0, 1))(params, x)):
        assert np.isfinite(array).all()


def tabulate(params):
    return DeepFactorized(CHANNELS).apply({"params": params}, method="tabulate")


@cases
def test_tables_cost_what_the_density_says(params):
    table = tabulate(params)
    tables.check(table)
    assert len(table.lengths) == CHANNELS
    medians = factorized.quantiles(params, [0.5])[:, 0].astype(np.float32).astype(np.float64)
    for c in range(CHANNELS):
        row = table.row(c)
        assert table.first[c] <= 0 < table.first[c] + len(row)
        mass = mass64(params, medians[c] + table.first[c] + np.arange(len(row) - 1))[c]
        mass = np.append(mass, 1 - mass.sum())
        assert 0 <= mass[-1] <= factorized.TAIL_MASS * 1.001
        overhead = (mass * (np.log2(mass) - np.log2(row / tables.TOTAL))).sum()
        assert overhead < 1e-3 * (mass * -np.log2(mass)).sum() + 5e-5


def test_a_flat_density_gets_a_table_nevertheless():
    params = fresh()
    params["matrix_0"] = params["matrix_0"] - 12
    table = tabulate(params)
    tables.check(table)
    assert table.lengths.max() <= 2 * tables.WIDEST + 2


def test_tables_do_not_depend_on_jit():
    params = narrow()
    eager = tabulate(params)
    on_device = tabulate(jax.device_put(params))
    for one, other in zip(eager, on_device, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_trained_prior_of_compressai():
    # Its quantiles are those of the same density: tail mass 1e-9, searched to 1e-4.
    weights = small.fixture_weights("bmshj2018-factorized")
    artifact = small.imported("bmshj2018-factorized")[1]
    found = factorized.quantiles(artifact.params["prior_y"], [5e-10, 0.5, 1 - 5e-10])
    np.testing.assert_allclose(found, weights["entropy_bottleneck.quantiles"][:, 0], rtol=1e-4, atol=1e-2)


def test_indexes_name_channels():
    shape = (1, 2, 3, CHANNELS)
    indexes = DeepFactorized(CHANNELS).apply({"params": fresh()}, shape, None, method="indexes")
    assert indexes.shape == shape and (indexes == np.arange(CHANNELS)).all()
