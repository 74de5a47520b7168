"""Files of every entrant, point and picture, several at a time, each result kept as soon as it is there.

The only place where rate and distortion of a codec are measured: bits per pixel count every byte of the file, and
metrics are those of the 8-bit RGB picture out of the decoder.
"""

from __future__ import annotations

import concurrent.futures
import gc
import hashlib
import os
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlic_jax import classical
from mlic_jax.errors import MlicError
from mlic_jax.evaluation.benchmark.cache import Cache
from mlic_jax.evaluation.benchmark.entrants import Entrant, Point
from mlic_jax.evaluation.report.html import Version
from mlic_jax.metrics import registry

Rows = list[dict[str, Any]]
# Changes whenever figures are computed otherwise from the same files.
FIGURES = 1


class Picture(NamedTuple):
    """A picture and the digest by which results for it are found, whatever its file is called."""

    name: str
    image: np.ndarray  # uint8 [H, W, 3]
    digest: str


def picture(name: str, image: np.ndarray) -> Picture:
    """A Picture of pixels uint8 [H, W, 3]."""
    return Picture(name, image, hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest())


class Curve(NamedTuple):
    """What was measured of an entrant: per point of it, one row per picture.

    Rows have name, width, height, bytes, bpp, and the metrics' keys.
    """

    entrant: Entrant
    rows: Sequence[Rows]

    @property
    def means(self) -> Rows:
        """Means over the pictures, a row per point, in order of rate."""
        points = [{"point": p.name, **mean(rows)} for p, rows in zip(self.entrant.points, self.rows, strict=True)]
        return sorted(points, key=lambda point: point["bpp"])


class Measured(NamedTuple):
    """What `measure` returns: a curve per entrant, and how many results are new and how many came from the cache."""

    curves: list[Curve]
    new: int
    kept: int


def figures(
    original: np.ndarray, decoded: np.ndarray, size: int, metrics: Sequence[str] = registry.DEFAULT
) -> dict[str, Any]:
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
    return rate | registry.measured(original, decoded, metrics, parts=True)


def mean(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Means over pictures: of bpp per picture and of dB per picture, as CompressAI and TFC report them; and the values
    of metrics of sets, for the set of all of them."""
    rows = list(rows)
    means = {}
    for key in ("bytes", "bpp", "bpp_estimated", *registry.BY_KEY, "encode_s", "decode_s"):
        metric = registry.BY_KEY.get(key)
        if metric and metric.of_set:
            if metric.part_key in rows[0]:
                means[key] = metric.of_set.value([row[metric.part_key] for row in rows])
            continue
        values = [row[key] for row in rows if key in row and not np.isnan(row[key])]  # MS-SSIM of a small picture
        if values or key in rows[0]:
            means[key] = float(np.mean(values)) if values else float("nan")
    return means


def key_of(point: Point, picture: Picture, metric: str | None = None) -> dict[str, Any]:
    """What decides the figures of a point for a picture: those that are always measured, or one further metric."""
    return {"figures": FIGURES, "picture": picture.digest, **point.key} | ({"metric": metric} if metric else {})


def measure(
    entrants: Sequence[Entrant],
    pictures: Sequence[Picture],
    cache: Cache,
    metrics: Sequence[str] = registry.DEFAULT,
    jobs: int = 1,
    done: Callable[[str], None] = lambda name: None,
) -> Measured:
    """Compresses and decompresses every picture at every point, where the cache does not have the result.

    Nothing is timed: other work may run beside it.

    Args:
      entrants: with different labels.
      pictures: of any sizes.
      cache: where results are looked for and kept.
      metrics: names in `metrics.registry`. What the cache lacks of them is measured on files that are made again.
      jobs: files at a time; 0 for one per core.
      done: called after each result, new or kept.

    Raises:
      UsageError: as `registry.get`.
      MlicError: a codec cannot code a picture. All other results are measured and kept before it is raised.
      InputError: the cache cannot be written to; nothing more is measured.
    """
    wanted = [registry.get(name) for name in metrics]
    parts = [metric.part_key for metric in wanted if metric.of_set]
    columns = ("width", "height", "bytes", "bpp", *(metric.key for metric in wanted), *parts)

    def job(e, i, j):
        return _result(entrants[e].points[i], pictures[j], cache, metrics)

    calls = [(e, i, j) for e, one in enumerate(entrants) for i in range(len(one.points)) for j in range(len(pictures))]
    rows, failures, new = {}, [], 0
    for (e, i, j), (values, is_new) in _parallel(job, calls, jobs):
        name = f"{entrants[e].label}, {entrants[e].points[i].name}, {pictures[j].name}"
        if isinstance(values, MlicError):
            failures.append((name, values))
        else:
            rows[e, i, j] = {"name": pictures[j].name, **{key: values[key] for key in columns}}
            new += is_new
        done(name)
    if failures:
        name, reason = failures[0]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise type(reason)(f"{name}: {reason}{more}; {len(rows)} other results are kept") from reason
    curves = [
        Curve(entrant, [[rows[e, i, j] for j in range(len(pictures))] for i in range(len(entrant.points))])
        for e, entrant in enumerate(entrants)
    ]
    return Measured(curves, new, len(rows) - new)


def _result(point: Point, picture: Picture, cache: Cache, metrics: Sequence[str]) -> tuple[dict | MlicError, bool]:
    """(what is known of a point for a picture, after measuring what is not; whether anything was not).

    An MlicError in place of the first where the codec cannot code the picture. Raises InputError as `Cache.put`.
    """
    # The cache keeps rate and default metrics in one file, each further metric in one of its own.
    pieces = [None, *(name for name in metrics if name not in registry.DEFAULT)]
    known = {piece: cache.get(key_of(point, picture, piece)) for piece in pieces}
    if lacking := [piece for piece in pieces if known[piece] is None]:
        try:
            made = _make(point, picture, lacking)
        except MlicError as reason:
            return reason, True
        for piece, values in made.items():
            cache.put(key_of(point, picture, piece), values)
        known |= made
        if point.artifact is not None:
            gc.collect()
    return {key: value for values in known.values() for key, value in values.items()}, bool(lacking)


def _make(point: Point, picture: Picture, pieces: Sequence[str | None]) -> dict[str | None, dict[str, Any]]:
    """What the cache keeps of one file: None -> size, rate and default metrics, name -> a further metric."""
    data = point.encode(picture.image)
    decoded = point.decode(data)
    height, width = picture.image.shape[:2]
    made = {name: registry.measured(picture.image, decoded, [name], parts=True) for name in pieces if name}
    if None in pieces:
        made[None] = {"width": width, "height": height, **figures(picture.image, decoded, len(data))}
    return made


def with_details(curve: Curve, pictures: Sequence[Picture], done: Callable[[str], None] = lambda name: None) -> Curve:
    """A model's curve whose rows have bpp_estimated, encode_s and decode_s too, of files that are made once more.

    The estimate is -log2 P by the model. Seconds are those of a second call, since `measure` had the first, which
    compiles. Standard codecs stay as they are.
    """
    if any(point.artifact is None for point in curve.entrant.points):
        return curve

    def details(point, picture):
        began = time.perf_counter()
        data = point.encode(picture.image)
        middle = time.perf_counter()
        point.decode(data)
        seconds = {"encode_s": middle - began, "decode_s": time.perf_counter() - middle}
        done(f"{curve.entrant.label}, {point.name}, {picture.name}: seconds")
        pixels = picture.image.shape[0] * picture.image.shape[1]
        return seconds | ({"bpp_estimated": point.estimate(picture.image) / pixels} if point.estimate else {})

    rows = [
        [row | details(point, picture) for row, picture in zip(rows, pictures, strict=True)]
        for point, rows in zip(curve.entrant.points, curve.rows, strict=True)
    ]
    return Curve(curve.entrant, rows)


def _parallel(function: Callable, calls: Sequence[tuple], jobs: int) -> Iterator[tuple[tuple, Any]]:
    """Yields (arguments, result) of every call, as they end. What one raises, and Ctrl-C, stops the rest."""
    # Encoders release the GIL. Of what Flax leaves in cycles, `cli.batch.run` has the reason for freezing the rest.
    pool = concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count())
    gc.collect()
    gc.freeze()
    try:
        futures = {pool.submit(function, *words): words for words in calls}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        gc.unfreeze()


# ---------------------------------------------------------------------- pictures at equal rate


def at_equal_rate(
    curves: Sequence[Curve],
    pictures: Sequence[Picture],
    chosen: Sequence[int],
    bpp: float,
    cache: Cache,
    metrics: Sequence[str] = registry.DEFAULT,
    jobs: int = 1,
    done: Callable[[str], None] = lambda name: None,
) -> list[list[Version]]:
    """Some pictures by every codec, in files of one size.

    The size is `bpp`, or, where the first of our models has one rate only per file, that of its file nearest to `bpp`.
    Codecs with a scale of qualities are given the quality that comes nearest to it; others show their nearest point.

    Args:
      curves: what `measure` returned.
      pictures, cache, metrics, jobs, done: as for `measure`.
      chosen: indexes of pictures.
      bpp: bits per pixel of the wanted files.

    Returns:
      Per chosen picture, a Version of every curve.

    Raises:
      MlicError: a codec cannot code a picture.
    """

    def nearest(curve, j, size):
        return min(range(len(curve.rows)), key=lambda i: abs(curve.rows[i][j]["bytes"] - size))

    first = next((curve for curve in curves if curve.entrant.family == "ours"), None)
    sizes = {}
    for j in chosen:
        sizes[j] = round(bpp * pictures[j].image.shape[0] * pictures[j].image.shape[1] / 8)
        if first and first.entrant.at is None:
            sizes[j] = first.rows[nearest(first, j, sizes[j])][j]["bytes"]
        sizes[j] = max(1, sizes[j])

    def job(c, j):
        entrant, picture = curves[c].entrant, pictures[j]
        try:
            if entrant.at is None:
                point = entrant.points[nearest(curves[c], j, sizes[j])]
            else:
                point = entrant.at(_matched_quality(entrant, picture, sizes[j], cache))
            data = point.encode(picture.image)
            decoded = point.decode(data)
            values = figures(picture.image, decoded, len(data), metrics)
        except MlicError as reason:
            raise type(reason)(f"{entrant.label}, {picture.name}: {reason}") from reason
        return Version(entrant.label, decoded, values, point.name)

    versions = {}
    for (c, j), version in _parallel(job, [(c, j) for c in range(len(curves)) for j in chosen], jobs):
        versions[c, j] = version
        done(f"{version.label} at equal rate: {pictures[j].name}")
    return [[versions[c, j] for c in range(len(curves))] for j in chosen]


def _matched_quality(entrant: Entrant, picture: Picture, size: int, cache: Cache) -> float:
    """The quality whose file is nearest to `size` bytes; searched for once."""
    key = {"wanted_bytes": size, **key_of(entrant.at(0), picture), "quality": "searched"}
    result = cache.get(key)
    if result is None:
        codec = types.SimpleNamespace(name=entrant.label, step=entrant.step)
        codec.encode = lambda image, quality: entrant.at(quality).encode(image)
        result = {"quality": classical.match_rate(codec, picture.image, size)[0]}
        cache.put(key, result)
    return result["quality"]
