"""Seconds and memory per megapixel, apart from everything else.

Each codec encodes in one fresh process and decodes in another, pinned to one core, one after the other, while this
one waits. Per picture there is a first call, which loads and compiles what has to be, and then the fastest of a few.
Memory is what the resident set grows by, at its peak, during such a later call: the picture, models and programs are
there already; of a codec that is a program of its own, as VVC's, it is all that this program takes. It is read from
Linux; elsewhere it is nan. Beside the seconds on the clock stand those of the processor: where they are fewer, the
machine did other work, or the model ran on an accelerator.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlic_jax.errors import MlicError

if TYPE_CHECKING:  # the processes that are timed import no more than they need
    from mlic_jax.evaluation.benchmark.entrants import Entrant, Point
    from mlic_jax.evaluation.benchmark.measuring import Picture

MEGAPIXEL = 1e6
REPEATS = 3
PATIENCE_S = 3.0  # a first call that takes longer is repeated once only


def measure(
    chosen: Sequence[tuple[Entrant, Point]],
    pictures: Sequence[Picture],
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, dict[str, Any]]:
    """Times and memory of one point of each entrant.

    Args:
      chosen: entrants, each with the point at which it is timed.
      pictures: on which; the means over them are reported.
      done: called after each entrant.

    Returns:
      label -> {"point", "encode_s_per_mpx", "encode_cpu_s_per_mpx", "encode_mb_per_mpx", and the same of "decode"}:
      megapixels and megabytes are millions.

    Raises:
      MlicError: a process failed.
    """
    times = {}
    for entrant, point in chosen:
        row: dict[str, Any] = {"point": point.name}
        with tempfile.TemporaryDirectory() as folder:
            job = {"folder": folder, "count": len(pictures), "key": dict(point.key)}
            for j, picture in enumerate(pictures):
                np.save(pathlib.Path(folder, f"{j}.npy"), picture.image)
            if point.artifact is not None:
                point.artifact.save(pathlib.Path(folder, "model.mlicm"))
            for work in ("encode", "decode"):
                for unit, value in _in_a_process({**job, "work": work}, entrant.label).items():
                    row[f"{work}_{unit}_per_mpx"] = value
        times[entrant.label] = row
        done(f"{entrant.label}: time and memory")
    return times


def _in_a_process(job: dict[str, Any], label: str) -> dict[str, float]:
    """{"s", "cpu_s", "mb"} per megapixel, means over the pictures."""
    words = [sys.executable, "-m", __name__]
    process = subprocess.run(words, input=json.dumps(job), capture_output=True, text=True)
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise MlicError(f"{label}: the process that times it failed: {last[0]}")
    rows = json.loads(process.stdout.splitlines()[-1])
    return {unit: float(np.mean([row[unit] for row in rows])) for unit in rows[0]}


# ---------------------------------------------------------------------- inside the process


def _status_mb(field: str) -> float:
    """VmRSS or VmHWM, its peak, in megabytes; nan where there is no /proc."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024 / 1e6
    return math.nan


def _children() -> tuple[float, float]:
    """Processor seconds of all, and megabytes of the largest, of the processes started here that have ended."""
    import resource  # which Windows does not have

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6


def _forget_peak() -> bool:
    """Gives freed memory back and lets the peak begin again; False where that is not possible."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


def _timed(function: Callable, given: Any) -> tuple[Any, dict[str, float]]:
    """(result, {"s", "cpu_s", "mb"}) of the fastest and the largest call, after a first one that counts for neither."""
    began = time.perf_counter()
    result = function(given)
    first = time.perf_counter() - began
    seconds, processor, megabytes = [], [], []
    for _ in range(1 if first > PATIENCE_S else REPEATS):
        known = _forget_peak()
        before, (children_before, _) = _status_mb("VmRSS"), _children()
        used = time.process_time()
        began = time.perf_counter()
        function(given)
        seconds.append(time.perf_counter() - began)
        used, (children_after, largest) = time.process_time() - used, _children()
        processor.append(used + children_after - children_before)
        largest = largest if children_after > children_before else 0.0
        megabytes.append(_status_mb("VmHWM") - before + largest if known else math.nan)
    return result, {"s": min(seconds), "cpu_s": min(processor), "mb": max(megabytes)}


def _work(job: dict[str, Any]) -> list[dict[str, float]]:
    from mlic_jax import api
    from mlic_jax.evaluation.benchmark import entrants

    folder, key = pathlib.Path(job["folder"]), job["key"]
    if "codec" in key:
        point = entrants.standard(key["codec"]).at(key["quality"])
    else:
        point = entrants.point_of(api.load_model(folder / "model.mlicm"), key["effort"], key["quality"], "timed")
    rows = []
    for j in range(job["count"]):
        image = np.load(folder / f"{j}.npy")
        megapixels = image.shape[0] * image.shape[1] / MEGAPIXEL
        path = folder / f"{j}.bin"
        if job["work"] == "encode":
            data, used = _timed(point.encode, image)
            path.write_bytes(data)
        else:
            _, used = _timed(point.decode, path.read_bytes())
        rows.append({unit: value / megapixels for unit, value in used.items()})
    return rows


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before XLA counts its threads
    print(json.dumps(_work(json.load(sys.stdin))))
