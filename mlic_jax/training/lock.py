"""One run, one workdir: a lock on a file in it, which says who holds it.

The lock is the kernel's (`flock`): it goes with its process, however that ends, so none is ever left behind. On NFS it
holds between machines. A file system without such locks gets a warning; there, the process that the file names counts
if it is of this machine and alive.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import pathlib
import socket
import time
from collections.abc import Iterator

from mlic_jax.errors import TrainingError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"
# A reader that asks whether a run is at work holds the lock for a moment.
PATIENCE_SECONDS = 2.0
_UNSUPPORTED = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)

log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(workdir) -> Iterator[None]:
    """Inside, the workdir belongs to this process.

    Raises TrainingError where it belongs to another, naming it, or the lock's file cannot be written.
    """
    path = pathlib.Path(workdir) / NAME
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as reason:
        raise TrainingError(f"cannot write {str(path)!r}: {reason.strerror}") from reason
    with file:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (taken := _take(file)) is False and time.monotonic() < deadline:
            time.sleep(0.1)
        if taken is False or (taken is None and _alive(path)):
            raise TrainingError(
                f"{str(workdir)!r} is in use by another training ({_holder(path)}): end that one, or take another "
                "--workdir"
            )
        if taken is None:
            log.warning("the file system of %s has no locks: start no second run there", workdir)
        about = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            file.truncate(0)
            file.write(json.dumps(about))
            file.flush()
        yield
        with contextlib.suppress(OSError):
            file.truncate(0)


def held(workdir) -> bool:
    """Whether a run is at work in a workdir, as far as the file system tells."""
    path = pathlib.Path(workdir) / NAME
    try:
        with path.open("r", encoding="utf-8") as file:
            taken = _take(file)
    except OSError:
        return False
    return taken is False or (taken is None and _alive(path))


def _take(file) -> bool | None:
    """Whether the lock could be had; None where there is no such thing."""
    if fcntl is None:
        return None
    try:
        # Readers share it: a file that is not open for writing cannot be locked for one alone on NFS.
        fcntl.flock(file, (fcntl.LOCK_EX if file.writable() else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as reason:
        if reason.errno in _UNSUPPORTED:
            return None
        if reason.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _read(path: pathlib.Path) -> dict:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _holder(path: pathlib.Path) -> str:
    about = _read(path)
    return "process {process} on {host}, since {since}".format(**about) if about else "it does not say which"


def _alive(path: pathlib.Path) -> bool:
    about = _read(path)
    if about.get("host") != socket.gethostname() or about.get("process") == os.getpid():
        return False
    try:
        os.kill(int(about["process"]), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, KeyError):  # somebody else's, or not written by us
        pass
    return True
