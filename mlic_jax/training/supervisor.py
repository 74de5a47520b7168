"""The parent of a process that is one of several of a run. It imports no jax.

jax's coordination service runs in process 0. What goes wrong there ends a process by SIGABRT, from within C++, behind
pages of traces. So `mlic train` runs each process of several under a parent, which passes signals on and has the last
word: one line and an exit status.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

from mlic_jax.errors import TrainingError, UsageError
from mlic_jax.training import stopping

NAMES = ("MLIC_COORDINATOR", "MLIC_PROCESSES", "MLIC_PROCESS")


def expected() -> bool:
    """Whether the environment says that this is one process of several.

    On TPU pods, under SLURM and under Open MPI jax finds the others by itself when MLIC_DISTRIBUTED=1 is set; anywhere
    else set MLIC_COORDINATOR (host:port of process 0), MLIC_PROCESSES and MLIC_PROCESS.

    Raises UsageError where these are incomplete.
    """
    given = [name for name in NAMES if os.environ.get(name)]
    if not given:
        return os.environ.get("MLIC_DISTRIBUTED") == "1"
    if len(given) < len(NAMES):
        missing = ", ".join(name for name in NAMES if name not in given)
        raise UsageError(f"a run of several processes needs {', '.join(NAMES)}: {missing} is not set")
    _, count, index = (os.environ[name] for name in NAMES)
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UsageError(f"MLIC_PROCESS {index!r} of MLIC_PROCESSES {count!r}: expected a number below another")
    return True


def supervise() -> None:
    """Goes on in a child process; this one waits for it, passes signals on, and ends with its exit status.

    Where the child was ended by a signal, a last line says what that means. Call it before threads are started.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.setpgid(0, 0)  # Ctrl-C goes to the parent, which passes it on: it would come twice
        threading.Thread(target=_outlive_nobody, args=(reading,), daemon=True).start()
        return
    os.close(reading)
    for number in stopping.SIGNALS:
        signal.signal(number, lambda number, _: _send(child, number))
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        os._exit(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status)
    if number == signal.SIGABRT:
        say(f"mlic: error: {_why_aborted()}")
        os._exit(TrainingError.exit_code)
    say(f"mlic: error: ended by {signal.Signals(number).name}" + (", for want of memory?" if number == 9 else ""))
    os._exit(128 + number)


def _outlive_nobody(reading: int) -> None:
    os.read(reading, 1)  # returns when the parent has ended, which alone has the other end
    os.kill(os.getpid(), signal.SIGKILL)


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def _why_aborted() -> str:
    coordinator, me = os.environ.get(NAMES[0]), os.environ.get(NAMES[2])
    if coordinator is None or me == "0":
        return "another process of the run did not come, or is gone: the lines above say which"
    return f"process 0 of the run, at {coordinator}, did not answer, or is gone: what it printed last says why"


def say(line: str) -> None:
    """Prints a last line on standard error, if anybody is there to read it."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
