"""Pictures to files and back, for programs: `compress`, `decompress`, `decompress_image`, `prefixes`, `info`, `load`
and `load_model`.

All of it can be called from several threads. `info` imports neither NumPy nor jax.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mlic_jax import zoo
from mlic_jax.errors import ModelError, UsageError
from mlic_jax.fileformat import container, model_names, model_store

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from mlic_jax.families.targets import Attempt
    from mlic_jax.fileformat.artifact import Artifact
    from mlic_jax.fileformat.modes import Picture

# ---------------------------------------------------------------------- models


def load_model(model: str | os.PathLike | Artifact | None = None) -> Artifact:
    """A model from its `.mlicm` file (kept for the next call), or the one given.

    None means the file that MLIC_MODEL names, or else the package's own. A name ("tiny", "base", "talebi2020", or
    that of its file, as "kltnet-base") is that of a model in the package or in another distribution that is installed,
    where there is no such file here.

    Raises ModelError where the file is missing, damaged, or of a model this version does not know. The message about a
    name that is not known lists those that are; about one that is not installed, it says what installs it.
    """
    return model_store.load(model)


# ---------------------------------------------------------------------- compress


def compress(
    image: np.ndarray | Image.Image,
    model: str | os.PathLike | Artifact | None = None,
    quality: float | None = None,
    *,
    effort: int = 0,
    metadata: str = "all",
    importance: np.ndarray | Image.Image | None = None,
    frame: int | None = None,
) -> bytes:
    """A picture as the content of a `.mlic` file.

    Args:
      image: a PIL image, or an array: uint8 or uint16 [H, W] or [H, W, 1 to 4] (grey, grey and alpha, RGB, RGBA), or
        bool [H, W]. `mlic_jax.fileformat.modes` says how each is coded.
      model: a name, as "base", the path of a `.mlicm` file, or what `load_model` returned; None for the one in
        MLIC_MODEL, or the package's.
      quality: 0..100 for models of several rates, rounded to half steps; None for their default, and for models of
        one rate.
      effort: 0..9, what is spent on a better file: one of less bits + weight * squared error, at the weight that the
        quality stands for. Bits become fewer, and the PSNR moves by some tenths of a dB. Decompressing takes the same
        time.
      metadata: what is kept of a PIL image's: "all", "none", or some of "icc,exif,xmp". An EXIF orientation is applied
        in any case.
      importance: where bits are to go, for models that allocate them (`Traits.guided`): a grey picture, or numbers
        [H, W] of the upright picture: floats in 0..1, integers of 8 bits, or bool. None: as the model sees fit.
      frame: of a PIL image that has several, which one, from 0 on; None for the one where it is.

    A LossWarning says what of a PIL image is not kept though nobody left it out: further frames, a gamma.
    docs/pictures.md has all.

    Raises:
      InputError, LimitError: a picture of another kind, or too large; an importance map of another size or kind.
      ModelError: no such model.
      UsageError: a quality or effort out of range, or for a model of one rate; unknown metadata; an importance map for
        a model that takes none.
    """
    from mlic_jax.fileformat import encoding

    picture = _picture(image, metadata, frame)
    return encoding.Encoding(picture, model, importance).file(quality, effort).data


def compress_to(
    image: np.ndarray | Image.Image,
    model: str | os.PathLike | Artifact | None = None,
    *,
    size: int | None = None,
    bpp: float | None = None,
    psnr_db: float | None = None,
    effort: int = 0,
    metadata: str = "all",
    importance: np.ndarray | Image.Image | None = None,
    frame: int | None = None,
) -> bytes:
    """As `compress`, at the quality that a size or a PSNR asks for, found by bisection over half steps.

    Args:
      size: bytes that the file may have, all of it; it will have the highest quality that fits.
      bpp: the same in bits per pixel.
      psnr_db: that the decoded picture (its RGB of 8 bits) has at least, in the smallest file that does.
      image, model, effort, metadata, importance, frame: see `compress`. The bisection runs at the lowest effort.

    Raises:
      UsageError: none or several targets, a model of one rate, or a target that no quality meets; and as `compress`.
      InputError, LimitError, ModelError: as `compress`.
    """
    target = {"size": size, "bpp": bpp, "psnr_db": psnr_db}
    return meet_target(image, model, target, effort, metadata, importance, frame).data


def meet_target(
    image: np.ndarray | Image.Image,
    model: str | os.PathLike | Artifact | None,
    target: Mapping[str, float | None],
    effort: int = 0,
    metadata: str = "all",
    importance: np.ndarray | Image.Image | None = None,
    frame: int | None = None,
) -> Attempt:
    """As `compress_to`, with the rate of the file and, where a PSNR was asked for, that of its picture.

    Args:
      target: {"size", "bpp" or "psnr_db": value}, as there; Nones are as good as left out.
      image, model, effort, metadata, importance, frame: see `compress_to`.
    """
    from mlic_jax.families import targets
    from mlic_jax.fileformat import encoding
    from mlic_jax.metrics import psnr

    wanted = targets.only_target(**{"size": None, "bpp": None, "psnr_db": None, **target})
    picture = _picture(image, metadata, frame)
    made = encoding.Encoding(picture, model, importance)
    if made.codec.traits.default_quality is None:
        raise UsageError(f"{made.artifact.model} has one rate, fixed in training: it cannot meet a target")
    height, width, _ = picture.rgb.shape

    @functools.cache
    def attempt(half_steps: int, effort: int) -> targets.Attempt:
        file = made.file(half_steps / 2, effort)
        reached = psnr.psnr_db(picture.rgb, file.decoded()) if wanted.name == "psnr_db" else None
        # The rate is computed as `info` does: what it says of a file, that file meets.
        return targets.Attempt(file.data, 8 * len(file.data) / (height * width), reached)

    return targets.best_file(wanted, attempt, made.codec.traits.quality_range, encoding.check_effort(effort))


def _picture(image, metadata: str, frame: int | None) -> Picture:
    from mlic_jax.fileformat import metadata as kept
    from mlic_jax.fileformat import modes

    return modes.from_image(image, kept.choose(metadata), frame)


# ---------------------------------------------------------------------- decompress


def decompress(
    data: bytes, model: str | os.PathLike | Artifact | None = None, *, iterations: int | None = None
) -> np.ndarray:
    """The picture of a `.mlic` file's content, as an array of the mode it was compressed from.

    Args:
      data: the file's content.
      model: as for `compress`; None to search the models used so far, those that are installed, MLIC_MODEL, and the
        folders in MLIC_MODELS.
      iterations: of a progressive file, how many of its parts to use; None for all.

    Returns:
      uint8 or uint16 [H, W], [H, W, 2], [H, W, 3] or [H, W, 4] for grey, grey and alpha, RGB, RGBA; bool [H, W] for
      1-bit pictures.

    Raises:
      CorruptStreamError: not such a file, or a damaged one. A progressive file that was cut off gives the picture of
        the parts that are whole, and a TruncationWarning, as long as there is one.
      ModelError: the model is missing, or is not the one the file was written with.
      LimitError: more pixels or metadata than the format allows.
      UsageError: iterations that the file does not have.
    """
    from mlic_jax.fileformat import decoding

    opened = decoding.open_with(data, model)
    count = opened.count(iterations)
    return opened.picture(count)


def decompress_image(
    data: bytes,
    model: str | os.PathLike | Artifact | None = None,
    *,
    metadata: str = "all",
    iterations: int | None = None,
) -> Image.Image:
    """The picture of a `.mlic` file's content as a PIL image; arguments and errors as for `decompress`.

    ICC profile, EXIF and XMP, as far as `metadata` chooses them, are in `info` as icc_profile, exif and xmp: Pillow's
    writers take them as keyword arguments of these names. Pillow has 16 bits for grey only, so colours of 16 bits
    become 8.
    """
    from mlic_jax.fileformat import decoding, modes
    from mlic_jax.fileformat import metadata as kept

    chosen = kept.choose(metadata)
    opened = decoding.open_with(data, model)
    count = opened.count(iterations)
    stored = kept.from_chunks(opened.file.others, chosen)
    image = modes.to_pillow(opened.file.header.mode, opened.picture(count))
    image.info.update(kept.to_pillow(stored))
    return image


class Prefix(NamedTuple):
    """What the beginning of a progressive file shows.

    Attributes:
      iterations: parts of the picture that are in it.
      bytes: of the file, that it takes.
      image: array of the file's mode, see `decompress`.
    """

    iterations: int
    bytes: int
    image: np.ndarray


def prefixes(data: bytes, model: str | os.PathLike | Artifact | None = None) -> Iterator[Prefix]:
    """The pictures that a progressive file shows while it arrives, one after the other.

    Args:
      data: the file's content, or the beginning of it.
      model: as for `decompress`.

    Raises:
      UsageError: the model is not progressive.
      CorruptStreamError, ModelError, LimitError: as `decompress`.
    """
    from mlic_jax.fileformat import decoding

    opened = decoding.open_with(data, model)
    if not opened.codec.traits.progressive:
        raise UsageError(f"a file of {opened.artifact.model} shows nothing before it is whole")
    for count, end in enumerate(opened.file.ends, 1):
        yield Prefix(count, end, opened.picture(count))


# ---------------------------------------------------------------------- without a model


def to_standard(data: bytes) -> tuple[bytes, str]:
    """The standard file inside a `.mlic` file of a model around a standard codec; needs no model.

    It is the picture itself for a codec whose files need no decoder of ours (`Traits.extension`); for others that work
    around a standard codec, what their decoder starts from.

    Args:
      data: the file's content.

    Returns:
      The file, and its suffix: ".jpg", ".j2k", ".heic" and so on. A JPEG file has the picture's metadata.

    Raises:
      UsageError: the model writes a stream of its own.
      CorruptStreamError, LimitError: as `decompress`, or metadata that JPEG cannot hold.
    """
    from mlic_jax.fileformat import embedded
    from mlic_jax.fileformat import metadata as kept

    container.check_content(data)
    header, chunks = container.unpack(data)
    pictures = [chunk.content for chunk in chunks if chunk.type == container.DATA]
    extension = embedded.extension_of(pictures[0]) if len(pictures) == 1 else None
    if extension is None:
        raise UsageError(f"no standard file is inside: the file is a stream of {model_store.describe(header)}")
    if extension == ".jpg":
        return embedded.with_metadata(pictures[0], kept.from_chunks(chunks)), extension
    return pictures[0], extension


def info(data: bytes, size: int | None = None) -> dict[str, Any]:
    """What the header of a `.mlic` file says; needs no model.

    Args:
      data: the file's content, or its first `container.LONGEST_HEADER` bytes or more.
      size: the file's length in bytes, where `data` is not all of it.

    Returns:
      {"model", "architecture", "fingerprint", "width", "height", "mode", "bit_depth", "quality" (or None), "portable",
       "bytes", "bpp", "chunks": [{"type": name, "bytes": length}], "metadata": {name: bytes as stored}}. "model" is the
       name that `compress` takes, as "kltnet-base", where the weights have one; else it is that of the architecture.
       "portable": whether every machine reads the file, see `Traits`.

    Raises:
      CorruptStreamError, LimitError: as `decompress`.
    """
    container.check_content(data)
    size = len(data) if size is None else size
    header, places = container.read_header(data, size)
    try:
        architecture = zoo.name_of(header.model_id)
    except ModelError:
        architecture = f"unknown (id {header.model_id})"
    return {
        "model": model_names.name_of(header.fingerprint, architecture),
        "architecture": architecture,
        "fingerprint": header.fingerprint.hex(),
        "width": header.width,
        "height": header.height,
        "mode": header.mode.removesuffix(";16"),
        "bit_depth": container.bit_depth(header.mode),
        "quality": header.quality,
        "portable": header.portable,
        "bytes": size,
        "bpp": 8 * size / (header.width * header.height),
        "chunks": [{"type": container.chunk_name(place.type), "bytes": place.length} for place in places],
        "metadata": {container.NAMES[p.type]: p.length for p in places if p.type in container.METADATA},
    }
