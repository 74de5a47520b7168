"""Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets

from mlic_jax.errors import InputError, MlicError


def read_bytes(path, error: type[MlicError] = InputError) -> bytes:
    """The content of a file. Raises `error` with one line that names the file and what is wrong with it."""
    try:
        return pathlib.Path(path).read_bytes()
    except (OSError, ValueError) as reason:  # ValueError: a path with a NUL in it
        raise error(f"cannot read {str(path)!r}: {getattr(reason, 'strerror', None) or reason}") from reason


def write_bytes(path, data: bytes) -> None:
    """Writes a temporary file beside the target and renames it, so that a reader never sees half of it.

    Raises InputError where the folder is missing or not writable.
    """
    path = pathlib.Path(path)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    except (OSError, ValueError) as reason:
        raise InputError(f"cannot write {str(path)!r}: {getattr(reason, 'strerror', None) or reason}") from reason
    finally:
        with contextlib.suppress(OSError, ValueError):
            os.unlink(temporary)


def make_folder(path, what: str = "folder") -> None:
    """Makes a folder and those above it, where they do not exist. Raises InputError naming `what` and the reason."""
    try:
        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise InputError(f"cannot make the {what} {str(path)!r}: {reason.strerror}") from reason
