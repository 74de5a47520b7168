"""The experiments behind `mlic toy`: each trains what it compares, and returns a table and what its figure shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mlic_jax.errors import UsageError
from mlic_jax.toy import anchors, coding, model, scalar, training, variable_rate, vector
from mlic_jax.toy.points import Point
from mlic_jax.toy.sources import draw, source

# Samples that are written as bytes.
WRITTEN = 10_000
# Trade-offs of curves.
CURVE = {"laplace": (0.5, 1.0, 2.0, 4.0, 8.0), "banana": (0.25, 0.5, 1.0, 2.0, 4.0)}
# Of the sawbridge: times, training steps are few.
SAWBRIDGE_POINTS = 256
SAWBRIDGE_CURVE = (25.0, 50.0, 100.0, 200.0)
VARIABLE_LAMS = (0.5, 16.0)
VARIABLE_AT = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
# Training steps for each trade-off of the range that one model serves: it has to learn all of them.
VARIABLE_STEPS = 2


class Options(NamedTuple):
    """What the command line chooses.

    Attributes:
      lam: the trade-off, where there is one.
      steps: of each training; None: as the experiment thinks best.
      samples: that each measurement takes.
      seed: of all randomness.
      name: of the source, for curves.
      methods: of variable rate.
      report: is told of each part (what it is called, its step, its steps).
    """

    lam: float = 1.0
    steps: int | None = None
    samples: int = 1_000_000
    seed: int = 0
    name: str = "banana"
    methods: str = variable_rate.METHODS
    report: Callable[[str, int, int], None] | None = None


class Outcome(NamedTuple):
    """Of an experiment.

    Attributes:
      rows: a table, for people and as JSON.
      shown: what the figure of the same name in `figures` draws.
    """

    rows: list[dict[str, Any]]
    shown: dict[str, Any]


def _reporter(options: Options, what: str, steps: int):
    return (lambda step, loss: options.report(what, step, steps)) if options.report else None


def _train(options: Options, what: str, function, name, default_steps: int, **recipe):
    steps = options.steps or default_steps
    return function(name, report=_reporter(options, what, steps), steps=steps, seed=options.seed, **recipe)


def _row(code: str, cost: Point, **more) -> dict[str, Any]:
    return {"code": code, "rate": cost.rate, "distortion": cost.distortion, "loss": cost.loss, **more}


def _written(trained: training.Trained, offset: str, seed: int) -> dict[str, Any]:
    """Bits per sample of real bytes, beside what the prior says of the same samples."""
    coder = coding.Coder(trained, offset)
    x = draw(trained.recipe.source, WRITTEN, seed + 1)
    data = coder.encode(x)
    return {"bits of bytes": 8 * len(data) / WRITTEN, "bits by prior": coder.code_length(x) / WRITTEN}


def _transform_codes(options: Options, name: str, linear_steps: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Trains a nonlinear and a linear transform code, and adds their rows."""
    trained = {
        "ntc": _train(options, "NTC", training.ntc, name, 10_000, lam=options.lam),
        "ltc": _train(options, "LTC", training.ltc, name, linear_steps, lam=options.lam),
    }
    for (key, code), offset in zip(trained.items(), ("zero", "median"), strict=True):
        cost = code.measure(offset=offset, samples=options.samples)
        rows.append(_row(key.upper(), cost, **_written(code, offset, options.seed)))
    return trained


def laplace(options: Options) -> Outcome:
    """One number: the best scalar quantiser, a nonlinear and a linear transform code."""
    best = scalar.ecsq("laplace", options.lam)
    bound, _ = anchors.blahut_arimoto("laplace", options.lam)
    rows = [_row("rate-distortion function", bound), _row("ECSQ", best.point)]
    trained = _transform_codes(options, "laplace", 6_000, rows)
    return Outcome(rows, {"lam": options.lam, "ecsq": best, **trained})


def banana(options: Options) -> Outcome:
    """Two numbers: a codebook, a nonlinear and a linear transform code."""
    best = vector.ecvq("banana", options.lam, seed=options.seed)
    bound, _ = anchors.blahut_arimoto("banana", options.lam)
    rows = [_row("rate-distortion function", bound), _row("ECVQ", best.point)]
    trained = _transform_codes(options, "banana", 5_000, rows)
    return Outcome(rows, {"lam": options.lam, "ecvq": best, **trained})


def sawbridge(options: Options) -> Outcome:
    """A process of one number, the place of its jump: the nonlinear code finds it, and linear ones cannot."""
    given = source("sawbridge", points=SAWBRIDGE_POINTS)
    lams, rows, curves = SAWBRIDGE_CURVE, [], {"NTC": [], "KLT": [], "closed form": []}
    models = {}
    for lam in lams:
        models[lam] = _train(options, f"NTC, lam {lam:g}", training.ntc, given, 6_000, lam=lam)
        # As the paper has it: linear codes at rates this low do better with noise that the decoder knows.
        klt = _train(
            options, f"KLT, lam {lam:g}", training.ltc, given, 4_000, lam=lam, transform="klt", latents=50,
        )  # fmt: skip
        best, cells = anchors.phase_code("sawbridge", lam)
        costs = {
            "NTC": models[lam].measure(samples=options.samples // 10),
            "KLT": min(
                (
                    klt.measure(q, o, samples=options.samples // 10)
                    for q, o in (("round", "median"), ("dithered", "zero"))
                ),
                key=lambda cost: cost.loss,
            ),
            "closed form": best,
        }
        for name, cost in costs.items():
            curves[name].append(cost)
            rows.append(_row(name, cost) | {"lam": lam, "cells": cells if name == "closed form" else None})
    return Outcome(rows, {"curves": curves, "ntc": models[100.0], "source": given})


def curves(options: Options) -> Outcome:
    """Rate and distortion of all codes of a source, over the trade-off."""
    name = options.name
    if name not in CURVE:
        raise UsageError(f"no curves for {name!r}; there are those of {', '.join(CURVE)}")
    rows, found = [], {}
    for lam in CURVE[name]:
        best = scalar.ecsq(name, lam) if name == "laplace" else vector.ecvq(name, lam, seed=options.seed)
        nonlinear = _train(options, f"NTC, lam {lam:g}", training.ntc, name, 6_000, lam=lam)
        linear = _train(options, f"LTC, lam {lam:g}", training.ltc, name, 3_000, lam=lam)
        for code, cost in (
            ("rate-distortion function", anchors.blahut_arimoto(name, lam)[0]),
            ("ECSQ" if name == "laplace" else "ECVQ", best.point),
            ("NTC", nonlinear.measure(samples=options.samples)),
            ("LTC", linear.measure(offset="median", samples=options.samples)),
        ):
            found.setdefault(code, []).append(cost)
            rows.append(_row(code, cost) | {"lam": lam})
    return Outcome(rows, {"name": name, "curves": found})


def quantisers(options: Options) -> Outcome:
    """What stands for rounding in training, and what it is worth with each quantiser afterwards."""
    rows = []
    for mode in model.MODES:
        trained = _train(options, mode, training.ntc, "laplace", 10_000, lam=options.lam, mode=mode)
        row: dict[str, Any] = {"training": mode}
        for what, quantiser, offset in (
            ("rounded", "round", "zero"),
            ("rounded, offset median", "round", "median"),
            ("rounded, offset mode", "round", "mode"),
            ("dithered", "dithered", "zero"),
        ):
            row[what] = trained.measure(quantiser, offset, samples=options.samples).loss
        rows.append(row)
    return Outcome(rows, {"lam": options.lam, "rows": rows, "best": anchors.laplace_ecsq(options.lam)[0].loss})


def variable(options: Options) -> Outcome:
    """One model for many trade-offs: each method's loss above that of the best scalar quantiser."""
    rows, gaps = [], {}
    best = {lam: anchors.laplace_ecsq(lam)[0].loss for lam in VARIABLE_AT}
    for method in options.methods:
        steps = (options.steps or 6_000) * (VARIABLE_STEPS if method in "CDE" else 1)
        started = time.monotonic()
        code = variable_rate.variable(
            method, "laplace", VARIABLE_LAMS, VARIABLE_AT, _reporter(options, method, steps), steps=steps,
            seed=options.seed,
        )  # fmt: skip
        seconds = time.monotonic() - started
        gaps[method] = [code.measure(lam, options.samples).loss - best[lam] for lam in VARIABLE_AT]
        row: dict[str, Any] = {"method": method, "models": len(code.models), "training seconds": round(seconds)}
        rows.append(row | {f"gap at {lam:g}": gap for lam, gap in zip(VARIABLE_AT, gaps[method])})
    return Outcome(rows, {"lams": VARIABLE_AT, "gaps": gaps})


def sources(options: Options) -> Outcome:
    """What the sources look like, and what is known of them."""
    rows, shown = [], {}
    for name in ("laplace", "banana", "sphere", "sawbridge", "ramp", "sinusoid"):
        given = source(name)
        x = draw(given, 4000, options.seed)
        shown[name] = (given, x)
        energy = given.distortion * float((x.astype(np.float64) ** 2).sum(-1).mean())
        rows.append({"source": name, "dimensions": given.dim, "energy": energy, "entropy": given.entropy})
    return Outcome(rows, {"sources": shown})


EXPERIMENTS: dict[str, Callable[[Options], Outcome]] = {
    f.__name__: f for f in (sources, laplace, banana, sawbridge, curves, quantisers, variable)
}
