"""A claim's results for people: `docs/claims/<paper>.md` with its plots. All its numbers are those of the JSON."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlic_jax import atomic
from mlic_jax.errors import InputError
from mlic_jax.evaluation.claim.spec import Claim
from mlic_jax.evaluation.report import tables
from mlic_jax.metrics import registry
from mlic_jax.metrics.registry import Metric

_MEASURED = (
    "Rates are of whole files, containers included, and metrics of the 8-bit pixels that came out of the decoder. A "
    "curve's points are means over the pictures. Models are those of a training's last step: none was chosen by its "
    "result."
)
_GREY = "Pictures were turned into their luma (BT.601 weights, full range, as in JFIF), coded and measured as RGB."
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


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """A number as tables show it: "31.20", "−0.5", "+0.5" with a sign; a dash for None."""
    return "–" if value is None else f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def spread(found: Mapping[str, Any], digits: int, sign: bool = False) -> str:
    """`results.summary` as text: "31.20", or "31.20 ± 0.05 (n = 3)"."""
    text = number(found["mean"], digits, sign)
    return text if found["sd"] is None else f"{text} ± {number(found['sd'], digits)} (n = {found['n']})"


def digits_of(metric: Metric) -> int:
    """Decimals of a metric's values: 2 in dB, 4 otherwise."""
    return 2 if metric.scale is registry.identity_db else 4


def write(out, paper: str, claim: Claim, found: Mapping[str, Any], images) -> dict[str, str]:
    """Writes the document, its plots beside it as SVG, and the plots as PNG into another folder.

    Args:
      out: folder of the document, made if it does not exist.
      paper: name of the document and its plots.
      claim: for its words.
      found: all numbers, as `main` puts them together.
      images: folder of the PNG files.

    Returns:
      kind -> path of each file written. Raises InputError where something cannot be written.
    """
    from mlic_jax.evaluation.report import plots

    try:
        pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise InputError(f"cannot make the folder {str(out)!r}: {reason.strerror}") from reason
    written, drawn = {}, []
    curves = mean_curves(found["curves"])
    families = {curve["name"]: curve["family"] for curve in found["curves"]}
    for metric in map(registry.METRICS.__getitem__, claim.metrics):
        if not any(point.get(metric.key) is not None for points in curves.values() for point in points):
            continue
        drawn.append(metric)
        for folder, kind in ((out, "svg"), (images, "png")):
            path = pathlib.Path(folder, f"{paper}-{metric.name}.{kind}")
            plots.save_rd_plot(path, curves, metric.key, families=families)
            written[path.name] = str(path)
    path = pathlib.Path(out, f"{paper}.md")
    atomic.write_bytes(path, markdown(paper, claim, found, drawn).encode())
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
        for point, found in by_point.items():
            keys = [key for key in found[0] if key != "point"]
            values = {key: [row[key] for row in found] for key in keys}
            mean = {key: None if None in some else float(np.mean(some)) for key, some in values.items()}
            rows.append({"point": point, **mean})
        means[name] = sorted(rows, key=lambda row: row["bpp"])
    return means


# ---------------------------------------------------------------------- the text


def markdown(paper: str, claim: Claim, found: Mapping[str, Any], drawn: Sequence[Metric]) -> str:
    """The whole document. drawn: the metrics that have a plot."""
    parts = [f"# {claim.title}", claim.source, "## What is claimed", claim.text]
    parts += ["## What was done", f"    {found['command']}", tables.markdown_table(_settings(found))]
    parts += [" ".join([_MEASURED, *([_GREY] if claim.grey else []), *([_SEEDS] if len(found["seeds"]) > 1 else [])])]
    if found["missing"]:
        lines = [f"- {name}: {reason}" for name, reason in found["missing"].items()]
        parts += ["**Not everything is here:**", "\n".join(lines)]
    parts += ["## Results"]
    parts += [f"![{metric.title} over rate]({paper}-{metric.name}.svg)" for metric in drawn]
    parts += _rates(found) if found["at_rates"] else _points(claim, found)
    parts += _bd_rates(found) + _per_image(found)
    if claim.published:
        parts += ["## The paper's figures", tables.markdown_table(list(claim.published))]
    if claim.notes:
        parts += ["## The distance to the paper", claim.notes]
    parts += ["## Trainings", _TRAININGS, tables.markdown_table(_trainings(found))]
    about = {curve["name"]: curve["about"] for curve in found["curves"] if curve["family"] != "ours"}
    if about:
        rows = [{"codec": name, "settings and versions": words} for name, words in about.items()]
        parts += ["Standard codecs:", tables.markdown_table(rows)]
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def _settings(found: Mapping[str, Any]) -> list[dict[str, str]]:
    steps = ", ".join(str(n) for n in dict.fromkeys(run["steps"] for run in found["runs"]))
    rows = {
        "Steps of each training": steps,
        "Seeds": ", ".join(map(str, found["seeds"])),
        "Training photos": found["training_photos"],
        "Photos measured": found["photos"],
        "Trained on": "; ".join(_machine(machine) for machine in found["machines"]) or "unknown",
        "Measured on": _machine(found["measured_on"]),
        "Date": found["date"],
    }
    return [{"setting": key, "value": value} for key, value in rows.items()]


def _machine(machine: Mapping[str, Any]) -> str:
    accelerator = "" if machine["accelerator"] == "none" else f", {machine['accelerator']}"
    cores = f"{machine['cores']} CPU core{'s' if machine['cores'] != 1 else ''}"
    return f"{cores}{accelerator}; {machine['versions']}"


def _rates(found: Mapping[str, Any]) -> list[str]:
    """A table per metric: a row per curve, its value and gain at every rate."""
    anchor = found["anchors"][0] if found["anchors"] else None
    gain = f"Gains are those over {anchor}; positive is better." if anchor else ""
    parts = ["### At equal rate", _RATES.format(interpolator=found["interpolator_over_rate"], gain=gain)]
    for metric in map(registry.METRICS.__getitem__, found["metrics"]):
        digits, rows = digits_of(metric), {}
        for entry in found["at_rates"]:
            if entry["metric"] != metric.name:
                continue
            row = rows.setdefault(entry["name"], {"codec": entry["name"]})
            row[f"{metric.label} at {entry['rate']:g} bpp"] = spread(entry, digits)
            if anchor:
                row[f"gain at {entry['rate']:g} bpp"] = spread(entry["gain"], digits, True) if "gain" in entry else "0"
        parts.append(tables.markdown_table(list(rows.values())))
    return parts


def _points(claim: Claim, found: Mapping[str, Any]) -> list[str]:
    """The curves, where no rates are asked for."""
    rows = []
    for name, points in mean_curves(found["curves"]).items():
        for point in points:
            row = {"codec": name, "point": point["point"], "bpp": number(point["bpp"], 4)}
            for metric in map(registry.METRICS.__getitem__, claim.metrics):
                row[metric.label] = number(point.get(metric.key), digits_of(metric))
            rows.append(row)
    means = "Means over the pictures" + (" and seeds." if len(found["seeds"]) > 1 else ".")
    return ["### Curves", means, tables.markdown_table(rows)]


def _bd_rates(found: Mapping[str, Any]) -> list[str]:
    parts = []
    for metric in map(registry.METRICS.__getitem__, found["metrics"]):
        entries = [entry for entry in found["bd_rates"] if entry["metric"] == metric.name]
        if not entries:
            continue
        rows: dict[str, dict[str, str]] = {}
        for entry in entries:
            text = spread(entry, 1, True)
            if entry["mean"] is not None:
                text += f" [{number(entry['low'], 1)} to {number(entry['high'], 1)} dB]"
            rows.setdefault(entry["name"], {"codec": entry["name"]})[f"% against {entry['anchor']}"] = text
        words = _BD.format(anchor="the anchor", title=metric.title, interpolator=entries[0]["interpolator"])
        notes = [f"- {e['name']} against {e['anchor']}: {e['note']}" for e in entries if e["note"]]
        parts += [f"### BD-rate in {metric.title}", words, tables.markdown_table(list(rows.values())), "\n".join(notes)]
    return parts


def _per_image(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for entry in found["per_image"]:
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
    seeds = ", and over the seeds" if len(found["seeds"]) > 1 else ""
    return ["### Single pictures", _IMAGES.format(anchor=found["anchors"][0], seeds=seeds), tables.markdown_table(rows)]


_QUARTILES = {"first quartile": "q1", "median": "median", "third quartile": "q3"}
_TRAININGS = (
    "Minutes are those of the steps, without starting and compiling, added up where a training was stopped and resumed."
)


def _trainings(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for run in found["runs"]:
        row = {"arm": run["arm"], "point": run["point"], "seed": run["seed"], "steps": f"{run['done']}/{run['steps']}"}
        row["minutes"] = number(run["minutes"], 1)
        row["steps/s"] = number(run["steps_per_second"], 2)
        rows.append(row)
    return rows
