"""Bjontegaard differences against cases with a known answer and against published curves."""

import json
import pathlib

import numpy as np
import pytest

from mlic_jax import errors
from mlic_jax.metrics import bd

SHARED = pathlib.Path(__file__).parents[2].parent / "shared"

# Kodak, PSNR over RGB: results/image/kodak/{bpg_444_x265_ycbcr,compressai-bmshj2018-hyperprior_mse_cuda,vtm}.json
# of InterDigitalInc/CompressAI at 869a9f5d4126.
BPG = [(0.067768, 26.19513), (0.161023, 28.68155), (0.351554, 31.59466), (0.684697, 34.85747),
       (1.199665, 38.25989), (1.929712, 41.47887), (3.057876, 44.70311), (4.703143, 47.63252)]  # fmt: skip
HYPERPRIOR = [(0.131293, 27.58154), (0.208893, 29.1967), (0.319858, 30.97216), (0.478356, 32.83818),
              (0.668684, 34.52626), (0.938826, 36.74335), (1.259172, 38.58385), (1.660224, 40.55687)]  # fmt: skip


@pytest.mark.parametrize("interpolator", ["akima", "pchip"])
def test_a_constant_factor_in_rate_is_that_percentage(interpolator):
    dearer = [(1.25 * rate, quality) for rate, quality in BPG]
    result = bd.bd_rate(BPG, dearer[::-1], interpolator)
    assert result.value == pytest.approx(25, abs=1e-9)
    assert result[1:] == (26.19513, 47.63252, interpolator)
    assert bd.bd_rate(dearer, BPG, interpolator).value == pytest.approx(-20, abs=1e-9)


@pytest.mark.parametrize("interpolator", ["akima", "pchip"])
def test_a_constant_gain_in_quality_is_that_gain(interpolator):
    better = [(rate, quality + 0.7) for rate, quality in BPG]
    result = bd.bd_psnr(BPG, better, interpolator)
    assert result.value == pytest.approx(0.7, abs=1e-9)
    assert (result.low, result.high) == pytest.approx((0.067768, 4.703143))


def test_a_straight_line_has_a_closed_form():
    # log10(rate) = quality / 20 for the anchor and quality / 25 for the other: their mean difference over 25..35 dB.
    anchor = [(10 ** (quality / 20), quality) for quality in (20, 25, 31, 38)]
    test = [(10 ** (quality / 25), quality) for quality in (25, 28, 33, 35)]
    result = bd.bd_rate(anchor, test)
    assert (result.low, result.high) == (25, 35)
    assert result.value == pytest.approx((10 ** (30 / 25 - 30 / 20) - 1) * 100)
    narrow = bd.bd_rate(anchor, test, quality_range=(26, 30))
    assert narrow[:3] == pytest.approx(((10 ** (28 / 25 - 28 / 20) - 1) * 100, 26, 30))


def test_published_curves_give_the_published_difference():
    # +3.91 % with Akima and +3.93 % with pchip, as the package bjontegaard 1.3.0 computes from the same points.
    assert bd.bd_rate(BPG, HYPERPRIOR).value == pytest.approx(3.91, abs=0.005)
    assert bd.bd_rate(BPG, HYPERPRIOR, "pchip").value == pytest.approx(3.93, abs=0.005)
    assert bd.bd_rate(HYPERPRIOR, BPG).value == pytest.approx((1 / 1.0391 - 1) * 100, abs=0.01)
    assert bd.bd_psnr(BPG, HYPERPRIOR).value < 0


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(errors.InputError, match="test: 3 points; .* at least 4"):
        bd.bd_rate(BPG, HYPERPRIOR[:3])
    with pytest.raises(errors.InputError, match="do not overlap: anchor 26.195 to 47.633 dB, test 127.582"):
        bd.bd_rate(BPG, [(rate, quality + 100) for rate, quality in HYPERPRIOR])
    with pytest.raises(errors.InputError, match="anchor: quality must differ"):
        bd.bd_rate([*BPG, (9.0, BPG[0][1])], HYPERPRIOR)
    with pytest.raises(errors.InputError, match="finite"):
        bd.bd_rate(BPG, [*HYPERPRIOR, (2.0, float("inf"))])
    with pytest.raises(errors.InputError, match="positive"):
        bd.bd_rate(BPG, [*HYPERPRIOR, (0.0, 20.0)])
    with pytest.raises(errors.UsageError, match="'cubic'; known: akima, pchip"):
        bd.bd_rate(BPG, HYPERPRIOR, "cubic")
    with pytest.raises(errors.UsageError, match="both curves cover only 27.582 to 40.557"):
        bd.bd_rate(BPG, HYPERPRIOR, quality_range=(20, 30))
    with pytest.raises(errors.UsageError, match="positive"):
        bd.bd_psnr(BPG, HYPERPRIOR, bpp_range=(0, 1))


def test_curve_takes_what_evaluations_write():
    points = [
        {"bpp": 0.5, "psnr_db": 30.0, "ms_ssim": 0.99},
        {"bpp": 24, "psnr_db": float("inf"), "ms_ssim": 1.0},
        {"bpp": 0.1, "psnr_db": 25.0, "ms_ssim": float("nan")},
        {"bpp": 0.2, "psnr_db": None},
    ]
    assert bd.curve(points) == [(0.5, 30.0), (0.1, 25.0)]
    assert bd.curve(points, "ms_ssim") == [(0.5, pytest.approx(20.0))]


@pytest.mark.skipif(not (SHARED / "rd" / "bd_kodak.json").exists(), reason="the collected curves are not here")
def test_agrees_with_the_collected_differences():
    curves = {}
    for record in json.loads((SHARED / "rd" / "compressai.json").read_text()):
        if record["dataset"] == "kodak" and record["metric"] == "psnr-rgb" and record["optimized_for"] != "ms-ssim":
            points = [{"bpp": p["bpp"], "psnr_db": p["psnr"], "ms_ssim": p["ms_ssim"]} for p in record["points"]]
            curves[record["codec"], record["variant"]] = points
    checked = 0
    for row in json.loads((SHARED / "rd" / "bd_kodak.json").read_text()):
        points = curves.get((row["codec"], row["variant"]))
        if row["file"] != "compressai" or row["opt"] == "ms-ssim" or points is None or row.get("bd_bpg") is None:
            continue
        anchor, jpeg, test = (bd.curve(p) for p in (curves["bpg-444", None], curves["jpeg", None], points))
        got = [bd.bd_rate(anchor, test).value, bd.bd_rate(anchor, test, "pchip").value, bd.bd_psnr(jpeg, test).value]
        assert np.allclose(got, [row["bd_bpg"], row["bdp_bpg"], row["bdpsnr_jpeg"]], atol=0.011, rtol=0), row["codec"]
        if row.get("bdms_bpg") is not None:
            got = bd.bd_rate(bd.curve(curves["bpg-444", None], "ms_ssim"), bd.curve(points, "ms_ssim")).value
            assert got == pytest.approx(row["bdms_bpg"], abs=0.011), row["codec"]
        checked += 1
    assert checked > 20
