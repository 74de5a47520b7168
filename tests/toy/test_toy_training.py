"""Toy codes learn, repeatably; what they reach is measured by the tests marked slow."""

import numpy as np
import pytest

from mlic_jax import toy
from mlic_jax.errors import TrainingError, UsageError
from mlic_jax.toy import priors, training, variable_rate

SMALL = dict(batch=128, hidden=(8,), prior="lsm-2")


def test_training_learns_and_repeats_itself():
    seen = []
    first = toy.ntc("laplace", 1.0, lambda *report: seen.append(report), steps=600, learning_rate=1e-2, **SMALL)
    assert [step for step, _ in seen] == [500, 600] and seen[1][1] < seen[0][1]
    cost = first.measure(samples=100_000)
    assert cost.loss < 2.0 and cost.loss == pytest.approx(cost.rate + cost.distortion, abs=1e-9)  # lam * E x^2 is 2
    again = toy.ntc("laplace", 1.0, steps=600, learning_rate=1e-2, **SMALL)
    assert again.measure(samples=100_000) == cost
    assert first.measure("dithered", samples=100_000).loss > cost.loss
    # The median is one of the values that latents are rounded to.
    offset = first.offset("median")
    steps = priors.quantiles(*first.prior(), 0.5, 1) - offset
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"mode": "noise", "expected_gradients": True}, marks=pytest.mark.slow),
        {"mode": "mixed", "prior": "deep"},
        pytest.param({"mode": "ste", "transform": "klt", "latents": 3}, marks=pytest.mark.slow),
        {"mode": "soft", "expected_gradients": True, "transform": "daubechies", "latents": 8},
    ],
)
def test_every_mode_and_transform_trains(options):
    given = toy.source("sawbridge", points=16)
    recipe = toy.defaults(given, **({"lam": 30.0, "steps": 150, "learning_rate": 1e-2} | SMALL | options))
    trained, start = toy.train(recipe), training.untrained(recipe)
    assert trained.measure(samples=5000).loss < start.measure(samples=5000).loss


@pytest.mark.slow
def test_expected_gradients_lead_to_the_same_place():
    """Of the same expectation: one step differs by its noise only."""
    common = dict(mode="noise", steps=400, learning_rate=1e-2, **SMALL)
    plain, expected = (toy.ntc("laplace", 1.0, expected_gradients=flag, **common) for flag in (False, True))
    a, b = (trained.measure("dithered", samples=100_000).loss for trained in (plain, expected))
    assert a == pytest.approx(b, abs=0.05) and a != b


@pytest.mark.parametrize("method", ["C", *(pytest.param(method, marks=pytest.mark.slow) for method in "BDE")])
def test_variable_rate(method):
    code = toy.variable(method, "laplace", (0.5, 8.0), steps=500, learning_rate=1e-2, **SMALL)
    low, high = (code.measure(lam, samples=20_000) for lam in (0.5, 8.0))
    assert low.rate < high.rate and low.distortion > high.distortion
    trained, told, step = code.setting(2.0)
    coder, x = toy.Coder(trained, "median", lam=told, step=step), toy.draw("laplace", 2000, 1)
    data = coder.encode(x)
    assert len(data) <= 1.01 * coder.code_length(x) / 8 + 16
    assert np.abs(coder.decode(data, 2000) - x).mean() < np.abs(x).mean()
    if method == "D":
        assert told in trained.recipe.table and 0.5 <= step <= 2
    if method in "CE":
        assert step == 1
        with pytest.raises(UsageError, match="needs to be told lam"):
            trained.measure()
    with pytest.raises(UsageError, match="serve 0.5 to 8"):
        code.measure(9.0)


def test_bad_requests_are_refused():
    for options, words in (
        ({"mode": "round"}, "'round'; there are noise, mixed, ste, soft"),
        ({"transform": "dct"}, "'dct'"),
        ({"activation": "gelu"}, "'gelu'"),
        ({"lam": 0}, "lam must be above 0"),
        ({"mode": "ste", "expected_gradients": True}, "no noise"),
        ({"stepz": 3}, "'stepz'"),
        ({"conditioning": "scale"}, "'scale'; there are gain, table, film"),
        ({"lam": (1.0, 2.0)}, "goes with a conditioning"),
        ({"lam": (1.0, 2.0), "conditioning": "table"}, "a table of lam"),
    ):
        with pytest.raises(UsageError, match=words):
            toy.defaults("laplace", **options)
    for method, options, words in (
        ("F", {}, "'F'"),
        ("A", {}, "told its trade-offs"),
        ("C", {"lams": (4.0, 2.0)}, "the lowest comes first"),
    ):
        with pytest.raises(UsageError, match=words):
            variable_rate.variable(method, **options)
    with pytest.raises(TrainingError, match="smaller learning rate"):
        toy.ntc("laplace", steps=20, learning_rate=1e30, **SMALL)


@pytest.mark.slow
def test_the_order_of_quantisers():
    """The paper's point about proxies, on the Laplace source at lam 1, whose best scalar quantiser costs 1.4566."""
    found = {mode: toy.ntc("laplace", 1.0, mode=mode) for mode in ("soft", "noise", "mixed", "ste")}
    median = {mode: trained.measure(offset="median").loss for mode, trained in found.items()}
    assert found["soft"].measure().loss < 1.48 and median["noise"] < 1.50
    assert found["soft"].measure().loss <= median["noise"] + 1e-3 < median["mixed"] < median["ste"]
    assert found["soft"].measure("dithered").loss > 1.55


@pytest.mark.slow
def test_the_banana_needs_a_nonlinear_transform():
    nonlinear, linear = toy.ntc("banana", 1.0, steps=8000), toy.ltc("banana", 1.0, steps=4000)
    assert nonlinear.measure().loss < 3.20
    assert min(linear.measure(offset=offset).loss for offset in ("zero", "median", "mode")) > 4.0


@pytest.mark.slow
def test_one_model_for_many_trade_offs():
    code = toy.variable("C", "laplace", (0.5, 16.0), steps=12_000)
    for lam in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0):
        # The low end, where all that a code can win is 0.08 bits, learns last.
        assert code.measure(lam).loss <= toy.ecsq("laplace", lam).loss + (0.07 if lam < 1 else 0.05)
