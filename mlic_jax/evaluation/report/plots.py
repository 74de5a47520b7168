"""Rate-distortion plots. matplotlib is imported when a plot is drawn, and needs no display."""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from mlic_jax import atomic, errors, extras
from mlic_jax.metrics import bd, registry

Curves = Mapping[str, Sequence[Mapping]]

# Lines and letters are drawn in this, which `inline_svg` turns into the colour of the text around the plot.
INK = "#24292f"

# Mid-tones, legible on white and on near-black. Ours stand out by weight, the others are told apart by hue and marker.
_STYLES = {
    "ours": dict(linewidth=2.8, linestyle="-", markersize=6.5, zorder=5),
    "classical": dict(linewidth=1.3, linestyle=(0, (5, 2.5)), markersize=4.2, zorder=3),
    "published": dict(linewidth=1.7, linestyle=(0, (1, 1.6)), markersize=3.2, zorder=4),
}
_COLOURS = {
    "ours": ("#e5484d", "#3b82f6", "#a855f7", "#10b981"),
    "classical": ("#8b949e", "#b8864b", "#3f9aa8", "#7d9a3c", "#a97bb5", "#cf7a5a", "#6a83c4", "#99776b"),
    "published": ("#0ea5a0", "#c026d3", "#d97706", "#6366f1", "#65a30d", "#be185d"),
}
# As many that, with the colours, the first 72 standard codecs look different.
_MARKERS = {"ours": "o", "classical": "sD^vP<>Xh", "published": "oxd+*"}


def rd_plot(
    curves: Curves,
    quality: str = "psnr_db",
    fmt: str = "svg",
    title: str = "",
    families: Mapping[str, str] | None = None,
    bpp_max: float | None = None,
    transparent: bool = False,
) -> bytes:
    """Draws curves of quality over rate; the legend lists them as they lie, the best on top.

    Args:
      curves: name -> points, each a dict with bpp and keys of metrics (nan or missing: the point is left out).
      quality: key of a metric, as "psnr_db" or "ms_ssim"; all are drawn in dB.
      fmt: "svg" or "png".
      title: above the plot.
      families: name -> "ours" (bold), "classical" (thin, dashed) or "published" (dotted); "ours" where it says
        nothing.
      bpp_max: right end of the rate axis; by default somewhat beyond the last point of ours, or, where there is none,
        of standard codecs, whose first points are seen in any case.
      transparent: leaves the white ground out, for `inline_svg`; a file of its own needs it, or is dark ink on dark.

    Returns:
      The bytes of the file. SVG has its letters as outlines, so it looks the same everywhere, and no date in it.

    Raises:
      InputError: no curve has a point of this quality.
      UsageError: an unknown quality, format or family, or matplotlib is missing.
    """
    if quality not in registry.BY_KEY or fmt not in ("svg", "png"):
        raise errors.UsageError(
            f"cannot plot {quality!r} as {fmt!r}; known: {', '.join(registry.BY_KEY)} as svg or png"
        )
    kinds = {name: (families or {}).get(name, "ours") for name in curves}
    lines = {name: np.array(sorted(bd.curve(points, quality))) for name, points in curves.items()}
    if not any(len(line) for line in lines.values()):
        raise errors.InputError(f"no curve has a finite value of {quality!r} to plot")
    if unknown := set(kinds.values()) - set(_STYLES):
        raise errors.UsageError(f"unknown family {sorted(unknown)[0]!r}; known: {', '.join(_STYLES)}")
    if bpp_max is None:
        ends = {name: line[-1, 0] for name, line in lines.items() if len(line)}
        # Of the first family that is there: published curves often go far beyond the others.
        bpp_max = 1.2 * next(
            max(same) for kind in _STYLES if (same := [end for name, end in ends.items() if kinds[name] == kind])
        )
        # A model of one low rate may lie below all that a standard codec does: where that begins is shown all the same.
        bpp_max = max([bpp_max, *(1.3 * lines[name][0, 0] for name in ends if kinds[name] == "classical")])
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise errors.UsageError(extras.missing("matplotlib", "plots need")) from error
    style = {
        "font.size": 10,
        "svg.fonttype": "path",
        "svg.hashsalt": "mlic_jax",  # else every run names its parts differently
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.6, 4.6), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, lines, kinds, bpp_max)
        axes.set_xlabel("Rate [bits per pixel]")
        axes.set_ylabel(registry.BY_KEY[quality].axis)
        axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
        out = io.BytesIO()
        options = {"metadata": {"Date": None}} if fmt == "svg" else {"dpi": 160}
        figure.savefig(out, format=fmt, transparent=transparent, **options)
    return out.getvalue()


def _draw(axes, lines: Mapping[str, np.ndarray], kinds: Mapping[str, str], bpp_max: float) -> None:
    """Draws lines [n, 2] (bpp, dB), sorted by rate and possibly empty, on an axis that ends at `bpp_max`."""
    used: dict[str, int] = {}
    height, visible = {}, []
    for name, line in lines.items():
        kind = kinds[name]
        # Counted over all curves, the empty ones too: a codec has one colour in every plot of a report.
        index = used[kind] = used.get(kind, -1) + 1
        if not len(line) or line[0, 0] > bpp_max:  # of which the legend would name what is not seen
            continue
        colour = _COLOURS[kind][index % len(_COLOURS[kind])]
        marker = _MARKERS[kind][index % len(_MARKERS[kind])]
        axes.plot(*line.T, label=name, color=colour, marker=marker, **_STYLES[kind])
        # Where the curve lies at the middle of the axis, continued past its ends, decides its place in the legend.
        height[name] = _at(line, bpp_max / 2)
        inside = line[line[:, 0] <= bpp_max, 1]
        visible += [*inside] + ([np.interp(bpp_max, *line.T)] if len(inside) and line[-1, 0] > bpp_max else [])
    axes.set_xlim(0, bpp_max)
    if visible:
        margin = 0.04 * (max(visible) - min(visible)) or 1.0
        axes.set_ylim(min(visible) - margin, max(visible) + margin)
    axes.grid(True, linewidth=0.6, alpha=0.15, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    order = sorted(range(len(names)), key=lambda i: -height[names[i]])
    legend = axes.legend(
        [handles[i] for i in order],
        [names[i] for i in order],
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        handlelength=3,
        labelspacing=0.7,
    )
    for text in legend.get_texts():
        text.set_fontweight("bold" if kinds[text.get_text()] == "ours" else "normal")


def _at(line: np.ndarray, bpp: float) -> float:
    """The curve's quality at a rate, along its end slopes over log rate where it does not reach that far."""
    x, y = np.log(line[:, 0]), line[:, 1]
    if len(x) == 1 or x[0] <= np.log(bpp) <= x[-1]:
        return float(np.interp(np.log(bpp), x, y))
    i, j = (0, 1) if np.log(bpp) < x[0] else (-2, -1)
    slope = (y[j] - y[i]) / max(x[j] - x[i], 1e-9)
    return float(y[j] + slope * (np.log(bpp) - x[j]))


def save_rd_plots(
    folders: Mapping[str, str | os.PathLike],
    stem: str,
    curves: Curves,
    metric: str,
    families: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Writes `rd_plot` in several formats, where a curve has a value to plot.

    Args:
      folders: format, "svg" or "png" -> folder.
      stem: of the files' names.
      curves, families: as for `rd_plot`.
      metric: by name, see `metrics.registry`.

    Returns:
      name -> path of each file written. Raises as `rd_plot` and `atomic.write_bytes`.
    """
    written, key = {}, registry.METRICS[metric].key
    if any(bd.curve(points, key) for points in curves.values()):
        for fmt, folder in folders.items():
            path = pathlib.Path(folder, f"{stem}.{fmt}")
            atomic.write_bytes(path, rd_plot(curves, key, fmt, families=families))
            written[path.name] = str(path)
    return written


def inline_svg(svg: bytes, prefix: str) -> str:
    """A transparent SVG of `rd_plot` as an element for an HTML page.

    Its ink becomes the colour of the text around it (light or dark), and its ids get a prefix, so that several plots
    can stand on one page.
    """
    text = svg.decode()
    text = text[text.index("<svg ") :].replace(INK, "currentColor")
    for before in (' id="', "url(#", 'href="#'):
        text = text.replace(before, before + prefix)
    return text
