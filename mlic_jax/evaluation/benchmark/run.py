"""Files of every entrant, point and picture, several at a time, each result kept as soon as it is there."""

from __future__ import annotations

import concurrent.futures
import gc
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlic_jax import classical
from mlic_jax.errors import MlicError
from mlic_jax.evaluation import evaluate
from mlic_jax.evaluation.benchmark.cache import Cache
from mlic_jax.evaluation.benchmark.entrants import Entrant, Point
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


def key_of(point: Point, shown: Picture, metric: str | None = None) -> dict[str, Any]:
    """What decides the figures of a point for a picture: those that are always measured, or one further metric."""
    return {"figures": FIGURES, "picture": shown.digest, **point.key} | ({"metric": metric} if metric else {})


def _pieces(metrics: Sequence[str]) -> list[str | None]:
    """What the cache keeps of a picture at a point: None, rate and default metrics; a name, a further one."""
    return [None, *(name for name in metrics if name not in registry.DEFAULT)]


def _figures(point: Point, shown: Picture, pieces: Sequence[str | None]) -> dict[str | None, dict[str, Any]]:
    """What the cache keeps: {"width", "height", "bytes", "bpp", "psnr_db", "ms_ssim"}, and {key: value} per metric."""
    data = point.encode(shown.image)
    decoded = point.decode(data)
    height, width = shown.image.shape[:2]

    def measured(piece):
        if piece:
            return registry.measured(shown.image, decoded, [piece])
        return {"width": width, "height": height, **evaluate.measure(shown.image, decoded, len(data))}

    return {piece: measured(piece) for piece in pieces}


class Plan(NamedTuple):
    """What there is to measure.

    Attributes:
      metrics: names of what is measured beside the rate.
      found: (label, point's index, picture's index) -> figures, where the cache has all of them.
      missing: the same triples -> (figures that it has, pieces that it lacks), in the order of the entrants.
    """

    metrics: Sequence[str]
    found: dict[tuple[str, int, int], dict[str, Any]]
    missing: dict[tuple[str, int, int], tuple[dict[str, Any], list[str | None]]]


def plan(
    entrants: Sequence[Entrant], pictures: Sequence[Picture], cache: Cache, metrics: Sequence[str] = registry.DEFAULT
) -> Plan:
    """Looks up every result in the cache. Raises UsageError as `registry.get`."""
    for name in metrics:
        registry.get(name)
    found, missing = {}, {}
    for entrant in entrants:
        for i, point in enumerate(entrant.points):
            for j, shown in enumerate(pictures):
                kept = {piece: cache.get(key_of(point, shown, piece)) for piece in _pieces(metrics)}
                figures = {key: value for result in kept.values() if result for key, value in result.items()}
                if lacking := [piece for piece, result in kept.items() if result is None]:
                    missing[entrant.label, i, j] = figures, lacking
                else:
                    found[entrant.label, i, j] = figures
    return Plan(metrics, found, missing)


def measure(
    entrants: Sequence[Entrant],
    pictures: Sequence[Picture],
    cache: Cache,
    jobs: int = 1,
    planned: Plan | None = None,
    done: Callable[[str], None] = lambda name: None,
    metrics: Sequence[str] = registry.DEFAULT,
) -> dict[str, list[Rows]]:
    """Compresses and decompresses every picture at every point that is not in the cache.

    Nothing is timed: other work may run beside it (`timing` does that).

    Args:
      entrants: with different labels.
      pictures: of any sizes.
      cache: where results are looked for and kept.
      jobs: files at a time; 0 for one per core.
      planned: what `plan` returned, where it was asked before; the metrics are then its.
      done: called after each new result.
      metrics: names in `metrics.registry`. What the cache lacks of them is measured on files that are made again.

    Returns:
      label -> per point one row per picture: name, width, height, bytes, bpp, and the metrics' keys.

    Raises:
      UsageError: as `registry.get`.
      MlicError: a codec cannot code a picture. All other results are measured and kept before it is raised.
      InputError: the cache cannot be written to; nothing more is measured.
    """
    metrics, found, missing = planned or plan(entrants, pictures, cache, metrics)
    points = {entrant.label: entrant.points for entrant in entrants}
    results, failures = dict(found), []

    def one(label, i, j):
        point, shown = points[label][i], pictures[j]
        known, lacking = missing[label, i, j]
        try:
            results = _figures(point, shown, lacking)
        except MlicError as reason:
            return reason
        for piece, result in results.items():
            cache.put(key_of(point, shown, piece), result)
            known = known | result
        if point.artifact is not None:
            gc.collect()
        return known

    for (label, i, j), result in _parallel(one, list(missing), jobs):
        point, name = points[label][i].name, pictures[j].name
        if isinstance(result, MlicError):
            failures.append((f"{label}, {point}, {name}", result))
        else:
            results[label, i, j] = result
        done(f"{label}, {point}: {name}")
    if failures:
        where, reason = failures[0]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise type(reason)(f"{where}: {reason}{more}; {len(results)} other results are kept") from reason
    wanted = ("width", "height", "bytes", "bpp", *(registry.METRICS[name].key for name in metrics))

    def row(label, i, j):
        return {"name": pictures[j].name, **{key: results[label, i, j][key] for key in wanted}}

    return {
        label: [[row(label, i, j) for j in range(len(pictures))] for i in range(len(points[label]))] for label in points
    }


def _parallel(function: Callable, calls: Sequence[tuple], jobs: int) -> Iterator[tuple[tuple, Any]]:
    """Yields (arguments, result) of every call, as they end. What one raises, and Ctrl-C, stops the rest."""
    # Encoders release the GIL. Of what Flax leaves in cycles, `batch.run` has the reason for freezing the rest.
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


def curve(rows: Sequence[Rows], points: Sequence[Point]) -> Rows:
    """Means over the pictures, a row per point, in order of rate."""
    means = [{"point": point.name, **evaluate.mean(found)} for point, found in zip(points, rows, strict=True)]
    return sorted(means, key=lambda row: row["bpp"])


class Version(NamedTuple):
    """A picture as a codec shows it at the wanted rate."""

    label: str
    point: str
    image: np.ndarray  # uint8 [H, W, 3]
    figures: dict[str, float]  # of `evaluate.measure`


def at_equal_rate(
    entrants: Sequence[Entrant],
    rows: dict[str, list[Rows]],
    pictures: Sequence[Picture],
    chosen: Sequence[int],
    bpp: float,
    cache: Cache,
    jobs: int = 1,
    done: Callable[[str], None] = lambda name: None,
    metrics: Sequence[str] = registry.DEFAULT,
) -> list[list[Version]]:
    """Some pictures by every codec, in files of one size.

    The size is `bpp`, or, where the first of our models has one rate only per file, that of its file nearest to `bpp`.
    Codecs with a scale of qualities are given the quality that comes nearest to it; others show their nearest point.

    Args:
      entrants, pictures, cache, jobs, done, metrics: as for `measure`.
      rows: what `measure` returned.
      chosen: indexes of pictures.
      bpp: bits per pixel of the wanted files.

    Returns:
      Per chosen picture, a Version of every entrant.

    Raises:
      MlicError: a codec cannot code a picture.
    """

    def nearest(entrant, j, size):
        return min(range(len(entrant.points)), key=lambda i: abs(rows[entrant.label][i][j]["bytes"] - size))

    fixed = next((entrant for entrant in entrants if entrant.family == "ours"), None)
    fixed = fixed if fixed and fixed.at is None else None
    sizes = {}
    for j in chosen:
        sizes[j] = round(bpp * pictures[j].image.shape[0] * pictures[j].image.shape[1] / 8)
        if fixed:
            sizes[j] = rows[fixed.label][nearest(fixed, j, sizes[j])][j]["bytes"]
        sizes[j] = max(1, sizes[j])

    def one(e, j):
        entrant, shown = entrants[e], pictures[j]
        try:
            if entrant.at is None:
                point = entrant.points[nearest(entrant, j, sizes[j])]
            else:
                point = entrant.at(_matched(entrant, shown, sizes[j], cache))
            data = point.encode(shown.image)
            decoded = point.decode(data)
            figures = evaluate.measure(shown.image, decoded, len(data), metrics)
        except MlicError as reason:
            raise type(reason)(f"{entrant.label}, {shown.name}: {reason}") from reason
        return Version(entrant.label, point.name, decoded, figures)

    versions = {}
    for (e, j), result in _parallel(one, [(e, j) for e in range(len(entrants)) for j in chosen], jobs):
        versions[e, j] = result
        done(f"{entrants[e].label} at equal rate: {pictures[j].name}")
    return [[versions[e, j] for e in range(len(entrants))] for j in chosen]


class _Scale(NamedTuple):
    """What `classical.match_rate` asks for."""

    name: str
    encode: Callable[[np.ndarray, float], bytes]
    step: float


def _matched(entrant: Entrant, shown: Picture, size: int, cache: Cache) -> float:
    """The quality whose file is nearest to `size` bytes; searched for once."""
    key = {"wanted_bytes": size, **key_of(entrant.at(0), shown), "quality": "searched"}
    found = cache.get(key)
    if found is None:
        scale = _Scale(entrant.label, lambda image, quality: entrant.at(quality).encode(image), entrant.step)
        found = {"quality": classical.match_rate(scale, shown.image, size)[0]}
        cache.put(key, found)
    return found["quality"]
