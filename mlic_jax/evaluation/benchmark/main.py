"""A whole benchmark, from names to a folder of results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mlic_jax import runtime
from mlic_jax.errors import UsageError
from mlic_jax.evaluation.benchmark import published, results, run, timing
from mlic_jax.evaluation.benchmark.cache import Cache
from mlic_jax.evaluation.benchmark.entrants import Entrant, Point, Spec, models, standard
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.metrics import registry


class Options(NamedTuple):
    """What a benchmark does beside measuring rate and distortion.

    Attributes:
      cache: folder of results that are not measured again.
      fresh: measure everything again.
      jobs: files at a time; 0 for one per core. Nothing is timed beside them.
      bpp: the rate at which pictures are compared and times are taken.
      shown: how many pictures the report shows.
      timed: on how many pictures time and memory are measured; 0 for not at all.
      quiet: no progress bar.
      metrics: names in `metrics.registry`; tables are in order of the first.
    """

    cache: str
    fresh: bool = False
    jobs: int = 1
    bpp: float = 0.3
    shown: int = 4
    timed: int = 0
    quiet: bool = False
    metrics: Sequence[str] = registry.DEFAULT


class Outcome(NamedTuple):
    """What `benchmark` leaves behind.

    Attributes:
      found: all figures.
      written: name -> path of each file.
      reused, measured: how many results came from the cache, and how many did not.
    """

    found: results.Found
    written: dict[str, str]
    reused: int
    measured: int


def benchmark(
    codecs: Sequence[str],
    specs: Sequence[Spec],
    load: Callable[[str], Artifact],
    curves: Sequence[str],
    anchors: Sequence[str],
    pictures: Callable[[], Sequence[tuple[str, np.ndarray]]],
    out: str,
    options: Options,
) -> Outcome:
    """Measures codecs and models on pictures, compares them with each other and with published curves, and writes it.

    What can be wrong with names and files of curves is found before any picture is read or coded.

    Args:
      codecs: names of standard codecs.
      specs: models, as `entrants.parse` reads them.
      load: path -> Artifact.
      curves: files of published curves, as `published.read` takes them.
      anchors: labels of the curves against which BD-rates are taken; empty for all but our models.
      pictures: called once; returns names and pixels uint8 [H, W, 3].
      out: folder for the results.
      options: see Options.

    Raises:
      UsageError: an unknown codec, anchor or metric, a missing package, nothing to measure, or two curves of one name.
      InputError, ModelError: pictures, models or curves that cannot be read; results that cannot be written.
    """
    for name in options.metrics:
        registry.get(name)
    entrants = [standard(name) for name in codecs]
    others = {}
    for word in curves:
        for label, curve in published.read(word).items():
            if label in others:
                raise UsageError(f"two published curves are called {label!r}: give them labels, as label=file")
            others[label] = curve
    entrants = models(specs, load) + entrants
    if not entrants:
        raise UsageError("there is nothing to measure: name standard codecs, models, or both")
    labels = [entrant.label for entrant in entrants]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UsageError(f"two curves are called {twice[0]!r}: name each codec once, and give models other labels")
    chosen_anchors = results.choose_anchors(anchors, entrants, others)

    results.prepare(out)
    cache = Cache(options.cache, options.fresh)
    seen = [run.picture(name, image) for name, image in pictures()]
    planned = run.plan(entrants, seen, cache, options.metrics)
    shown = _spread(len(seen), options.shown)
    timed = [seen[index] for index in _spread(len(seen), options.timed)]
    total = len(planned.missing) + len(entrants) * len(shown) + (len(entrants) if timed else 0)
    with runtime.Bar("benchmark", total, options.quiet) as bar:
        rows = run.measure(entrants, seen, cache, options.jobs, planned, bar.done)
        versions = run.at_equal_rate(
            entrants, rows, seen, shown, options.bpp, cache, options.jobs, bar.done, options.metrics
        )
        times = {}
        if timed:
            chosen = [(entrant, _near(entrant, rows[entrant.label], options.bpp)) for entrant in entrants]
            times = timing.measure(chosen, timed, bar.done)
    found = results.Found(entrants, rows, others, chosen_anchors, times, options.bpp, options.metrics)
    written = results.write(out, found, seen, dict(zip(shown, versions, strict=True)))
    return Outcome(found, written, len(planned.found), len(planned.missing))


def _spread(count: int, wanted: int) -> list[int]:
    """Indexes of at most `wanted` of `count` pictures, evenly apart."""
    wanted = min(wanted, count)
    return [index * count // wanted for index in range(wanted)]


def _near(entrant: Entrant, rows: list[run.Rows], bpp: float) -> Point:
    """The point whose mean rate is nearest to `bpp`."""
    distance = [abs(np.mean([row["bpp"] for row in found]) - bpp) for found in rows]
    return entrant.points[int(np.argmin(distance))]
