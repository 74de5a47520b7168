"""A claim's results for people: `<paper>.md` with its plots. All its numbers are those of the JSON."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlic_jax import atomic
from mlic_jax.evaluation.benchmark import comparing
from mlic_jax.evaluation.benchmark.comparing import number, spread
from mlic_jax.evaluation.claim.spec import Claim
from mlic_jax.evaluation.report import plots, tables
from mlic_jax.metrics import registry
from mlic_jax.metrics.registry import Metric

_MEASURED = (
    "Rates are of whole files, containers included, and metrics of the 8-bit pixels that came out of the decoder. A "
    "curve's points are means over the pictures. Models are those of a training's last step: none was chosen by its "
    "result."
)
_GREY = "Pictures were turned into their luma (BT.601 weights, full range, as in JFIF), coded and measured as RGB."
_OTHER_LENGTH = (
    "**These trainings have other lengths than those of the claim.** What it says above is about those, and what it "
    "has to say of their results is left out."
)
_SEEDS = (
    "± is the sample standard deviation over n seeds. Arms are compared within each seed; the spread of a difference "
    "is that of the n differences."
)
_BD = (
    "By how many percent files are larger (negative: smaller) than those of {anchor} at equal {title}, on average over "
    "the range of dB in brackets, which all curves of the row and the anchor cover; {interpolator} interpolation of "
    "log rate over dB. A dash: no figure, for the reason below."
)
_RATES = (
    "Interpolated ({interpolator}) over the logarithm of the rate between the points of each curve; a dash: the curve "
    "does not reach this rate. {gain}"
)
_IMAGES = (
    "The gain over {anchor} on each single picture, on average over the logarithm of the rates that both curves of the "
    "picture cover, positive being better{seeds}; over the pictures the smallest, the quartiles, and the largest."
)


def digits_of(metric: Metric) -> int:
    """Decimals of a metric's values: 2 in dB, 4 otherwise."""
    return 2 if metric.scale is registry.identity_db else 4


def write(out, paper: str, claim: Claim, results: Mapping[str, Any], images) -> dict[str, str]:
    """Writes the document, its plots beside it as SVG, and the plots as PNG into another folder.

    Args:
      out: folder of the document, made if it does not exist.
      paper: name of the document and its plots.
      claim: for its words.
      results: all numbers, as `main` puts them together.
      images: folder of the PNG files.

    Returns:
      kind -> path of each file written. Raises InputError where something cannot be written.
    """
    atomic.make_folder(out)
    written, drawn = {}, []
    curves = mean_curves(results["curves"])
    families = {curve["name"]: curve["family"] for curve in results["curves"]}
    for metric in claim.metrics:
        plotted = plots.save_rd_plots({"svg": out, "png": images}, f"{paper}-{metric}", curves, metric, families)
        drawn += [registry.METRICS[metric]] if plotted else []
        written |= plotted
    path = pathlib.Path(out, f"{paper}.md")
    atomic.write_bytes(path, markdown(paper, claim, results, drawn).encode())
    return {path.name: str(path)} | written


def mean_curves(curves: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """name -> points, means over the seeds of points of one name, in order of rate; None where a seed lacks a value."""
    points: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for curve in curves:
        for point in curve["points"]:
            points.setdefault(curve["name"], {}).setdefault(point["point"], []).append(point)
    means = {}
    for name, by_point in points.items():
        rows = []
        for point, seeds in by_point.items():
            keys = [key for key in seeds[0] if key != "point"]
            values = {key: [row[key] for row in seeds] for key in keys}
            mean = {key: None if None in some else float(np.mean(some)) for key, some in values.items()}
            rows.append({"point": point, **mean})
        means[name] = sorted(rows, key=lambda row: row["bpp"])
    return means


# ---------------------------------------------------------------------- the text


def markdown(paper: str, claim: Claim, results: Mapping[str, Any], drawn: Sequence[Metric]) -> str:
    """The whole document. drawn: the metrics that have a plot."""
    parts = [f"# {claim.title}", claim.source, "## What is claimed", claim.text]
    parts += ["## What was done", f"    {results['command']}", tables.markdown_table(_settings(results))]
    parts += [" ".join([_MEASURED, *([_GREY] if claim.grey else []), *([_SEEDS] if len(results["seeds"]) > 1 else [])])]
    if not results["as_long_as_claimed"]:
        parts += [_OTHER_LENGTH]
    if results["missing"]:
        lines = [f"- {name}: {reason}" for name, reason in results["missing"].items()]
        parts += ["**Not everything is here:**", "\n".join(lines)]
    parts += ["## Results"]
    parts += [f"![{metric.title} over rate]({paper}-{metric.name}.svg)" for metric in drawn]
    parts += _rates(results) if results["at_rates"] else _points(claim, results)
    parts += _bd_rates(results) + _per_image(results)
    if claim.published:
        parts += ["## The paper's figures", tables.markdown_table(list(claim.published))]
    if claim.notes and results["as_long_as_claimed"]:
        parts += ["## The distance to the paper", claim.notes]
    parts += ["## Trainings", _TRAININGS, tables.markdown_table(_trainings(results))]
    about = {curve["name"]: curve["about"] for curve in results["curves"] if curve["family"] != "ours"}
    if about:
        rows = [{"codec": name, "settings and versions": words} for name, words in about.items()]
        parts += ["Standard codecs:", tables.markdown_table(rows)]
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def _settings(results: Mapping[str, Any]) -> list[dict[str, str]]:
    steps = ", ".join(str(n) for n in dict.fromkeys(run["steps"] for run in results["runs"]))
    rows = {
        "Steps of each training": steps,
        "Seeds": ", ".join(map(str, results["seeds"])),
        "Training photos": results["training_photos"],
        "Photos measured": results["photos"],
        "Trained on": "; ".join(_machine(machine) for machine in results["machines"]) or "unknown",
        "Measured on": _machine(results["measured_on"]),
        "Date": results["date"],
    }
    return [{"setting": key, "value": value} for key, value in rows.items()]


def _machine(machine: Mapping[str, Any]) -> str:
    accelerator = "" if machine["accelerator"] == "none" else f", {machine['accelerator']}"
    cores = f"{machine['cores']} CPU core{'s' if machine['cores'] != 1 else ''}"
    return f"{cores}{accelerator}; {machine['versions']}"


def _rates(results: Mapping[str, Any]) -> list[str]:
    """A table per metric: a row per curve, its value and gain at every rate."""
    anchor = results["anchors"][0] if results["anchors"] else None
    gain = f"Gains are those over {anchor}; positive is better." if anchor else ""
    parts = ["### At equal rate", _RATES.format(interpolator=results["interpolator_over_rate"], gain=gain)]
    for metric in map(registry.METRICS.__getitem__, results["metrics"]):
        digits, rows = digits_of(metric), {}
        for entry in results["at_rates"]:
            if entry["metric"] != metric.name:
                continue
            row = rows.setdefault(entry["name"], {"codec": entry["name"]})
            row[f"{metric.label} at {entry['rate']:g} bpp"] = spread(entry, digits)
            if anchor:
                row[f"gain at {entry['rate']:g} bpp"] = spread(entry["gain"], digits, True) if "gain" in entry else "0"
        parts.append(tables.markdown_table(list(rows.values())))
    return parts


def _points(claim: Claim, results: Mapping[str, Any]) -> list[str]:
    """The curves, where no rates are asked for."""
    rows = []
    for name, points in mean_curves(results["curves"]).items():
        for point in points:
            row = {"codec": name, "point": point["point"], "bpp": number(point["bpp"], 4)}
            for metric in map(registry.METRICS.__getitem__, claim.metrics):
                row[metric.label] = number(point.get(metric.key), digits_of(metric))
            rows.append(row)
    means = "Means over the pictures" + (" and seeds." if len(results["seeds"]) > 1 else ".")
    return ["### Curves", means, tables.markdown_table(rows)]


def _bd_rates(results: Mapping[str, Any]) -> list[str]:
    parts = []
    for metric in map(registry.METRICS.__getitem__, results["metrics"]):
        rates = [rate for rate in results["bd_rates"] if rate["metric"] == metric.name]
        if rates:
            words = _BD.format(anchor="the anchor", title=metric.title, interpolator=rates[0]["interpolator"])
            notes = [f"- {rate['name']} against {rate['anchor']}: {rate['note']}" for rate in rates if rate["note"]]
            table = tables.markdown_table(comparing.bd_table(rates, metric.name))
            parts += [f"### BD-rate in {metric.title}", words, table, "\n".join(notes)]
    return parts


def _per_image(results: Mapping[str, Any]) -> list[str]:
    rows = []
    for entry in results["per_image"]:
        metric = registry.METRICS[entry["metric"]]
        digits = digits_of(metric)
        row = {"codec": entry["name"], "metric": metric.label, "pictures": entry["n"]}
        if entry["n"]:
            row["worst"] = f"{number(entry['worst'], digits, True)} ({entry['worst_image']})"
            row |= {label: number(entry[key], digits, True) for label, key in _QUARTILES.items()}
            row["best"] = f"{number(entry['best'], digits, True)} ({entry['best_image']})"
        rows.append(row)
    if not rows:
        return []
    seeds = ", and over the seeds" if len(results["seeds"]) > 1 else ""
    return [
        "### Single pictures",
        _IMAGES.format(anchor=results["anchors"][0], seeds=seeds),
        tables.markdown_table(rows),
    ]


_QUARTILES = {"first quartile": "q1", "median": "median", "third quartile": "q3"}
_TRAININGS = (
    "Minutes are those of the steps, without starting and compiling, added up where a training was stopped and resumed."
)


def _trainings(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for run in results["runs"]:
        row = {"arm": run["arm"], "point": run["point"], "seed": run["seed"], "steps": f"{run['done']}/{run['steps']}"}
        row["minutes"] = number(run["minutes"], 1)
        row["steps/s"] = number(run["steps_per_second"], 2)
        rows.append(row)
    return rows
