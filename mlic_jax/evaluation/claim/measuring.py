"""What the arms of a claim make of held-out photos: files written, read and decoded by the benchmark's machinery."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlic_jax import atomic
from mlic_jax.data import images
from mlic_jax.errors import MlicError, ModelError, UsageError
from mlic_jax.evaluation.benchmark import entrants, measuring
from mlic_jax.evaluation.benchmark.cache import Cache
from mlic_jax.evaluation.benchmark.comparing import Key
from mlic_jax.evaluation.benchmark.entrants import Entrant, Point
from mlic_jax.evaluation.benchmark.measuring import Curve, Picture
from mlic_jax.evaluation.claim import runs
from mlic_jax.evaluation.claim.runs import Run
from mlic_jax.evaluation.claim.spec import Arm, Claim, slug
from mlic_jax.evaluation.claim.worker import MACHINE
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.metrics import registry

# How what `measure_all` says of runs that are not trained begins.
UNTRAINED = "not trained"


def pictures(loaded: Sequence[tuple[str, np.ndarray]], grey: bool) -> list[Picture]:
    """Pictures as they are measured: RGB uint8 [H, W, 3], or their luma three times."""
    if grey:
        loaded = [(name, np.repeat(registry.luma(image), 3, axis=2)) for name, image in loaded]
    return [measuring.picture(name, image) for name, image in loaded]


def refuse_overlap(all_runs: Sequence[Run], held_out: Sequence[tuple[str, np.ndarray]]) -> None:
    """Raises UsageError where a picture is among those that a run trains on, pixel for pixel, whatever its file."""
    from mlic_jax.data import make_source

    wanted = {measuring.picture(name, image).digest: name for name, image in held_out}
    shapes = {tuple(sorted(image.shape[:2])) for _, image in held_out}
    for spec, split, folder in dict.fromkeys(
        tuple(run.config["data"][key] for key in ("source", "split", "dir")) for run in all_runs
    ):
        source = make_source(spec, split, folder or None, cache_mib=0)
        for index in range(len(source)):
            if _shape(source.name(index)) not in (None, *shapes):
                continue
            name = wanted.get(measuring.picture("", source[index]).digest)
            if name is not None:
                raise UsageError(
                    f"picture {name!r} is to be measured, and is in the training photos {spec!r}: take other --images"
                )


def _shape(name: str) -> tuple[int, int] | None:
    """The sorted sides of an image file, from its header; None where the name is no file's."""
    try:
        with open(name, "rb") as file:
            return tuple(sorted(images.open_image(file, name).size))
    except Exception:  # of a TFDS set; or a damaged file, of which the reader says more
        return None


# ---------------------------------------------------------------------- models


def artifact_of(run: Run, changes: Mapping[str, Any]) -> Artifact:
    """The model of a finished run, its last step's; exported once, into its folder.

    Args:
      run: of the claim.
      changes: of its config, made after the training: of arguments that do not decide what weights there are.

    Raises MlicError.
    """
    from mlic_jax.training.checkpoint import differences
    from mlic_jax.training.runs import export_run

    words = "".join(f"-{slug(f'{key}={value}')}" for key, value in sorted(changes.items()))
    path = run.folder / f"model-{run.steps}{words}.mlicm"
    with contextlib.suppress(ModelError):  # missing, or damaged
        kept = Artifact.load(path)
        if not differences(kept.card.get("trained_with", {}), run.config):
            return kept
    export_run(run.folder, run.steps, changes=changes).save(path)
    return Artifact.load(path)


def entrant_of(arm: Arm, label: str, trained: Sequence[Run]) -> Entrant:
    """A curve: every run's point, or, of models of several rates, every run's points.

    Args:
      arm: whose runs they are.
      label: of the curve.
      trained: finished runs of one seed.

    Raises:
      UsageError: qualities for a model of one rate.
      MlicError: a run that cannot be exported.
    """
    points: list[Point] = []
    members = []
    for run in trained:
        artifact = artifact_of(run, arm.changes if arm.of else {})
        spec = entrants.Spec(label, str(run.folder), arm.effort)
        (member,) = entrants.models([spec], lambda path, artifact=artifact: artifact)
        if arm.qualities is not None and member.at is None:
            raise UsageError(f"arm {arm.name!r} has qualities, and its model {artifact.model!r} has one rate")
        for point in member.points if arm.qualities is None else map(member.at, arm.qualities):
            names = [run.point_name] if member.at is None or len(trained) > 1 else []
            points.append(point._replace(name=", ".join(names + ([point.name] if member.at else []))))
        members.append(member)
    about = ", ".join([members[0].about, *(f"fingerprint {one.points[0].key['fingerprint']}" for one in members[1:])])
    return Entrant(label, "ours", about, tuple(points), members[0].at if len(members) == 1 else None, members[0].step)


# ---------------------------------------------------------------------- all of it


def curve_label(claim: Claim, name: str, seed: int | None) -> str:
    """What a curve is called where each seed has its own."""
    return name if seed is None or len(claim.seeds) == 1 else f"{name}, seed {seed}"


def measure_all(
    claim: Claim,
    all_runs: Sequence[Run],
    pictures: Sequence[Picture],
    cache: Cache,
    jobs: int = 1,
    done: Callable[[str], None] = lambda name: None,
) -> tuple[dict[Key, Curve], dict[str, str]]:
    """Measures every shown arm's every seed, as far as it is trained, and every codec.

    Args:
      claim, all_runs: what there is.
      pictures: on which.
      cache: of results.
      jobs: files at a time; 0 for one per core.
      done: called after each curve.

    Returns:
      (name, seed) -> curve, the seed of codecs being None; and label of a curve -> why it was not measured, or what is
      missing in it.
    """
    curves, failures = {}, {}

    def add(name: str, seed: int | None, make: Callable[[str], Entrant]) -> None:
        label = curve_label(claim, name, seed)
        try:
            (curve,) = measuring.measure([make(label)], pictures, cache, claim.metrics, jobs).curves
        except MlicError as reason:
            failures[label] = " ".join(str(reason).split())
            return
        finally:
            done(label)
        if seed not in (None, claim.seeds[0]):  # the report shows the first seed alone
            entrant = curve.entrant
            curve = Curve(entrant._replace(points=tuple(map(_bare, entrant.points)), at=None), curve.rows)
        curves[name, seed] = curve

    for seed in claim.seeds:
        for arm in claim.arms:
            if not arm.shown:
                continue
            mine = [run for run in all_runs if run.arm.name == (arm.of or arm.name) and run.seed == seed]
            trained = [run for run in mine if runs.finished(run)]
            if trained:
                add(arm.name, seed, lambda label, arm=arm, trained=trained: entrant_of(arm, label, trained))
            if missing := [run.point_name for run in mine if run not in trained]:
                label = curve_label(claim, arm.name, seed)
                lacks = f"{UNTRAINED}: {', '.join(missing)}" if len(mine) > 1 else UNTRAINED
                failures[label] = "; ".join(filter(None, (failures.get(label), lacks)))
    for name in claim.codecs:
        add(name, None, entrants.standard)
    return curves, failures


def _bare(point: Point) -> Point:
    """The same without the model, which takes memory."""
    return point._replace(encode=None, decode=None, artifact=None, estimate=None)


def machines(all_runs: Sequence[Run]) -> list[Mapping[str, Any]]:
    """On what the finished runs were trained, each machine once."""
    paths = [pathlib.Path(run.folder, MACHINE) for run in all_runs if runs.finished(run)]
    known = {path.read_bytes(): json.loads(atomic.read_bytes(path)) for path in paths if path.exists()}
    return list(known.values())
