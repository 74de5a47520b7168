"""Writing a result so that a reader never sees half of it."""

from __future__ import annotations

import os
import pathlib

from mlic_jax import errors


def write_atomically(path: str | os.PathLike, content: str | bytes) -> pathlib.Path:
    """Writes `content` (text as UTF-8) beside `path` and moves it there; makes the folder if need be.

    Raises:
      InputError: the file cannot be written there. What stood at `path` before is then unharmed.
    """
    path = pathlib.Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise errors.InputError(f"cannot write {path}: {error.strerror or error}") from error
    return path
