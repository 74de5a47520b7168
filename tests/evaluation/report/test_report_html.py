"""The HTML report: complete, self-contained, escaped, lossless, and of a bounded size."""

import base64
import html.parser
import io
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

import mlic_jax
from mlic_jax import atomic, classical, errors
from mlic_jax.evaluation.report import html as report

PHOTOS = pathlib.Path(mlic_jax.__file__).parent / "data" / "photos"
CURVES = {"jpeg": [{"bpp": 0.2, "psnr_db": 24.0, "ms_ssim": 0.8}, {"bpp": 1.0, "psnr_db": 33.0, "ms_ssim": 0.97}]}
EVIL = '<script>alert("1")</script>&'


def picture(name="coffee", height=200, width=240):
    original = np.asarray(Image.open(PHOTOS / "coffee.png").convert("RGB"))[100 : 100 + height, 150 : 150 + width]
    versions = []
    for label, quality in (("ours", 60), ("jpeg", 10)):
        data = classical.get("jpeg").encode(original, quality)
        image = classical.get("jpeg").decode(data)
        figures = {"bytes": len(data), "bpp": 8 * len(data) / height / width, "psnr_db": 31.234, "ms_ssim": 0.95}
        versions.append(report.Version(label, image, figures))
    return report.Picture(name, original, versions)


class Page(html.parser.HTMLParser):
    """Collects tags with their attributes, and checks that they close in order."""

    VOID = {"meta", "img", "input", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def images(self):
        for tag, attributes in self.tags:
            if tag == "img" and attributes.get("src"):
                data = base64.b64decode(attributes["src"].removeprefix("data:image/webp;base64,"))
                yield attributes["alt"], np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def write(tmp_path, **changes):
    arguments = dict(title="A report", notes=["What it is.", "A caveat."], summary=[{"codec": "ours", "bpp": 0.5}])
    arguments |= dict(curves=CURVES, pictures=[picture()]) | changes
    return report.write_report(tmp_path / "report.html", **arguments).read_text()


def test_pictures_come_out_as_they_went_in(tmp_path):
    shown = picture()
    page = Page(write(tmp_path, pictures=[shown]))
    images = list(page.images())
    assert [alt for alt, _ in images[:3]] == ["original", "ours", "jpeg"]
    for (_, image), expected in zip(images, [shown.original, *(v.image for v in shown.versions)], strict=False):
        assert (image == expected).all()
    (y, x), second = report.detail_crops(shown.original)
    crop = dict(images)["jpeg, crop A"]
    assert (crop == shown.versions[1].image[y : y + 64, x : x + 64]).all()
    text = " ".join(page.text)
    assert "PSNR 31.23 dB · MS-SSIM 0.9500 (13.0 dB)" in text
    assert f"{shown.versions[0].figures['bpp']:.4f} bpp" in text and "A caveat." in text


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    text = write(tmp_path)
    for tag, attributes in Page(text).tags:
        assert tag not in ("link", "iframe", "object", "base") and not (tag == "script" and "src" in attributes)
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith(("data:image/webp", "#")), (tag, name)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_text_is_escaped_everywhere(tmp_path):
    shown = picture(EVIL)
    shown = shown._replace(versions=[version._replace(label=EVIL) for version in shown.versions])
    page = Page(
        write(
            tmp_path,
            title=EVIL,
            notes=[EVIL, EVIL],
            summary=[{EVIL: EVIL}],
            curves={EVIL: CURVES["jpeg"]},
            pictures=[shown],
        )
    )
    assert sum(tag == "script" for tag, _ in page.tags) == 1  # ours
    assert sum(EVIL in text for text in page.text) >= 10


def test_a_page_that_would_be_too_large_shows_the_middle_and_says_so(tmp_path):
    shown = picture(height=256, width=384)
    full = write(tmp_path, pictures=[shown])
    assert "shown: the middle" not in full
    limit = len(full) - 150_000
    text = write(tmp_path, pictures=[shown], max_bytes=limit)
    assert limit * 0.75 < len(text.encode()) <= limit
    original = dict(Page(text).images())["original"]
    height, width = original.shape[:2]
    top, left = (256 - height) // 2, (384 - width) // 2
    assert (original == shown.original[top : top + height, left : left + width]).all()
    assert f"384 × 256 pixels; shown: the middle {width} × {height}. The figures are those of the whole" in text


def test_few_or_no_things_to_show(tmp_path):
    page = Page(write(tmp_path, notes=[], summary=[], curves={}, pictures=[]))
    assert "A report" in page.text and not list(page.images())
    tiny = picture(height=20, width=30)
    exact = {**tiny.versions[0].figures, "psnr_db": float("inf"), "ms_ssim": float("nan")}
    lossless = tiny.versions[0]._replace(figures=exact)
    text = write(tmp_path, curves={}, pictures=[tiny._replace(versions=[lossless])])
    assert "PSNR ∞ dB · MS-SSIM – (– dB)" in text
    assert len(list(Page(write(tmp_path, pictures=[tiny._replace(versions=[])])).images())) == 2


def test_a_version_of_another_shape_is_refused(tmp_path):
    shown = picture()
    wrong = shown.versions[0]._replace(image=shown.original[:-1])
    with pytest.raises(errors.InputError, match=r"coffee, ours: uint8 \[199, 240, 3\]"):
        write(tmp_path, pictures=[shown._replace(versions=[wrong])])
    assert not (tmp_path / "report.html").exists()


def test_a_failed_write_leaves_the_old_report_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr(atomic.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(errors.InputError, match="report.html.*No space left on device"):
        write(tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_crops_go_where_the_detail_is():
    image = np.full((200, 300, 3), 128, np.uint8)
    image[96:160, 200:264] = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    (first, second) = report.detail_crops(image)
    assert first == pytest.approx((96, 200), abs=8)
    assert max(abs(second[0] - first[0]), abs(second[1] - first[1])) >= 64
    assert report.detail_crops(image[:50, :70]) == [(0, 0)] or len(report.detail_crops(image[:50, :70])) == 1


def test_sections_are_tables_of_their_own(tmp_path):
    long = "settings " * 12
    sections = [("Differences", "In percent.", [{"codec": "a", "figure": -12.5}]), (EVIL, "", [{"codec": long}])]
    page = Page(write(tmp_path, sections=sections))
    words = [text.strip() for text in page.text]
    assert words.index("Differences") < words.index("In percent.") < words.index("−12.5") < words.index(EVIL)
    assert [dict(attributes).get("class") for tag, attributes in page.tags if tag == "td"][-1] == "wide"
