"""The figures of training steps, fetched without making the devices wait, and the speed."""

from __future__ import annotations

import collections
import time
from typing import Any

import numpy as np
from clu import metrics as clu_metrics

from mlic_jax.training import parallel

# Steps that may still be computing while later ones are sent to the devices.
IN_FLIGHT = 2
# Metrics that count; of others, means are shown.
COUNTERS = ("skipped", "bad_steps")


class Meter:
    """Collects what a run's steps return.

    Args:
      step: the last one before the run goes on.
      batch_size: examples of a step, over all devices.

    Attributes:
      fetched: the latest step of which the figures are known.
      bad_steps: how many in a row up to that one were not finite.
    """

    def __init__(self, step: int, batch_size: int):
        self.batch_size, self.fetched, self.bad_steps = batch_size, step, 0
        self._in_flight: collections.deque[tuple[int, Any]] = collections.deque()
        self._measured: list[dict[str, np.ndarray]] = []  # since the last log line
        self._timed_at: float | None = None  # since when, and since which step, the speed is measured
        self._timed_step = step

    def add(self, step: int, metrics: Any) -> None:
        """The metrics of a step, on the devices."""
        self._in_flight.append((step, metrics))
        if self._timed_at is None:
            self.fetch()
            self._timed_at, self._timed_step = time.perf_counter(), step  # compiling is over
        else:
            self.fetch(IN_FLIGHT)

    def fetch(self, left: int = 0) -> None:
        """Waits until all steps but the latest `left` are computed."""
        while len(self._in_flight) > left:
            self.fetched, metrics = self._in_flight.popleft()
            measured = {key: np.asarray(value) for key, value in parallel.local(metrics).items()}
            self._measured.append(measured)
            self.bad_steps = int(measured["bad_steps"])

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
