"""What a progressive file shows while it arrives: a table, an animation, a page to compare on, or files."""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mlic_jax import api
from mlic_jax.errors import InputError
from mlic_jax.evaluation.report import html, tables
from mlic_jax.fileformat import modes
from mlic_jax.metrics import registry

# A row of figures, and the picture in the file's mode.
Measured = Sequence[tuple[dict[str, Any], np.ndarray]]
# Milliseconds for which an animation shows a picture, and the last one.
SHOWN, LAST_SHOWN = 400, 2000


def measure(prefixes: Iterable[api.Prefix], original: np.ndarray | None, metrics: Sequence[str]) -> Measured:
    """Rates of prefixes, and metrics where there is something to compare with.

    Args:
      prefixes: of one file.
      original: uint8 [H, W, 3], or None.
      metrics: names in `metrics.registry`.

    Raises InputError for an original of another size.
    """
    measured = []
    for prefix in prefixes:
        height, width = prefix.image.shape[:2]
        row = {"iterations": prefix.iterations, "bytes": prefix.bytes, "bpp": 8 * prefix.bytes / (height * width)}
        if original is not None:
            if original.shape[:2] != (height, width):
                raise InputError(
                    f"the original has {original.shape[1]}x{original.shape[0]} pixels, the file {width}x{height}"
                )
            row |= registry.measured(original, modes.from_array(prefix.image).rgb, metrics)
        measured.append((row, prefix.image))
    return measured


def table(measured: Measured) -> str:
    """In Markdown."""
    return tables.markdown_table([row for row, _ in measured])


def to_gif(images: Sequence[np.ndarray]) -> bytes:
    """An endless animation. GIF has 256 colours a picture: it shows what happens, and is no measure of quality."""
    frames = [Image.fromarray(modes.from_array(image).rgb) for image in images]
    out = io.BytesIO()
    times = [SHOWN] * (len(frames) - 1) + [LAST_SHOWN]
    # Pictures that are equal would become one, and the times would not fit any more.
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=False)
    return out.getvalue()


def to_files(measured: Measured, stem: str) -> Iterator[tuple[str, bytes]]:
    """(STEM-01.png, its content) and so on, losslessly, in the file's mode."""
    for row, image in measured:
        out = io.BytesIO()
        modes.to_pillow(modes.from_array(image).mode, image).save(out, "PNG")
        yield f"{stem}-{row['iterations']:02d}.png", out.getvalue()


def write_page(path: str | os.PathLike, name: str, original: np.ndarray, measured: Measured) -> pathlib.Path:
    """The HTML report of one file: every prefix beside the original, with a slider between any two.

    Args:
      path: of the page.
      name: of the file.
      original: uint8 [H, W, 3].
      measured: with metrics.

    Raises as `html.write_report`.
    """
    rows = [row for row, _ in measured]
    versions = [
        html.Version(f"{row['iterations']} of {len(measured)}", modes.from_array(image).rgb, row)
        for row, image in measured
    ]
    return html.write_report(
        path,
        f"{name}, as it arrives",
        ["Each part of a progressive file refines the picture of the parts before it: any beginning is a picture."],
        rows,
        {name: rows},
        [html.Picture(name, original, versions)],
    )
