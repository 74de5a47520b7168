"""The models of papers, one module for each.

Users know this name by another use: `mlic_jax.models()` lists the models that are installed, their weights, not these
modules. A package and a function cannot share a name, so the package can be called.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlic_jax.fileformat.installed import Installed


class _Models(types.ModuleType):
    def __call__(self) -> list[Installed]:
        """The models of this machine, see mlic_jax.fileformat.installed."""
        from mlic_jax.fileformat import installed

        return installed.models()


sys.modules[__name__].__class__ = _Models
