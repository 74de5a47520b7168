"""The figures of training steps, fetched without making the devices wait, and the speed."""

from __future__ import annotations

import collections
import time
from typing import Any

import numpy as np
from clu import metrics as clu_metrics

from mlic_jax.errors import TrainingError
from mlic_jax.training import parallel

# Steps that may still be computing while later ones are sent to the devices.
IN_FLIGHT = 2
# Metrics that count; of others, means are shown.
COUNTERS = ("skipped", "bad_steps")


class Meter:
    """Collects what a run's steps return.

    Args:
      step: the last one before the run goes on.
      max_bad_steps: non-finite steps in a row at which a run ends.
      batch_size: examples of a step, over all devices.
    """

    def __init__(self, step: int, max_bad_steps: int, batch_size: int):
        self.max_bad_steps, self.batch_size = max_bad_steps, batch_size
        self._in_flight: collections.deque[tuple[int, Any]] = collections.deque()
        self._measured: list[dict[str, np.ndarray]] = []  # since the last log line
        self._timed_at: float | None = None  # since when, and since which step, the speed is measured
        self._timed_step = step

    def add(self, step: int, metrics: Any) -> None:
        """The metrics of a step, on the devices. Raises as `fetch`."""
        self._in_flight.append((step, metrics))
        if self._timed_at is None:
            self.fetch()
            self._timed_at, self._timed_step = time.perf_counter(), step  # compiling is over
        else:
            self.fetch(IN_FLIGHT)

    def fetch(self, left: int = 0) -> None:
        """Waits until all steps but the latest `left` are computed.

        Raises TrainingError where a run diverges: too many steps in a row were not finite.
        """
        while len(self._in_flight) > left:
            step, metrics = self._in_flight.popleft()
            measured = {key: np.asarray(value) for key, value in parallel.local(metrics).items()}
            self._measured.append(measured)
            if measured["bad_steps"] >= self.max_bad_steps:
                raise TrainingError(
                    f"the loss or its gradient was not finite in {measured['bad_steps']} steps in a row, up to step "
                    f"{step}: lower optimizer.learning_rate, or look at the data"
                )

    def figures(self, step: int) -> dict[str, float]:
        """Means since this was called last, up to a step that was just added, with "steps_per_second" and
        "examples_per_second"."""
        self.fetch()
        figures = _averages(self._measured)
        self._measured.clear()
        if step > self._timed_step:
            now = time.perf_counter()
            figures["steps_per_second"] = (step - self._timed_step) / (now - self._timed_at)
            figures["examples_per_second"] = self.batch_size * figures["steps_per_second"]
            self._timed_at, self._timed_step = now, step
        return figures


def _averages(measured: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Means over the steps that have a figure, without those that are not finite; counters as they stand."""
    figures = {}
    for key in dict.fromkeys(key for step in measured for key in step):
        values = np.array([step[key] for step in measured if key in step], np.float32)
        if key in COUNTERS:
            figures[key] = float(values[-1])
        else:
            finite = np.isfinite(values)
            mean = clu_metrics.Average.from_model_output(values[finite]).compute() if finite.any() else np.nan
            figures[key] = float(mean)
    return figures
