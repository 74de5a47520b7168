"""The metrics by name: what each is called, computed and compared by. Tables, plots and BD-rates take them from here.

Another metric is another row of METRICS; everything that measures then knows it by its name.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlic_jax.errors import InputError, UsageError
from mlic_jax.metrics import dists, frechet, inception, lpips, msssim, psnr, psnr_hvs
from mlic_jax.metrics.sets import OfSet

# How keys of parts end.
PART = ":part"


class Metric(NamedTuple):
    """How far a decoded picture is from the original, or a set of pictures from theirs.

    Attributes:
      name: on the command line.
      key: of its column in rows of results.
      label: of its column in tables, with the unit.
      compute: (original, decoded), both uint8 [H, W, 3] -> the value; nan where a side is too short for the metric.
      higher_is_better: whether larger values are better pictures.
      scale: value -> dB, larger for better pictures: what is plotted, and the quality at which BD-rates compare.
      missing: None, or what to install first.
      axis: of plots; says what `scale` does.
      of_set: for a metric whose value for a set is no mean of its pictures' values; `compute` is then that of a set of
        one.
    """

    name: str
    key: str
    label: str
    compute: Callable[[np.ndarray, np.ndarray], float]
    higher_is_better: bool
    scale: Callable[[float], float]
    missing: Callable[[], str | None]
    axis: str
    of_set: OfSet | None = None

    @property
    def part_key(self) -> str:
        """Under which rows have the parts of a metric of sets."""
        return f"{self.key}{PART}"

    @property
    def title(self) -> str:
        """The label without the unit."""
        return self.label.removesuffix(" dB")


def identity_db(value: float) -> float:
    """The scale of what is in dB already."""
    return float(value)


def distance_db(value: float) -> float:
    """-10 log10(distance) in dB: halving a distance is worth 3 dB wherever it starts. Infinite at 0, nan of nan."""
    return -10 * math.log10(value) if value > 0 else (math.nan if math.isnan(value) else math.inf)


def _nothing() -> None:
    return None


def _in_db(name: str, key: str, title: str, compute: Callable) -> Metric:
    return Metric(name, key, f"{title} dB", compute, True, identity_db, _nothing, f"{title} [dB]")


def _similarity(name: str, key: str, title: str, compute: Callable) -> Metric:
    axis = f"{title} [dB], −10 log₁₀(1 − {title})"
    return Metric(name, key, title, compute, True, msssim.ms_ssim_db, _nothing, axis)


def set_in_db(name: str, key: str, title: str, of_set: OfSet) -> Metric:
    """A metric of sets whose values are in dB."""
    return _in_db(name, key, title, lambda *pair: of_set.value([of_set.part(*pair)]))._replace(of_set=of_set)


def set_distance(
    name: str, key: str, title: str, of_set: OfSet, missing: Callable[[], str | None] = _nothing
) -> Metric:
    """A metric of sets that is a distance: as FID, the Fréchet distance of features (mlic_jax.metrics.frechet)."""
    made = set_in_db(name, key, title, of_set)
    axis = f"{title} [dB], −10 log₁₀ {title}"
    return made._replace(label=title, higher_is_better=False, scale=distance_db, missing=missing, axis=axis)


def _lpips(net: str, title: str) -> Metric:
    compute, missing = functools.partial(lpips.lpips_uint8, net=net), lpips.missing
    axis = f"{title} [dB], −10 log₁₀ LPIPS"
    return Metric(f"lpips-{net}", f"lpips_{net}", title, compute, False, distance_db, missing, axis)


def _inception(name: str, title: str, distance: Callable, side: int) -> Metric:
    of_set, label = inception.of_set(distance, side), f"{title} ({side}x{side})"
    return set_distance(f"{name}-{side}", f"{name}_{side}", label, of_set, inception.missing)


def _of_luma(compute: Callable) -> Callable:
    return lambda original, decoded: compute(luma(original), luma(decoded))


def luma(image: np.ndarray) -> np.ndarray:
    """Y of uint8 [H, W, 3] as uint8 [H, W, 1]: BT.601's weights over the full range 0 to 255, rounded, half up.

    That is JFIF's Y. MATLAB's `rgb2ycbcr` and video have Y in 16 to 235, which makes their PSNR 1.3 dB higher.
    Raises InputError for other shapes and dtypes.
    """
    psnr.check_pair(image, image)
    if np.shape(image)[2] != 3:
        raise InputError(f"luma is that of RGB pictures [H, W, 3], got {list(np.shape(image))}")
    red, green, blue = np.moveaxis(np.asarray(image, np.int32), -1, 0)
    return ((299 * red + 587 * green + 114 * blue + 500) // 1000).astype(np.uint8)[..., None]


METRICS = {
    metric.name: metric
    for metric in (
        _in_db("psnr", "psnr_db", "PSNR", psnr.psnr_db),
        _similarity("ms-ssim", "ms_ssim", "MS-SSIM", msssim.ms_ssim_uint8),
        _similarity("ssim", "ssim", "SSIM", msssim.ssim_uint8),
        _in_db("psnr-y", "psnr_y_db", "PSNR-Y", _of_luma(psnr.psnr_db)),
        _similarity("ssim-y", "ssim_y", "SSIM-Y", _of_luma(msssim.ssim_uint8)),
        _in_db("psnr-hvs", "psnr_hvs_db", "PSNR-HVS", _of_luma(psnr_hvs.psnr_hvs_db)),
        _lpips("alex", "LPIPS (AlexNet)"),
        _lpips("vgg", "LPIPS (VGG16)"),
        Metric(
            "dists",
            "dists",
            "DISTS",
            dists.dists_uint8,
            False,
            distance_db,
            dists.missing,
            "DISTS [dB], −10 log₁₀ DISTS",
        ),
        *(_inception("fid", "FID", frechet.between, side) for side in inception.SIDES),
        *(_inception("kid", "KID", inception.kid, side) for side in inception.SIDES),
        set_in_db("psnr-set", "psnr_set_db", "PSNR of the set", OfSet(psnr.squares, psnr.psnr_of_squares)),
    )
}
BY_KEY = {metric.key: metric for metric in METRICS.values()}


def register(metric: Metric) -> None:
    """Adds a metric, which is then known by its name everywhere. Raises UsageError where name or key is taken."""
    if metric.name in METRICS or metric.key in BY_KEY:
        raise UsageError(f"there is a metric {metric.name!r}, or one with the key {metric.key!r}, already")
    METRICS[metric.name] = BY_KEY[metric.key] = metric


# What is measured where nothing is said.
DEFAULT = ("psnr", "ms-ssim")


def get(name: str) -> Metric:
    """The metric of a name. Raises UsageError for an unknown one, naming the known, and for one that cannot run here,
    naming what to install."""
    if name not in METRICS:
        raise UsageError(f"unknown metric {name!r}; known: {', '.join(METRICS)}")
    if missing := METRICS[name].missing():
        raise UsageError(f"metric {name!r}: {missing}")
    return METRICS[name]


def parse(words: str) -> tuple[str, ...]:
    """Names with commas between -> names, each once, in their order. Raises UsageError as `get`, and for no name."""
    names = tuple(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    if not names:
        raise UsageError(f"no metric is named; known: {', '.join(METRICS)}")
    return tuple(get(name).name for name in names)


def measured(
    original: np.ndarray, decoded: np.ndarray, names: Sequence[str] = DEFAULT, parts: bool = False
) -> dict[str, Any]:
    """key -> value of metrics for two pictures uint8 [H, W, 3]; with parts, `part_key` -> part of metrics of sets, too.

    Raises UsageError as `get`; InputError for other pictures.
    """
    found: dict[str, Any] = {}
    for metric in map(get, names):
        if metric.of_set is None or not parts:
            found[metric.key] = metric.compute(original, decoded)
        else:
            part = found[metric.part_key] = metric.of_set.part(original, decoded)
            found[metric.key] = metric.of_set.value([part])
    return found
