"""What a benchmark found, for people and programs: BD-rates, tables, plots, and the report."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mlic_jax import atomic
from mlic_jax.errors import InputError, UsageError
from mlic_jax.evaluation import evaluate
from mlic_jax.evaluation.benchmark.entrants import Entrant
from mlic_jax.evaluation.benchmark.published import Curve
from mlic_jax.evaluation.benchmark.run import Picture, Rows, Version, curve
from mlic_jax.evaluation.report import tables
from mlic_jax.metrics import bd, registry

INTERPOLATOR = "akima"


class Found(NamedTuple):
    """All that a benchmark found.

    Attributes:
      entrants: what was measured.
      rows: label -> per point one row per picture, from `run.measure`.
      published: label -> curve that was read from a file.
      anchors: labels of the curves against which BD-rates are shown.
      times: label -> row, from `timing.measure`; empty where nothing was timed.
      bpp: the rate of the pictures and times.
      metrics: names of what was measured; tables are in order of the first.
    """

    entrants: Sequence[Entrant]
    rows: Mapping[str, list[Rows]]
    published: Mapping[str, Curve]
    anchors: Sequence[str]
    times: Mapping[str, Mapping[str, Any]]
    bpp: float
    metrics: Sequence[str] = registry.DEFAULT

    def curves(self) -> dict[str, Rows]:
        """label -> means over the pictures, in order of rate: ours, standard codecs, published curves."""
        first = sorted(self.entrants, key=lambda entrant: entrant.family != "ours")
        measured = {e.label: curve(self.rows[e.label], e.points) for e in first}
        return measured | {label: other.points for label, other in self.published.items()}

    def families(self) -> dict[str, str]:
        """label -> the family by which plots and tables are styled."""
        return {e.label: e.family for e in self.entrants} | dict.fromkeys(self.published, "published")


def choose_anchors(named: Sequence[str], entrants: Sequence[Entrant], published: Mapping[str, Curve]) -> list[str]:
    """The anchors asked for, or every curve that is not ours. Raises UsageError for a name that is no curve."""
    labels = [entrant.label for entrant in entrants] + list(published)
    for name in named:
        if name not in labels:
            raise UsageError(f"anchor {name!r} is no curve of this benchmark: {', '.join(labels)} are")
    ours = {entrant.label for entrant in entrants if entrant.family == "ours"}
    return list(named) or [label for label in labels if label not in ours]


def bd_rates(curves: Mapping[str, Rows], anchors: Sequence[str], metrics: Sequence[str] = registry.DEFAULT) -> Rows:
    """BD-rates of every curve against every anchor, in every metric on its scale.

    Returns:
      Rows {"codec", "anchor", "quality", "bd_rate_percent", "low_db", "high_db", "interpolator", "note"}: negative is
      better than the anchor; low and high bound the range that both curves cover. Where there is no figure, it and the
      range are None, and the note says why.
    """
    rows = []
    for metric in map(registry.METRICS.__getitem__, metrics):
        for anchor in anchors:
            for label in curves:
                if label == anchor:
                    continue
                row = {"codec": label, "anchor": anchor, "quality": f"{metric.title} dB"}
                try:
                    theirs, ours = (bd.curve(curves[name], metric.key) for name in (anchor, label))
                    found = bd.bd_rate(theirs, ours, INTERPOLATOR)
                    row |= {"bd_rate_percent": found.value, "low_db": found.low, "high_db": found.high}
                    row |= {"interpolator": found.interpolator, "note": ""}
                except InputError as reason:
                    row |= dict.fromkeys(("bd_rate_percent", "low_db", "high_db"))
                    row |= {"interpolator": INTERPOLATOR, "note": str(reason)}
                rows.append(row)
    return rows


def matrix(rates: Rows, quality: str, labels: Iterable[str]) -> Rows:
    """BD-rates in a metric by its key, a row per label, a column per anchor: "−12.3 (28.1 to 40.2)", percent and dB."""
    anchors = list(dict.fromkeys(row["anchor"] for row in rates))
    table = {label: {"codec": label, **dict.fromkeys(anchors)} for label in labels}
    for row in rates:
        if row["quality"] == f"{registry.BY_KEY[quality].title} dB" and row["bd_rate_percent"] is not None:
            text = f"{row['bd_rate_percent']:+.1f} ({row['low_db']:.1f} to {row['high_db']:.1f})"
            table[row["codec"]][row["anchor"]] = text.replace("-", "−")
    return list(table.values())


def summary(found: Found, curves: Mapping[str, Rows], rates: Rows) -> Rows:
    """A row per curve: its span, BD-rates against the first anchor, and times where they were taken.

    The best in the first metric first; curves without a BD-rate last.
    """
    titles = [registry.METRICS[name].title for name in found.metrics]
    anchor = found.anchors[0] if found.anchors else None
    value = {(row["codec"], row["quality"]): row["bd_rate_percent"] for row in rates if row["anchor"] == anchor}
    units = {"s_per_mpx": "s/Mpx", "mb_per_mpx": "MB/Mpx"}
    rows = []
    for label, points in curves.items():
        row = {"codec": label, "points": len(points), "bpp from": points[0]["bpp"], "bpp to": points[-1]["bpp"]}
        for title in titles if anchor else ():
            known = 0.0 if label == anchor else value.get((label, f"{title} dB"))
            row[f"{title} BD % vs {anchor}"] = None if known is None else round(known, 1)
        for work in ("encode", "decode") if found.times else ():
            for key, unit in units.items():
                row[f"{work} {unit}"] = found.times.get(label, {}).get(f"{work}_{key}")
        rows.append(row)
    if anchor:
        column = f"{titles[0]} BD % vs {anchor}"
        rows.sort(key=lambda row: (row[column] is None, row[column] or 0.0))
    return rows


def images(found: Found) -> Rows:
    """A row per codec, point and picture."""
    return [
        {"codec": entrant.label, "point": point.name, **row}
        for entrant in found.entrants
        for point, rows in zip(entrant.points, found.rows[entrant.label], strict=True)
        for row in rows
    ]


_MEASURED = (
    "Rates are of whole files, all distortions of decoded 8-bit RGB; a curve's points are means over the pictures of "
    "bits per pixel and of {}; what is not in dB is put into dB afterwards."
)
_BD = (
    "By how many percent files are larger (negative: smaller) than the anchor's at equal {quality}, on average over "
    f"the range of dB in parentheses, which both curves cover; {INTERPOLATOR} interpolation of log rate over dB. A "
    "dash: fewer than 4 points, or no common range."
)


def notes(found: Found, count: int) -> list[str]:
    """What a reader has to know, in paragraphs."""
    titles = ", ".join(registry.METRICS[name].title for name in found.metrics)
    words = [f"{len(found.entrants)} codecs on {count} pictures. {_MEASURED.format(titles)}"]
    if found.published:
        words.append(
            "Curves called published are other people's figures, read from files and not measured here; they compare "
            "with the others only where they are of the same pictures."
        )
    if found.times:
        words.append(
            f"Times and memory are those of one point per codec, near {found.bpp:g} bits per pixel, alone on one core "
            "after a first call; megapixels and megabytes are millions. Where timing.csv has fewer seconds of the "
            "processor, other work ran beside it."
        )
    return words


def sections(found: Found, curves: Mapping[str, Rows], rates: Rows) -> list[tuple[str, str, Rows]]:
    """(headline, paragraph, rows) of the tables that follow the summary."""
    parts = [
        (f"BD-rate in {metric.title}", _BD.format(quality=metric.title), matrix(rates, metric.key, curves))
        for metric in map(registry.METRICS.__getitem__, found.metrics)
        if rates
    ]
    about = [{"codec": entrant.label, "settings and versions": entrant.about} for entrant in found.entrants]
    about += [{"codec": label, "settings and versions": other.about} for label, other in found.published.items()]
    return [*parts, ("Settings, versions and sources", "", about)]


def prepare(folder: str | os.PathLike) -> None:
    """Makes the folder of the results, so that what is missing for them is known before anything is measured.

    Raises:
      InputError: the folder cannot be made.
      UsageError: matplotlib is missing.
    """
    if not importlib.util.find_spec("matplotlib"):
        raise UsageError("a benchmark draws plots with matplotlib: pip install matplotlib (or 'mlic_jax[bench]')")
    try:
        pathlib.Path(folder, "curves").mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise InputError(f"cannot make the folder {str(folder)!r}: {reason.strerror}") from reason


def write(folder, found: Found, pictures: Sequence[Picture], shown: Mapping[int, Sequence[Version]]) -> dict[str, str]:
    """Writes everything into a folder.

    Args:
      folder: one that `prepare` has made.
      found: all figures.
      pictures: the originals.
      shown: index of a picture -> versions of it at equal rate, for the report.

    Returns:
      name -> path of each file written.

    Raises:
      InputError: something cannot be written.
    """
    from mlic_jax.evaluation.report import html, plots

    folder = pathlib.Path(folder)
    curves, families = found.curves(), found.families()
    rates = bd_rates(curves, found.anchors, found.metrics)
    table, more, words = summary(found, curves, rates), sections(found, curves, rates), notes(found, len(pictures))
    written = {}

    def place(name):
        written[name] = str(folder / name)
        return written[name]

    tables.write_csv(place("images.csv"), images(found))
    tables.write_csv(place("means.csv"), [{"codec": label, **row} for label, rows in curves.items() for row in rows])
    tables.write_csv(place("bd.csv"), rates)
    if found.times:
        tables.write_csv(place("timing.csv"), [{"codec": label, **row} for label, row in found.times.items()])
    for entrant in found.entrants:
        # Both in order of rate: models may be given in any.
        points = curves[entrant.label]
        rows = sorted(found.rows[entrant.label], key=lambda rows: evaluate.mean(rows)["bpp"])
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", entrant.label)
        while f"curves/{name}.json" in written:  # labels that differ in other letters only
            name += "_"
        content = evaluate.to_json(entrant.label, entrant.about, points, rows)
        atomic.write_bytes(place(f"curves/{name}.json"), content)
    parts = ["# Benchmark", *words, tables.markdown_table(table)]
    for headline, paragraph, rows in more:
        parts += [f"## {headline}", paragraph, tables.markdown_table(rows)]
    atomic.write_bytes(place("benchmark.md"), "\n\n".join(part.strip() for part in parts if part).encode() + b"\n")
    for metric in map(registry.METRICS.__getitem__, found.metrics):
        if any(bd.curve(points, metric.key) for points in curves.values()):
            for kind in ("svg", "png"):
                path = place(f"rd_{metric.name.replace('-', '_')}.{kind}")
                plots.save_rd_plot(path, curves, metric.key, families=families)
    sheets = [
        html.Picture(
            pictures[index].name,
            pictures[index].image,
            [
                html.version(version.label, version.image, version.figures)
                for version in sorted(versions, key=lambda version: families[version.label] != "ours")
            ],
        )
        for index, versions in shown.items()
    ]
    html.write_report(place("report.html"), "Benchmark", words, table, curves, sheets, families, sections=more)
    return written
