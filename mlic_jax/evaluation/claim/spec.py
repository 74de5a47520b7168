"""What a claim file says. Nothing of any paper is in the program: it is all in `configs/claims/<paper>.py`."""

from __future__ import annotations

import pathlib
import re
import runpy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlic_jax.errors import UsageError
from mlic_jax.training import config_files


class Arm(NamedTuple):
    """One of the things that a claim compares: a config, trained once for each seed and point.

    Attributes:
      name: in tables.
      config: as `mlic train --config` takes it, by name or path: "jiang2017:tiny".
      changes: dotted keys of the config -> values, {"model.arguments.lmbda": 0.01}.
      after: name of an earlier arm, whose weights of the same seed and point this one begins with.
      points: further changes for each training; all the trainings of a seed are one curve, of models of one rate.
      qualities: the points of the curve of a model of several rates; None for the codec's ladder.
      shown: False for an arm that only prepares weights: it is trained and not measured.
      of: name of an earlier arm whose models this one measures again, in place of a config: nothing is trained.
        `changes` are then made to the models after the training, as far as their weights fit what results.
      effort: of the encoder, 0 to 9.
      steps_per_second: of its trainings on two CPU cores, as the document in docs/claims has it; None where nobody has
        measured it. What `--dry-run` reckons with.
    """

    name: str
    config: str = ""
    changes: Mapping[str, Any] = {}
    after: str = ""
    points: Sequence[Mapping[str, Any]] = ({},)
    qualities: Sequence[float] | None = None
    shown: bool = True
    of: str = ""
    effort: int = 0
    steps_per_second: float | None = None


class Claim(NamedTuple):
    """What a paper says, and what is done to see whether it holds.

    Attributes:
      title: the headline.
      source: the paper: authors, title, venue, identifiers. Markdown.
      text: what the paper says, and what the arms compare. Markdown.
      arms: in the order in which they are trained.
      seeds: of the trainings. More than one gives spreads.
      steps: optimiser steps of every training, the one budget; None for what the configs say. Where they differ from a
        config's, its phases and learning rates' schedules are stretched with them.
      codecs: names of standard codecs that are measured beside the arms.
      anchors: names of codecs or arms that the shown arms are compared with; gains are those over the first.
      metrics: by name, see mlic_jax.metrics.registry.
      grey: pictures are measured as their luma, JFIF's, three times.
      rates: bits per pixel at which a table has the metrics of every curve; empty for the curves themselves.
      published: rows of a table of the paper's figures; strings stay as they are.
      notes: why the distance to the paper is what it is. Markdown.
    """

    title: str
    source: str
    text: str
    arms: Sequence[Arm]
    seeds: Sequence[int] = (0,)
    steps: int | None = None
    codecs: Sequence[str] = ()
    anchors: Sequence[str] = ()
    metrics: Sequence[str] = ("psnr", "ms-ssim")
    grey: bool = False
    rates: Sequence[float] = ()
    published: Sequence[Mapping[str, Any]] = ()
    notes: str = ""


def find(paper: str) -> pathlib.Path:
    """The claim file of a paper: "jiang2017" -> configs/claims/jiang2017.py, below the current directory or in the
    package; the path of a file is taken as it stands.

    Raises UsageError naming what there is.
    """
    path = config_files.find(paper, config_files.CLAIMS)
    if path is None:
        raise config_files.unknown(paper, config_files.CLAIMS)
    return path


def load(path: pathlib.Path) -> Claim:
    """The claim of a file, checked. Raises UsageError naming the file and what is wrong."""
    try:
        claim = runpy.run_path(str(path))["get_claim"]()
    except Exception as reason:  # a claim is a program of the user's, which may raise anything
        if isinstance(reason, KeyError) and reason.args == ("get_claim",):
            raise UsageError(f"claim {str(path)!r} has no function get_claim") from reason
        text = " ".join(str(reason).split())
        raise UsageError(f"claim {str(path)!r} cannot be read: {type(reason).__name__}: {text}") from reason
    if not isinstance(claim, Claim):
        raise UsageError(f"claim {str(path)!r}: get_claim returned a {type(claim).__name__}, not a Claim")
    try:
        check(claim)
    except UsageError as reason:
        raise UsageError(f"claim {str(path)!r}: {reason}") from reason
    return claim


def check(claim: Claim) -> None:
    """Raises UsageError for a claim that makes no sense: everything that names can be checked for before training."""
    from mlic_jax import classical
    from mlic_jax.metrics import registry

    taken = {slug(codec): codec for codec in claim.codecs}
    for index, arm in enumerate(claim.arms):
        if not isinstance(arm, Arm):
            raise UsageError(f"arms has a {type(arm).__name__}, not an Arm")
        folder = slug(arm.name)
        if not folder or folder in taken:
            raise UsageError(f"arm {arm.name!r} needs another name: of letters or digits, and of nothing else here")
        taken[folder] = arm.name
        if not arm.points:
            raise UsageError(f"arm {arm.name!r} has no points: the default, ({{}},), is one training")
        if bool(arm.config) == bool(arm.of):
            raise UsageError(f"arm {arm.name!r} needs a config, or is `of` another arm, and not both")
        if arm.of and arm.of not in [before.name for before in claim.arms[:index] if not before.of]:
            raise UsageError(f"arm {arm.name!r} is of {arm.of!r}, which is no earlier arm that is trained")
        if arm.effort not in range(10):
            raise UsageError(f"arm {arm.name!r} has effort {arm.effort!r}: a whole number from 0 to 9 is possible")
        if arm.after:
            earlier = {before.name: before for before in claim.arms[:index]}
            if arm.after not in earlier:
                known = ", ".join(earlier) or "there is none"
                raise UsageError(f"arm {arm.name!r} is after {arm.after!r}, which is no earlier arm: {known}")
            if len(earlier[arm.after].points) not in (1, len(arm.points)):
                raise UsageError(
                    f"arm {arm.name!r} has {len(arm.points)} points, and {arm.after!r}, whose weights it begins with, "
                    f"{len(earlier[arm.after].points)}: as many are needed, or one"
                )
        for key in ("seed", "init_from", *(("train.steps",) if claim.steps is not None else ())):
            if any(key in changes for changes in (arm.changes, *arm.points)):
                raise UsageError(f"arm {arm.name!r} changes {key!r}, which the claim decides for all")
    shown = [arm.name for arm in claim.arms if arm.shown]
    if not shown:
        raise UsageError("no arm is shown: there is nothing to measure")
    if not claim.seeds or len(set(claim.seeds)) < len(claim.seeds):
        raise UsageError(f"seeds are {tuple(claim.seeds)}: one or more, all different, are needed")
    if claim.steps is not None and claim.steps < 1:
        raise UsageError(f"steps is {claim.steps}: 1 or more are needed")
    if not claim.metrics:
        raise UsageError("metrics is empty: name one or more")
    for name in claim.codecs:
        classical.get(name)
    for name in claim.metrics:
        registry.get(name)
    for name in claim.anchors:
        if name not in (*claim.codecs, *shown):
            raise UsageError(f"anchor {name!r} is none of what is measured: {', '.join((*claim.codecs, *shown))}")
    if any(rate <= 0 for rate in claim.rates):
        raise UsageError(f"rates are {tuple(claim.rates)}: bits per pixel above 0 are needed")


def restrict(claim: Claim, arms: Sequence[str] = (), seeds: Sequence[int] = (), steps: int | None = None) -> Claim:
    """The part of a claim that is asked for on the command line.

    Args:
      claim: the whole.
      arms: names of arms to train and measure; those whose weights they begin with are trained too, and not measured.
        Anchors that are other arms are left out. Empty for all.
      seeds: instead of the claim's; empty for these.
      steps: instead of the claim's; None for these.

    Raises UsageError for an unknown arm, and as `check`.
    """
    by_name = {arm.name: arm for arm in claim.arms}
    for name in arms:
        if name not in by_name:
            raise UsageError(f"arm {name!r} is not known: {', '.join(by_name)} are")
    if arms:
        needed = set(arms)
        for arm in reversed(claim.arms):
            if arm.name in needed:
                needed |= {arm.after, arm.of} - {""}
        kept = [arm._replace(shown=arm.shown and arm.name in arms) for arm in claim.arms if arm.name in needed]
        shown = [arm.name for arm in kept if arm.shown]
        anchors = [name for name in claim.anchors if name in (*claim.codecs, *shown)]
        claim = claim._replace(arms=tuple(kept), anchors=tuple(anchors))
    claim = claim._replace(seeds=tuple(seeds) or tuple(claim.seeds))
    check(claim)
    if steps is not None and steps < 1:
        raise UsageError(f"steps is {steps}: 1 or more are needed")
    return claim


def slug(text: str) -> str:
    """A name as part of a path: letters, digits, and . = _ - between them."""
    return re.sub(r"[^A-Za-z0-9.=_-]+", "-", text).strip("-.")
