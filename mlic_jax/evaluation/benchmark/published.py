"""Curves from files of results: CompressAI's JSON files, our own, and lists of records."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlic_jax import atomic
from mlic_jax.errors import InputError, UsageError
from mlic_jax.metrics import msssim, registry

# What a curve's label ends in, so that nobody takes it for something that ran here.
SUFFIX = " (published)"
# Our name for each quantity, and what files call it, the most exact name first.
_NAMES = {
    "bpp": ("bpp",),
    **{metric.key: (metric.name, metric.key) for metric in registry.METRICS.values()},
    "psnr_db": ("psnr-rgb", "psnr"),
    "ms_ssim": ("ms-ssim-rgb", "ms-ssim", "ms_ssim"),
}

_SIMILARITIES = {metric.key for metric in registry.METRICS.values() if metric.scale is msssim.ms_ssim_db}

Points = list[dict[str, float]]


class Published(NamedTuple):
    """A curve that somebody else measured.

    Attributes:
      points: in order of rate, with bpp and keys of the metrics that the file has.
      about: the file, and what it says about the curve.
    """

    points: Points
    about: str


def read_all(words: Sequence[str]) -> dict[str, Published]:
    """The curves of several words, as `read` reads each. Raises as `read`; UsageError for two of one name."""
    curves = {}
    for word in words:
        for label, curve in read(word).items():
            if label in curves:
                raise UsageError(f"two published curves are called {label!r}: give them labels, as label=file")
            curves[label] = curve
    return curves


def read(word: str) -> dict[str, Published]:
    """The curves that `[label=]path[:key=value,...]` names.

    A file holds either one curve, as CompressAI's result files do ({"name", "results": {"bpp": [..], "psnr-rgb": [..],
    "ms-ssim-rgb": [..]}}), or a list of records ({"codec", "points": [{"bpp", "psnr", "ms_ssim"}], and whatever else
    tells them apart}), of which the selector keeps those with the values given.

    Returns:
      label -> Published. Labels are the names in the file, or the one given, and end in SUFFIX.

    Raises:
      InputError: a file that cannot be read, or is of another kind, or has values that cannot be right.
      UsageError: no record has the values asked for, or two of the selected ones have one name.
    """
    path, label, wanted = _parse(word)
    content = atomic.read_bytes(path)
    try:
        document = json.loads(content)
    except ValueError as reason:
        raise InputError(f"{path!r} is not JSON: {reason}") from reason
    if isinstance(document, Mapping) and isinstance(document.get("results"), Mapping):
        if wanted:
            raise UsageError(f"{path!r} holds one curve: it takes no selector ({_words(wanted)})")
        curve = Published(_columns(document["results"], path), _about(path, document, ("name", "description")))
        return {(label or str(document.get("name", path))) + SUFFIX: curve}
    if isinstance(document, list) and all(isinstance(record, Mapping) and "points" in record for record in document):
        return _records(document, path, label, wanted)
    raise InputError(
        f"{path!r} holds no curves: expected {{'name', 'results': {{'bpp': [...], 'psnr-rgb': [...]}}}} as CompressAI "
        "writes it, or a list of records with 'codec' and 'points'"
    )


def _parse(word: str) -> tuple[str, str | None, dict[str, str]]:
    """(path, label, selector). A word that names an existing file is taken as it stands."""
    if os.path.exists(word):
        return word, None, {}
    path, label, wanted = word, None, {}
    before, _, after = path.rpartition(":")
    if before and "=" in after:
        pairs = [pair.split("=", 1) for pair in after.split(",")]
        if not all(len(pair) == 2 for pair in pairs):
            raise UsageError(f"{after!r} is no selector: it is written key=value,key=value")
        path, wanted = before, dict(pairs)
    if "=" in path and not os.path.exists(path):
        label, path = path.split("=", 1)
    return path, label or None, wanted


def _words(wanted: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in wanted.items())


def _about(path: str, record: Mapping[str, Any], keys: Sequence[str]) -> str:
    said = [f"{key} {record[key]}" for key in keys if record.get(key)]
    return ", ".join([os.path.basename(path), *said])


def _columns(results: Mapping[str, Any], where: str) -> Points:
    """Lists per quantity -> points."""
    known = {key for theirs in _NAMES.values() for key in theirs}
    columns = {key: values for key, values in results.items() if key in known}
    lengths = {len(values) if isinstance(values, list) else -1 for values in columns.values()}
    if "bpp" not in columns or len(columns) < 2 or len(lengths) > 1 or lengths == {-1}:
        raise InputError(f"{where!r}: expected lists of one length for bpp and psnr-rgb or ms-ssim-rgb")
    return _points([dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)], where)


def _records(records: list[Mapping], path: str, label: str | None, wanted: Mapping[str, str]) -> dict[str, Published]:
    chosen = [record for record in records if all(str(record.get(key)) == value for key, value in wanted.items())]
    if not chosen:
        known = {key: sorted({str(record.get(key)) for record in records}) for key in wanted}
        there = "; ".join(f"{key} is one of {', '.join(values)}" for key, values in known.items())
        raise UsageError(f"{path!r} has no curve with {_words(wanted)}: {there}")
    curves = {}
    for record in chosen:
        title = (label or str(record.get("codec", "unnamed"))) + SUFFIX
        if title in curves:
            keys = sorted({key for other in chosen for key in other} - {"points", "source", "note", *wanted})
            raise UsageError(f"{path!r} has several curves called {title!r}: tell them apart by {', '.join(keys)}")
        if record.get("metric", "psnr-rgb") != "psnr-rgb":
            raise UsageError(f"{path!r}: {title!r} is of {record['metric']}; curves here are of psnr-rgb")
        about = _about(path, record, ("codec", "dataset", "optimized_for", "variant", "source"))
        curves[title] = Published(_points(record["points"], f"{path}: {title}"), about)
    return curves


def _points(records: Sequence[Any], where: str) -> Points:
    """Records with names of files -> points with ours, in order of rate. Raises InputError for what cannot be right."""
    rows = []
    for record in records:
        if not isinstance(record, Mapping):
            raise InputError(f"{where!r} has a point that is not a record")
        known = {ours: [record[key] for key in theirs if key in record] for ours, theirs in _NAMES.items()}
        row = {ours: values[0] for ours, values in known.items() if values and values[0] is not None}
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in row.values())
        if not numbers or not all(map(math.isfinite, row.values())) or row.get("bpp", 0) <= 0:
            raise InputError(f"{where!r}: {row} is not a point: bpp must be above 0, and all values finite numbers")
        for key in _SIMILARITIES & row.keys():
            if not -1 <= row[key] <= 1:
                title = registry.BY_KEY[key].title
                raise InputError(f"{where!r}: {title} is {row[key]:g}; it must lie in 0 to 1, and not be in dB")
        rows.append(row)
    return sorted(rows, key=lambda row: row["bpp"])
