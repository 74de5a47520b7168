"""Being asked to stop: signals after which a run saves a checkpoint and ends, and the status that it ends with.

SIGTERM is what clusters send to those they preempt, SIGUSR1 what SLURM sends before the time limit where it is told to
(`--signal=USR1@120`), SIGHUP what a closed terminal sends, SIGINT what Ctrl-C does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

# Exit status of `mlic train` after such a signal: EX_TEMPFAIL of sysexits.h, "try again later". Launchers may go by it.
PREEMPTED = 75
# Windows has not all of them.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name))

_AGAIN = b"\nSIGINT: the run saves a checkpoint and ends; once more ends it at once\n"


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], str]]:
    """Gives a function that names the first signal that came, "" before; inside, it does not end the process.

    After one SIGINT, the next does again what it did outside. What is ignored outside, as SIGHUP under nohup, is
    ignored inside. Outside the main thread, where Python sets no handlers, nothing changes.
    """
    received: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: ""
        return

    def note(number, _):
        received.append(signal.Signals(number).name)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
            with contextlib.suppress(OSError):
                os.write(sys.__stderr__.fileno(), _AGAIN)  # print may have been interrupted

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield lambda: received[0] if received else ""
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def second_interrupt_kills() -> Iterator[None]:
    """Around a run that has the process for itself: a second Ctrl-C ends it wherever it is, compiling or waiting."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
