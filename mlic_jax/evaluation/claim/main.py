"""A whole claim, from a paper's name to a document."""

from __future__ import annotations

import datetime
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlic_jax import atomic, runtime
from mlic_jax.errors import InputError, TrainingError, UsageError
from mlic_jax.evaluation.claim import document, measuring, results, runs, spec, training
from mlic_jax.evaluation.claim.measuring import Curve
from mlic_jax.evaluation.claim.runs import Run
from mlic_jax.evaluation.claim.spec import Claim
from mlic_jax.evaluation.claim.worker import machine
from mlic_jax.evaluation.report import tables

WORKDIR, OUT = "runs/claims", "docs/claims"
# Bits per pixel of the report's pictures, where a claim asks for no rates.
SHOWN_AT = 0.3


class Options(NamedTuple):
    """What the command line says beside the paper.

    Attributes:
      workdir: of the claim; None for runs/claims/<paper>.
      source: folder of training photos; None for what the configs say.
      images: what the measured photos are called; None for the bundled ones.
      steps, seeds, arms: instead of the claim's, see `spec.restrict`.
      out: folder of the document.
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
    out: str = OUT
    only_report: bool = False
    jobs: int = 1
    shown: int = 0
    quiet: bool = False
    command: str = ""


class Outcome(NamedTuple):
    """What `run` leaves behind.

    Attributes:
      found: all numbers, as WORKDIR/results.json has them.
      written: name -> path of each file.
      failures: name of a run or curve -> what went wrong. Without training, runs that are missing are no failures.
    """

    found: dict[str, Any]
    written: dict[str, str]
    failures: dict[str, str]


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
      UsageError: an unknown paper, arm, codec, metric or key; a photo that is trained on and measured.
      TrainingError: a run's folder that belongs to another config.
      InputError: photos that cannot be read, files that cannot be written, or nothing to report.
      training.Stopped: SIGTERM or Ctrl-C while training.
    """
    path = spec.find(paper)
    claim = spec.restrict(spec.load(path), options.arms, options.seeds, options.steps)
    workdir = pathlib.Path(options.workdir or pathlib.Path(WORKDIR, path.stem))
    all_runs = runs.all_of(claim, workdir, options.source, options.steps)
    for one in all_runs:
        runs.check(one)
    loaded = load_pictures()
    measuring.refuse_overlap(all_runs, loaded)
    _writable(workdir, options.out)

    def say(line: str) -> None:
        if not options.quiet:
            print(line, file=sys.stderr, flush=True)

    failures: dict[str, str] = {}
    if not options.only_report:
        say(_plan(claim, all_runs))
        failures |= training.train_all(all_runs, train, options.quiet, say)
    used = {arm.of or arm.name for arm in claim.arms if arm.shown}
    if not any(runs.finished(one) and one.arm.name in used for one in all_runs):
        raise _nothing(workdir, failures)

    cache = measuring.Cache(workdir / "cache")
    seen = measuring.pictures(loaded, claim.grey)
    with runtime.Bar("measure", measuring.count(claim, all_runs, len(seen)), options.quiet) as bar:
        curves, lacking = measuring.measure_all(claim, all_runs, seen, cache, options.jobs, bar.done)
    missing = failures | lacking
    if not options.only_report:
        failures |= {name: reason for name, reason in lacking.items() if not reason.startswith(measuring.UNTRAINED)}
    found = tables.finite(
        {
            "command": options.command or f"mlic claim {path.stem}",
            "paper": path.stem,
            "metrics": list(claim.metrics),
            "anchors": [name for name in claim.anchors if name in {curve.name for curve in curves}],
            "seeds": list(claim.seeds),
            "interpolator_over_rate": results.INTERPOLATOR_OVER_RATE,
            "training_photos": _training_photos(all_runs),
            "photos": f"{options.images or 'bundled, held out from training'} ({_photos(len(seen))})",
            "machines": measuring.machines(all_runs),
            "measured_on": machine(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "missing": missing,
            "runs": [_about(one) for one in all_runs],
            **results.compute(claim, curves),
        }
    )
    written = {name: str(workdir / name) for name in ("results.json", "images.csv")}
    atomic.write_bytes(written["results.json"], (json.dumps(found, indent=1, allow_nan=False) + "\n").encode())
    tables.write_csv(written["images.csv"], results.images(curves))
    written |= document.write(options.out, path.stem, claim, found, workdir)
    if options.shown:
        written["report.html"] = _report(claim, curves, seen, cache, workdir / "report", options)
    return Outcome(found, written, failures)


def check(outcome: Outcome) -> None:
    """Raises TrainingError where something failed, after everything else is done and written."""
    if outcome.failures:
        (name, reason), more = next(iter(outcome.failures.items())), len(outcome.failures) - 1
        raise TrainingError(f"{name}: {reason}" + (f" (and {more} more, which the document names)" if more else ""))


def _writable(*folders) -> None:
    for folder in folders:
        try:
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as reason:
            raise InputError(f"cannot make the folder {str(folder)!r}: {reason.strerror}") from reason


def _plan(claim: Claim, all_runs: Sequence[Run]) -> str:
    """What there is to train, in lines."""
    lines = [f"{claim.title}: {len(all_runs)} trainings, {sum(map(runs.finished, all_runs))} of them done"]
    for one in all_runs:
        steps = runs.done(one)
        state = "done" if runs.finished(one) else f"at step {steps} of {one.steps}" if steps else f"{one.steps} steps"
        lines.append(f"  {one.name}: {state}")
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
    for one in all_runs:
        data = one.config["data"]
        count = len(make_source(data["source"], data["split"], data["dir"] or None, cache_mib=0))
        name = data["source"] if ":" in data["source"] else pathlib.Path(data["source"]).name
        words[f"{name} ({_photos(count)})"] = None
    return ", ".join(words)


def _photos(count: int) -> str:
    return f"{count} photo{'s' if count != 1 else ''}"


def _about(one: Run) -> dict[str, Any]:
    minutes, speed = runs.speed(one)
    return {
        "arm": one.arm.name,
        "point": one.point_name,
        "seed": one.seed,
        "steps": one.steps,
        "done": runs.done(one),
        "minutes": minutes,
        "steps_per_second": speed,
    }


def _report(claim: Claim, curves: Sequence[Curve], seen, cache, folder, options: Options) -> str:
    """The benchmark's report of the first seed's curves and the codecs, with a slider over pictures at equal rate."""
    from mlic_jax.evaluation.benchmark import results as benchmark
    from mlic_jax.evaluation.benchmark import run as measured

    chosen = [curve for curve in curves if curve.seed in (None, claim.seeds[0])]
    entrants = [curve.entrant for curve in chosen]
    rows = {curve.entrant.label: curve.rows for curve in chosen}
    anchors = [curve.entrant.label for name in claim.anchors for curve in chosen if curve.name == name]
    bpp = claim.rates[len(claim.rates) // 2] if claim.rates else SHOWN_AT
    count = min(options.shown, len(seen))
    indexes = [index * len(seen) // count for index in range(count)]
    with runtime.Bar("pictures at equal rate", count * len(entrants), options.quiet) as bar:
        versions = measured.at_equal_rate(
            entrants, rows, seen, indexes, bpp, cache, options.jobs, bar.done, claim.metrics
        )
    benchmark.prepare(folder)
    found = benchmark.Found(entrants, rows, {}, anchors, {}, bpp, claim.metrics)
    return benchmark.write(folder, found, seen, dict(zip(indexes, versions, strict=True)))["report.html"]


# ---------------------------------------------------------------------- the command


def command(arguments, load_pictures) -> int:
    """`mlic claim`: see cli. Returns the exit status, and raises as `run` and `check`."""
    options = Options(
        workdir=arguments.workdir,
        source=arguments.source,
        images=pathlib.Path(arguments.images).resolve().name if arguments.images else None,
        steps=arguments.steps,
        seeds=_seeds(arguments.seeds),
        arms=[name for name in (arguments.arms or "").split(",") if name],
        out=arguments.out,
        only_report=arguments.only_report,
        jobs=arguments.jobs,
        shown=arguments.show,
        quiet=arguments.quiet,
        command=_typed(arguments),
    )
    try:
        outcome = run(arguments.paper, load_pictures, options)
    except training.Stopped as stopped:
        if stopped.by_hand:
            raise KeyboardInterrupt from None
        return 0
    if not options.quiet:
        print("\n".join(f"wrote {path}" for path in outcome.written.values()))
    check(outcome)
    return 0


def _seeds(words: str | None) -> list[int]:
    try:
        return [int(word) for word in (words or "").split(",") if word]
    except ValueError:
        raise UsageError(f"seeds {words!r}: whole numbers with commas between are needed, as 0,1,2") from None


def _typed(arguments) -> str:
    """The command for the document, with the last parts of paths: it goes to other machines."""
    words = [f"mlic claim {pathlib.Path(arguments.paper).stem}"]
    for name in ("source", "images", "steps", "seeds", "arms", "limit"):
        if value := getattr(arguments, name):
            value = pathlib.Path(value).name if name in ("source", "images") else value
            words.append(f"--{name} {value!r}" if " " in str(value) else f"--{name} {value}")
    return " ".join(words)
