"""Metrics on disk: JSON lines always, TensorBoard events where a package for them is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import math
import os
import pathlib
import socket
import struct
import time
from collections.abc import Callable, Iterator

import google_crc32c
import numpy as np

from mlic_jax import atomic
from mlic_jax.errors import InputError

METRICS = "metrics.jsonl"

log = logging.getLogger(__name__)


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
        self._open(step)

    def _open(self, step: int) -> None:
        if self.path.exists():
            atomic.write_bytes(self.path, b"".join(line for line in _lines(self.path) if line_step(line) <= step))
        try:
            self._file = self.path.open("ab", buffering=0)
        except OSError as reason:
            raise InputError(f"cannot write {str(self.path)!r}: {reason.strerror}") from reason
        self._unwritten, self._warned, self._events = b"", False, _NoEvents()
        with self._without_failing():
            self._events = _events(self.path.parent / "events", step)

    def go_back(self, step: int) -> None:
        """As a new one would: the run goes on from an earlier step."""
        self.close()
        self._open(step)

    def scalars(self, step: int, kind: str, values: dict[str, float]) -> None:
        """One line. Numbers that are not finite become null, which JSON has and NaN it has not.

        On a full disk this warns once; lines are kept, and written when there is room.
        """
        plain = {key: float(value) for key, value in values.items()}
        record = {key: value if math.isfinite(value) else None for key, value in plain.items()}
        about = {"step": step, "kind": kind}  # first for the eye, last so that no metric of this name takes its place
        self._unwritten += (json.dumps(about | record | about) + "\n").encode()
        with self._without_failing():
            self._append()
        self._event(lambda events: events.scalars(step, {f"{kind}/{key}": value for key, value in plain.items()}))

    def image(self, step: int, name: str, png: bytes, shape: tuple[int, int], pixels: np.ndarray) -> None:
        """A picture, as PNG and as uint8 [H, W, 3]: a file of the folder `samples`, and an event."""
        folder = self.path.parent / "samples"
        with self._without_failing():
            folder.mkdir(exist_ok=True)
            atomic.write_bytes(folder / f"step_{step:08d}.png", png)
        self._event(lambda events: events.image(step, name, png, shape, pixels))

    def close(self) -> None:
        with self._without_failing():
            self._append()
        self._file.close()
        self._event(lambda events: events.close())

    def _append(self) -> None:
        while self._unwritten:  # a full disk may take a part of it
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def _event(self, write: Callable[[_NoEvents], None]) -> None:
        with self._without_failing():
            try:
                write(self._events)
            except Exception:  # of the operating system, or of TensorFlow; a record that was cut off ends the file
                self._events = _NoEvents()
                raise

    @contextlib.contextmanager
    def _without_failing(self) -> Iterator[None]:
        """Logs are no reason to end a run: what cannot be written is said once."""
        try:
            yield
        except Exception as reason:
            if not self._warned:
                log.warning("logs cannot be written, and the training goes on without them: %s", reason)
            self._warned = True


class NoWriter:
    """A writer of processes that write nothing."""

    def go_back(self, step): ...
    def scalars(self, step, kind, values): ...
    def image(self, step, name, png, shape, pixels): ...
    def close(self): ...


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
    """Not by tensorboard's EventFileWriter: it writes in a thread, where a full disk is a traceback."""

    def __init__(self, folder, step):
        from tensorboard.compat.proto import event_pb2, summary_pb2

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._write(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        # Readers drop what an earlier file has from this step on: it was written before a kill and comes again.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(wall_time=time.time(), step=step + 1, session_log=start))

    def _write(self, event):
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self._file.write(b"".join([length, _masked_crc(length), data, _masked_crc(data)]))
        self._file.flush()

    def _add(self, step, values):
        self._write(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

    def scalars(self, step, values):
        self._add(step, [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])

    def image(self, step, name, png, shape, pixels):
        image = self._summary.Image(height=shape[0], width=shape[1], colorspace=3, encoded_image_string=png)
        self._add(step, [self._summary.Value(tag=name, image=image)])

    def close(self):
        self._file.close()


def _masked_crc(data: bytes) -> bytes:
    """As TFRecord has it: CRC32C, rotated right by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
