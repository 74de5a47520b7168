"""The processes of one run: they find each other, agree on what they do, and end together.

`supervisor.py` has the parent of each, which says what a process that jax has ended cannot say.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from mlic_jax.errors import MlicError, TrainingError, UsageError
from mlic_jax.training import gpus, parallel
from mlic_jax.training.supervisor import NAMES, expected, say

# Seconds that processes wait for each other at the start; the variable changes it.
START_SECONDS = 120
START_VARIABLE = "MLIC_START_SECONDS"
# Lists of photos may take their time on one machine. A process that has gone is noticed all the same.
AGREE_MS = 3_600_000
# A process gives a sign of life so often, and is taken for dead after so many seconds without one.
BEAT_SECONDS, DEAD_SECONDS = 2.0, 15.0
# Between two times at which processes ask each other whether to stop or to save, by the time that steps take.
CONFER_SECONDS, CONFER_STEPS = 2.0, 50

_agreements = 0


def start_processes() -> bool:
    """Joins the other processes of a run, and says whether there are any. Call it before anything else uses jax.

    Raises UsageError as `expected`. Where others do not come, jax ends the process.
    """
    if not expected():
        return False
    settings = {"initialization_timeout": _start_seconds(), "heartbeat_timeout_seconds": 2 * int(DEAD_SECONDS)}
    settings["local_device_ids"] = gpus.local_device_ids()
    if os.environ.get(NAMES[0]):
        coordinator, count, index = (os.environ[name] for name in NAMES)
        jax.distributed.initialize(coordinator, int(count), int(index), **settings)
    else:
        jax.distributed.initialize(**settings)
    return True


def _start_seconds() -> int:
    word = os.environ.get(START_VARIABLE, str(START_SECONDS))
    if not word.isdecimal() or not int(word):
        raise UsageError(f"{START_VARIABLE} is {word!r}: expected a number of seconds")
    return int(word)


def _service() -> tuple[Any, int]:
    """The store that the processes share, and the number of this one. jax, which has them, has no public name."""
    from jax._src import distributed

    return distributed.global_state.client, distributed.global_state.process_id


# ---------------------------------------------------------------------- failing


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Inside, an error of one of several processes ends all of them, each with a last line that says which it was, and
    its status.

    Signs of life go through jax's coordination service. The process ends here, at once: what closes files or waits for
    others would wait for a process that waits for this one.
    """
    watch = _Watch()
    try:
        yield
    except BaseException as reason:
        if not isinstance(reason, MlicError):
            traceback.print_exc()
        if isinstance(reason, jax.errors.JaxRuntimeError):  # of a collective, perhaps, since another process has gone
            watch.wait_for_news()
        watch.fail(reason)
    watch.close()
    jax.distributed.shutdown()


class _Watch:
    """A thread that says that this process lives, and hears of the others.

    In the service's store: life/I, a number that grows, and "end" where process I has done its work; fate, the exit
    status and the words of the first process that failed.
    """

    def __init__(self):
        self._store, self._me = _service()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def fail(self, reason: BaseException) -> None:
        """Tells the others, and ends this process."""
        self._closed.set()
        status, words = 1, " ".join(str(reason).split())[:500]
        if isinstance(reason, MlicError):
            status = reason.exit_code
        else:
            words = f"{type(reason).__name__}: {words}"
        say(f"mlic: error: {words}")
        with contextlib.suppress(Exception):  # the service may be what has gone
            self._store.key_value_set("mlic/fate", json.dumps([status, f"process {self._me}: {words}"]))
            if self._me == 0:
                time.sleep(3 * BEAT_SECONDS)  # the service, which the others ask, ends with this process
        os._exit(status)

    def wait_for_news(self) -> None:
        """Gives the thread the time it needs to hear of another process, in which case it ends this one."""
        time.sleep(DEAD_SECONDS + 2 * BEAT_SECONDS)

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        with contextlib.suppress(Exception):
            self._store.key_value_set(f"mlic/life/{self._me}", "end", allow_overwrite=True)

    def _run(self):
        heard: dict[str, tuple[str, float]] = {}  # process -> its latest sign and when it was new
        beats = 0
        while not self._closed.wait(BEAT_SECONDS):
            beats += 1
            try:
                self._store.key_value_set(f"mlic/life/{self._me}", str(beats), allow_overwrite=True)
                found = self._store.key_value_dir_get("mlic/")
            except Exception:
                self._end(TrainingError.exit_code, "process 0 of the run is gone: what it printed last says why")
                return
            news = {key.rpartition("mlic/")[2]: value for key, value in found}
            if "fate" in news:
                self._end(*json.loads(news["fate"]))
            now = time.monotonic()
            for key, sign in news.items():
                if key.startswith("life/") and heard.get(key, ("",))[0] != sign:
                    heard[key] = sign, now
            for key, (sign, since) in heard.items():
                if sign != "end" and now - since > DEAD_SECONDS:
                    name = key.removeprefix("life/")
                    words = f"process {name} of the run is gone: no sign of life for {DEAD_SECONDS:.0f} s"
                    self._end(TrainingError.exit_code, words)

    def _end(self, status: int, words: str):
        if self._closed.is_set():
            return
        say(f"mlic: error: {words}")
        os._exit(status)


# ---------------------------------------------------------------------- agreeing


def agree(what: Mapping[str, Any], hint: str) -> None:
    """Raises UsageError, in every process, unless all of them have the same: it names what differs.

    Args:
      what: name -> JSON types.
      hint: what would be right.
    """
    global _agreements
    if jax.process_count() == 1:
        return
    store, me = _service()
    _agreements += 1
    store.key_value_set(f"mlic_agree/{_agreements}/{me}", json.dumps(dict(what)))
    all_of_them = [
        json.loads(store.blocking_key_value_get(f"mlic_agree/{_agreements}/{index}", AGREE_MS))
        for index in range(jax.process_count())
    ]
    first = all_of_them[0]
    for index, other in enumerate(all_of_them):
        differing = [key for key in sorted(first.keys() | other.keys()) if first.get(key) != other.get(key)]
        if differing:
            lines = [f"{key} is {first.get(key)!r} in process 0, {other.get(key)!r} in {index}" for key in differing]
            raise UsageError(f"the processes of this run differ: {'; '.join(lines[:5])}. {hint}")


class Wishes:
    """What the processes of a run want: to stop, because one was asked to; to save, because it is time.

    They ask each other about every CONFER_SECONDS, all at the same steps: when next follows from what they told each
    other. One process asks itself at every step.

    Args:
      step: the last one before the run goes on.
    """

    def __init__(self, step: int):
        self._asked, self._next = step, step + 1
        self._at = self._saved_at = time.monotonic()

    def saved(self) -> None:
        """A checkpoint is being written."""
        self._saved_at = time.monotonic()

    def of_all(self, step: int, stop: bool, minutes: float) -> tuple[bool, bool]:
        """(stop, save): whether any process wants to, as far as they have asked.

        Args:
          step: that was just done.
          stop: whether this process wants to.
          minutes: after which it wants to save; 0 for never.
        """
        now = time.monotonic()
        save = minutes > 0 and now - self._saved_at >= 60 * minutes
        if jax.process_count() == 1:
            return stop, save
        if step < self._next:
            return False, False
        pace = (now - self._at) / (step - self._asked)  # seconds
        stop, save, pace = parallel.gathered([float(stop), float(save), pace]).max(axis=0)
        self._asked, self._at = step, time.monotonic()
        self._next = step + max(1, min(CONFER_STEPS, int(CONFER_SECONDS / max(pace, 1e-9))))
        return bool(stop), bool(save)
