"""A whole benchmark, from names to a folder of results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mlic_jax import runtime
from mlic_jax.errors import UsageError
from mlic_jax.evaluation.benchmark import measuring, published, results, timing
from mlic_jax.evaluation.benchmark.cache import Cache
from mlic_jax.evaluation.benchmark.comparing import DEFAULT_RULE, BDRule
from mlic_jax.evaluation.benchmark.entrants import Point, Spec, models, standard
from mlic_jax.evaluation.benchmark.measuring import Curve, with_details
from mlic_jax.evaluation.benchmark.results import Results
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.metrics import registry


class Options(NamedTuple):
    """What a benchmark does beside measuring rate and distortion.

    Attributes:
      cache: folder of results that are not measured again.
      fresh: measure everything again.
      jobs: files at a time; 0 for one per core. Nothing is timed beside them.
      bpp: the rate at which pictures are compared and times are taken.
      shown: how many pictures are compared, and shown in the report; None for all.
      timed: on how many pictures time and memory are measured; 0 for not at all.
      quiet: no progress bar.
      metrics: names in `metrics.registry`; tables are in order of the first.
      rule: how BD-rates are taken.
      detailed: estimates of the rate and seconds too, of each file of our models, see `measuring.with_details`.
    """

    cache: str
    fresh: bool = False
    jobs: int = 1
    bpp: float = 0.3
    shown: int | None = 4
    timed: int = 0
    quiet: bool = False
    metrics: Sequence[str] = registry.DEFAULT
    rule: BDRule = DEFAULT_RULE
    detailed: bool = False


class Outcome(NamedTuple):
    """What `benchmark` measured, on which pictures, and how many results were new and how many in the cache."""

    results: Results
    pictures: Sequence[measuring.Picture]
    new: int
    kept: int


def benchmark(
    codecs: Sequence[str],
    specs: Sequence[Spec],
    load: Callable[[str], Artifact],
    pictures: Callable[[], Sequence[tuple[str, np.ndarray]]],
    options: Options,
    curves: Sequence[str] = (),
    anchors: Sequence[str] = (),
    out: str | None = None,
) -> Outcome:
    """Measures codecs and models on pictures, and compares them with each other and with published curves.

    What can be wrong with names and files of curves is said before any picture is read or coded.

    Args:
      codecs: names of standard codecs.
      specs: models, as `entrants.parse` reads them.
      load: path -> Artifact.
      pictures: called once; returns names and pixels uint8 [H, W, 3].
      options: see Options.
      curves: files of published curves, as `published.read` takes them.
      anchors: labels of the curves against which BD-rates are taken; empty for all but our models.
      out: the folder into which `results.write` will write, made before the work; None where nothing is written.

    Raises:
      UsageError: an unknown codec, anchor or metric, a missing package, nothing to measure, or two curves of one name.
      InputError, ModelError: pictures, models or curves that cannot be read; results that cannot be written.
    """
    for name in options.metrics:
        registry.get(name)
    standards = [standard(name) for name in codecs]
    others = published.read_all(curves)
    entrants = models(specs, load) + standards
    if not entrants:
        raise UsageError("there is nothing to measure: name standard codecs, models, or both")
    labels = [entrant.label for entrant in entrants]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UsageError(f"two curves are called {twice[0]!r}: name each codec once, and give models other labels")
    anchors = results.choose_anchors(anchors, entrants, others)
    if out is not None:
        results.prepare(out)

    cache = Cache(options.cache, options.fresh)
    loaded = [measuring.picture(name, image) for name, image in pictures()]
    shown = spread(len(loaded), options.shown)
    timed = [loaded[index] for index in spread(len(loaded), options.timed)]
    total = sum(len(entrant.points) for entrant in entrants) * len(loaded) + len(entrants) * (len(shown) + bool(timed))
    with runtime.Bar("benchmark", total, options.quiet) as bar:
        work = {"metrics": options.metrics, "jobs": options.jobs, "done": bar.done}
        measured = measuring.measure(entrants, loaded, cache, **work)
        curves = [with_details(curve, loaded) for curve in measured.curves] if options.detailed else measured.curves
        versions = measuring.at_equal_rate(curves, loaded, shown, options.bpp, cache, **work)
        chosen = [(curve.entrant, _nearest_point(curve, options.bpp)) for curve in curves]
        times = timing.measure(chosen, timed, bar.done) if timed else {}
    by_index = dict(zip(shown, versions, strict=True))
    made = Results(curves, others, anchors, options.metrics, options.bpp, times, by_index, options.rule)
    return Outcome(made, loaded, measured.new, measured.kept)


def spread(count: int, wanted: int | None) -> list[int]:
    """Indexes of at most `wanted` of `count` pictures, evenly apart; all for None."""
    wanted = count if wanted is None else min(wanted, count)
    return [index * count // wanted for index in range(wanted)]


def _nearest_point(curve: Curve, bpp: float) -> Point:
    """The point whose mean rate is nearest to `bpp`."""
    distance = [abs(np.mean([row["bpp"] for row in rows]) - bpp) for rows in curve.rows]
    return curve.entrant.points[int(np.argmin(distance))]
