"""Protocols of published benchmarks: their figures come out again, and the command follows them."""

import numpy as np
import pytest
from PIL import Image

from mlic_jax.cli import main as cli
from mlic_jax.errors import InputError, UsageError
from mlic_jax.evaluation.benchmark import comparing, protocols

# Kodak, (bpp, dB): Hu et al., by the author (huzi96/Coarse2Fine-ImaComp, issue 7); BPG 4:4:4, by TensorFlow
# Compression.
HU = (
    (0.2072, 30.0631), (0.2694, 31.0654), (0.3082, 31.6113), (0.3629, 32.2974), (0.4102, 32.8406), (0.4508, 33.2612),
    (0.4898, 33.6535), (0.7951, 36.2269), (1.0593, 38.0253), (1.2171, 38.8963),
)  # fmt: skip
BPG = (
    (0.165529, 28.83637), (0.193939, 29.37095), (0.226882, 29.92792), (0.264902, 30.51976), (0.308004, 31.11431),
    (0.353821, 31.70736), (0.406663, 32.33344), (0.465174, 32.95363), (0.528513, 33.58964), (0.602615, 34.26008),
    (0.681227, 34.92168), (0.76315, 35.56082), (0.855122, 36.23918), (0.954195, 36.89282), (1.058729, 37.53911),
    (1.178031, 38.22503), (1.302895, 38.89222), (1.427853, 39.50886),
)  # fmt: skip


@pytest.mark.parametrize(("pictures", "percent"), [("kodak", -7.7), ("tecnick", -8.7)])
def test_bd_rate_of_the_published_points(pictures, percent):
    """On Kodak over 0.4 to 1.15 bpp; where a set has no range, over all that both curves cover."""
    rule = protocols.parse(f"hu2020:{pictures}").rule
    curves = {(name, None): [{"bpp": r, "psnr_db": q} for r, q in points] for name, points in (("a", BPG), ("b", HU))}
    (row,) = comparing.bd_rates(curves, ["a"], ["psnr"], rule)
    assert row["mean"] == pytest.approx(percent, abs=0.05) and row["interpolator"] == "pchip"


def test_sets_are_counted():
    protocols.parse("hu2020:tecnick").check(40)
    with pytest.raises(InputError, match=r"hu2020:clic: 41 pictures, the set has 102: CLIC 2019"):
        protocols.parse("hu2020:clic").check(41)
    with pytest.raises(UsageError, match="'hu2020' is not known: use one of hu2020:kodak, hu2020:tecnick, hu2020:clic"):
        protocols.parse("hu2020")


def test_the_command_follows_a_protocol(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    words = ["benchmark", "--protocol", "hu2020:kodak", "--images", str(tmp_path / "pictures"), "--out", str(tmp_path)]
    words += ["--codecs", "jpeg,webp", "--anchors", "jpeg", "--metrics", "ssim", "--quiet"]
    for number in range(24):
        if number == 23:
            assert cli.main(words) == 3
            error = capsys.readouterr().err
            assert "23 pictures, the set has 24" in error and error.count("\n") == 1
        pixels = np.cumsum(rng.integers(-9, 10, (32, 48, 3)), axis=1) + 128
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "pictures" / f"{number}.png")
    assert cli.main(words) == 0
    text = (tmp_path / "benchmark.md").read_text()
    assert "pchip interpolation of log rate over dB, of the points of 0.4 to 1.15 bpp" in text
    assert "MS-SSIM" in text and "| SSIM" not in text
