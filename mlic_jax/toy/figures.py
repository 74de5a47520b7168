"""Figures of the experiments. matplotlib is imported when one is drawn, and needs no display."""

from __future__ import annotations

import io
import os
import pathlib
from typing import Any

import jax
import numpy as np

from mlic_jax import atomic, extras
from mlic_jax.entropy import quantisers as rounding
from mlic_jax.errors import UsageError
from mlic_jax.toy import vector
from mlic_jax.toy.model import trade_off
from mlic_jax.toy.sources import Source, draw

FORMATS = ("svg", "png", "pdf")
INK, BLUE, ORANGE, GREEN, GREY = "#24292f", "#1f5fa8", "#d9720b", "#2b8a57", "#8a8a8a"
_COLOURS = {"NTC": BLUE, "LTC": ORANGE, "KLT": ORANGE, "ECSQ": GREEN, "ECVQ": GREEN, "closed form": GREEN}
# The banana's part of the plane that is drawn, and points along each side.
_LEFT, _RIGHT, _BOTTOM, _TOP, _GRID = -5.0, 9.0, -7.5, 9.5, 600
# Codewords are shown where so many of the samples or more go.
_SHOWN_SHARE = 1e-3


def _label(axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(True, linewidth=0.6, alpha=0.15, color=INK)
    axes.spines[["top", "right"]].set_visible(False)


def laplace(figure, shown: dict[str, Any]) -> None:
    """Reconstructions over samples; and the transforms that lead there."""
    left, right = figure.subplots(1, 2)
    x = np.linspace(-10, 10, 4001, dtype=np.float32)
    best, width = shown["ecsq"], {"ECSQ": 3.6, "LTC": 1.4, "NTC": 1.6}
    lines = {"ECSQ": best.codewords[np.searchsorted(best.thresholds, x)]}
    for name in ("LTC", "NTC"):
        trained = shown[name.lower()]
        offset = trained.offset("zero" if name == "NTC" else "median")
        v = trained.analysis(x[:, None])
        lines[name] = trained.synthesis(np.round(v - offset) + offset)[:, 0]
        direction = np.sign(v[-1, 0] - v[0, 0])  # a latent's sign is arbitrary: both are drawn rising
        right.plot(x, direction * (v[:, 0] - v[len(x) // 2, 0]), color=_COLOURS[name], label=f"{name}, analysis")
    for name, line in lines.items():
        alpha = 0.35 if name == "ECSQ" else 1
        left.plot(x, line, color=_COLOURS[name], linewidth=width[name], alpha=alpha, label=name)
    trained = shown["ntc"]
    v = trained.analysis(x[:, None])
    y = np.linspace(v.min(), v.max(), 400, dtype=np.float32)[:, None]
    direction = np.sign(v[-1, 0] - v[0, 0])
    right.plot(trained.synthesis(y)[:, 0], direction * (y[:, 0] - v[len(x) // 2, 0]), "--", color=BLUE, linewidth=1,
               label="NTC, synthesis (axes swapped)")  # fmt: skip
    for k in np.arange(np.ceil(v.min()), np.floor(v.max()) + 1):
        right.axhline(direction * (k - v[len(x) // 2, 0]), color=GREY, linewidth=0.5, zorder=0)
    right.set_xlim(-10, 10)
    _label(left, f"Laplace, λ = {shown['lam']:g}: what samples become", "sample", "reconstruction")
    _label(right, "Transfer curves; grey: what latents are rounded to", "sample", "latent")
    left.legend(frameon=False)
    right.legend(frameon=False)


def _plane():
    x, y = np.linspace(_LEFT, _RIGHT, _GRID), np.linspace(_BOTTOM, _TOP, _GRID)
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float32)


def cells(symbols: np.ndarray) -> np.ndarray:
    """Which grid points have a neighbour, above or to the right, of another cell.

    Args:
      symbols: integers [h, w, C].

    Returns:
      bool [h, w].
    """
    edge = np.zeros(symbols.shape[:2], bool)
    edge[:, :-1] |= (symbols[:, 1:] != symbols[:, :-1]).any(-1)
    edge[:-1] |= (symbols[1:] != symbols[:-1]).any(-1)
    return edge


def codebook(trained, offset: np.ndarray, samples: np.ndarray):
    """What a transform code's samples become: rounded latents [m, C], codewords [m, d] and their shares [m]."""
    v = np.round(trained.analysis(samples) - offset) + offset
    values, counts = np.unique(v.astype(np.float32), axis=0, return_counts=True)
    return values, trained.synthesis(values), counts / len(samples)


def banana(figure, shown: dict[str, Any]) -> None:
    """Quantisation cells and codewords of the three codes; arrows are where a step of one latent leads."""
    axes, plane = figure.subplots(1, 3, sharex=True, sharey=True), _plane()
    samples = draw("banana", 100_000, 7)
    density = np.asarray(jax.jit(shown["ntc"].recipe.source.log_density)(plane)).reshape(_GRID, _GRID)
    extent = (_LEFT, _RIGHT, _BOTTOM, _TOP)
    for axis, name in zip(axes, ("ECVQ", "NTC", "LTC")):
        code = shown[name.lower()]
        if name == "ECVQ":
            symbols = vector.assign(plane, code.codewords, code.probabilities, shown["lam"])[:, None]
            words, shares, v = code.codewords, code.probabilities, None
        else:
            offset = code.offset("zero" if name == "NTC" else "median")
            symbols = np.round(code.analysis(plane) - offset)
            v, words, shares = codebook(code, offset, samples)
        axis.imshow(np.exp(density), origin="lower", extent=extent, cmap="Greys", vmax=0.4, aspect="equal")
        edge = cells(symbols.reshape(_GRID, _GRID, -1))
        colour = _COLOURS[name]
        lines = np.zeros((_GRID, _GRID, 4))
        lines[edge] = (*bytes.fromhex(colour[1:]), 255)
        axis.imshow(lines / 255, origin="lower", extent=extent, interpolation="nearest", aspect="equal")
        often = shares >= _SHOWN_SHARE
        axis.scatter(
            *words[often].T, s=12 + 500 * shares[often], color=colour, edgecolor="white", linewidth=0.6, zorder=3
        )
        if v is not None:
            _arrows(axis, code, v[often], words[often])
        cost = _cost(shown, name)
        _label(axis, f"{name}: {cost}", "", "")
        axis.set(xlim=(_LEFT, _RIGHT), ylim=(_BOTTOM, _TOP))
        axis.grid(False)
    figure.suptitle(f"Banana, λ = {shown['lam']:g}: cells, codewords (area: how often), "
                    "and where latents lead", x=0.01, ha="left", fontsize=11)  # fmt: skip


def _cost(shown, name):
    code = shown[name.lower()]
    if name != "ECVQ":
        code = code.measure(offset="zero" if name == "NTC" else "median", samples=200_000)
    return f"R {code.rate:.2f} + λ D {code.distortion:.2f} = {code.loss:.2f}"


def _arrows(axis, trained, v, words):
    """The Jacobian of the synthesis at codewords: each arrow is a third of a unit of one latent."""
    to = trade_off(1, trained.recipe.lam)

    def one(v):
        return trained.model.apply(trained.params, v[None], to, method="synthesis")[0]

    jacobians = np.asarray(jax.vmap(jax.jacfwd(one))(v.astype(np.float32)))  # [m, d, C]
    for c in range(jacobians.shape[-1]):
        arrows = jacobians[..., c].T / 3
        axis.quiver(*words.T, *arrows, angles="xy", scale_units="xy", scale=1, width=0.004, color=INK, zorder=4)


def sawbridge(figure, shown: dict[str, Any]) -> None:
    """Rate over distortion; and what a realisation becomes."""
    left, right = figure.subplots(1, 2)
    for name, costs in shown["curves"].items():
        style = "--" if name == "closed form" else "o-"
        colour = INK if name == "closed form" else _COLOURS[name]
        left.plot([cost.rate for cost in costs], _decibels(costs), style, color=colour, label=name, markersize=4)
    given: Source = shown["source"]
    x, trained = draw(given, 3, 11), shown["ntc"]
    decoded = trained.synthesis(np.round(trained.analysis(x)))
    times = np.linspace(0, 1, given.dim)
    for i, colour in zip(range(3), (BLUE, ORANGE, GREEN)):
        right.plot(times, x[i] - 1.6 * i, color=colour, linewidth=1, alpha=0.5)
        right.plot(times, decoded[i] - 1.6 * i, color=colour, linewidth=1.6)
    right.set_yticks([])
    _label(left, "Sawbridge", "rate [bits per realisation]", "−10 log₁₀ of mean squared error [dB]")
    _label(right, "Realisations (thin) and what the code at λ = 100 makes of them", "time", "")
    left.legend(frameon=False)


def _decibels(costs):
    return [-10 * np.log10(cost.distortion) for cost in costs]


def curves(figure, shown: dict[str, Any]) -> None:
    """Rate and distortion; and the loss above that of the best codebook."""
    left, right = figure.subplots(1, 2)
    best = "ECSQ" if "ECSQ" in shown["curves"] else "ECVQ"
    for name, costs in shown["curves"].items():
        style = {"color": INK, "linestyle": "--"} if name not in _COLOURS else {"color": _COLOURS[name], "marker": "o"}
        style |= {"markersize": 4, "label": name}
        left.plot([cost.rate for cost in costs], _decibels(costs), **style)
        gap = [cost.loss - other.loss for cost, other in zip(costs, shown["curves"][best])]
        right.plot([cost.rate for cost in costs], gap, **style)
    _label(left, shown["name"].capitalize(), "rate [bits per sample]", "−10 log₁₀ of squared error [dB]")
    _label(right, f"Loss R + λ D above that of {best}", "rate [bits per sample]", "bits")
    left.legend(frameon=False)


def quantisers(figure, shown: dict[str, Any]) -> None:
    """Soft rounding; and losses by what stood for rounding in training."""
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    y = np.linspace(-1.6, 1.6, 800, dtype=np.float32)
    for alpha, colour in ((0.1, GREY), (3.0, BLUE), (10.0, ORANGE)):
        left.plot(y, rounding.soft_round(y, alpha), color=colour, label=f"α = {alpha:g}")
    _label(left, "Soft rounding", "latent", "soft-rounded")
    left.legend(frameon=False)
    rows, names = shown["rows"], [name for name in shown["rows"][0] if name != "training"]
    for i, (name, colour) in enumerate(zip(names, (ORANGE, BLUE, GREEN, GREY))):
        right.bar(np.arange(len(rows)) + 0.2 * (i - 1.5), [row[name] for row in rows], 0.19, color=colour, label=name)
    right.axhline(shown["best"], color=INK, linewidth=1, linestyle="--", label="best scalar quantiser")
    right.set_ylim(shown["best"] - 0.05, None)
    right.set_xticks(range(len(rows)), [row["training"] for row in rows])
    _label(right, f"Laplace, λ = {shown['lam']:g}: loss by training and by quantiser", "", "R + λ D")
    right.legend(frameon=False)


def variable(figure, shown: dict[str, Any]) -> None:
    """Losses of methods above those of the best scalar quantiser, over the trade-off."""
    axes = figure.subplots()
    labels = {
        "A": "A, a model each", "B": "B, bins of another width", "C": "C, learned gains",
        "D": "D, a table of scales and biases", "E": "E, scales and biases from λ",
    }  # fmt: skip
    for (method, gaps), marker in zip(shown["gaps"].items(), "osD^v"):
        axes.semilogx(shown["lams"], gaps, marker=marker, markersize=4, label=labels[method])
    axes.axhline(0, color=INK, linewidth=1)
    axes.set_xticks(shown["lams"], [f"{lam:g}" for lam in shown["lams"]])
    axes.minorticks_off()
    _label(axes, "Laplace: loss above that of the best scalar quantiser", "λ", "bits")
    axes.legend(frameon=False)


def sources(figure, shown: dict[str, Any]) -> None:
    """Samples: a histogram, points, or realisations."""
    axes = figure.subplots(2, 3).ravel()
    for axis, (name, (given, x)) in zip(axes, shown["sources"].items()):
        if given.dim == 1:
            axis.hist(x[:, 0], 80, density=True, color=BLUE, alpha=0.5)
            t = np.linspace(x.min(), x.max(), 500)[:, None]
            axis.plot(t[:, 0], np.exp(np.asarray(given.log_density(t))), color=INK, linewidth=1)
        elif given.dim <= 3:
            axis.plot(*x[:, :2].T, ".", color=BLUE, markersize=1.5)
            axis.set_aspect("equal")
        else:
            axis.plot(np.linspace(0, 1, given.dim), x[:4].T, linewidth=1)
        extra = ", two of three coordinates" if given.dim == 3 else ""
        _label(axis, name.capitalize() + extra, "", "")


_SIZES = {"banana": (12, 5.3), "sources": (10, 6), "variable": (6.4, 4.2)}


def draw_figure(name: str, shown: dict[str, Any], fmt: str = "svg") -> bytes:
    """The figure of an experiment.

    Args:
      name: of the experiment.
      shown: `experiments.Outcome.shown`.
      fmt: of FORMATS.

    Raises UsageError for another format, or where matplotlib is missing.
    """
    if fmt not in FORMATS:
        raise UsageError(f"cannot draw {fmt!r}: {', '.join(FORMATS)} are possible")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(extras.missing("matplotlib", "figures need")) from error
    style = {"font.size": 9.5, "svg.fonttype": "path", "svg.hashsalt": "mlic_jax"}
    style |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    with matplotlib.rc_context(style):
        figure = Figure(figsize=_SIZES.get(name, (10, 4.2)), layout="constrained")
        globals()[name](figure, shown)
        out = io.BytesIO()
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(fmt)
        figure.savefig(out, format=fmt, dpi=130, metadata=metadata)
    return out.getvalue()


def check_path(path: str | os.PathLike) -> str:
    """The format that a file's name asks for. Raises UsageError for one that is none of FORMATS."""
    fmt = pathlib.Path(path).suffix.lstrip(".").lower()
    if fmt not in FORMATS:
        raise UsageError(f"{str(path)!r}: the name of a figure ends in .{', .'.join(FORMATS)}")
    return fmt


def save(path: str | os.PathLike, name: str, shown: dict[str, Any]) -> None:
    """Writes `draw_figure` to a file, whole or not at all. Raises UsageError, and InputError where it cannot write."""
    atomic.write_bytes(path, draw_figure(name, shown, check_path(path)))
