"""Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile

from mlic_jax.errors import InputError, MlicError


def read_bytes(path, error: type[MlicError] = InputError) -> bytes:
    """The content of a file. Raises `error` with one line that names the file and what is wrong with it."""
    try:
        return pathlib.Path(path).read_bytes()
    except (OSError, ValueError) as reason:  # ValueError: a path with a NUL in it
        raise error(f"cannot read {str(path)!r}: {getattr(reason, 'strerror', None) or reason}") from reason


def write_bytes(path, data: bytes) -> None:
    """Writes a temporary file beside the target and renames it, so that nobody ever sees half of it.

    Raises InputError where the folder is missing or not writable.
    """
    path = pathlib.Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent or ".", prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp's 0600 is not what a user expects of an output
        os.replace(temporary, path)
    except OSError as reason:
        raise InputError(f"cannot write {str(path)!r}: {reason.strerror or reason}") from reason
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
