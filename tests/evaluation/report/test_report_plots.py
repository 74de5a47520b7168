"""Rate-distortion plots: what is drawn, how it is told apart, and that it needs no display."""

import re
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image

from mlic_jax import errors
from mlic_jax.evaluation.report import plots

CURVES = {
    "hyperprior": [{"bpp": 0.2, "psnr_db": 28.0, "ms_ssim": 0.95}, {"bpp": 1.0, "psnr_db": 34.0, "ms_ssim": 0.98}],
    "jpeg": [{"bpp": 3.4, "psnr_db": 40.0, "ms_ssim": 0.99}, {"bpp": 0.2, "psnr_db": 24.0, "ms_ssim": 0.81}],
    "vtm (published)": [{"bpp": 0.1, "psnr_db": 28.0}, {"bpp": 1.5, "psnr_db": 40.0}],
}
FAMILIES = {"hyperprior": "ours", "jpeg": "classical", "vtm (published)": "published"}


def test_svg_is_valid_and_the_same_every_time():
    svg = plots.rd_plot(CURVES)
    assert svg == plots.rd_plot(CURVES)
    root = xml.etree.ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert b"<text" not in svg  # letters are outlines: they look the same without the font
    assert b"dc:date" not in svg


def test_png_shows_something(tmp_path):
    written = plots.save_rd_plots({"png": tmp_path}, "rd", CURVES, "ms-ssim", FAMILIES)
    assert written == {"rd.png": str(tmp_path / "rd.png")} and not plots.save_rd_plots({"png": "x"}, "rd", {}, "psnr")
    image = np.asarray(Image.open(written["rd.png"]).convert("RGB"))
    assert image.shape[1] > 900
    red = (abs(image.astype(int) - (0xE5, 0x48, 0x4D)).max(-1) < 8).sum()
    grey = (abs(image.astype(int) - (0x8B, 0x94, 0x9E)).max(-1) < 8).sum()
    assert red > 2 * grey > 100  # ours is drawn bolder than a standard codec


def test_axis_ends_beyond_ours_and_legend_follows_the_curves(monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
    plots.rd_plot(CURVES, families=FAMILIES)
    axes = drawn[0].axes[0]
    assert axes.get_xlim() == (0, pytest.approx(1.2))
    assert axes.get_ylim()[1] < 39  # not stretched by what lies outside
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["vtm (published)", "hyperprior", "jpeg"]
    plots.rd_plot(CURVES, "ms_ssim", families=FAMILIES)
    colours = [{line.get_label(): line.get_color() for line in figure.axes[0].lines} for figure in drawn]
    assert "vtm (published)" not in colours[1] and colours[1].items() <= colours[0].items()


def test_the_legend_names_what_is_seen(monkeypatch):
    """A model of one rate far below JPEG's least: the axis goes on to where JPEG begins."""
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self))
    low = CURVES | {"hyperprior": [{"bpp": 0.05, "psnr_db": 25.0}]}
    plots.rd_plot(low, families=FAMILIES)
    plots.rd_plot(low, families=FAMILIES, bpp_max=0.06)
    wide, narrow = ([text.get_text() for text in figure.axes[0].get_legend().get_texts()] for figure in drawn)
    assert drawn[0].axes[0].get_xlim()[1] == pytest.approx(0.26) and "jpeg" in wide
    assert narrow == ["hyperprior"]


def test_inline_svgs_share_a_page():
    svg = plots.rd_plot(CURVES, transparent=True)
    one, two = plots.inline_svg(svg, "one-"), plots.inline_svg(svg, "two-")
    ids = [set(re.findall(r'\bid="([^"]*)"', text)) for text in (one, two)]
    assert not ids[0] & ids[1]
    references = set(re.findall(r'(?:url\(#|href="#)([^")]*)', one))
    assert references and references <= ids[0]
    assert one.startswith("<svg ") and "currentColor" in one and plots.INK not in one
    assert "#ffffff" not in one and b"#ffffff" in plots.rd_plot(CURVES)  # a file of its own has a white ground


def test_bad_plots_are_refused(monkeypatch):
    with pytest.raises(errors.InputError, match="'ms_ssim'"):
        plots.rd_plot({"x": [{"bpp": 1.0, "psnr_db": 30.0}]}, "ms_ssim")
    with pytest.raises(errors.UsageError, match="'lpips'"):
        plots.rd_plot(CURVES, "lpips")
    with pytest.raises(errors.UsageError, match="'best'; known: ours"):
        plots.rd_plot(CURVES, families={"jpeg": "best"})
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(
        errors.UsageError, match=r"plots need matplotlib, which is not installed: pip install .*\[bench\]"
    ):
        plots.rd_plot(CURVES)
