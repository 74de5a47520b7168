"""Results on disk, one small JSON file each, found again by everything that decides them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from mlic_jax import atomic
from mlic_jax.errors import InputError

log = logging.getLogger(__name__)


class Cache:
    """A folder of results.

    A result's file is named by a digest of its key, holds the key and the result, and is written whole or not at all:
    several processes may share the folder. A file that is damaged, or belongs to another key, counts as missing, and
    is named in a warning; the next result replaces it.

    Args:
      folder: made if it does not exist.
      fresh: find nothing; results are still kept, for the next time.
    """

    def __init__(self, folder: str | os.PathLike, fresh: bool = False):
        self.folder, self.fresh = pathlib.Path(folder), fresh
        atomic.make_folder(self.folder, "cache folder")

    def path(self, key: Mapping[str, Any]) -> pathlib.Path:
        """The file of a key: a dict of strings, numbers and None."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.json"

    def get(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The result of a key, or None."""
        path = self.path(key)
        if self.fresh or not path.exists():
            return None
        try:
            content = json.loads(atomic.read_bytes(path))
            if content["key"] != key:
                raise ValueError("it holds the result of something else")
            return {name: _number(value) for name, value in content["result"].items()}
        except (InputError, ValueError, KeyError, TypeError, AttributeError) as reason:
            log.warning("cached result %s cannot be used, and is measured again: %r", path, reason)
            return None

    def put(self, key: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Keeps a result: a dict of strings and numbers. Raises InputError where it cannot be written."""
        content = {"key": key, "result": {name: _word(value) for name, value in result.items()}}
        atomic.write_bytes(self.path(key), (json.dumps(content) + "\n").encode())


# JSON has neither nan, the MS-SSIM of a small picture, nor infinity, the PSNR of an exact copy.
_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _word(value):
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def _number(value):
    return _WORDS.get(value, value) if isinstance(value, str) else value
