"""Gaussians of latents that are rounded to whole numbers, wherever the means lie between these.

As in Hu, Yang, Liu, "Coarse-to-fine hyper-prior modeling for learned image compression", AAAI 2020. The table has a row
for each scale of priors/gaussian.py and, where that matters, for each of 16 places of a mean between two whole numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.entropy import tables
from mlic_jax.entropy.priors.gaussian import (
    LOG_THRESHOLDS,
    ONE,
    SCALE_TABLE,
    TAIL_MASS,
    LogGaussian,
    mass_at,
)

PHASES = 16
# Scales of this row and of later ones, 8 and more, have one phase: taking means for whole numbers costs a thousandth of
# a bit there at most.
WIDE = 35
# What chooses a row: 4096 phase + log-scale + 1024, of log-scales in steps of 1/256. That of wide scales is phase 16.
STRIDE, OFFSET = 4096, 1024


class WholeGaussian(NamedTuple):
    """A prior for one latent of whole numbers: N(location, exp(log_scale)^2), entry by entry.

    Attributes:
      log_scale: [B, h, w, C] natural logarithms, unbounded; they count as clipped to the table's range.
      location: same shape, the means. They choose rows too, and latents are not rounded around them.
    """

    log_scale: jax.Array
    location: jax.Array

    family = "whole_gaussian"
    limit = None

    def bits(self, x: jax.Array) -> jax.Array:
        """-log2 of the likelihood of x, same shape."""
        return LogGaussian(self.log_scale, self.location).bits(x)

    def mass(self, low: jax.Array, high: jax.Array) -> jax.Array:
        """P(low < X < high), for finite bounds of the latent's shape."""
        return LogGaussian(self.log_scale, self.location).mass(low, high)

    @property
    def center(self):
        """The whole numbers nearest to the means."""
        xp = np if isinstance(self.location, np.ndarray) else jnp
        return xp.floor(self.location + 0.5)

    def indexes(self, shape: tuple[int, ...], table: tables.Table) -> np.ndarray:
        """Row of the table for every entry, uint16."""
        log_scale, location = (np.broadcast_to(np.asarray(a, np.float32), shape) for a in self)
        found = np.empty(shape, np.uint16)
        # Row by row of the picture: the steps between need many times the memory of the result.
        for y in range(shape[-3]):
            levels = _fixed(np.clip(log_scale[..., y, :, :], -OFFSET / ONE, (STRIDE - 1 - OFFSET) / ONE))
            phases = np.where(levels < LOG_THRESHOLDS[WIDE - 1], _phase(_fixed(location[..., y, :, :])), PHASES)
            chosen = STRIDE * phases + levels + OFFSET
            found[..., y, :, :] = np.searchsorted(table.thresholds, chosen, side="right")
        return found

    def export_state(self) -> dict:
        """Nothing: all that is fixed stands in the table."""
        return {}

    def tabulate(self) -> tables.Table:
        """The integer table, the same for every model: rows of the narrow scales for each phase, then the wide ones."""
        from scipy import special  # late: see priors/gaussian.py

        scales, rows, first, thresholds = SCALE_TABLE.astype(np.float64), [], [], []
        for phase in range(PHASES + 1):
            levels = range(WIDE) if phase < PHASES else range(WIDE, len(scales))
            # The middle of the means of a phase, which are whole steps.
            mean = 0 if phase == PHASES else (phase * (ONE // PHASES) + (ONE // PHASES - 1) / 2) / ONE - 0.5
            for level in levels:
                width = int(np.ceil(-special.ndtri(TAIL_MASS / 2) * scales[level] + abs(mean)))
                rows.append(mass_at(np.abs(np.arange(-width, width + 1) - mean), scales[level]))
                first.append(-width)
                begins = 0 if level in (0, WIDE) else OFFSET + LOG_THRESHOLDS[level - 1]
                thresholds.append(STRIDE * phase + begins)
        return tables.build(rows, np.array(first), thresholds[1:])


def _fixed(values):
    """In steps of 1/256, int32. Networks on the parse path emit multiples of these."""
    return np.rint(values * np.float32(ONE)).astype(np.int32)


def _phase(means):
    """int32 means in steps of 1/256 -> 0..15: where a mean lies from half a step below its centre on."""
    return ((means + ONE // 2) % ONE) // (ONE // PHASES)
