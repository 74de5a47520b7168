"""One HTML file that shows a model to somebody who has never seen it: numbers, curves, and pictures at equal rate.

Nothing is loaded from elsewhere: pictures are lossless WebP in data URIs, plots are inline SVG, and the comparison
works from a file:// address. Without scripts all but the comparison is still there.
"""

from __future__ import annotations

import base64
import html
import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from mlic_jax import atomic, errors
from mlic_jax.evaluation.report import page, plots, tables
from mlic_jax.metrics import bd, registry

CROP = 64  # side of the enlarged crops in pixels; shown three times as large
MAX_BYTES = 12_000_000
LONG_CELL = 60  # letters from which a column's text is broken into lines
WEBP_SIDE = 16383  # the longest that the format stores

_GLOSSARY = (
    ("Rate, bpp", "Bits per pixel of the whole file on disk. An uncompressed photograph has 24."),
    ("PSNR", "Pixel error on a logarithmic scale, higher is better. About 30 dB looks compressed, 40 dB hardly does."),
    ("MS-SSIM", "Similarity of structure at five scales, 1 is identical. Closer to what people see than PSNR is."),
    ("BD-rate", "By how many percent files differ from an anchor's at equal quality. Negative means smaller files."),
)
_OF_LPIPS = (
    ("LPIPS", "Distance in the features of a network, 0 is identical: what looks alike, rather than what is the same."),
)


class Version(NamedTuple):
    """A decoded file: what a codec made of a picture.

    Attributes:
      label: the codec.
      image: uint8 [H, W, 3].
      figures: bytes, bpp, and metrics by their keys; nan where one is not defined for this picture.
      point: at which of its settings.
    """

    label: str
    image: np.ndarray
    figures: Mapping[str, Any]
    point: str = ""


class Picture(NamedTuple):
    """A photograph and what codecs made of it, at files of about one size if the comparison is to be fair."""

    name: str
    original: np.ndarray  # uint8 [H, W, 3]
    versions: Sequence[Version]  # the model's own first


def write_report(
    path: str | os.PathLike,
    title: str,
    notes: Sequence[str],
    summary: Sequence[Mapping],
    curves: plots.Curves,
    pictures: Sequence[Picture],
    families: Mapping[str, str] | None = None,
    max_bytes: int = MAX_BYTES,
    sections: Sequence[tuple[str, str, Sequence[Mapping]]] = (),
) -> pathlib.Path:
    """Writes the report, atomically.

    Args:
      path: of the HTML file, in a folder that exists.
      title: the headline.
      notes: the first says what this model is; the others, what to keep in mind, are listed in a box below it.
      summary: rows of the table, in order; see `tables.cell` for how numbers are shown.
      curves: name -> points with bpp and keys of metrics, for `plots.rd_plot`. May be empty.
      pictures: shown in order.
      families: name of a curve or label of a version -> "ours" (the default), "classical" or "published".
      max_bytes: where the page would be larger, pictures are cropped around their middle until it is not, and the page
        says so. They are never scaled. What is not a picture, and crops of 64 pixels, always stay.
      sections: (headline, paragraph, rows) of further tables, below the plots.

    Raises:
      InputError: a version whose image differs in shape from its original, or a path that cannot be written.
      UsageError: matplotlib is missing.
    """
    for picture in pictures:
        for version in picture.versions:
            if version.image.shape != picture.original.shape or version.image.dtype != np.uint8:
                raise errors.InputError(
                    f"{picture.name}, {version.label}: {version.image.dtype} {list(version.image.shape)} cannot be "
                    f"shown beside the original, uint8 {list(picture.original.shape)}"
                )
    families = families or {}
    head = _head(title, notes, summary, curves, families) + "".join(_section(*section) for section in sections)
    keep = 1.0  # the share of each side that is shown
    while True:
        body = _PICTURES if pictures else ""
        body += "".join(_picture(picture, families, keep) for picture in pictures)
        text = _PAGE.format(title=html.escape(title), css=page.CSS, head=head, pictures=body, js=page.JS)
        excess = len(text.encode()) - max_bytes
        if excess <= 0 or keep < 0.05 or not pictures:
            atomic.write_bytes(path, text.encode())
            return pathlib.Path(path)
        # Bytes go with the area; a little less than what fits, so that one or two rounds do.
        keep *= 0.97 * max(0.1, 1 - excess / len(body)) ** 0.5


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{css}</style></head>
<body><main>{head}{pictures}
<footer>Rates are those of whole files, and all figures are of the 8-bit pixels that the decoder returned.
Written by mlic_jax.</footer></main><script>{js}</script></body></html>
"""

_PICTURES = """<h2>Pictures</h2>
<p>What came out of each decoder, pixel for pixel; compare quality where the file sizes are about equal.
<span class="scripted">Choose two versions, and shift the border between them: with the mouse over the picture, with a
finger by its handle, with the arrow keys on the slider below it.</span></p>
"""


def _head(title, notes, summary, curves, families) -> str:
    parts = [f"<header><h1>{html.escape(title)}</h1>"]
    parts += [f'<p class="lead">{html.escape(note)}</p>' for note in notes[:1]]
    if len(notes) > 1:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in notes[1:])
        parts.append(f'<div class="notes"><b>What to keep in mind</b><ul>{items}</ul></div>')
    parts.append("</header>")
    if summary:
        parts.append(f"<h2>Summary</h2>{_table(summary)}")
    drawn = [quality for quality in registry.BY_KEY if any(bd.curve(points, quality) for points in curves.values())]
    glossary = _GLOSSARY + (_OF_LPIPS if any("lpips" in quality for quality in drawn) else ())
    terms = "".join(f"<dt>{html.escape(term)}</dt><dd>{html.escape(text)}</dd>" for term, text in glossary)
    parts.append(f"<details open><summary>What the figures mean</summary><dl>{terms}</dl></details>")
    if drawn:
        parts.append(
            "<h2>Rate and distortion</h2><p>Quality against file size, averaged over the evaluated pictures: higher, "
            "and further left, is better. Bold: ours. Dashed: standard codecs. Dotted: published results.</p>"
            '<div class="plots">'
        )
        for quality in drawn:
            svg = plots.inline_svg(plots.rd_plot(curves, quality, families=families, transparent=True), f"{quality}-")
            label = html.escape(f"{registry.BY_KEY[quality].axis} over bits per pixel; the points are listed below")
            parts.append(f'<div class="plot" role="img" aria-label="{label}">{svg}</div>')
        points = [{"codec": name, **point} for name, points in curves.items() for point in points]
        parts.append(f"</div><details><summary>The points of the curves</summary>{_table(points)}</details>")
    return "".join(parts)


def _section(title: str, text: str, rows: Sequence[Mapping]) -> str:
    paragraph = f"<p>{html.escape(text)}</p>" if text else ""
    return f"<h2>{html.escape(title)}</h2>{paragraph}{_table(rows)}"


def _table(rows: Sequence[Mapping]) -> str:
    keys = tables.columns(rows)
    numeric = {key: all(tables.is_number(row[key]) for row in rows if row.get(key) is not None) for key in keys}
    tag = {key: ' class="n"' if numeric[key] else "" for key in keys}
    for key in keys:
        if any(len(str(row.get(key, ""))) > LONG_CELL for row in rows):
            tag[key] = ' class="wide"'
    head = "".join(f"<th{tag[key]}>{html.escape(key)}</th>" for key in keys)
    body = "".join(
        "<tr>" + "".join(f"<td{tag[key]}>{html.escape(tables.cell(row.get(key)))}</td>" for key in keys) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _picture(picture: Picture, families: Mapping[str, str], keep: float) -> str:
    """The section of one picture, showing the middle `keep` of each side."""
    height, width = picture.original.shape[:2]
    shown_h, shown_w = (min(side, WEBP_SIDE, max(CROP, round(side * keep))) for side in (height, width))
    top, left = (height - shown_h) // 2, (width - shown_w) // 2

    def middle(image):
        return image[top : top + shown_h, left : left + shown_w]

    original = middle(picture.original)
    crops = list(zip("AB", detail_crops(original), strict=False))
    entries = [("original", original, "", "uncompressed, 24 bpp")]
    for version in picture.versions:
        style = "ours" if families.get(version.label, "ours") == "ours" else ""
        entries.append((version.label, middle(version.image), style, _figures(version.figures)))
    cards = []
    for index, (label, image, style, figures) in enumerate(entries):
        boxes = "" if index else "".join(_box(letter, crop, original) for letter, crop in crops)
        cards.append(
            f'<figure class="{style}" data-figures="{html.escape(figures)}"><div class="frame">'
            f"{_img(image, label)}{boxes}</div>{_caption(label, figures)}</figure>"
        )
    zoomed = []
    for letter, (y, x) in crops:
        zoomed.append(f'<h4>Crop {letter}, enlarged</h4><div class="crops">')
        for label, image, style, _ in entries:
            crop = _img(image[y : y + CROP, x : x + CROP], f"{label}, crop {letter}", "sharp")
            zoomed.append(f'<figure class="{style}">{crop}{_caption(label)}</figure>')
        zoomed.append("</div>")
    size = f"{width} × {height} pixels"
    if (shown_h, shown_w) != (height, width):
        size += f"; shown: the middle {shown_w} × {shown_h}. The figures are those of the whole picture"
    return (
        f'<section class="picture"><h3>{html.escape(picture.name)}</h3><div class="soft">{size}</div>'
        f"{_comparison([entry[0] for entry in entries], shown_w, shown_h)}"
        f'<h4>Side by side</h4><div class="cards">{"".join(cards)}</div>{"".join(zoomed)}</section>'
    )


def _comparison(labels: Sequence[str], width: int, height: int) -> str:
    """The two-image slider; the page's script fills it from the cards. Starts with the model against a codec."""

    def options(chosen):
        return "".join(
            f'<option value="{i}"{" selected" if i == chosen else ""}>{html.escape(label)}</option>'
            for i, label in enumerate(labels)
        )

    last = len(labels) - 1
    zooms = "".join(
        f'<button type="button" data-zoom="{zoom}" aria-pressed="{str(zoom == 1).lower()}">{zoom}×</button>'
        for zoom in (1, 2, 4)
    )
    return (
        '<div class="compare"><div class="bar"><label>Left <select class="left">'
        f'{options(min(1, last))}</select></label><button type="button" class="swap" title="Swap left and right">⇄'
        f'</button><label>Right <select class="rightside">{options(min(2, last))}</select></label>'
        f'<span class="right">Zoom {zooms}</span></div>'
        f'<div class="view"><div class="stage"><div class="sheet" data-width="{width}" data-height="{height}">'
        '<img alt=""><img alt=""><div class="edge"><span>⇔</span></div></div></div>'
        '<input class="split" type="range" min="0" max="100" step="0.1" value="50" '
        'aria-label="where the left picture ends"><div class="ends"><span></span><span></span></div></div></div>'
    )


def _figures(figures: Mapping[str, Any]) -> str:
    """Rate on one line, quality on the next."""
    shown = [_quality(metric, figures[key]) for key, metric in registry.BY_KEY.items() if key in figures]
    return f"{tables.cell(figures['bytes'])} bytes · {figures['bpp']:.4f} bpp\n{' · '.join(shown)}"


def _quality(metric: registry.Metric, value: float) -> str:
    if metric.scale is registry.identity_db:
        return f"{metric.title} {_number(value, 2)} dB"
    return f"{metric.title} {_number(value, 4)} ({_number(metric.scale(value), 1)} dB)"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else tables.cell(value)


def _caption(label: str, figures: str = "") -> str:
    lines = [f"<b>{html.escape(label)}</b>", *map(html.escape, figures.splitlines())]
    return f"<figcaption>{'<br>'.join(lines)}</figcaption>"


def _box(letter: str, crop: tuple[int, int], image: np.ndarray) -> str:
    (y, x), (height, width) = crop, image.shape[:2]
    percent = [100 * value for value in (x / width, y / height, min(CROP, width) / width, min(CROP, height) / height)]
    style = "left:{:.2f}%;top:{:.2f}%;width:{:.2f}%;height:{:.2f}%".format(*percent)
    low = " low" if y / height < 0.1 else ""  # no room for the letter above the box
    return f'<div class="box{low}" style="{style}"><span>{letter}</span></div>'


def _img(image: np.ndarray, alt: str, style: str = "") -> str:
    out = io.BytesIO()
    # Method 3 is within 3 % of the smallest file and 40 times as fast.
    Image.fromarray(np.ascontiguousarray(image)).save(out, "WEBP", lossless=True, quality=50, method=3)
    data = base64.b64encode(out.getvalue()).decode()
    height, width = image.shape[:2]
    shape = f'class="{style}" width="{width}" height="{height}" alt="{html.escape(alt)}"'
    return f'<img {shape} src="data:image/webp;base64,{data}">'


def detail_crops(image: np.ndarray) -> list[tuple[int, int]]:
    """Where to look closely: the crops with the most, and with a middling amount of, detail.

    Chosen from the original alone, so that no codec is favoured, the model's own included.

    Args:
      image: uint8 [H, W, 3].

    Returns:
      (top, left) of one or two crops of `CROP` pixels a side; one where a second would overlap the first.
    """
    grey = image.mean(-1)
    side = min(CROP, *grey.shape)
    gradient = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))
    half = side // 2
    detail = ndimage.uniform_filter(gradient, side)[half : grey.shape[0] - half + 1, half : grey.shape[1] - half + 1]
    detail = detail[::8, ::8]
    first = np.unravel_index(np.argmax(detail), detail.shape)
    rows, columns = np.indices(detail.shape)
    apart = (np.abs(rows - first[0]) * 8 >= side) | (np.abs(columns - first[1]) * 8 >= side)
    crops = [first]
    if apart.any():
        distance = np.where(apart, np.abs(detail - np.median(detail[apart])), np.inf)
        crops.append(np.unravel_index(np.argmin(distance), detail.shape))
    return [(min(int(y) * 8, image.shape[0] - side), min(int(x) * 8, image.shape[1] - side)) for y, x in crops]
