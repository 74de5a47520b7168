"""The quality that a target asks for: the best file of a size, or the smallest one of a PSNR, by bisection."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mlic_jax import runtime
from mlic_jax.errors import UsageError


class Attempt(NamedTuple):
    """A file that was made, with its bits per pixel, and the PSNR of its picture where it was measured."""

    data: bytes
    bpp: float
    psnr_db: float | None


class Target(NamedTuple):
    """What a file is to have: a `size` of so many bytes at most, as many `bpp`, or as many `psnr_db` at least."""

    name: str
    value: float

    def __str__(self):
        unit = {"size": "bytes", "bpp": "bits per pixel", "psnr_db": "dB"}[self.name]
        return f"{self.value:g} {unit}"

    def met_by(self, attempt: Attempt) -> bool:
        """Whether a file meets it."""
        if self.name == "psnr_db":
            return attempt.psnr_db >= self.value
        return (len(attempt.data) if self.name == "size" else attempt.bpp) <= self.value

    def reached_by(self, attempt: Attempt) -> str:
        """What a file has of it, in words."""
        if self.name == "psnr_db":
            return f"{attempt.psnr_db:.2f} dB"
        return f"{len(attempt.data)} bytes ({attempt.bpp:.4f} bpp)"


def only_target(**values: float | None) -> Target:
    """The one target that is given by name. Raises UsageError for none, several, or a value that is not positive."""
    given = {name: value for name, value in values.items() if value is not None}
    as_numbers = {name: runtime.number(value) for name, value in given.items()}
    if len(given) != 1 or not all(v is not None and 0 < v < 1e12 for v in as_numbers.values()):
        *first, last = values
        raise UsageError(f"one target is needed, a positive {', '.join(first)} or {last}: got {given or 'none'}")
    ((name, value),) = as_numbers.items()
    return Target(name, value)


def best_file(
    target: Target, attempt: Callable[[int, int], Attempt], quality_range: tuple[float, float], effort: int
) -> Attempt:
    """The file of the highest quality that fits a size or a rate, or of the lowest one that has a PSNR.

    Args:
      target: what is to be met.
      attempt: (quality in half steps, effort) -> what becomes of the picture; its results are worth keeping.
      quality_range: the least and the greatest quality.
      effort: of the file. The search is at effort 0; where the file misses the target then, the quality gives way, and
        in the end the effort.

    Raises UsageError where no quality meets the target.
    """
    low, high = (round(2 * quality) for quality in quality_range)
    easy, hard = (high, low) if target.name == "psnr_db" else (low, high)
    easiest = attempt(easy, 0)
    if not target.met_by(easiest):
        raise UsageError(f"no quality meets {target}: quality {easy / 2:g} gives {target.reached_by(easiest)}")
    best = _last_met(lambda half_steps: target.met_by(attempt(half_steps, 0)), easy, hard)
    towards_easy = 1 if easy > best else -1
    for half_steps in range(best, easy + towards_easy, towards_easy):
        if target.met_by(made := attempt(half_steps, effort)):
            return made
    return easiest


def _last_met(is_met: Callable[[int], bool], met: int, missed: int) -> int:
    """The last of the whole numbers from `met` on towards `missed` that meets a target which `met` meets.

    All before it are taken to meet it, and all behind to miss it, as sizes and PSNRs do but for a few bytes.
    """
    if is_met(missed):
        return missed
    while abs(missed - met) > 1:
        middle = (met + missed) // 2
        if is_met(middle):
            met = middle
        else:
            missed = middle
    return met
