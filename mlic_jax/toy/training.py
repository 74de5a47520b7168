"""Training and measuring of toy transform codes.

Balle et al., "Nonlinear Transform Coding", 2021, section II. Layer sizes, optimiser and schedule are those of the
notebook that accompanies the paper. By default batches are a quarter of its 1024 samples, and steps a fifth or less of
its 50 to 200 thousand, so that a curve takes minutes on one core.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mlic_jax.entropy import quantisers
from mlic_jax.errors import TrainingError, UsageError
from mlic_jax.toy import anchors, model, priors, transforms
from mlic_jax.toy.points import Point, point
from mlic_jax.toy.sources import Source, source
from mlic_jax.toy.vector import falling

TRANSFORMS = ("mlp", "linear", "klt", "daubechies")
OFFSETS = ("zero", "median", "mode")
# Steps between two reports, compiled as one program.
_STRIDE = 500
# Samples that are measured at a time, over the source's dimensions.
_MEASURED = 1 << 21


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is trained, and how.

    Attributes:
      source: what is coded.
      lam: the trade-off; (lowest, highest) where one model serves many.
      latents: C.
      hidden: widths of hidden layers, for "mlp".
      transform: "mlp"; "linear" (LTC: one dense layer each); "klt", "daubechies" (fixed, with gains).
      activation: a key of `transforms.ACTIVATIONS`.
      prior: see `priors.Prior`.
      mode: of `model.MODES`.
      expected_gradients: see `model.Model.train`.
      alpha: sharpness of soft rounding, from the first step to the last, linearly.
      steps, batch, learning_rate: of Adam; the rate falls as in `vector.falling`.
      seed: of parameters, samples and noise.
      conditioning, free_gain: see `model.Model`.
      table: trade-offs of "table".
      balanced: losses are divided by the root of lam, as distortions are multiplied by lam: trade-offs of a high rate
        pull less.
    """

    source: Source
    lam: float | tuple[float, float] = 1.0
    latents: int = 1
    hidden: tuple[int, ...] = (50, 50)
    transform: str = "mlp"
    activation: str = "softplus"
    prior: str = "deep"
    mode: str = "soft"
    expected_gradients: bool = False
    alpha: tuple[float, float] = (3.0, 5.0)
    steps: int = 10_000
    batch: int = 256
    learning_rate: float = 1e-3
    seed: int = 0
    conditioning: str | None = None
    free_gain: bool = False
    table: tuple[float, ...] = ()
    balanced: bool = False

    def check(self) -> None:
        """Raises UsageError for what makes no sense."""
        for what, known in (("mode", model.MODES), ("transform", TRANSFORMS)):
            if getattr(self, what) not in known:
                raise UsageError(f"no {what} is called {getattr(self, what)!r}; there are {', '.join(known)}")
        transforms.check_activation(self.activation)
        if min(np.atleast_1d(self.lam)) <= 0 or min(self.steps, self.batch, self.latents) < 1:
            raise UsageError("lam must be above 0; steps, batch and latents at least 1")
        if self.conditioning not in (None, *model.CONDITIONINGS):
            raise UsageError(f"no conditioning is {self.conditioning!r}; there are {', '.join(model.CONDITIONINGS)}")
        if (self.conditioning is not None) != isinstance(self.lam, tuple):
            raise UsageError("a range of lam goes with a conditioning on lam, and one lam with none")
        if (self.conditioning == "table") != bool(self.table):
            raise UsageError("a table of lam goes with conditioning 'table'")
        if self.expected_gradients and self.mode == "ste":
            raise UsageError("mode 'ste' has no noise, and so no expected gradients")


def defaults(name: str | Source, **options) -> Recipe:
    """The recipe of a source: the paper's layers and latents, steps for minutes.

    Args:
      name: of a source, or a source.
      options: what differs, by the names of `Recipe`.

    Raises UsageError for an option that is none.
    """
    given = source(name)
    layers = {
        "laplace": dict(latents=1, hidden=(50, 50)),
        "banana": dict(latents=2, hidden=(100, 100)),
        "sphere": dict(latents=given.dim, hidden=(100, 100)),
    }.get(given.name, dict(latents=10, hidden=(100, 100), activation="leaky_relu"))
    if unknown := set(options) - {field.name for field in dataclasses.fields(Recipe)}:
        raise UsageError(f"no option of a toy code is called {sorted(unknown)[0]!r}")
    recipe = Recipe(given, **(layers | options))
    recipe.check()
    return recipe


def build(recipe: Recipe) -> model.Model:
    """The untrained model."""
    given, kind = recipe.source, recipe.transform
    if kind in ("klt", "daubechies"):
        count = min(recipe.latents, given.dim)
        if kind == "klt":
            exact = given.name == "sawbridge"
            basis = anchors.sawbridge_klt(given.dim, count) if exact else anchors.klt(given, count)
            mean, vectors = basis.mean, basis.vectors
        else:
            mean, vectors = np.zeros(given.dim), anchors.daubechies(given.dim)[:count]
        pair = [transforms.Orthonormal(vectors, mean, inverse) for inverse in (False, True)]
    else:
        hidden = recipe.hidden if kind == "mlp" else ()
        conditioning = recipe.conditioning if recipe.conditioning in ("table", "film") else None
        count = recipe.latents
        pair = [
            transforms.Mlp((*hidden, last), recipe.activation, conditioning) for last in (recipe.latents, given.dim)
        ]
    prior = priors.Prior(count, recipe.prior)
    return model.Model(*pair, prior, recipe.conditioning, recipe.table, recipe.free_gain)


def _trade_offs(recipe: Recipe, key, n: int) -> model.TradeOff:
    """Those of a training batch: fixed; from the table, with bins of half to twice the width; or log-uniform."""
    if recipe.conditioning is None:
        return model.trade_off(n, recipe.lam)
    if recipe.conditioning == "table":
        which, width = jax.random.split(key)
        lam = jax.random.choice(which, jnp.asarray(recipe.table, jnp.float32), (n, 1))
        return model.TradeOff(lam, jnp.exp2(jax.random.uniform(width, (n, 1), minval=-1.0, maxval=1.0)))
    low, high = np.log(recipe.lam)
    lam = jnp.exp(jax.random.uniform(key, (n, 1), minval=low, maxval=high))
    return model.TradeOff(lam, jnp.ones_like(lam))


def loss(built: model.Model, recipe: Recipe, params, key, alpha) -> jax.Array:
    """Of one batch, drawn from a key."""
    drawn, noise, which = jax.random.split(key, 3)
    x = recipe.source.sample(drawn, recipe.batch)
    to = _trade_offs(recipe, which, recipe.batch)
    u = jax.random.uniform(noise, (recipe.batch, built.prior.channels), minval=-0.5, maxval=0.5)
    bits, decoded = built.apply(params, x, to, u, recipe.mode, alpha, recipe.expected_gradients, method="train")
    cost = bits + to.lam[:, 0] * recipe.source.distortion * ((x - decoded) ** 2).sum(-1)
    varies = recipe.conditioning is not None and recipe.balanced
    return (cost / jnp.sqrt(to.lam[:, 0]) if varies else cost).mean()


def untrained(recipe: Recipe) -> Trained:
    """A model as it is before the first step. Raises UsageError: see `Recipe.check`."""
    recipe.check()
    built, start = build(recipe), jax.random.split(jax.random.key(recipe.seed))[0]
    params = built.init(start, recipe.source.sample(start, 2), _trade_offs(recipe, start, 2), method="initialise")
    return Trained(recipe, built, params)


def train(recipe: Recipe, report: Callable[[int, float], None] | None = None) -> Trained:
    """Trains a model.

    Args:
      recipe: what and how.
      report: is called with the step and the training loss every 500 steps.

    Raises:
      UsageError: see `Recipe.check`.
      TrainingError: the loss is not finite.
    """
    begun = untrained(recipe)
    built, params = begun.model, begun.params
    drawn = jax.random.split(jax.random.key(recipe.seed))[1]
    optimiser = optax.adam(falling(recipe.learning_rate, recipe.steps))
    state = optimiser.init(params)
    first, last = recipe.alpha

    @functools.partial(jax.jit, static_argnums=3, donate_argnums=(0, 1))
    def run(params, state, begin, count):
        def step(carry, i):
            params, state = carry
            alpha = first + (last - first) * i / recipe.steps
            value, gradient = jax.value_and_grad(lambda p: loss(built, recipe, p, jax.random.fold_in(drawn, i), alpha))(
                params
            )
            updates, state = optimiser.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        (params, state), values = jax.lax.scan(step, (params, state), begin + jnp.arange(count))
        return params, state, values.mean()

    for begin in range(0, recipe.steps, _STRIDE):
        count = min(_STRIDE, recipe.steps - begin)
        params, state, value = run(params, state, begin, count)
        if not np.isfinite(value):
            raise TrainingError(f"the loss is {value} by step {begin + count}: try a smaller learning rate")
        if report:
            report(begin + count, float(value))
    return Trained(recipe, built, jax.device_get(params))


class Trained:
    """A trained toy code. Functions take and return NumPy arrays, n samples at a time.

    Attributes:
      recipe, model, params: what was trained, its networks and their parameters.
    """

    def __init__(self, recipe: Recipe, built: model.Model, params):
        self.recipe, self.model, self.params = recipe, built, params
        self._programs = {
            name: jax.jit(functools.partial(built.apply, method=name)) for name in ("analysis", "synthesis")
        }
        self._measuring: dict[str, Callable] = {}

    @property
    def channels(self) -> int:
        return self.model.prior.channels

    def _lam(self, lam):
        if lam is None and isinstance(self.recipe.lam, tuple):
            raise UsageError("a model for many trade-offs needs to be told lam")
        return self.recipe.lam if lam is None else lam

    def analysis(self, x, lam: float | None = None, step: float = 1.0) -> np.ndarray:
        """[n, d] -> v [n, C], to be rounded."""
        return np.asarray(self._programs["analysis"](self.params, x, model.trade_off(len(x), self._lam(lam), step)))

    def synthesis(self, v, lam: float | None = None, step: float = 1.0) -> np.ndarray:
        """Rounded v [n, C] -> [n, d]."""
        return np.asarray(self._programs["synthesis"](self.params, v, model.trade_off(len(v), self._lam(lam), step)))

    def prior(self) -> tuple[str, dict]:
        """The kind and the parameters that the functions of `priors` take."""
        return self.model.prior.kind, self.params["params"]["prior"]

    def gain(self, lam: float | None = None, step: float = 1.0) -> np.ndarray:
        """float64 [C] by which latents are multiplied before they are rounded."""
        gain = self.model.apply(self.params, model.trade_off(1, self._lam(lam), step), method="gains")[0]
        return np.broadcast_to(np.asarray(gain, np.float64)[0], (self.channels,))

    def offset(self, kind: str = "zero", lam: float | None = None, step: float = 1.0) -> np.ndarray:
        """float64 [C] in -1/2..1/2: latents are rounded to integers plus this (section III-A).

        Args:
          kind: "zero", or that the "median" or the "mode" of the prior is one of the values.
        """
        if kind not in OFFSETS:
            raise UsageError(f"no offset is called {kind!r}; there are {', '.join(OFFSETS)}")
        gain, prior = self.gain(lam, step), self.prior()
        if kind == "zero":
            return np.zeros(self.channels)
        center = priors.quantiles(*prior, 0.5, self.channels) if kind == "median" else priors.modes(*prior, gain)
        return center * gain - np.round(center * gain)

    def measure(
        self,
        quantiser: str = "round",
        offset: str = "zero",
        lam: float | None = None,
        step: float = 1.0,
        samples: int = 1_000_000,
        seed: int = 1,
    ) -> Point:
        """What fresh samples cost; the rate is -log2 of the prior's probability of what the decoder gets.

        Args:
          quantiser: "round", or "dithered" with noise that both ends know.
          offset: for "round", see `offset`.
          lam, step: where they are free.
        """
        if quantiser not in ("round", "dithered"):
            raise UsageError(f"no quantiser is called {quantiser!r}; there are round, dithered")
        if quantiser not in self._measuring:
            self._measuring[quantiser] = jax.jit(functools.partial(self._cost, quantiser), static_argnums=5)
        lam = self._lam(lam)
        o = jnp.asarray(self.offset(offset, lam, step), jnp.float32)
        chunk = min(samples, max(1, _MEASURED // max(16, self.recipe.source.dim)))
        count = -(-samples // chunk)
        keys = jax.random.split(jax.random.key(seed), count)
        costs = [self._measuring[quantiser](self.params, key, lam, step, o, chunk) for key in keys]
        return point(*np.mean(np.asarray(costs, np.float64), 0), lam)

    def _cost(self, quantiser, params, key, lam, step, o, n):
        drawn, noise = jax.random.split(key)
        x, to = self.recipe.source.sample(drawn, n), model.trade_off(n, lam, step)
        v = self.model.apply(params, x, to, method="analysis")
        if quantiser == "round":
            received = quantisers.dithered(v, o)
        else:
            received = quantisers.dithered(v, jax.random.uniform(noise, v.shape, minval=-0.5, maxval=0.5))
        bits = self.model.apply(params, received, to, method="bits").sum(-1)
        decoded = self.model.apply(params, received, to, method="synthesis")
        return bits.mean(), self.recipe.source.distortion * ((x - decoded) ** 2).sum(-1).mean()


def ntc(name: str | Source = "laplace", lam: float = 1.0, report=None, **options) -> Trained:
    """Trains a nonlinear transform code.

    Args:
      name: of a source, or a source.
      lam: what a unit of distortion costs, in bits.
      report: see `train`.
      options: of `Recipe`.
    """
    return train(defaults(name, lam=lam, **options), report)


def ltc(name: str | Source = "laplace", lam: float = 1.0, report=None, **options) -> Trained:
    """Trains a linear transform code: one dense layer each way, and noise in training unless told otherwise. Its few
    parameters bear ten times the learning rate, and with less are not where they go after as many steps."""
    linear = {"mode": "noise", "transform": "linear", "learning_rate": 1e-2, "lam": lam}
    return train(defaults(name, **(linear | options)), report)
