"""A whole claim, from a paper's name to a document."""

from __future__ import annotations

import datetime
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlic_jax import atomic, extras, runtime
from mlic_jax.errors import InputError, TrainingError
from mlic_jax.evaluation.benchmark import main as benchmark
from mlic_jax.evaluation.benchmark import results as benchmark_results
from mlic_jax.evaluation.benchmark.cache import Cache
from mlic_jax.evaluation.benchmark.comparing import Key, names
from mlic_jax.evaluation.benchmark.measuring import Curve, at_equal_rate
from mlic_jax.evaluation.claim import document, measuring, results, runs, spec, training
from mlic_jax.evaluation.claim.runs import Run
from mlic_jax.evaluation.claim.spec import Claim
from mlic_jax.evaluation.claim.worker import machine
from mlic_jax.evaluation.report import tables

WORKDIR = "runs/claims"
# Bits per pixel of the report's pictures, where a claim asks for no rates.
SHOWN_AT = 0.3


class Options(NamedTuple):
    """What the command line says beside the paper.

    Attributes:
      workdir: of the claim; None for runs/claims/<paper>.
      source: folder of training photos; None for what the configs say.
      images: what the measured photos are called; None for the bundled ones.
      steps, seeds, arms: instead of the claim's, see `spec.restrict`.
      out: folder of the document; None for the workdir.
      only_report: no training.
      jobs: files at a time when measuring; 0 for one per core.
      shown: how many pictures the HTML report shows at equal rate; 0 for no report.
      quiet: print nothing but errors.
      command: what was typed, for the document.
    """

    workdir: str | None = None
    source: str | None = None
    images: str | None = None
    steps: int | None = None
    seeds: Sequence[int] = ()
    arms: Sequence[str] = ()
    out: str | None = None
    only_report: bool = False
    jobs: int = 1
    shown: int = 0
    quiet: bool = False
    command: str = ""


class Outcome(NamedTuple):
    """What `run` leaves behind.

    Attributes:
      results: all numbers, as WORKDIR/results.json has them.
      written: name -> path of each file.
      failures: name of a run or curve -> what went wrong. Without training, runs that are missing are no failures.
    """

    results: dict[str, Any]
    written: dict[str, str]
    failures: dict[str, str]


class _Prepared(NamedTuple):
    """A claim that is checked: its file, what of it is asked for, its workdir and runs, and the held-out photos."""

    path: pathlib.Path
    claim: Claim
    workdir: pathlib.Path
    all_runs: Sequence[Run]
    loaded: Sequence[tuple[str, np.ndarray]]

    def as_long_as_claimed(self) -> bool:
        """Whether trainings have the steps that the claim's words are about."""
        claimed = runs.all_of(self.claim, self.workdir)
        return [run.steps for run in claimed] == [run.steps for run in self.all_runs]


def dry_run(paper: str, load_pictures: Callable[[], Sequence[tuple[str, np.ndarray]]], options: Options) -> str:
    """What `run` would train, and how many minutes that takes. Writes nothing. Arguments and errors as for `run`."""
    ready = _prepare(paper, load_pictures, options)
    return _plan(ready.claim, ready.all_runs)


def run(
    paper: str,
    load_pictures: Callable[[], Sequence[tuple[str, np.ndarray]]],
    options: Options,
    train: training.Train = training.in_a_process,
) -> Outcome:
    """Trains what is not trained, measures what is not measured, and writes the document.

    What can be wrong with names, configs, folders and pictures is found before any training.

    Args:
      paper: name of a claim, or path of its file.
      load_pictures: called once; names and pixels uint8 [H, W, 3] of held-out photos.
      options: see Options.
      train: how a run is trained.

    Raises:
      UsageError: an unknown paper, arm, codec, metric or key; a library that is missing; a photo that is trained on and
        measured.
      TrainingError: a run's folder that belongs to another config.
      InputError: photos that cannot be read, files that cannot be written, or nothing to report.
      training.Stopped: SIGTERM or Ctrl-C while training.
    """
    ready = _prepare(paper, load_pictures, options)
    path, claim, workdir, all_runs, loaded = ready
    out = options.out or workdir
    atomic.make_folder(workdir)
    atomic.make_folder(out)

    failures = {} if options.only_report else _train(claim, all_runs, train, options)
    used = {arm.of or arm.name for arm in claim.arms if arm.shown}
    if not any(runs.finished(run) and run.arm.name in used for run in all_runs):
        raise _nothing(workdir, failures)

    cache = Cache(workdir / "cache")
    pictures = measuring.pictures(loaded, claim.grey)
    count = len(claim.seeds) * sum(arm.shown for arm in claim.arms) + len(claim.codecs)
    with runtime.Bar("measure", count, options.quiet) as bar:
        curves, lacking = measuring.measure_all(claim, all_runs, pictures, cache, options.jobs, bar.done)
    about = _about(path.stem, claim, all_runs, curves, len(pictures), options)
    about["as_long_as_claimed"] = ready.as_long_as_claimed()
    numbers = tables.finite({**about, "missing": failures | lacking, **results.compute(claim, curves)})
    if not options.only_report:
        failures |= {name: reason for name, reason in lacking.items() if not reason.startswith(measuring.UNTRAINED)}
    written = {name: str(workdir / name) for name in ("results.json", "images.csv")}
    atomic.write_bytes(written["results.json"], (json.dumps(numbers, indent=1, allow_nan=False) + "\n").encode())
    tables.write_csv(written["images.csv"], results.images(curves))
    written |= document.write(out, path.stem, claim, numbers, workdir)
    if options.shown:
        written["report.html"] = _report(claim, curves, pictures, cache, workdir / "report", options)
    return Outcome(numbers, written, failures)


def _prepare(paper: str, load_pictures, options: Options) -> _Prepared:
    extras.require("a claim's plots need", "matplotlib")
    if not options.only_report:
        extras.require("training needs", *extras.TRAINING)
    path = spec.find(paper)
    claim = spec.restrict(spec.load(path), options.arms, options.seeds, options.steps)
    workdir = pathlib.Path(options.workdir or pathlib.Path(WORKDIR, path.stem))
    all_runs = runs.all_of(claim, workdir, options.source, options.steps)
    for run in all_runs:
        runs.check(run)
    loaded = load_pictures()
    measuring.refuse_overlap(all_runs, loaded)
    return _Prepared(path, claim, workdir, all_runs, loaded)


def check(outcome: Outcome) -> None:
    """Raises TrainingError where something failed, after everything else is done and written."""
    if outcome.failures:
        (name, reason), more = next(iter(outcome.failures.items())), len(outcome.failures) - 1
        raise TrainingError(f"{name}: {reason}" + (f" (and {more} more, which the document names)" if more else ""))


def _train(claim: Claim, all_runs: Sequence[Run], train: training.Train, options: Options) -> dict[str, str]:
    """Trains what is left, and says so. Name of a run -> why it is not trained."""

    def say(line: str) -> None:
        if not options.quiet:
            print(line, file=sys.stderr, flush=True)

    say(_plan(claim, all_runs))
    return training.train_all(all_runs, train, options.quiet, say)


def _plan(claim: Claim, all_runs: Sequence[Run]) -> str:
    """What there is to train and how long that takes, in lines."""
    trainings = f"{len(all_runs)} training{'s' if len(all_runs) != 1 else ''}"
    lines, total, unknown = [f"{claim.title}: {trainings}, {sum(map(runs.finished, all_runs))} of them done"], 0.0, 0
    for run in all_runs:
        steps, minutes = runs.done(run), runs.minutes_left(run, all_runs)
        state = "done" if runs.finished(run) else f"at step {steps} of {run.steps}" if steps else f"{run.steps} steps"
        lines.append(f"  {run.name}: {state}" + (f", {minutes:.1f} min" if minutes else ""))
        total, unknown = total + (minutes or 0), unknown + (minutes is None)
    if total or unknown:
        others = f", and nobody knows for {unknown} of them" if unknown else ""
        lines.append(
            f"  in all some {total:.0f} minutes{others}, without starting, compiling and measuring; speeds are"
        )
        lines.append("  those of trainings that are done here, or else of two CPU cores (docs/claims)")
    return "\n".join(lines)


def _nothing(workdir, failures):
    if failures:
        (name, reason), more = next(iter(failures.items())), len(failures) - 1
        return TrainingError(f"{name}: {reason}" + (f" (and {more} more); nothing is trained" if more else ""))
    return InputError(f"there is no finished training in {str(workdir)!r} to report on")


def _training_photos(all_runs: Sequence[Run]) -> str:
    """The sources, by the last part of a path: a document goes to other machines."""
    from mlic_jax.data import make_source

    words = {}
    for run in all_runs:
        data = run.config["data"]
        count = len(make_source(data["source"], data["split"], data["dir"] or None, cache_mib=0))
        name = data["source"] if ":" in data["source"] else pathlib.Path(data["source"]).name
        words[f"{name} ({_photos(count)})"] = None
    return ", ".join(words)


def _photos(count: int) -> str:
    return f"{count} photo{'s' if count != 1 else ''}"


def _about(
    paper: str, claim: Claim, all_runs: Sequence[Run], curves: Mapping[Key, Curve], count: int, options: Options
) -> dict[str, Any]:
    """What results.json says beside figures. count: of pictures measured."""
    return {
        "command": options.command or f"mlic claim {paper}",
        "paper": paper,
        "metrics": list(claim.metrics),
        "anchors": [name for name in claim.anchors if name in names(curves)],
        "seeds": list(claim.seeds),
        "interpolator_over_rate": results.INTERPOLATOR_OVER_RATE,
        "training_photos": _training_photos(all_runs),
        "photos": f"{options.images or 'bundled, held out from training'} ({_photos(count)})",
        "machines": measuring.machines(all_runs),
        "measured_on": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "runs": [_about_run(run) for run in all_runs],
    }


def _about_run(run: Run) -> dict[str, Any]:
    minutes, speed = runs.speed(run)
    return {
        "arm": run.arm.name,
        "point": run.point_name,
        "seed": run.seed,
        "steps": run.steps,
        "done": runs.done(run),
        "minutes": minutes,
        "steps_per_second": speed,
    }


def _report(claim: Claim, curves: Mapping[Key, Curve], pictures, cache, folder, options: Options) -> str:
    """The benchmark's report of the first seed's curves and the codecs, with a slider over pictures at equal rate."""
    chosen = {key: curve for key, curve in curves.items() if key[1] in (None, claim.seeds[0])}
    anchors = [chosen[key].entrant.label for name in claim.anchors for key in chosen if key[0] == name]
    bpp = claim.rates[len(claim.rates) // 2] if claim.rates else SHOWN_AT
    indexes = benchmark.spread(len(pictures), options.shown)
    shown = list(chosen.values())
    with runtime.Bar("pictures at equal rate", len(indexes) * len(shown), options.quiet) as bar:
        work = {"metrics": claim.metrics, "jobs": options.jobs, "done": bar.done}
        versions = at_equal_rate(shown, pictures, indexes, bpp, cache, **work)
    by_index = dict(zip(indexes, versions, strict=True))
    benchmark_results.prepare(folder)
    made = benchmark_results.Results(shown, {}, anchors, claim.metrics, bpp, versions=by_index)
    return benchmark_results.write(folder, made, pictures)["report.html"]
