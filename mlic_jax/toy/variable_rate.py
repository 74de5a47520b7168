"""One model for many trade-offs, five ways.

A  a model for each lam: what the others are measured against
B  one model for one lam; other trade-offs by the width of its quantisation bins
C  gains before and after rounding, functions of lam, learned with the rest (believed to be what Balle et al.,
   "Nonlinear Transform Coding", 2021, propose)
D  scales and biases after each layer for each lam of a table, and bins of random width in between (Choi, El-Khamy, Lee,
   "Variable rate deep image compression with a conditional autoencoder", 2019)
E  scales and biases after each layer, a function of lam (Dosovitskiy and Djolonga, "You only train once", 2020)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize

from mlic_jax.errors import UsageError
from mlic_jax.toy import training
from mlic_jax.toy.points import Point, point
from mlic_jax.toy.sources import Source

METHODS = "ABCDE"
# Trade-offs of D's table; bins of half to twice the width reach from each to the next.
TABLE = 4
# Samples that a width of bins is chosen by.
_TUNING = 100_000


class Setting(NamedTuple):
    """How a trade-off is coded.

    Attributes:
      trained: the model.
      lam: what the model is told.
      step: the width of its bins.
    """

    trained: training.Trained
    lam: float
    step: float


class VariableCode:
    """Models of one method, over a range of trade-offs.

    Attributes:
      method: of METHODS.
      models: lam -> Trained; one entry but for A.
      lams: (lowest, highest).
    """

    def __init__(self, method: str, models: dict[float, training.Trained], lams: tuple[float, float]):
        self.method, self.models, self.lams = method, models, lams

    def setting(self, lam: float) -> Setting:
        """What is coded with at a trade-off; widths of bins are searched for, on samples of their own.

        Raises UsageError for a trade-off that no model was trained for (A), or outside of the range.
        """
        if not self.lams[0] * (1 - 1e-6) <= lam <= self.lams[1] * (1 + 1e-6):
            raise UsageError(f"lam is {lam}: these models serve {self.lams[0]:g} to {self.lams[1]:g}")
        if self.method == "A":
            if lam not in self.models:
                raise UsageError(f"no model was trained for lam {lam}: {', '.join(map(str, self.models))}")
            return Setting(self.models[lam], lam, 1.0)
        (told, trained), *_ = self.models.items()
        if self.method == "B":
            return self._with_best_step(trained, [told], lam, 16.0)
        if self.method == "D":
            nearest = sorted(trained.recipe.table, key=lambda entry: abs(math.log(entry / lam)))[:2]
            return self._with_best_step(trained, nearest, lam, 2.0)
        return Setting(trained, lam, 1.0)

    def _with_best_step(self, trained, told, lam, widest):
        def loss(logarithm, entry):
            step = float(2.0**logarithm)
            found = trained.measure(lam=entry, step=step, offset=self._offset(trained), samples=_TUNING, seed=2)
            return found.rate + lam * found.distortion

        span, best = math.log2(widest), (math.inf, None)
        for entry in told:
            # Rounding makes the loss wavy: a grid finds the valley, and a search its ground.
            grid = np.linspace(-span, span, 2 * round(2 * span) + 1)
            start = grid[int(np.argmin([loss(x, entry) for x in grid]))]
            ends = (max(-span, start - 0.5), min(span, start + 0.5))
            found = optimize.minimize_scalar(
                loss, bounds=ends, args=(entry,), method="bounded", options={"xatol": 0.02, "maxiter": 12}
            )
            best = min(best, (float(found.fun), (entry, float(2.0**found.x))))
        return Setting(trained, *best[1])

    def _offset(self, trained):
        # Soft rounding aligns latents with integers, but where gains stretch them it does so for one gain at most.
        return "zero" if trained.recipe.mode == "soft" and self.method in "AE" else "median"

    def measure(self, lam: float, samples: int = 1_000_000) -> Point:
        """What a trade-off costs, on fresh samples. Raises as `setting`."""
        trained, told, step = self.setting(lam)
        found = trained.measure(lam=told, step=step, offset=self._offset(trained), samples=samples)
        return point(found.rate, found.distortion, lam)


def variable(
    method: str,
    name: str | Source = "laplace",
    lams: tuple[float, float] = (0.5, 16.0),
    at: Sequence[float] = (),
    report: Callable[[int, float], None] | None = None,
    **options,
) -> VariableCode:
    """Trains the models of a method.

    Args:
      method: of METHODS.
      name: of a source, or a source.
      lams: (lowest, highest) trade-off.
      at: trade-offs of A.
      report: see `training.train`.
      options: of `training.Recipe`.

    Raises UsageError for an unknown method, or for A without trade-offs.
    """
    if method not in METHODS or len(method) != 1:
        raise UsageError(f"no method is called {method!r}; there are {', '.join(METHODS)}")
    low, high = map(float, lams)
    if not 0 < low < high:
        raise UsageError(f"trade-offs from {low} to {high}: the lowest comes first, and is above 0")
    if method == "A":
        if not at:
            raise UsageError("method A needs to be told its trade-offs")
        return VariableCode("A", {lam: training.ntc(name, lam, report, **options) for lam in at}, (low, high))
    if method == "B":
        middle = math.sqrt(low * high)
        return VariableCode("B", {middle: training.ntc(name, middle, report, **options)}, (low, high))
    table = tuple(np.geomspace(low, high, TABLE).tolist()) if method == "D" else ()
    conditioning = {"C": "gain", "D": "table", "E": "film"}[method]
    # Reconstructions are nearer to zero than the middle of their bins, the more so the wider bins are: a gain after
    # rounding that is not tied to the one before can say so.
    options = {"free_gain": method == "C"} | options
    recipe = training.defaults(name, lam=(low, high), conditioning=conditioning, table=table, **options)
    return VariableCode(method, {math.nan: training.train(recipe, report)}, (low, high))
