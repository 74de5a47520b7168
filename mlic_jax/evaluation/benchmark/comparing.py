"""BD-rates of curves against each other, seed by seed where curves have seeds.

Two trained models are compared within each seed, since a seed decides both's initial values, batches and noise; means
and spreads are those of the differences. A standard codec, or a single model, has no seed (None) and goes with any.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlic_jax.errors import InputError
from mlic_jax.metrics import bd, registry


class BDRule(NamedTuple):
    """How BD-rates are taken.

    Attributes:
      interpolator: of log rate over dB, a key of mlic_jax.metrics.bd.INTERPOLATORS.
      rates: bits per pixel (low, high) of the points that are compared; None for all.
    """

    interpolator: str = "akima"
    rates: tuple[float, float] | None = None

    def points(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """Those of (bits per pixel, dB) that are compared."""
        low, high = self.rates or (0.0, float("inf"))
        return [point for point in points if low <= point[0] <= high]

    def words(self) -> str:
        """As the explanation of a table says it."""
        if self.rates is None:
            return f"{self.interpolator} interpolation of log rate over dB"
        low, high = self.rates
        return f"{self.interpolator} interpolation of log rate over dB, of the points of {low:g} to {high:g} bpp"


DEFAULT_RULE = BDRule()

Key = tuple[str, int | None]  # name of a curve, and its seed
Row = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]


def summary(values: Mapping[str, float]) -> Row:
    """{"values": seed -> value, "mean", "sd", "n"}. sd is the sample standard deviation; None where there is none."""
    numbers = list(values.values())
    return {
        "values": dict(values),
        "mean": statistics.fmean(numbers) if numbers else None,
        "sd": statistics.stdev(numbers) if len(numbers) > 1 else None,
        "n": len(numbers),
    }


def names(curves: Mapping[Key, Any]) -> list[str]:
    """The names of curves, each once."""
    return list(dict.fromkeys(name for name, _ in curves))


def matched(curves: Mapping[Key, Any], anchor: str, name: str) -> dict[str, tuple[Any, Any]]:
    """seed -> (the anchor's curve, the name's): of one seed, or a curve without seed beside each of the other's.

    The seed of two curves without is "".
    """
    pairs = {}
    for (one, seed), test in curves.items():
        for (other, theirs), reference in curves.items():
            if (one, other) == (name, anchor) and (None in (seed, theirs) or seed == theirs):
                pairs[seed_word(theirs if seed is None else seed)] = reference, test
    return pairs


def seed_word(seed: int | None) -> str:
    """A seed as a key of JSON; "" for None."""
    return "" if seed is None else str(seed)


def bd_rates(
    curves: Mapping[Key, Rows], anchors: Sequence[str], metrics: Sequence[str], rule: BDRule = DEFAULT_RULE
) -> list[Row]:
    """BD-rates of every curve against every anchor, in every metric on its scale in dB.

    Args:
      curves: (name, seed) -> points, with "bpp" and keys of metrics.
      anchors: names of curves.
      metrics: names in `metrics.registry`.
      rule: see BDRule.

    Returns:
      Rows {"metric", "anchor", "name", "interpolator", "values", "mean", "sd", "n", "low", "high", "note"}: percent by
      seed and `summary`, negative is better than the anchor; low and high bound the range in dB that all these curves
      cover. Where there is no figure, it and the range are None, and the note says why.
    """
    rows = []
    for metric in map(registry.METRICS.__getitem__, metrics):
        scaled = {key: rule.points(bd.curve(points, metric.key)) for key, points in curves.items()}
        for anchor in anchors:
            for name in names(curves):
                if name != anchor:
                    row = {"metric": metric.name, "anchor": anchor, "name": name, "interpolator": rule.interpolator}
                    rows.append(row | _bd_rate(matched(scaled, anchor, name), rule.interpolator))
    return rows


def _bd_rate(pairs: Mapping[str, tuple[Sequence, Sequence]], interpolator: str) -> Row:
    """The summary of seed -> (anchor, test), all over one range of dB, with "low", "high" and a "note"."""
    none = {**summary({}), "low": None, "high": None, "note": ""}
    fewest = {seed: min(map(len, pair)) for seed, pair in pairs.items()}
    notes = [
        f"a curve has {count} points, {bd.MIN_POINTS} are needed"
        for count in sorted(set(fewest.values()))
        if count < bd.MIN_POINTS
    ]
    pairs = {seed: pair for seed, pair in pairs.items() if fewest[seed] >= bd.MIN_POINTS}
    if not pairs:
        return none | {"note": "; ".join(notes) or "no seed has both curves"}
    qualities = [[quality for _, quality in points] for pair in pairs.values() for points in pair]
    low, high = max(map(min, qualities)), min(map(max, qualities))
    if low >= high:
        notes.append(f"no common range of dB: the highest low end is {low:.2f}, the lowest high end {high:.2f}")
        return none | {"note": "; ".join(notes)}
    values = {}
    for seed, (anchor, test) in pairs.items():
        try:
            # One range for all seeds: their spread would be the ranges' otherwise.
            values[seed] = bd.bd_rate(anchor, test, interpolator, (low, high)).value
        except InputError as reason:
            notes.append(str(reason))
    row = none | (summary(values) | {"low": low, "high": high} if values else {})
    return row | {"note": "; ".join(dict.fromkeys(notes))}


def bd_table(rates: Sequence[Row], metric: str) -> list[dict[str, str]]:
    """BD-rates in a metric by its name: a row per curve, a column per anchor: "−12.3 ± 0.4 (n = 3) [28 to 40 dB]"."""
    table: dict[str, dict[str, str]] = {}
    for rate in rates:
        if rate["metric"] != metric:
            continue
        text = spread(rate, 1, True)
        if rate["mean"] is not None:
            text += f" [{number(rate['low'], 1)} to {number(rate['high'], 1)} dB]"
        table.setdefault(rate["name"], {"codec": rate["name"]})[f"% against {rate['anchor']}"] = text
    return list(table.values())


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """A number as tables show it: "31.20", "−0.5", "+0.5" with a sign; a dash for None."""
    return "–" if value is None else f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def spread(row: Mapping[str, Any], digits: int, sign: bool = False) -> str:
    """`summary` as text: "31.20", or "31.20 ± 0.05 (n = 3)"."""
    text = number(row["mean"], digits, sign)
    return text if row["sd"] is None else f"{text} ± {number(row['sd'], digits)} (n = {row['n']})"
