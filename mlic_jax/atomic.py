"""Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import secrets
import stat

from mlic_jax.errors import InputError, MlicError


def read_bytes(path, error: type[MlicError] = InputError) -> bytes:
    """The content of a file. Raises `error` with one line that names the file and what is wrong with it."""
    try:
        return pathlib.Path(path).read_bytes()
    except (OSError, ValueError) as reason:  # ValueError: a path with a NUL in it
        raise error(f"cannot read {str(path)!r}: {getattr(reason, 'strerror', None) or reason}") from reason


def write_bytes(path, data: bytes) -> None:
    """Writes a file whole or not at all: a temporary file beside it is renamed, so that a reader never sees half of it.

    What is there is respected: a symbolic link stays, and the file that it names is written; a file keeps its mode, and
    its owner where that is allowed. What is no file (a pipe, a device) cannot be replaced: it is written into.

    Raises InputError where that is not possible.
    """
    try:
        if written_through(path):
            with open(path, "wb", buffering=0) as file:
                _write_all(file, data)
        else:
            _replace(os.path.realpath(path), data)
    except (OSError, ValueError) as reason:
        raise InputError(f"cannot write {str(path)!r}: {getattr(reason, 'strerror', None) or reason}") from reason


def written_through(path) -> bool:
    """Whether a path names something that is there and is no file: a pipe or a device, which cannot be overwritten. The
    open files of processes, as /dev/stdout, count too, whatever they are."""
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    if stat.S_ISREG(kind):
        return pathlib.PurePosixPath(os.path.abspath(path)).parts[1:2] in (("dev",), ("proc",))
    return not stat.S_ISDIR(kind)


def _write_all(file, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _replace(path: str, data: bytes) -> None:
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    # Not made of the file's name, which may be as long as names can be.
    temporary = os.path.join(os.path.dirname(path), f".mlic-{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            _take_over(path, file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError, ValueError):
            os.unlink(temporary)


def _take_over(path: str, file: int) -> None:
    """Owner and mode of the file that is replaced, where there is one."""
    try:
        old = os.stat(path)
    except FileNotFoundError:
        return
    if hasattr(os, "fchown") and (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        with contextlib.suppress(PermissionError):
            os.fchown(file, old.st_uid, old.st_gid)
    if hasattr(os, "fchmod"):
        os.fchmod(file, stat.S_IMODE(old.st_mode))


def make_folder(path, what: str = "folder") -> None:
    """Makes a folder and those above it, where they do not exist. Raises InputError naming `what` and the reason."""
    try:
        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise InputError(f"cannot make the {what} {str(path)!r}: {reason.strerror}") from reason
