"""What a benchmark measured, for people and programs: tables, plots, and the report."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlic_jax import atomic, extras
from mlic_jax.errors import UsageError
from mlic_jax.evaluation.benchmark import comparing
from mlic_jax.evaluation.benchmark.comparing import DEFAULT_RULE, BDRule
from mlic_jax.evaluation.benchmark.entrants import Entrant
from mlic_jax.evaluation.benchmark.measuring import Curve, Picture, Rows, mean
from mlic_jax.evaluation.benchmark.published import Published
from mlic_jax.evaluation.report import html, plots, tables
from mlic_jax.evaluation.report.html import Version
from mlic_jax.metrics import registry


class Results(NamedTuple):
    """All that a benchmark measured.

    Attributes:
      measured: curves, from `measuring.measure`.
      published: label -> curve that was read from a file.
      anchors: labels of the curves against which BD-rates are shown.
      metrics: names of what was measured; tables are in order of the first.
      bpp: the rate of the pictures and times.
      times: label -> row, from `timing.measure`; empty where nothing was timed.
      versions: index of a picture -> versions of it at equal rate, from `measuring.at_equal_rate`.
      rule: how BD-rates are taken.
    """

    measured: Sequence[Curve]
    published: Mapping[str, Published]
    anchors: Sequence[str]
    metrics: Sequence[str]
    bpp: float
    times: Mapping[str, Mapping[str, Any]] = {}
    versions: Mapping[int, Sequence[Version]] = {}
    rule: BDRule = DEFAULT_RULE

    def curves(self) -> dict[str, Rows]:
        """label -> means over the pictures, in order of rate: ours, standard codecs, published curves."""
        first = sorted(self.measured, key=lambda curve: curve.entrant.family != "ours")
        means = {curve.entrant.label: curve.means for curve in first}
        return means | {label: other.points for label, other in self.published.items()}

    def families(self) -> dict[str, str]:
        """label -> the family by which plots and tables are styled."""
        measured = {curve.entrant.label: curve.entrant.family for curve in self.measured}
        return measured | dict.fromkeys(self.published, "published")

    def bd_rates(self) -> Rows:
        """As `comparing.bd_rates`."""
        keyed = {(label, None): points for label, points in self.curves().items()}
        return comparing.bd_rates(keyed, self.anchors, self.metrics, self.rule)


def choose_anchors(named: Sequence[str], entrants: Sequence[Entrant], published: Mapping[str, Any]) -> list[str]:
    """The anchors asked for, or every curve that is not ours. Raises UsageError for a name that is no curve."""
    labels = [entrant.label for entrant in entrants] + list(published)
    for name in named:
        if name not in labels:
            raise UsageError(f"anchor {name!r} is no curve of this benchmark: {', '.join(labels)} are")
    ours = {entrant.label for entrant in entrants if entrant.family == "ours"}
    return list(named) or [label for label in labels if label not in ours]


# ---------------------------------------------------------------------- tables


def summary(results: Results) -> Rows:
    """A row per curve: its span, BD-rates against the first anchor, and times where they were taken.

    The best in the first metric first; curves without a BD-rate last.
    """
    anchor = results.anchors[0] if results.anchors else None
    rates = {(row["name"], row["metric"]): row["mean"] for row in results.bd_rates() if row["anchor"] == anchor}
    columns = {name: f"{registry.METRICS[name].title} BD % vs {anchor}" for name in results.metrics if anchor}
    units = {"s_per_mpx": "s/Mpx", "mb_per_mpx": "MB/Mpx"}
    rows = []
    for label, points in results.curves().items():
        row = {"codec": label, "points": len(points), "bpp from": points[0]["bpp"], "bpp to": points[-1]["bpp"]}
        for name, column in columns.items():
            rate = 0.0 if label == anchor else rates.get((label, name))
            row[column] = None if rate is None else round(rate, 1)
        for work in ("encode", "decode") if results.times else ():
            for key, unit in units.items():
                row[f"{work} {unit}"] = results.times.get(label, {}).get(f"{work}_{key}")
        rows.append(row)
    if anchor:
        first = columns[results.metrics[0]]
        rows.sort(key=lambda row: (row[first] is None, row[first] or 0.0))
    return rows


def at_points(results: Results) -> Rows:
    """A row per point of our models: what it is on average over the pictures."""
    return [
        {"codec": curve.entrant.label, "point": point["point"], **_named(point, results.metrics)}
        for curve in results.measured
        if curve.entrant.family == "ours"
        for point in curve.means
    ]


def at_equal_rate(results: Results) -> Rows:
    """A row per codec: what it is, on average over the pictures that are shown, in files of equal size."""
    return [
        {"codec": versions[0].label, **_named(mean(version.figures for version in versions), results.metrics)}
        for versions in zip(*results.versions.values(), strict=True)
    ]


def _named(figures: Mapping[str, float], metrics: Sequence[str]) -> dict[str, float]:
    """Figures by the names that tables have for them."""
    labels = {registry.METRICS[name].key: registry.METRICS[name].label for name in metrics}
    names = {"bpp": "bpp", "bpp_estimated": "estimated bpp", **labels, "encode_s": "encode s", "decode_s": "decode s"}
    return {name: figures[key] for key, name in names.items() if key in figures}


def image_rows(curves: Sequence[Curve]) -> Rows:
    """A row per curve, point and picture."""
    return [
        {"codec": curve.entrant.label, "point": point.name, **_without_parts(row)}
        for curve in curves
        for point, rows in zip(curve.entrant.points, curve.rows, strict=True)
        for row in rows
    ]


def _without_parts(row):
    """A picture's row without what only metrics of sets need."""
    return {key: value for key, value in row.items() if not key.endswith(registry.PART)}


_MEASURED = (
    "Rates are of whole files, all distortions of decoded 8-bit RGB; a curve's points are means over the pictures of "
    "bits per pixel and of {}; what is not in dB is put into dB afterwards."
)
_PUBLISHED = (
    "Curves called published are other people's figures, read from files and not measured here; they compare with the "
    "others only where they are of the same pictures."
)
_TIMED = (
    "Times and memory are those of one point per codec, near {:g} bits per pixel, alone on one core after a first "
    "call; megapixels and megabytes are millions. Where timing.csv has fewer seconds of the processor, other work ran "
    "beside it."
)
_BD = (
    "By how many percent files are larger (negative: smaller) than the anchor's at equal {}, on average over the range "
    "of dB in brackets, which both curves cover; {}. A dash: fewer than 4 points, or no common range."
)
_EQUAL = (
    "Means over the pictures below, whose files have one size, about {:g} bits per pixel or that of our first model."
)


def notes(results: Results, count: int) -> list[str]:
    """What a reader has to know, in paragraphs. count: of pictures."""
    titles = ", ".join(registry.METRICS[name].title for name in results.metrics)
    words = [f"{len(results.measured)} codecs on {count} pictures. {_MEASURED.format(titles)}"]
    words += [_PUBLISHED] if results.published else []
    return words + ([_TIMED.format(results.bpp)] if results.times else [])


def sections(results: Results) -> list[tuple[str, str, Rows]]:
    """(headline, paragraph, rows) of the tables that follow the summary."""
    rates = results.bd_rates()
    parts = [
        (
            f"BD-rate in {metric.title}",
            _BD.format(metric.title, results.rule.words()),
            comparing.bd_table(rates, metric.name),
        )
        for metric in map(registry.METRICS.__getitem__, results.metrics)
        if rates
    ]
    parts.append(("Points of our models", "", at_points(results)))
    parts.append(("At equal rate", _EQUAL.format(results.bpp), at_equal_rate(results)))
    about = [{"codec": c.entrant.label, "settings and versions": c.entrant.about} for c in results.measured]
    about += [{"codec": label, "settings and versions": other.about} for label, other in results.published.items()]
    return [part for part in (*parts, ("Settings, versions and sources", "", about)) if part[2]]


# ---------------------------------------------------------------------- files


def curve_json(curve: Curve) -> bytes:
    """A curve as JSON that CompressAI's plot tool reads, with its points and every picture in keys of their own."""
    document = tables.compressai(curve.entrant.label, curve.entrant.about, curve.means)
    # Both in order of rate: models may be given in any.
    in_order = sorted(curve.rows, key=lambda rows: mean(rows)["bpp"])
    per_image = [list(map(_without_parts, rows)) for rows in in_order]
    # JSON has no nan or infinity: a missing MS-SSIM, or the PSNR of an exact copy, become null.
    return json.dumps(tables.finite({**document, "points": curve.means, "per_image": per_image}), indent=1).encode()


def prepare(folder: str | os.PathLike) -> None:
    """Makes the folder of the results, so that what is missing for them is known before anything is measured.

    Raises:
      InputError: the folder cannot be made.
      UsageError: matplotlib is missing.
    """
    extras.require("the plots of a benchmark need", "matplotlib")
    atomic.make_folder(folder)
    atomic.make_folder(pathlib.Path(folder, "curves"))


def write(
    folder, results: Results, pictures: Sequence[Picture], title: str = "Benchmark", words: Sequence[str] = ()
) -> dict[str, str]:
    """Writes everything into a folder.

    Args:
      folder: one that `prepare` has made.
      results: all figures.
      pictures: the originals.
      title: of the report and of the Markdown.
      words: paragraphs that say what this is about, the first of the report.

    Returns:
      name -> path of each file written.

    Raises:
      InputError: something cannot be written.
    """
    folder = pathlib.Path(folder)
    curves, families = results.curves(), results.families()
    table, more, words = summary(results), sections(results), [*words, *notes(results, len(pictures))]
    written = {}

    def place(name):
        written[name] = str(folder / name)
        return written[name]

    tables.write_csv(place("images.csv"), image_rows(results.measured))
    tables.write_csv(place("means.csv"), [{"codec": label, **row} for label, rows in curves.items() for row in rows])
    tables.write_csv(place("bd.csv"), map(_bd_row, results.bd_rates()))
    if results.times:
        tables.write_csv(place("timing.csv"), [{"codec": label, **row} for label, row in results.times.items()])
    for curve in results.measured:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", curve.entrant.label)
        while f"curves/{name}.json" in written:  # labels that differ in other letters only
            name += "_"
        atomic.write_bytes(place(f"curves/{name}.json"), curve_json(curve))
    atomic.write_bytes(place("benchmark.md"), tables.markdown(title, words, table, more).encode())
    for metric in results.metrics:
        stem = f"rd_{metric.replace('-', '_')}"
        written |= plots.save_rd_plots({"svg": folder, "png": folder}, stem, curves, metric, families)
    sheets = [
        html.Picture(
            pictures[index].name,
            pictures[index].image,
            sorted(versions, key=lambda version: families[version.label] != "ours"),
        )
        for index, versions in results.versions.items()
    ]
    html.write_report(place("report.html"), title, words, table, curves, sheets, families, sections=more)
    return written


def _bd_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "codec": row["name"],
        "anchor": row["anchor"],
        "quality": f"{registry.METRICS[row['metric']].title} dB",
        "bd_rate_percent": row["mean"],
        "low_db": row["low"],
        "high_db": row["high"],
        "interpolator": row["interpolator"],
        "note": row["note"],
    }
