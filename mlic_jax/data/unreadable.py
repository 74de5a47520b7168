"""Images that cannot be read: others take their places, and they are counted and named."""

from __future__ import annotations

import logging

import numpy as np

from mlic_jax.errors import InputError, LimitError, UsageError

log = logging.getLogger(__name__)


class Readable:
    """The images of a source, each with the number of the one that was asked for where that cannot be read, or -1.

    The next of the source that can be read takes its place. Raises what reading raises where more than `most` in a row
    cannot be.
    """

    def __init__(self, source, most: int):
        if most < 0:
            raise UsageError(f"max_unreadable {most}: expected 0 or more")
        self._source, self._most = source, most

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        tries = min(self._most + 1, len(self))
        for offset in range(tries):
            try:
                image = self._source[(index + offset) % len(self)]
            except (InputError, LimitError):
                if offset == tries - 1:
                    raise
            else:
                return image, index if offset else -1


class Unreadable:
    """Which images of a source were skipped, since they cannot be read. More than `most` are an InputError."""

    def __init__(self, source, most: int):
        self._source, self._most = source, most
        self.names: dict[int, str] = {}

    def note(self, replaced: np.ndarray) -> None:
        """Counts and names those that are new; -1 stands for none."""
        for index in map(int, replaced[replaced >= 0]):
            if index in self.names:
                continue
            # It was read elsewhere, perhaps in another process: the reason is found by trying again.
            reason = "could not be read when it was asked for"
            self.names[index] = self._source.name(index)
            try:
                self._source[index]
            except (InputError, LimitError) as error:
                reason = str(error).removeprefix(f"{self.names[index]}: ")
            log.warning("skipped, %d so far: %s: %s", len(self.names), self.names[index], reason)
            if len(self.names) > self._most:
                raise InputError(
                    f"{len(self.names)} images cannot be read, the last of them {self.names[index]} ({reason}): "
                    f"data.max_unreadable allows {self._most}"
                )
