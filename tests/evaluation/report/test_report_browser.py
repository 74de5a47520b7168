"""The report in a browser: the comparison answers mouse, touch and keyboard, and the page is whole without scripts."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from mlic_jax.evaluation.report import html as report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

COLOURS = {"original": (90, 90, 90), "ours": (250, 0, 0), "theirs": (0, 0, 250)}
SIZE = (200, 320)

# What a person would do, with what is then to be seen: where the border is, in percent, and what lies on its sides.
SCRIPT = """
<script>
const stage = document.querySelector(".stage"), split = document.querySelector(".split"), seen = [];
const see = (what) => {
  const [below, above] = document.querySelectorAll(".sheet img");
  const covered = above.style.clipPath.match(/100% - ([0-9.]+)px/)[1];
  seen.push([what, Math.round(100 * covered / stage.clientWidth), above.alt, below.alt]);
};
const box = stage.getBoundingClientRect();
const at = (share) => ({ clientX: box.left + share * stage.clientWidth, clientY: box.top + 9, bubbles: true });
see("start");
split.value = 25; split.dispatchEvent(new Event("input")); see("slider");
stage.dispatchEvent(new PointerEvent("pointermove", { ...at(0.75), pointerType: "mouse" })); see("mouse");
stage.dispatchEvent(new PointerEvent("pointermove", { ...at(0.1), pointerType: "touch" })); see("hovering finger");
const handle = document.querySelector(".edge span");
handle.dispatchEvent(new PointerEvent("pointerdown", { ...at(0.4), pointerType: "touch", buttons: 1 }));
handle.dispatchEvent(new PointerEvent("pointermove", { ...at(0.6), pointerType: "touch", buttons: 1 })); see("finger");
document.querySelector(".swap").click(); see("swap");
const right = document.querySelector(".rightside");
right.value = "0"; right.dispatchEvent(new Event("change")); see("choice");
document.querySelector('[data-zoom="2"]').click(); see("zoom");
split.focus();
const looks = [document.activeElement === split, split.type, split.getAttribute("aria-label"), seen];
document.body.dataset.seen = JSON.stringify(looks);
</script>
"""


@pytest.fixture
def page(tmp_path):
    images = {name: np.full((*SIZE, 3), colour, np.uint8) for name, colour in COLOURS.items()}
    figures = {"bytes": 100, "bpp": 0.0125, "psnr_db": 30.0, "ms_ssim": 0.9}
    versions = [report.Version(name, images[name], figures) for name in ("ours", "theirs")]
    shown = [report.Picture("plain", images["original"], versions)]
    return report.write_report(tmp_path / "report.html", "A report", ["About."], [{"codec": "ours"}], {}, shown)


def chromium(folder, *words):
    # Chromium's own sandbox does not work for root, as which containers often run tests.
    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    command = [CHROMIUM, *fixed, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1100", *map(str, words)]
    return subprocess.run(command, capture_output=True, timeout=120, check=True).stdout.decode()


def test_the_comparison_answers_mouse_touch_and_keyboard(page, tmp_path):
    tried = tmp_path / "tried.html"
    tried.write_text(page.read_text().replace("</body>", SCRIPT + "</body>"))
    dom = chromium(tmp_path, "--dump-dom", tried.as_uri())
    found = re.search(r'data-seen="([^"]*)"', dom)
    assert found, dom[-2000:]
    focused, kind, label, seen = json.loads(found[1].replace("&quot;", '"'))
    assert focused and kind == "range" and label  # what the arrow keys move, and what a screen reader calls it
    assert seen == [
        ["start", 50, "ours", "theirs"],
        ["slider", 25, "ours", "theirs"],
        ["mouse", 75, "ours", "theirs"],
        ["hovering finger", 75, "ours", "theirs"],
        ["finger", 60, "ours", "theirs"],
        ["swap", 60, "theirs", "ours"],
        ["choice", 60, "theirs", "original"],
        ["zoom", 60, "theirs", "original"],
    ]


def area(path, colour):
    """How many pixels of a screenshot have this colour, and from which to which column they reach."""
    same = (np.asarray(Image.open(path).convert("RGB")) == colour).all(-1)
    columns = np.nonzero(same.any(0))[0]
    return same.sum(), columns


def test_both_sides_are_seen_in_one_place(page, tmp_path):
    shot = tmp_path / "shot.png"
    # The side-by-side pictures go, so that what is counted is the comparison's.
    hidden = "<style>.cards, .crops { display: none } .sheet .edge { display: none }</style>"
    page.write_text(page.read_text().replace("</head>", hidden + "</head>"))
    chromium(tmp_path, f"--screenshot={shot}", page.as_uri())
    (ours, left), (theirs, right) = area(shot, COLOURS["ours"]), area(shot, COLOURS["theirs"])
    assert ours + theirs == pytest.approx(SIZE[0] * SIZE[1], rel=0.02) and ours == pytest.approx(theirs, rel=0.02)
    assert left.max() < right.min()


def test_without_scripts_the_pictures_stand_side_by_side(page, tmp_path):
    shot = tmp_path / "shot.png"
    # A headless Chromium whose scripts are switched off takes no screenshot.
    still = re.sub("<script>.*?</script>", "", page.read_text(), flags=re.DOTALL)
    page.write_text(still.replace("</head>", "<style>.crops { display: none }</style></head>"))
    chromium(tmp_path, f"--screenshot={shot}", page.as_uri())
    spans = [area(shot, colour)[1] for colour in COLOURS.values()]
    assert all(len(span) > 150 for span in spans)
    assert spans[0].max() < spans[1].min() and spans[1].max() < spans[2].min()
