"""Rows of results (dicts) as Markdown, as CSV, and in the JSON layout that CompressAI's plots read."""

from __future__ import annotations

import csv
import io
import math
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlic_jax import atomic
from mlic_jax.metrics import registry

Row = Mapping[str, Any]

# CompressAI's name for each of our units, and ours for the metrics that it does not have.
_COMPRESSAI = {
    "bpp": "bpp",
    **{metric.key: metric.name for metric in registry.METRICS.values()},
    "psnr_db": "psnr-rgb",
    "ms_ssim": "ms-ssim-rgb",
    "encode_s": "encoding_time",
    "decode_s": "decoding_time",
}


def columns(rows: Sequence[Row]) -> list[str]:
    """The keys of all rows, each once, in the order in which they first appear."""
    return list(dict.fromkeys(key for row in rows for key in row))


def is_number(value: Any) -> bool:
    """Whether a cell holds a number (a bool is not one here)."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def cell(value: Any) -> str:
    """A value as people read it: integers in full, others to four digits, a dash for None and nan."""
    if value is None:
        return "–"
    if not is_number(value):
        return str(value)
    if isinstance(value, numbers.Integral):
        return f"{value:,}".replace(",", "\u202f")
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    digits = max(0, 3 - (math.floor(math.log10(abs(value))) if value else 0))
    text = f"{value:.{min(digits, 6)}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def markdown_table(rows: Sequence[Row]) -> str:
    """A Markdown table of the rows, numbers to the right; columns as `columns`, missing cells as dashes."""
    if not rows:
        return ""
    keys = columns(rows)

    def line(cells):
        return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in cells) + " |"

    numeric = {key: all(is_number(row[key]) for row in rows if row.get(key) is not None) for key in keys}
    ruler = "|" + "|".join(" ---: " if numeric[key] else " --- " for key in keys) + "|"
    return "\n".join([line(keys), ruler, *(line([cell(row.get(key)) for key in keys]) for row in rows)]) + "\n"


def finite(value: Any) -> Any:
    """The same for JSON, which has no nan and no infinity: they become None, in nested dicts and sequences too."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(path: str | os.PathLike, rows: Iterable[Row]) -> None:
    """Writes the rows with all their digits below a line of names; missing cells stay empty. Raises InputError."""
    rows, out = list(rows), io.StringIO()
    writer = csv.DictWriter(out, columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic.write_bytes(path, out.getvalue().encode())


def markdown(title: str, words: Sequence[str], table: Sequence[Row], sections: Sequence[tuple]) -> str:
    """A document: a headline, paragraphs, a table, and (headline, paragraph, rows) of further tables."""
    parts = [f"# {title}", *words, markdown_table(table)]
    for headline, paragraph, rows in sections:
        parts += [f"## {headline}", paragraph, markdown_table(rows)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def compressai(name: str, description: str, points: Sequence[Row]) -> dict[str, Any]:
    """A curve in the layout that `compressai.utils.plot` reads as JSON: one list per quantity, in order of rate.

    Args:
      name: of the codec.
      description: one line.
      points: dicts with bpp and, where known, keys of metrics, encode_s and decode_s. A quantity that some point
        lacks is left out, nan counts as lacking: lists of unlike lengths would pair the wrong values.
    """
    points = sorted(points, key=lambda point: point["bpp"])
    results = {}
    for ours, theirs in _COMPRESSAI.items():
        values = [point.get(ours) for point in points]
        if all(value is not None and math.isfinite(value) for value in values):
            results[theirs] = [float(value) for value in values]
    return {"name": name, "description": description, "results": results}
