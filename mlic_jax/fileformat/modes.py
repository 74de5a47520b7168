"""What a codec sees of a picture, what is kept beside it, and the way back.

A codec sees RGB of 8 bits. The other modes map to it and back like this; docs/format.md says the same for other
decoders.

- grey: three equal channels; back by (299 R + 587 G + 114 B + 500) // 1000;
- 16 bits: (v + 128) // 257; back by v * 257, so that white stays white;
- 1 bit: black and white are 0 and 255; back by v >= 128;
- alpha: coded losslessly, at its own depth. Colours where it is 0 cannot be seen and are not kept;
- palettes become RGB or RGBA.

Pixels are stored upright. Modes are those of `container.MODES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mlic_jax.data import images, samples
from mlic_jax.errors import InputError, UsageError
from mlic_jax.fileformat import alpha as planes
from mlic_jax.fileformat import container, metadata

_COLOURS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class Picture(NamedTuple):
    """A picture on its way into a file.

    Attributes:
      mode: one of container.MODES.
      rgb: what the codec sees, uint8 [H, W, 3], contiguous.
      alpha: uint8 or uint16 [H, W], or None.
      metadata: see mlic_jax.fileformat.metadata.
    """

    mode: str
    rgb: np.ndarray
    alpha: np.ndarray | None
    metadata: Mapping[int, bytes]


# ---------------------------------------------------------------------- in


def from_image(
    image: np.ndarray | Image.Image, chosen: Iterable[int] = container.METADATA, frame: int | None = None
) -> Picture:
    """The picture of an array or of a Pillow image, see the two below. Raises InputError for anything else, UsageError
    for a frame of an array."""
    if isinstance(image, Image.Image):
        return from_pillow(image, chosen, frame)
    if frame is not None:
        raise UsageError(f"frame {frame} of an array: PIL images have frames")
    if hasattr(image, "__array__"):
        return from_array(np.asarray(image))
    raise InputError(f"cannot compress a {type(image).__name__}: give an array or a PIL image")


def chunks_beside(picture: Picture) -> list[container.Chunk]:
    """The chunks of a picture that no codec writes: alpha and metadata. Raises LimitError for too much metadata."""
    alpha = [] if picture.alpha is None else [container.Chunk(container.ALPHA, planes.encode(picture.alpha))]
    return alpha + metadata.to_chunks(picture.metadata)


def from_array(array: np.ndarray) -> Picture:
    """The picture of an array uint8 or uint16 [H, W] or [H, W, 1 to 4] (grey, grey and alpha, RGB, RGBA), or bool
    [H, W] or [H, W, 1].

    Raises InputError for other arrays, LimitError for sides out of range.
    """
    channels = array.shape[2] if array.ndim == 3 else 1 if array.ndim == 2 else 0
    kind = (array.dtype.kind, array.dtype.itemsize)
    if kind not in (("u", 1), ("u", 2), ("b", 1)) or channels not in _COLOURS or (kind[0] == "b" and channels > 1):
        raise InputError(
            f"an array of {array.dtype} {list(array.shape)}: uint8 or uint16 [H, W] or [H, W, 1 to 4], or bool "
            "[H, W], is needed"
        )
    height, width = array.shape[:2]
    container.check_size(width, height)
    mode = "1" if kind[0] == "b" else _COLOURS[channels] + (";16" if kind[1] == 2 else "")
    stored = array.astype(array.dtype.newbyteorder("="), copy=False).reshape(height, width, channels)
    alpha = np.ascontiguousarray(stored[..., -1]) if container.has_alpha(mode) else None
    rgb = images.to_8_bits(stored if alpha is None else stored[..., :-1])
    rgb = np.ascontiguousarray(np.broadcast_to(rgb, (height, width, 3)))
    if alpha is not None and not alpha.all():
        rgb = _fill(rgb, alpha > 0)
    return Picture(mode, rgb, alpha, {})


def _fill(rgb: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Hidden pixels take the mean of the visible ones around them, from the smallest 4^k x 4^k cell that has any.

    Args:
      rgb: uint8 [H, W, 3].
      visible: bool [H, W].
    """
    height, width = visible.shape
    if not visible.any():
        return np.full_like(rgb, 128)
    cells = (-(-height // 4), -(-width // 4))
    sums, counts = np.zeros((*cells, 3), np.uint16), np.zeros(cells, np.uint16)
    phases = [(slice(i, None, 4), slice(j, None, 4)) for i in range(4) for j in range(4)]
    inside = [tuple(slice(side) for side in visible[phase].shape) for phase in phases]
    for phase, part in zip(phases, inside, strict=True):
        sums[part] += rgb[phase] * visible[phase][..., None]
        counts[part] += visible[phase]
    means = (sums // np.maximum(counts, 1)[..., None]).astype(np.uint8)
    if not counts.all():
        means = _fill(means, counts > 0)
    filled = rgb.copy()
    for phase, part in zip(phases, inside, strict=True):
        filled[phase] = np.where(visible[phase][..., None], rgb[phase], means[part])
    return filled


def from_pillow(
    image: Image.Image,
    chosen: Iterable[int] = container.METADATA,
    frame: int | None = None,
    given: Mapping[str, Any] | None = None,
) -> Picture:
    """The picture of a Pillow image, turned upright, with the chosen metadata. docs/pictures.md has what is kept of
    every format; what is not kept and was not left out by `chosen` or `frame` is said in a LossWarning.

    Args:
      image: of colours of 16 bits, one that was not loaded yet: Pillow keeps 8 of them.
      chosen: chunk types of metadata.
      frame: which of several, from 0 on; None for the one where the image is.
      given: metadata instead of the image's own, by Pillow's names.

    Raises:
      InputError: a mode without a meaning in RGB of 8 or 16 bits, or an image that is damaged.
      LimitError: sides out of range.
      UsageError: no such frame, or metadata of another type than Pillow's readers give.
    """
    name = images.name_of(image)
    image = images.choose_frame(image, frame, name)
    container.check_size(*image.size)
    with images.refusing_damage(name, container.LARGEST_PICTURE):
        tags = metadata.of_tiff(image)  # which has to be read from the file
        colours = samples.colours_unsaid(image)
        array = images.upright(samples.samples(image), image, (given or {}).get("exif"))
    for loss in colours:
        images.warn(f"{name}: {loss}")
    return from_array(array)._replace(metadata=metadata.of_pillow({**image.info, **tags, **(given or {})}, chosen))


# ---------------------------------------------------------------------- out


def to_array(mode: str, rgb: np.ndarray, alpha: np.ndarray | None = None) -> np.ndarray:
    """A decoded picture as an array of its mode.

    Args:
      mode: one of container.MODES.
      rgb: uint8 [H, W, 3], from the codec.
      alpha: [H, W], where the mode has it.

    Returns:
      bool [H, W] for mode 1; else uint8, or uint16 for 16 bits: [H, W] for grey, [H, W, 2], [H, W, 3] or [H, W, 4].
    """
    colours = rgb
    if mode[0] in "L1":
        grey = rgb[..., 0] * np.uint32(299)
        for channel, weight in ((1, 587), (2, 114)):
            grey += rgb[..., channel] * np.uint32(weight)
        grey += np.uint32(500)
        grey //= np.uint32(1000)
        colours = grey.astype(np.uint8)[..., None]
    if mode == "1":
        return colours[..., 0] >= 128
    if container.bit_depth(mode) == 16:
        colours = colours.astype(np.uint16) * np.uint16(257)
    if alpha is not None:
        colours = np.concatenate([colours, alpha[..., None]], -1)
    return colours[..., 0] if colours.shape[-1] == 1 else colours


def pillow_mode(mode: str) -> str:
    """The mode of the Pillow image that a picture becomes. Pillow has 16 bits for grey only: the others become 8."""
    return "I;16" if mode == "L;16" else mode.removesuffix(";16")


def to_pillow(mode: str, array: np.ndarray) -> Image.Image:
    """What `to_array` returned as a Pillow image of `pillow_mode(mode)`."""
    return Image.fromarray(array if mode in ("1", "L;16") else images.to_8_bits(array))
