"""Protocols of published benchmarks: which pictures, which metrics, and over what curves are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mlic_jax.errors import InputError, UsageError
from mlic_jax.evaluation.benchmark.comparing import BDRule


class PictureSet(NamedTuple):
    """A set of pictures that a protocol names.

    Attributes:
      about: what it is, for people.
      counts: how many pictures it may have: under one name there are several sets.
      rates: bits per pixel (low, high) of the points that are compared; None for all.
    """

    about: str
    counts: Sequence[int]
    rates: tuple[float, float] | None = None


class Protocol(NamedTuple):
    """How a paper compares codecs.

    Attributes:
      source: the paper.
      metrics: by name.
      interpolator: of BD-rates.
      sets: name -> PictureSet.
    """

    source: str
    metrics: Sequence[str]
    interpolator: str
    sets: Mapping[str, PictureSet]


PROTOCOLS = {
    "hu2020": Protocol(
        "Hu, Yang, Ma, Liu, Learning End-to-End Lossy Image Compression: A Benchmark, TPAMI 2021",
        ("psnr", "ms-ssim"),
        "pchip",
        {
            "kodak": PictureSet("Kodak's 24 photos, 768x512", (24,), (0.4, 1.15)),
            # Figures of one say nothing of the other: at one rate they are 4 dB apart.
            "tecnick": PictureSet("Tecnick SAMPLING, 100 pictures of 1200x1200, or the 40 of OR", (100, 40)),
            "clic": PictureSet("CLIC 2019 validation, professional and mobile together", (102,)),
        },
    )
}


class Chosen(NamedTuple):
    """A protocol on one of its sets."""

    name: str
    protocol: Protocol
    pictures: PictureSet

    @property
    def rule(self) -> BDRule:
        """How curves are compared."""
        return BDRule(self.protocol.interpolator, self.pictures.rates)

    def check(self, count: int) -> None:
        """Raises InputError where a set has not as many pictures as it must have."""
        if count not in self.pictures.counts:
            wanted = " or ".join(map(str, self.pictures.counts))
            raise InputError(f"protocol {self.name}: {count} pictures, the set has {wanted}: {self.pictures.about}")


def parse(word: str) -> Chosen:
    """The protocol and set that "NAME:SET" says, as hu2020:kodak. Raises UsageError naming what there is."""
    known = {f"{name}:{part}": (p, p.sets[part]) for name, p in PROTOCOLS.items() for part in p.sets}
    if word not in known:
        raise UsageError(f"protocol {word!r} is not known: use one of {', '.join(known)}")
    return Chosen(word, *known[word])
