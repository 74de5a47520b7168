"""Rate and distortion from files alone: what `compress` wrote, and what `decompress` made of it.

bpp counts every byte of the file, header included; all metrics are taken on 8-bit RGB. The model's own estimate
of the rate, -log2 P, stands beside it so that the two can be compared.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mlic_jax import api, atomic, classical, zoo
from mlic_jax.errors import InputError
from mlic_jax.evaluation.report import tables
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.metrics import bd, registry

Pictures = Sequence[tuple[str, np.ndarray]]  # (name, uint8 [H, W, 3])
# What a table of means contains, of the rows of `evaluate` and `evaluate_classical`.
AVERAGED = ("bytes", "bpp", "bpp_estimated", *registry.BY_KEY, "encode_s", "decode_s")


def measure(
    original: np.ndarray, decoded: np.ndarray, size: int, metrics: Sequence[str] = registry.DEFAULT
) -> dict[str, float]:
    """bytes, bpp, and metrics of one picture by their keys; nan where a side is too short for a metric.

    Args:
      original, decoded: uint8 [H, W, 3].
      size: of the file in bytes.
      metrics: names in `metrics.registry`.

    Raises:
      UsageError: an unknown metric, or a missing package.
      InputError: the pictures differ in shape, or are not of this kind.
    """
    rate = {"bytes": size, "bpp": 8 * size / (original.shape[0] * original.shape[1])}
    return rate | registry.measured(original, decoded, metrics)


def evaluate(
    artifact: Artifact,
    pictures: Pictures,
    quality: float | None = None,
    done: Callable[[str], None] = lambda name: None,
    metrics: Sequence[str] = registry.DEFAULT,
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Compresses and decompresses every picture.

    Args:
      artifact: the model.
      pictures: names and pixels.
      quality: for models of several rates.
      done: called with each name when its picture is finished.
      metrics: names in `metrics.registry`.

    Returns:
      One row per picture (name, width, height, bytes, bpp, the metrics' keys, bpp_estimated, encode_s, decode_s), and
      the decoded pictures. Times are those of a second call where the first had to compile for a new size.
    """
    codec = zoo.codec_of(artifact)
    warm, rows, decoded = set(), [], []
    for name, image in pictures:
        size = image.shape[:2]
        if size not in warm:
            api.decompress(api.compress(image, artifact, quality), artifact)
            warm.add(size)
        began = time.perf_counter()
        data = api.compress(image, artifact, quality)
        middle = time.perf_counter()
        picture = api.decompress(data, artifact)
        ended = time.perf_counter()
        estimate = codec.estimate(artifact.variables["params"], artifact.variables["state"], image[None])
        rows.append(
            {
                "name": name,
                "width": size[1],
                "height": size[0],
                **measure(image, picture, len(data), metrics),
                "bpp_estimated": float(estimate["bits"][0]) / (size[0] * size[1]),
                "encode_s": middle - began,
                "decode_s": ended - middle,
            }
        )
        decoded.append(picture)
        done(name)
    return rows, decoded


def mean(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Means over pictures: of bpp per picture and of dB per picture, as CompressAI and TFC report them."""
    rows = list(rows)
    means = {}
    for key in AVERAGED:
        values = [row[key] for row in rows if key in row and not np.isnan(row[key])]  # MS-SSIM of a small picture
        if values or key in rows[0]:
            means[key] = float(np.mean(values)) if values else float("nan")
    return means


def evaluate_classical(
    name: str,
    pictures: Pictures,
    done: Callable[[str], None] = lambda name: None,
    metrics: Sequence[str] = registry.DEFAULT,
) -> list[dict[str, Any]]:
    """The curve of a standard codec: one row of means per quality of its ladder, in order of rate."""
    codec = classical.get(name)

    def one(job):
        quality, (_, image) = job
        began = time.perf_counter()
        data = codec.encode(image, quality)
        middle = time.perf_counter()
        decoded = codec.decode(data)
        ended = time.perf_counter()
        return {**measure(image, decoded, len(data), metrics), "encode_s": middle - began, "decode_s": ended - middle}

    jobs = [(quality, picture) for quality in codec.qualities for picture in pictures]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow's encoders release the GIL
        rows = list(pool.map(one, jobs))
    done(name)
    count = len(pictures)
    return [
        {"quality": quality, **mean(rows[i * count : (i + 1) * count])} for i, quality in enumerate(codec.qualities)
    ]


def at_equal_size(
    name: str, image: np.ndarray, size: int, metrics: Sequence[str] = registry.DEFAULT
) -> tuple[dict[str, float], np.ndarray]:
    """A standard codec's file nearest to `size` bytes: its figures, and the decoded picture."""
    codec = classical.get(name)
    _, data = classical.match_rate(codec, image, size)
    decoded = codec.decode(data)
    return measure(image, decoded, len(data), metrics), decoded


def to_json(label: str, description: str, points: list[dict[str, float]], rows: list[list[dict[str, Any]]]) -> bytes:
    """The results as JSON that CompressAI's plot tool reads, with the rows of every picture in a key of its own."""
    document = json.loads(tables.compressai_json(label, description, points))
    document["points"] = points
    document["per_image"] = rows
    # JSON has no nan or infinity: a missing MS-SSIM, or the PSNR of an exact copy, become null.
    return json.dumps(tables.finite(document), indent=1).encode()


def compare(
    models: Sequence[tuple[str, Artifact]],
    pictures: Pictures,
    codecs: Sequence[str] = (),
    done: Callable[[str], None] = lambda name: None,
    metrics: Sequence[str] = registry.DEFAULT,
) -> dict[str, Any]:
    """Everything a report shows.

    Args:
      models: (label, artifact): the points of one curve, one or more.
      pictures: names and pixels.
      codecs: names of standard codecs to run beside them.
      done: called after each piece of work.
      metrics: names in `metrics.registry`.

    Returns:
      {"metrics": as given, "points": means per model, "rows": per model one row per picture, "curves": codec -> points,
       "equal_size": codec -> per picture (figures, decoded) at the size of the first model's file,
       "decoded": pictures of the first model, "bd": codec -> key of a metric -> BD-rate in percent (where both curves
       have 4 points and a common range)}.

    Raises:
      UsageError: an unknown codec or metric, or a missing package.
    """
    for name in codecs:
        classical.get(name)
    for name in metrics:
        registry.get(name)
    rows, decoded = [], []
    for label, artifact in models:
        found, images = evaluate(
            artifact, pictures, done=lambda name, label=label: done(f"{label}: {name}"), metrics=metrics
        )
        rows.append(found)
        decoded.append(images)
    points = [{"model": label, **mean(found)} for (label, _), found in zip(models, rows, strict=True)]
    curves, equal = {}, {}
    for name in codecs:
        curves[name] = evaluate_classical(name, pictures, done, metrics)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [(image, row["bytes"]) for (_, image), row in zip(pictures, rows[0], strict=True)]
            equal[name] = list(pool.map(lambda job, name=name: at_equal_size(name, *job, metrics), jobs))
        done(f"{name} at equal size")
    rates = {name: {} for name in curves}
    for name, curve in curves.items():
        for key in (registry.METRICS[metric].key for metric in metrics):
            with contextlib.suppress(InputError):  # too few points, or no common range
                rates[name][key] = bd.bd_rate(bd.curve(curve, key), bd.curve(points, key))
    return {
        "metrics": tuple(metrics),
        "points": points,
        "rows": rows,
        "curves": curves,
        "equal_size": equal,
        "decoded": decoded[0],
        "bd": rates,
    }


def summary(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The table of a comparison: our models, and each standard codec at the first model's file sizes."""

    metrics = {metric.key: metric for metric in map(registry.METRICS.__getitem__, found["metrics"])}
    named = {"bpp": "bpp", **{key: metric.label for key, metric in metrics.items()}}
    named |= {"encode_s": "encode s", "decode_s": "decode s"}

    def row(codec, figures):
        return {"codec": codec, **{label: figures[key] for key, label in named.items() if key in figures}}

    table = [row(point["model"], point) for point in found["points"]]
    for name, versions in found["equal_size"].items():
        table.append(row(f"{name} at equal size", mean(figures for figures, _ in versions)))
        for key, difference in found["bd"][name].items():
            table[-1][f"our BD-rate % in {metrics[key].title}"] = difference.value
    return table


def write(folder, label: str, description: Sequence[str], found: dict[str, Any], pictures: Pictures) -> dict[str, str]:
    """Writes a comparison into a folder: JSON, CSV, Markdown, RD plots, and the HTML report.

    Args:
      folder: made if it does not exist.
      label: the name of our curve.
      description: paragraphs that say what the model is.
      found: what `compare` returned.
      pictures: the originals.

    Returns:
      kind -> path of each file written.
    """
    from mlic_jax.evaluation.report import html, plots

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = {name: str(folder / name) for name in ("evaluation.json", "images.csv", "table.md", "report.html")}
    atomic.write_bytes(
        written["evaluation.json"], to_json(label, " ".join(description), found["points"], found["rows"])
    )
    flat = [
        {"model": p["model"], **row} for p, rows in zip(found["points"], found["rows"], strict=True) for row in rows
    ]
    tables.write_csv(written["images.csv"], flat)
    table = summary(found)
    atomic.write_bytes(written["table.md"], tables.markdown_table(table).encode())
    curves = {label: found["points"], **found["curves"]}
    first, *more = found["metrics"]
    # What is measured by default beside the first is drawn in the report only.
    drawn = {"rd": first} | {f"rd_{name.replace('-', '_')}": name for name in more if name not in registry.DEFAULT}
    for name, metric in drawn.items():
        key = registry.METRICS[metric].key
        for kind in ("svg", "png") if any(bd.curve(points, key) for points in curves.values()) else ():
            written[f"{name}.{kind}"] = str(folder / f"{name}.{kind}")
            plots.save_rd_plot(written[f"{name}.{kind}"], curves, key)
    shown = []
    for i, (name, original) in enumerate(pictures):
        row = found["rows"][0][i]
        versions = [html.version(label, found["decoded"][i], row)]
        for codec, pairs in found["equal_size"].items():
            figures, decoded = pairs[i]
            versions.append(html.version(codec, decoded, figures))
        shown.append(html.Picture(name, original, versions))
    html.write_report(written["report.html"], label, list(description), table, curves, shown)
    return written
