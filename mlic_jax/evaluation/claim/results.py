"""What the curves of a claim say about each other, seed by seed: numbers as JSON types, for `document` and for a file.

BD-rates are the benchmark's (`comparing.bd_rates`). Beside them stand values and gains at given rates, and gains on
single pictures: interpolated over the logarithm of the rate, where a curve may have as few as two points.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlic_jax.evaluation.benchmark import comparing
from mlic_jax.evaluation.benchmark.comparing import Key, Row, matched, seed_word, summary
from mlic_jax.evaluation.benchmark.measuring import Curve
from mlic_jax.evaluation.claim.spec import Claim
from mlic_jax.metrics import bd, registry
from mlic_jax.metrics.registry import Metric

# Through the points of a curve over the logarithm of the rate.
INTERPOLATOR_OVER_RATE = "pchip"

Pairs = list[tuple[float, float]]  # (bits per pixel, value), in order of rate


def compute(claim: Claim, curves: Mapping[Key, Curve]) -> dict[str, Any]:
    """{"curves", "at_rates", "bd_rates", "per_image"}: everything about the curves that a document says."""
    points = {key: curve.means for key, curve in curves.items()}
    anchors = [name for name in claim.anchors if name in comparing.names(curves)]
    about = [
        {"name": name, "seed": seed, "family": curve.entrant.family, "about": curve.entrant.about}
        | {"points": points[name, seed]}
        for (name, seed), curve in curves.items()
    ]
    metrics = [registry.METRICS[name] for name in claim.metrics]
    return {
        "curves": about,
        "at_rates": [row for m in metrics for rate in claim.rates for row in _at_rate(points, m, rate, anchors[:1])],
        "bd_rates": comparing.bd_rates(points, anchors, claim.metrics),
        "per_image": [row for m in metrics for anchor in anchors[:1] for row in _per_image(curves, m, anchor)],
    }


def images(curves: Mapping[Key, Curve]) -> list[Row]:
    """A row per curve, point and picture."""
    return [
        {"name": name, "seed": seed_word(seed), "point": point.name, "picture": row["name"]}
        | {key: value for key, value in row.items() if key != "name"}
        for (name, seed), curve in curves.items()
        for point, rows in zip(curve.entrant.points, curve.rows, strict=True)
        for row in rows
    ]


# ---------------------------------------------------------------------- interpolation over the rate


def pairs(rows: Sequence[Mapping[str, Any]], key: str) -> Pairs:
    """(bits per pixel, value) of the rows that have a finite one, in order of rate, a rate once."""
    by_rate = {float(row["bpp"]): float(row[key]) for row in rows if math.isfinite(row.get(key, math.nan))}
    return sorted(by_rate.items())


def at_rate(points: Pairs, rate: float) -> float | None:
    """The value of a curve at a rate; None where it does not reach that far, or has only one point."""
    if len(points) < 2 or not points[0][0] <= rate <= points[-1][0]:
        return None
    return float(_interpolated(points)(math.log(rate)))


def mean_gain(anchor: Pairs, test: Pairs) -> float | None:
    """By how much `test` lies above `anchor`, on average over the logarithm of the rates that both have."""
    if len(anchor) < 2 or len(test) < 2:
        return None
    low = math.log(max(anchor[0][0], test[0][0]))
    high = math.log(min(anchor[-1][0], test[-1][0]))
    if low >= high:
        return None
    areas = [float(_interpolated(points).integrate(low, high)) for points in (anchor, test)]
    return (areas[1] - areas[0]) / (high - low)


def _interpolated(points: Pairs):
    x, y = np.array(points).T
    return bd.INTERPOLATORS[INTERPOLATOR_OVER_RATE](np.log(x), y)


# ---------------------------------------------------------------------- rows


def _sign(metric: Metric) -> int:
    """What turns a difference into a gain: positive is better."""
    return 1 if metric.higher_is_better else -1


def _at_rate(points: Mapping[Key, Sequence], metric: Metric, rate: float, anchors: Sequence[str]) -> list[Row]:
    """Each name's value of a metric at a rate, and its gain over the anchor, if there is one."""
    values = {key: at_rate(pairs(rows, metric.key), rate) for key, rows in points.items()}
    rows = []
    for name in comparing.names(points):
        known = {seed_word(seed): value for (other, seed), value in values.items() if other == name}
        row = {"metric": metric.name, "rate": rate, "name": name, **summary(_without_none(known))}
        for anchor in anchors:
            if name != anchor:
                both = {seed: pair for seed, pair in matched(values, anchor, name).items() if None not in pair}
                row["gain"] = summary({seed: _sign(metric) * (b - a) for seed, (a, b) in both.items()})
        rows.append(row)
    return rows


def _per_image(curves: Mapping[Key, Curve], metric: Metric, anchor: str) -> list[Row]:
    """Each name's mean gain over the anchor on every image: a mean over seeds, and quartiles over the images."""
    of_images = {key: _of_images(curve, metric) for key, curve in curves.items()}
    rows = []
    for name in comparing.names(curves):
        if name == anchor:
            continue
        gains: dict[str, list[float]] = {}
        for theirs, ours in matched(of_images, anchor, name).values():
            for image in ours:
                if (gain := mean_gain(theirs[image], ours[image])) is not None:
                    gains.setdefault(image, []).append(_sign(metric) * gain)
        means = {image: statistics.fmean(values) for image, values in gains.items()}
        row = {"metric": metric.name, "anchor": anchor, "name": name, "n": len(means), "gains": means}
        if means:
            quartiles = np.percentile(list(means.values()), [0, 25, 50, 75, 100]).tolist()
            row |= dict(zip(("worst", "q1", "median", "q3", "best"), quartiles, strict=True))
            row |= {"worst_image": min(means, key=means.get), "best_image": max(means, key=means.get)}
        rows.append(row)
    return rows


def _of_images(curve: Curve, metric: Metric) -> dict[str, Pairs]:
    """Name of an image -> its own curve. (Two images of one name in different folders are told apart by place.)"""
    names = [row["name"] for row in curve.rows[0]]
    names = [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]
    return {name: pairs([rows[i] for rows in curve.rows], metric.key) for i, name in enumerate(names)}


def _without_none(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in values.items() if value is not None}
