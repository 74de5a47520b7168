"""What the curves of a claim say about each other, seed by seed: numbers as JSON types, for `document` and for a file.

Two arms are compared within each seed, since a seed decides both's initial values, batches and noise; means and
spreads are those of the differences. Spreads are sample standard deviations, None for a single value.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlic_jax.errors import MlicError
from mlic_jax.evaluation.benchmark import run
from mlic_jax.evaluation.benchmark.results import INTERPOLATOR
from mlic_jax.evaluation.claim.measuring import Curve
from mlic_jax.evaluation.claim.spec import Claim
from mlic_jax.metrics import bd, registry

# Through the points of a curve over the logarithm of the rate, where there may be as few as two.
INTERPOLATOR_OVER_RATE = "pchip"

Pairs = list[tuple[float, float]]  # (bits per pixel, value)
Row = dict[str, Any]


def summary(values: Mapping[str, float]) -> Row:
    """{"values": seed -> value, "mean", "sd", "n"}. The mean of nothing is None."""
    numbers = list(values.values())
    return {
        "values": dict(values),
        "mean": statistics.fmean(numbers) if numbers else None,
        "sd": statistics.stdev(numbers) if len(numbers) > 1 else None,
        "n": len(numbers),
    }


def pairs(rows: Sequence[Mapping[str, Any]], key: str) -> Pairs:
    """(bits per pixel, value) of the rows that have a finite one, in order of rate, a rate once."""
    found = {float(row["bpp"]): float(row[key]) for row in rows if math.isfinite(row.get(key, math.nan))}
    return sorted(found.items())


def at_rate(points: Pairs, rate: float) -> float | None:
    """The value of a curve at a rate; None where it does not reach that far, or has only one point."""
    if len(points) < 2 or not points[0][0] <= rate <= points[-1][0]:
        return None
    x, y = np.array(points).T
    return float(bd.INTERPOLATORS[INTERPOLATOR_OVER_RATE](np.log(x), y)(math.log(rate)))


def mean_gain(anchor: Pairs, test: Pairs) -> float | None:
    """By how much `test` lies above `anchor`, on average over the logarithm of the rates that both have."""
    if len(anchor) < 2 or len(test) < 2:
        return None
    low = math.log(max(anchor[0][0], test[0][0]))
    high = math.log(min(anchor[-1][0], test[-1][0]))
    if low >= high:
        return None
    areas = []
    for points in (anchor, test):
        x, y = np.array(points).T
        areas.append(float(bd.INTERPOLATORS[INTERPOLATOR_OVER_RATE](np.log(x), y).integrate(low, high)))
    return (areas[1] - areas[0]) / (high - low)


class Table:
    """The curves of a claim by name and seed.

    Args:
      claim: for its anchors, metrics and rates.
      curves: what was measured.
    """

    def __init__(self, claim: Claim, curves: Sequence[Curve]):
        self.metrics = [registry.METRICS[name] for name in claim.metrics]
        self.rates = list(claim.rates)
        self.curves = {(curve.name, curve.seed): curve for curve in curves}
        self.points = {key: run.curve(curve.rows, curve.entrant.points) for key, curve in self.curves.items()}
        self.names = list(dict.fromkeys(name for name, _ in self.curves))
        self.anchors = [name for name in claim.anchors if name in self.names]

    def seeds(self, name: str) -> list[int | None]:
        """The seeds of an arm; [None] for a codec."""
        return [seed for other, seed in self.curves if other == name]

    def matched(self, name: str, anchor: str) -> dict[str, tuple[tuple, tuple]]:
        """seed -> (key of the anchor's curve, key of the name's): of one seed, or the same one for all seeds.

        The seed of two codecs is "".
        """
        found = {}
        for seed in self.seeds(name):
            for other in self.seeds(anchor):
                if seed is None or other is None or seed == other:
                    shown = seed if seed is not None else other
                    found["" if shown is None else str(shown)] = ((anchor, other), (name, seed))
        return found

    def at_rates(self) -> list[Row]:
        """Per metric, rate and name the value, and the gain over the first anchor (positive is better)."""
        rows = []
        for metric in self.metrics:
            sign = 1 if metric.higher_is_better else -1
            for rate in self.rates:
                value = {key: at_rate(pairs(points, metric.key), rate) for key, points in self.points.items()}
                for name in self.names:
                    mine = {_word(seed): value[name, seed] for seed in self.seeds(name)}
                    row = {"metric": metric.name, "rate": rate, "name": name, **summary(_known(mine))}
                    if self.anchors and name != self.anchors[0]:
                        matched = self.matched(name, self.anchors[0])
                        both = {
                            s: (value[a], value[b]) for s, (a, b) in matched.items() if None not in (value[a], value[b])
                        }
                        row["gain"] = summary({seed: sign * (b - a) for seed, (a, b) in both.items()})
                    rows.append(row)
        return rows

    def bd_rates(self) -> list[Row]:
        """Per metric, anchor and name the BD-rate in percent (negative is better), all seeds over one range of dB."""
        rows = []
        for metric in self.metrics:
            scaled = {
                key: [(rate, metric.scale(value)) for rate, value in pairs(points, metric.key)]
                for key, points in self.points.items()
            }
            for anchor in self.anchors:
                for name in self.names:
                    if name != anchor:
                        row = {"metric": metric.name, "anchor": anchor, "name": name, "interpolator": INTERPOLATOR}
                        curves = {s: (scaled[a], scaled[b]) for s, (a, b) in self.matched(name, anchor).items()}
                        rows.append(row | _bd_rate(curves))
        return rows

    def per_image(self) -> list[Row]:
        """Per metric and name the mean gain over the first anchor on every image: a mean over seeds, and quartiles."""
        rows = []
        for metric in self.metrics if self.anchors else ():
            sign = 1 if metric.higher_is_better else -1
            anchor = self.anchors[0]
            for name in self.names:
                if name == anchor:
                    continue
                gains: dict[str, list[float]] = {}
                for one, other in self.matched(name, anchor).values():
                    theirs, ours = self._of_images(one, metric.key), self._of_images(other, metric.key)
                    for image in ours:
                        gain = mean_gain(theirs[image], ours[image])
                        if gain is not None:
                            gains.setdefault(image, []).append(sign * gain)
                means = {image: statistics.fmean(found) for image, found in gains.items()}
                row = {"metric": metric.name, "anchor": anchor, "name": name, "n": len(means), "gains": means}
                if means:
                    quartiles = np.percentile(list(means.values()), [0, 25, 50, 75, 100]).tolist()
                    row |= dict(zip(("worst", "q1", "median", "q3", "best"), quartiles))
                    row |= {"worst_image": min(means, key=means.get), "best_image": max(means, key=means.get)}
                rows.append(row)
        return rows

    def _of_images(self, key: tuple[str, int | None], metric: str) -> dict[str, Pairs]:
        """Name of an image -> its own curve. (Two images of one name in different folders are told apart by place.)"""
        curve = self.curves[key]
        names = [row["name"] for row in curve.rows[0]]
        names = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]
        return {name: pairs([rows[i] for rows in curve.rows], metric) for i, name in enumerate(names)}


def _bd_rate(curves: Mapping[str, tuple[Pairs, Pairs]]) -> Row:
    """Summary of the BD-rates of seed -> (anchor, test), in dB, with "low", "high" and a "note" where there is none."""
    row = {**summary({}), "low": None, "high": None, "note": ""}
    if not curves:
        return row | {"note": "no seed has both curves"}
    known = [points for both in curves.values() for points in both if points]
    if len(known) < 2 * len(curves):
        return row | {"note": "a curve has no finite value"}
    low = max(min(value for _, value in points) for points in known)
    high = min(max(value for _, value in points) for points in known)
    if low >= high:
        return row | {
            "note": f"no common range of dB: the highest low end is {low:.2f}, the lowest high end {high:.2f}"
        }
    found, notes = {}, []
    for seed, (anchor, test) in curves.items():
        try:
            # One range for all seeds: their spread would be the ranges' otherwise.
            found[seed] = bd.bd_rate(anchor, test, INTERPOLATOR, (low, high)).value
        except MlicError as reason:
            notes.append(str(reason))
    if found:
        row |= summary(found) | {"low": low, "high": high}
    return row | {"note": "; ".join(dict.fromkeys(notes))}


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in values.items() if value is not None}


def _word(seed: int | None) -> str:
    return "" if seed is None else str(seed)


def compute(claim: Claim, curves: Sequence[Curve]) -> dict[str, Any]:
    """{"curves", "at_rates", "bd_rates", "per_image"}: everything about the curves that a document says."""
    table = Table(claim, curves)
    return {
        "curves": [
            {
                "name": curve.name,
                "seed": curve.seed,
                "family": curve.entrant.family,
                "about": curve.entrant.about,
                "points": table.points[key],
            }
            for key, curve in table.curves.items()
        ],
        "at_rates": table.at_rates(),
        "bd_rates": table.bd_rates(),
        "per_image": table.per_image(),
    }


def images(curves: Sequence[Curve]) -> list[Row]:
    """A row per curve, point and picture."""
    return [
        {"name": curve.name, "seed": _word(curve.seed), "point": point.name, "picture": row["name"]}
        | {key: value for key, value in row.items() if key != "name"}
        for curve in curves
        for point, rows in zip(curve.entrant.points, curve.rows, strict=True)
        for row in rows
    ]
