"""Metrics on disk: JSON lines always, TensorBoard events where a package for them is installed."""

from __future__ import annotations

import importlib.util
import json
import math
import pathlib
import time

import numpy as np

from mlic_jax import atomic

METRICS = "metrics.jsonl"


class Writer:
    """Writes what a run measures.

    `metrics.jsonl`: one object a line, {"step": .., "kind": "train", "loss": ..}. TensorBoard events go to `events`, by
    clu's writer where TensorFlow is installed (which clu's needs), otherwise by tensorboard's own.

    Args:
      workdir: the run's folder.
      step: where the run goes on; lines of later steps, written before a kill, are dropped.
    """

    def __init__(self, workdir, step: int = 0):
        self.path = pathlib.Path(workdir) / METRICS
        if self.path.exists():
            atomic.write_bytes(self.path, b"".join(line for line in _lines(self.path) if line_step(line) <= step))
        self._file = self.path.open("a")
        self._events = _events(pathlib.Path(workdir) / "events", step)

    def scalars(self, step: int, kind: str, values: dict[str, float]) -> None:
        """One line. Numbers that are not finite become null, which JSON has and NaN it has not."""
        plain = {key: float(value) for key, value in values.items()}
        record = {key: value if math.isfinite(value) else None for key, value in plain.items()}
        about = {"step": step, "kind": kind}  # first for the eye, last so that no metric of this name takes its place
        self._file.write(json.dumps(about | record | about) + "\n")
        self._file.flush()
        self._events.scalars(step, {f"{kind}/{key}": value for key, value in plain.items()})

    def image(self, step: int, name: str, png: bytes, shape: tuple[int, int], pixels: np.ndarray) -> None:
        """A picture, as PNG and as uint8 [H, W, 3]."""
        self._events.image(step, name, png, shape, pixels)

    def close(self) -> None:
        self._file.close()
        self._events.close()


def _lines(path):
    """Whole lines only: a kill may have cut the last one."""
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def line_step(line: bytes) -> float:
    """The step of a line of metrics.jsonl; infinity for a damaged one."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def _events(folder, step):
    installed = importlib.util.find_spec
    if installed("tensorflow") and installed("tensorboard") and installed("clu"):
        return _CluEvents(folder)
    return _TensorBoardEvents(folder, step) if installed("tensorboard") else _NoEvents()


class _NoEvents:
    def scalars(self, step, values): ...
    def image(self, step, name, png, shape, pixels): ...
    def close(self): ...


class _CluEvents(_NoEvents):
    def __init__(self, folder):
        from clu import metric_writers

        self._writer = metric_writers.SummaryWriter(str(folder))

    def scalars(self, step, values):
        self._writer.write_scalars(step, values)

    def image(self, step, name, png, shape, pixels):
        self._writer.write_images(step, {name: pixels[None]})

    def close(self):
        self._writer.close()


class _TensorBoardEvents(_NoEvents):
    def __init__(self, folder, step):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._writer = EventFileWriter(str(folder))
        # Readers drop what an earlier file has from this step on: it was written before a kill and comes again.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=step + 1, session_log=start))

    def _add(self, step, values):
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

    def scalars(self, step, values):
        self._add(step, [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])

    def image(self, step, name, png, shape, pixels):
        image = self._summary.Image(height=shape[0], width=shape[1], colorspace=3, encoded_image_string=png)
        self._add(step, [self._summary.Value(tag=name, image=image)])

    def close(self):
        self._writer.close()
