"""The way back of a run that cannot go on: to a checkpoint from which it can."""

from __future__ import annotations

import logging

from mlic_jax.errors import TrainingError
from mlic_jax.training.checkpoint import Checkpoints, Restored
from mlic_jax.training.meter import Meter

# How often one start of a run goes back. What fails a third time is no accident.
RETURNS = 2

log = logging.getLogger(__name__)


class WayBack:
    """Takes a run in which too many steps in a row were not finite back to a checkpoint.

    First to the latest, as something may have gone wrong in memory. A run that began there, and fails before it has
    saved another, will fail there always: that checkpoint is set aside, and the one before it is taken.

    Args:
      checkpoints: of the run. None of them is from such a row of steps, since nothing is saved then.
      start: the step from which the run goes on.
    """

    def __init__(self, checkpoints: Checkpoints, start: int):
        self._checkpoints, self._start, self._returns = checkpoints, start, 0

    def take(self, meter: Meter, train_state) -> Restored:
        """The checkpoint to go on from, onto the shapes of `train_state`.

        Raises TrainingError where there is none, or the run has gone back often enough.
        """
        self._checkpoints.wait()
        what = f"{meter.bad_steps} steps in a row, up to step {meter.fetched}"
        steps = self._checkpoints.steps()
        doomed = [step for step in steps if step == self._start == steps[-1]]
        if self._returns == RETURNS or len(steps) == len(doomed):
            raise TrainingError(
                f"the loss, its gradient or the update was not finite in {what}: lower optimizer.learning_rate, or "
                "look at the data"
            )
        if doomed:
            self._checkpoints.set_aside(doomed)
        self._returns += 1
        restored = self._checkpoints.restore(train_state)
        self._start = restored.step
        log.warning(
            "not finite in %s: the run goes back to the checkpoint of step %d (%d of at most %d times)",
            what, restored.step, self._returns, RETURNS,
        )  # fmt: skip
        return restored
