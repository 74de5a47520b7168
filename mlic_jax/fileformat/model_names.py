"""Models that people know by name, and what installs those that are not part of the package.

A file names its model by the fingerprint of the weights; this table says which model that is, wherever it is installed
from. It holds weights; architectures are in mlic_jax.zoo. Importing it needs the standard library alone.
"""

from __future__ import annotations

from typing import NamedTuple


class Known(NamedTuple):
    """Weights with a name.

    Attributes:
      name: of the model file, without its suffix.
      short: another name, for typing.
      fingerprint: as in the headers of files that need it, in hexadecimal digits.
      distribution: what it is installed with.
      command: what installs that, typed in a clone of the repository.
      bpp: bits per pixel of its lowest and its highest quality, of whole files on Kodak; None where not measured.
      kmac_per_pixel: thousands of multiply-accumulates of encoding and of decoding.
    """

    name: str
    short: str
    fingerprint: str
    distribution: str = "mlic_jax"
    command: str = "pip install ."
    bpp: tuple[float, float] | None = None
    kmac_per_pixel: tuple[float, float] | None = None

    @property
    def advice(self) -> str:
        """How the model is added where it is missing."""
        return f"`{self.command}` in a clone of mlic_jax installs it, as {self.distribution}"


KNOWN = (
    Known("kltnet-tiny", "tiny", "76acc3484b17", bpp=(0.10, 1.21), kmac_per_pixel=(21.0, 20.3)),
    Known("kltnet-base", "base", "2372e2298447", "mlic_jax_base", "pip install ./weights", (0.09, 1.24), (85.0, 82.2)),
    Known("talebi2020", "talebi2020", "a62b46a03d02", kmac_per_pixel=(17.0, 0.0)),
)


def by_name(name: str) -> Known | None:
    """The model of a name or a short name."""
    return next((known for known in KNOWN if name in (known.name, known.short)), None)


def by_fingerprint(fingerprint: bytes) -> Known | None:
    """The model of a fingerprint."""
    return next((known for known in KNOWN if known.fingerprint == fingerprint.hex()), None)


def name_of(fingerprint: bytes, otherwise: str) -> str:
    """The name of the model with a fingerprint, or `otherwise`, the name of its architecture."""
    known = by_fingerprint(fingerprint)
    return known.name if known else otherwise
