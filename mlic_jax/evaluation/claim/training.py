"""The trainings of a claim that are left, one after the other.

Each is a process of its own: a run that fails, or is killed for its memory, takes no other with it, and each has as
many devices as its batch can be dealt out to, which jax settles once per process. This process starts no device, so
that none is held twice.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from mlic_jax.errors import MlicError, TrainingError
from mlic_jax.evaluation.claim import runs
from mlic_jax.evaluation.claim.runs import Run

# Trains a run from where it stands; quiet or not. Raises MlicError. See `in_a_process`.
Train = Callable[[Run, bool], None]


class Stopped(BaseException):
    """SIGTERM or Ctrl-C: the run at work has saved, and the rest is left for another time.

    Args:
      number: of the signal.
    """

    def __init__(self, number: int):
        self.by_hand = number == signal.SIGINT


@contextlib.contextmanager
def _signals(handler: Callable) -> Iterator[None]:
    """SIGTERM and Ctrl-C go to `handler` inside; where this is not the main thread, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def in_a_process(run: Run, quiet: bool) -> None:
    """Trains in a process, and waits for it.

    Raises:
      TrainingError: it failed, or ended before its last step.
      Stopped: after SIGTERM or Ctrl-C, when it has saved and ended. A second signal ends it at once.
    """
    job = {"config": run.config, "workdir": str(run.folder), "quiet": quiet}
    words = [sys.executable, "-m", "mlic_jax.evaluation.claim.worker"]
    received: list[int] = []
    process = None

    def stop(number, frame):
        received.append(number)
        if process is not None:
            process.kill() if len(received) > 1 else process.terminate()

    with _signals(stop):
        # A session of its own: Ctrl-C on a terminal would reach it otherwise, and end it before it has saved.
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        if received:  # before there was a process to stop
            process.terminate()
        with process:
            with contextlib.suppress(BrokenPipeError):  # it is gone: its exit status says more
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()
            said = process.stdout.read().strip()
            status = process.wait()
    if received:
        raise Stopped(received[0])
    if status:
        raise TrainingError(said or f"its process ended with status {status}; what it wrote is above")
    if not runs.finished(run):
        raise TrainingError(f"it was stopped at step {runs.done(run)} of {run.steps}")


def train_all(
    todo: Sequence[Run],
    train: Train = in_a_process,
    quiet: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Trains what is not finished, in order, and goes on past runs that fail.

    Args:
      todo: runs, each behind the one that it begins with.
      train: see Train.
      quiet: no progress of single runs.
      say: is told of each run.

    Returns:
      name of a run -> why it is not trained.

    Raises:
      Stopped: as `train`.
    """
    failures: dict[str, str] = {}
    waiting = [run for run in todo if not runs.finished(run)]
    for number, run in enumerate(waiting, 1):
        if run.after is not None and not runs.finished(run.after):
            failures[run.name] = f"it begins with the weights of {run.after.name}, which is not trained"
            say(f"[{number}/{len(waiting)}] {run.name}: left out, since {failures[run.name]}")
            continue
        begun = f", from step {runs.done(run)}" if runs.done(run) else ""
        say(f"[{number}/{len(waiting)}] {run.name}: {run.steps} steps{begun}")
        began = time.monotonic()
        try:
            runs.begin(run)
            train(run, quiet)
        except MlicError as reason:
            failures[run.name] = " ".join(str(reason).split())
            say(f"[{number}/{len(waiting)}] {run.name}: failed: {failures[run.name]}")
        except Stopped:
            say(f"stopped: {run.name} is saved at step {runs.done(run)} of {run.steps}; the same command goes on")
            raise
        else:
            say(f"[{number}/{len(waiting)}] {run.name}: done in {(time.monotonic() - began) / 60:.1f} min")
    return failures
