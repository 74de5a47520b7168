"""The rules about quality, once for every codec: which there are, which is taken, which are trained and validated.

A codec has one rate (`OneRate`), the whole numbers of a standard codec (`WholeNumbers`), or every half step of 0 to 100
(`EveryRate`). All three have

    ladder, default, range, validated                  see mlic_jax.codec.Traits; validated: where `estimate` measures
    for_file(model, quality) -> what the file is made with       raises UsageError
    of_file(model, quality) -> the same for a file that is read  raises CorruptStreamError
    draw(keys [B]) -> float [B] or None                          one quality for each training example
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.errors import CorruptStreamError, MlicError, UsageError

_FOLDED = 1 << 20  # into an example's key where its quality is drawn; latents and iterations count from 0
# Points of a curve over all rates, and over a range of whole numbers.
LADDER = tuple(float(quality) for quality in np.linspace(0, 100, 9))
POINTS = 7


def _shares(keys):
    """Evenly in 0..1, one for each example."""
    return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, _FOLDED)))(keys)


class Qualities:
    """What the three have in common: `_checked(model, quality, error)` is each one's own rule."""

    ladder: tuple[float, ...] = ()
    default: float | None = None
    range: tuple[float, float] = (0.0, 100.0)
    # Where a codec is validated, with the default in the middle; empty where it has one rate.
    validated: tuple[float, ...] = ()

    @property
    def several(self) -> bool:
        """Whether a user has to choose one."""
        return self.default is not None

    def for_file(self, model: str, quality: float | None) -> float | None:
        """What `compress` was told, settled. Raises UsageError."""
        if not self.several:
            if quality is not None:
                raise UsageError(f"{model} has one rate, fixed in training: leave the quality out")
        elif quality is None:
            raise UsageError(f"{model} needs a quality, a number from {self.range[0]:g} to {self.range[1]:g}")
        return self._checked(model, quality, UsageError)

    def of_file(self, model: str, quality: float | None) -> float | None:
        """What a file's header says, settled. Raises CorruptStreamError."""
        if (quality is not None) != self.several:
            raise CorruptStreamError(f"a file of {model} {'lacks its' if self.several else 'has no'} quality")
        return self._checked(model, quality, CorruptStreamError)

    def draw(self, keys: jax.Array) -> jax.Array | None:
        """A quality for each of [B] training examples, float [B]; None for one rate that networks are not told."""
        raise NotImplementedError

    def _checked(self, model: str, quality: float | None, error: type[MlicError]) -> float | None:
        raise NotImplementedError


class OneRate(Qualities):
    """A rate that is fixed in training."""

    def draw(self, keys):
        return None

    def _checked(self, model, quality, error):
        return None


@dataclasses.dataclass(frozen=True)
class EveryRate(Qualities):
    """Any number of 0..100; training draws evenly."""

    ladder: tuple[float, ...] = LADDER
    default: float = 50.0
    validated: tuple[float, ...] = (10.0, 50.0, 90.0)

    def draw(self, keys):
        return 100 * _shares(keys)

    def _checked(self, model, quality, error):
        if not 0 <= quality <= 100:
            raise error(f"{model} has the qualities 0 to 100, not {quality}")
        return float(quality)


@dataclasses.dataclass(frozen=True)
class WholeNumbers(Qualities):
    """Those of a standard codec from `low` to `high`; where the two are equal, one rate.

    Training draws evenly in their logarithm, and the networks are told the number where it is the only one, too.
    """

    low: int
    high: int

    @property
    def ladder(self):
        if self.low == self.high:
            return ()
        return tuple(np.unique(np.rint(np.geomspace(self.low, self.high, POINTS))).tolist())

    @property
    def default(self):
        return float(self.ladder[len(self.ladder) // 2]) if self.ladder else None

    @property
    def range(self):
        return (float(self.low), float(self.high)) if self.several else Qualities.range

    @property
    def validated(self):
        return (self.ladder[0], self.default, self.ladder[-1]) if self.several else ()

    def draw(self, keys):
        return jnp.clip(jnp.round(self.low * (self.high / self.low) ** _shares(keys)), self.low, self.high)

    def _checked(self, model, quality, error):
        quality = self.low if quality is None else round(quality)
        if not self.low <= quality <= self.high:
            raise error(f"{model} was made for qualities {self.low} to {self.high}, not {quality}")
        return quality
