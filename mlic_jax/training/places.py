"""Where a run lives: a folder, or a bucket of Google Cloud Storage (gs://BUCKET/PATH).

A bucket has no files that grow. So of a run there, checkpoints go straight to the bucket, by Orbax; logs are written to
a temporary folder, which is copied to the bucket before every checkpoint and at the end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

from mlic_jax import extras
from mlic_jax.errors import InputError, UsageError

BUCKETS = "gs"

log = logging.getLogger(__name__)


def path_of(workdir: str | os.PathLike):
    """A workdir as a path: a pathlib.Path, or an etils.epath.Path, which has the same methods, for a bucket's.

    Raises UsageError for what begins with another scheme, and where the libraries that read buckets are missing.
    """
    text = os.fspath(workdir)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if scheme is None:
        return pathlib.Path(text)
    if scheme[1] != BUCKETS or not text.removeprefix(scheme[0]).strip("/"):
        raise UsageError(f"workdir {text!r}: expected a folder, or gs://BUCKET/PATH")
    _need_libraries(text)
    from etils import epath

    return epath.Path(text)


def absolute(workdir: str | os.PathLike):
    """As `path_of`, and wherever the process goes. Raises as that."""
    return path_of(workdir) if in_bucket(workdir) else path_of(workdir).absolute()


def in_bucket(workdir: str | os.PathLike) -> bool:
    """Whether a workdir is in a bucket."""
    return os.fspath(workdir).startswith(f"{BUCKETS}://")


def _need_libraries(text: str) -> None:
    # Files of logs go by fsspec, arrays by TensorStore, and Orbax asks for the kind of bucket by Google's own library.
    try:
        import fsspec
        from google.cloud import storage

        fsspec.get_filesystem_class("gcs")
        del storage
    except (ImportError, ValueError):
        raise UsageError(extras.missing("gcsfs", f"workdir {text!r} needs")) from None


class Logs:
    """The folder that a run's logs are written to.

    Attributes:
      folder: a pathlib.Path.
    """

    def __init__(self, folder: pathlib.Path, bucket=None):
        self.folder, self._bucket = folder, bucket
        self._copied: dict[pathlib.Path, tuple[int, int]] = {}

    def copy(self) -> None:
        """Copies what is new to the bucket, if there is one. Where that fails, this warns and tries again next time."""
        if self._bucket is None:
            return
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
            about = path.stat()
            version = about.st_size, about.st_mtime_ns
            if self._copied.get(path) == version:
                continue
            target = self._bucket / path.relative_to(self.folder).as_posix()
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
            except Exception as reason:  # of whatever library: logs are no reason to end a run
                log.warning("cannot write %s: %s", target, " ".join(str(reason).split())[:300])
            else:
                self._copied[path] = version


@contextlib.contextmanager
def logs_of(workdir, writes: bool, resumed: tuple[str, ...]) -> Iterator[Logs]:
    """The logs of a run; they are in its folder, which is made, or on their way to its bucket.

    Args:
      workdir: as `path_of` gives it.
      writes: whether this process writes them.
      resumed: files that are gone on with, and fetched from a bucket.

    Raises InputError where the folder cannot be made, or the bucket not read.
    """
    if not in_bucket(workdir):
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as reason:
            raise InputError(f"cannot make the workdir {str(workdir)!r}: {reason.strerror}") from reason
        yield Logs(workdir)
        return
    with tempfile.TemporaryDirectory(prefix="mlic-logs-") as folder:
        logs = Logs(pathlib.Path(folder), workdir if writes else None)
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            for name in resumed if writes else ():
                if (workdir / name).exists():
                    (logs.folder / name).write_bytes((workdir / name).read_bytes())
        except Exception as reason:  # of whatever library
            raise InputError(f"workdir {str(workdir)!r}: {' '.join(str(reason).split())[:300]}") from reason
        try:
            yield logs
        finally:
            logs.copy()
