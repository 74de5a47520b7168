"""Pictures to files and back, for programs: `compress`, `decompress`, `decompress_image`, `prefixes`, `info` and
`load_model`.

All of it can be called from several threads. `info` imports neither NumPy nor jax.
"""

from __future__ import annotations

import functools
import numbers
import os
import pathlib
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from mlic_jax import zoo
from mlic_jax.errors import CorruptStreamError, InputError, ModelError, TruncationWarning, UsageError
from mlic_jax.fileformat import container

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from mlic_jax.fileformat.artifact import Artifact

# The model file that is used where none is named; without it, it is the package's own.
MODEL = "MLIC_MODEL"
BUNDLED = pathlib.Path(__file__).parent / "weights"
OWN_MODEL = BUNDLED / "kltnet-tiny.mlicm"
# Folders in which models are looked for by the fingerprint a file names, separated as in PATH.
MODEL_PATH = "MLIC_MODELS"

# Models of this process, so that a model that was used once is neither read nor put on a device again.
_lock = threading.RLock()
_by_path: dict[pathlib.Path, tuple[tuple, Artifact]] = {}
_by_fingerprint: dict[bytes, Artifact] = {}


def load_model(model: str | os.PathLike | Artifact | None = None) -> Artifact:
    """A model from its `.mlicm` file (kept for the next call), or the one given.

    None means the file that MLIC_MODEL names, or else the package's own. A bare name, as "talebi2020", is that of a
    file in the package where there is no such file here.

    Raises ModelError where the file is missing, damaged, or of a model this version does not know.
    """
    from mlic_jax.fileformat.artifact import Artifact

    model = model or os.environ.get(MODEL) or OWN_MODEL
    with _lock:
        if not isinstance(model, Artifact):
            model = _load(_bundled(model) or pathlib.Path(model))
        zoo.stream_id(model.model)
        _by_fingerprint[model.fingerprint] = model
    return model


def _bundled(name) -> pathlib.Path | None:
    """The package's model of a bare name, unless a file here has this name."""
    if os.path.basename(name) != os.fspath(name) or os.path.exists(name):
        return None
    from mlic_jax.fileformat.artifact import SUFFIX

    path = BUNDLED / f"{os.fspath(name).removesuffix(SUFFIX)}{SUFFIX}"
    return path if path.exists() else None


def _load(path: pathlib.Path) -> Artifact:
    from mlic_jax.fileformat.artifact import Artifact

    path = path.absolute()
    try:
        stat = path.stat()
    except OSError as reason:
        raise ModelError(f"model {str(path)!r} cannot be read: {reason.strerror}") from reason
    state = (stat.st_mtime_ns, stat.st_size)
    if path not in _by_path or _by_path[path][0] != state:
        _by_path[path] = (state, Artifact.load(path))
    return _by_path[path][1]


def _find_model(header: container.Header) -> Artifact:
    """The model a file was written with: one already loaded, the package's, or one by MLIC_MODEL or MLIC_MODELS."""
    from mlic_jax.fileformat.artifact import SUFFIX

    with _lock:
        if header.fingerprint in _by_fingerprint:
            return _by_fingerprint[header.fingerprint]
        named = os.environ.get(MODEL)
        folders = [folder for folder in os.environ.get(MODEL_PATH, "").split(os.pathsep) if folder]
        paths = [path for folder in folders for path in sorted(pathlib.Path(folder).glob(f"*{SUFFIX}"))]
        unreadable = []
        for path in ([named] if named else []) + sorted(BUNDLED.glob(f"*{SUFFIX}")) + paths:
            try:
                if load_model(path).fingerprint == header.fingerprint:
                    return _by_fingerprint[header.fingerprint]
            except ModelError:
                unreadable.append(str(path))
    looked = f"none of the {SUFFIX} files in {', '.join(folders)} is it" if folders else f"{MODEL_PATH} names no folder"
    if unreadable:
        looked += f" ({', '.join(unreadable)} cannot be read)"
    raise ModelError(f"the file needs {_describe(header)}, and {looked}. {_WHERE}")


_WHERE = (
    f"Ask whoever wrote the file for its .mlicm file, and give it as the model or put it into a folder of {MODEL_PATH}"
)


def _describe(header: container.Header) -> str:
    """The name of a file's model and its fingerprint. Raises ModelError for a model that this version does not know."""
    fingerprint = f"with fingerprint {header.fingerprint.hex()}"
    try:
        return f"the model {zoo.name_of(header.model_id)} {fingerprint}"
    except ModelError as reason:
        raise ModelError(f"{reason} ({fingerprint}): a newer mlic_jax may") from reason


def compress(
    image: np.ndarray | Image.Image,
    model: str | os.PathLike | Artifact | None = None,
    quality: float | None = None,
    *,
    effort: int = 0,
    metadata: str = "all",
    importance: np.ndarray | Image.Image | None = None,
) -> bytes:
    """A picture as the content of a `.mlic` file.

    Args:
      image: a PIL image, or an array: uint8 or uint16 [H, W] or [H, W, 1 to 4] (grey, grey and alpha, RGB, RGBA), or
        bool [H, W]. `mlic_jax.fileformat.modes` says how each is coded.
      model: path of a `.mlicm` file, or what `load_model` returned; None for the one in MLIC_MODEL, or the package's.
      quality: 0..100 for models of several rates, rounded to half steps; None for their default, and for models of
        one rate.
      effort: 0..9, what is spent on a smaller file of the same quality; decompressing takes the same time.
      metadata: what is kept of a PIL image's: "all", "none", or some of "icc,exif,xmp". An EXIF orientation is applied
        in any case.
      importance: where bits are to go, for models that allocate them (`Traits.guided`): a grey picture, or numbers
        [H, W] of the upright picture: floats in 0..1, integers of 8 bits, or bool. None: as the model sees fit.

    Raises:
      InputError, LimitError: a picture of another kind, or too large; an importance map of another size or kind.
      ModelError: no such model.
      UsageError: a quality or effort out of range, or for a model of one rate; unknown metadata; an importance map for
        a model that takes none.
    """
    quality = _checked_quality(quality)
    _check_effort(effort)
    seen, chunks = _seen(image, metadata)
    artifact = load_model(model)
    return _file(artifact, seen, chunks, quality, effort, _importance(importance, artifact, seen))[0]


def _checked_quality(quality):
    if quality is None:
        return None
    if not isinstance(quality, numbers.Real) or not 0 <= quality <= 100:
        raise UsageError(f"quality {quality} is out of range: a number from 0 to 100 is possible")
    return round(2 * float(quality)) / 2


def _check_effort(effort):
    if effort not in range(10):
        raise UsageError(f"effort {effort} is out of range: a whole number from 0 to 9 is possible")


def _seen(image, metadata):
    """(what is coded of an image, the chunks of its alpha and metadata)."""
    import numpy as np
    from PIL import Image

    from mlic_jax.fileformat import alpha, modes
    from mlic_jax.fileformat import metadata as kept

    chosen = kept.choose(metadata)
    if isinstance(image, Image.Image):
        seen = modes.from_pillow(image, chosen)
    elif hasattr(image, "__array__"):
        seen = modes.from_array(np.asarray(image))
    else:
        raise InputError(f"cannot compress a {type(image).__name__}: give an array or a PIL image")
    planes = [] if seen.alpha is None else [container.Chunk(container.ALPHA, alpha.encode(seen.alpha))]
    return seen, planes + kept.to_chunks(seen.metadata)


def _importance(given, artifact, seen) -> dict[str, Any]:
    """The further arguments of a codec's `compress`."""
    import numpy as np
    from PIL import Image

    if given is None:
        return {}
    if not zoo.codec_of(artifact).traits.guided:
        raise UsageError(f"{artifact.model} takes no importance map: li2018 and johnston2018 do")
    if isinstance(given, Image.Image):
        given = given.convert("L")
    found = np.asarray(given)
    if found.shape != seen.rgb.shape[:2]:
        wanted = "x".join(map(str, reversed(seen.rgb.shape[:2])))
        raise InputError(
            f"the importance map has shape {list(found.shape)}, the picture {wanted} pixels: one number each"
        )
    largest = {"u": 255, "b": 1, "f": 1}.get(found.dtype.kind)
    if largest is None or found.dtype.itemsize > 1 and largest == 255:
        raise InputError(
            f"the importance map is {found.dtype}: floats in 0..1, integers of 8 bits or bool are possible"
        )
    found = found.astype(np.float32) / largest
    if not (np.isfinite(found) & (found >= 0) & (found <= 1)).all():
        raise InputError("the importance map has numbers outside of 0..1")
    return {"importance": found}


def _file(artifact, seen, further, quality, effort, guide):
    """(the content of a file, the chunks of its picture, the quality)."""
    codec = zoo.codec_of(artifact)
    if quality is None:
        quality = codec.traits.default_quality
    parts = codec.compress(artifact, seen.rgb, quality, effort=effort, **guide)
    first, *more = [container.Chunk(container.DATA, bytes(data)) for data in parts]
    # Alpha and metadata stand behind the first part of the picture: of a file that was cut off, they are there.
    chunks = [first, *further, *more]
    height, width, _ = seen.rgb.shape
    header = container.Header(zoo.stream_id(artifact.model), artifact.fingerprint, width, height, seen.mode, quality)
    return container.pack(header, chunks), parts, quality


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
) -> bytes:
    """As `compress`, at the quality that a size or a PSNR asks for, found by bisection over half steps.

    Args:
      size: bytes that the file may have, all of it; it will have the highest quality that fits.
      bpp: the same in bits per pixel.
      psnr_db: that the decoded picture (its RGB of 8 bits) has at least, in the smallest file that does.
      image, model, effort, metadata, importance: see `compress`. The bisection runs at the lowest effort.

    Raises:
      UsageError: none or several targets, a model of one rate, or a target that no quality meets; and as `compress`.
      InputError, LimitError, ModelError: as `compress`.
    """
    named = {"size": size, "bpp": bpp, "psnr_db": psnr_db}
    given = {name: value for name, value in named.items() if value is not None}
    if len(given) != 1 or not all(isinstance(v, numbers.Real) and 0 < v < 1e12 for v in given.values()):
        raise UsageError(f"one target is needed, a positive size, bpp or psnr_db: got {given or 'none'}")
    _check_effort(effort)
    seen, further = _seen(image, metadata)
    artifact = load_model(model)
    codec = zoo.codec_of(artifact)
    if codec.traits.default_quality is None:
        raise UsageError(f"{artifact.model} has one rate, fixed in training: it cannot meet a target")
    height, width, _ = seen.rgb.shape
    guide = _importance(importance, artifact, seen)

    @functools.cache
    def attempt(half_steps, effort):
        data, parts, quality = _file(artifact, seen, further, half_steps / 2, effort, guide)
        if psnr_db is None:
            rate = 8 * len(data) / (height * width)  # computed as `info` does: what it says of a file, that file meets
            return data, len(data) <= size if bpp is None else rate <= bpp, f"{len(data)} bytes ({rate:.4f} bpp)"
        from mlic_jax.metrics import psnr

        reached = psnr.psnr_db(seen.rgb, codec.decompress(artifact, parts, (height, width), quality))
        return data, reached >= psnr_db, f"{reached:.2f} dB"

    # `easy` meets the target more easily than `hard`; from one to the other there is one change, as good as always.
    low, high = (round(2 * quality) for quality in codec.traits.quality_range)
    easy, hard = (low, high) if psnr_db is None else (high, low)
    _, met, reached = attempt(easy, 0)
    if not met:
        raise UsageError(f"no quality meets {_words(given)}: quality {easy / 2:g} gives {reached}")
    best = easy
    if attempt(hard, 0)[1]:
        best = hard
    else:
        while abs(hard - best) > 1:
            middle = (best + hard) // 2
            best, hard = (middle, hard) if attempt(middle, 0)[1] else (best, middle)
    while True:
        data, met, _ = attempt(best, effort)
        if met or best == easy:
            return data if met else attempt(easy, 0)[0]
        best += 1 if easy > best else -1  # the search was at another effort


def _words(given):
    ((name, value),) = given.items()
    return {"size": f"{value:g} bytes", "bpp": f"{value:g} bits per pixel", "psnr_db": f"{value:g} dB"}[name]


class _Opened(NamedTuple):
    """A file and its model: the parts of the picture and the other chunks that are there.

    Attributes:
      ends: how many bytes of the file each part's picture takes.
    """

    header: container.Header
    artifact: Artifact
    parts: tuple[bytes, ...]
    others: tuple[container.Chunk, ...]
    ends: tuple[int, ...]

    def array(self, count: int) -> np.ndarray:
        """The picture of the first `count` parts, in the mode of the file."""
        from mlic_jax.fileformat import alpha, modes

        size = (self.header.height, self.header.width)
        planes = [
            alpha.decode(chunk.content, *size, container.bit_depth(self.header.mode))
            for chunk in self.others
            if chunk.type == container.ALPHA
        ]
        codec = zoo.codec_of(self.artifact)
        rgb = codec.decompress(self.artifact, self.parts[:count], size, quality=self.header.quality)
        return modes.to_array(self.header.mode, rgb, *planes)


def _open(data, model) -> _Opened:
    """Reads a file and finds its model. Of a progressive file that was cut off, it takes what is whole, and warns."""
    _check_content(data)
    header, chunks, places = container.unpack_partial(data)
    described = _describe(header)
    if model is None:
        artifact = _find_model(header)
    else:
        artifact = load_model(model)
        if (zoo.stream_id(artifact.model), artifact.fingerprint) != (header.model_id, header.fingerprint):
            raise ModelError(
                f"the file needs {described}; given is {artifact.model} with fingerprint {artifact.fingerprint.hex()}. "
                f"{_WHERE}"
            )
    parts = tuple(chunk.content for chunk in chunks if chunk.type == container.DATA)
    others = tuple(chunk for chunk in chunks if chunk.type != container.DATA)
    if container.whole(places, len(data)) < len(places):
        if not zoo.codec_of(artifact).traits.progressive:
            container.unpack(data)  # which says how much is missing
        _check_start(header, parts, others, places, len(data))
        announced = sum(place.type == container.DATA for place in places)
        warnings.warn(
            f"the file is truncated: {len(data)} of {container.end_of(places[-1])} bytes are there, with {len(parts)} "
            f"of {announced} parts of the picture",
            TruncationWarning,
            stacklevel=4,
        )
    # No part is a picture before its alpha plane is there.
    alpha = max((container.end_of(place) for place in places if place.type == container.ALPHA), default=0)
    ends = [max(alpha, container.end_of(place)) for place in places if place.type == container.DATA]
    return _Opened(header, artifact, parts, others, tuple(ends[: len(parts)]))


def _check_start(header, parts, others, places, size) -> None:
    """Raises CorruptStreamError where a file was cut off before it shows anything."""
    has_alpha = any(chunk.type == container.ALPHA for chunk in others)
    if not parts or container.has_alpha(header.mode) != has_alpha:
        needed = max(container.end_of(place) for place in places[: 2 if container.has_alpha(header.mode) else 1])
        raise CorruptStreamError(
            f"the file is truncated: {size} bytes of {container.end_of(places[-1])} are there, and {needed} are needed "
            "for the first picture"
        )


def _count(opened, iterations) -> int:
    """How many parts are to be shown."""
    if iterations is None:
        return len(opened.parts)
    if not zoo.codec_of(opened.artifact).traits.progressive:
        raise UsageError(f"a file of {opened.artifact.model} has no iterations: it is read whole")
    if not isinstance(iterations, numbers.Integral) or not 1 <= iterations <= len(opened.parts):
        raise UsageError(f"iterations {iterations} are not in the file: it has 1 to {len(opened.parts)}")
    return int(iterations)


def _check_content(data) -> None:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InputError(f"a {type(data).__name__} is not the content of a file: give its bytes")


def decompress(
    data: bytes, model: str | os.PathLike | Artifact | None = None, *, iterations: int | None = None
) -> np.ndarray:
    """The picture of a `.mlic` file's content, as an array of the mode it was compressed from.

    Args:
      data: the file's content.
      model: as for `compress`; None to search the models used so far, MLIC_MODEL, and the folders in MLIC_MODELS.
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
    opened = _open(data, model)
    return opened.array(_count(opened, iterations))


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
    from mlic_jax.fileformat import metadata as kept
    from mlic_jax.fileformat import modes

    chosen = kept.choose(metadata)
    opened = _open(data, model)
    found = kept.from_chunks(opened.others, chosen)
    image = modes.to_pillow(opened.header.mode, opened.array(_count(opened, iterations)))
    image.info.update(kept.to_pillow(found))
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
    opened = _open(data, model)
    if not zoo.codec_of(opened.artifact).traits.progressive:
        raise UsageError(f"a file of {opened.artifact.model} shows nothing before it is whole")
    for count, end in enumerate(opened.ends, 1):
        yield Prefix(count, end, opened.array(count))


def to_standard(data: bytes) -> tuple[bytes, str]:
    """The standard file inside a `.mlic` file of a model around a standard codec; needs no model.

    For `talebi2020` this is the picture; for `jiang2017` the small one in the middle, which its decoder starts from.

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

    _check_content(data)
    header, chunks = container.unpack(data)
    pictures = [chunk.content for chunk in chunks if chunk.type == container.DATA]
    extension = embedded.extension_of(pictures[0]) if len(pictures) == 1 else None
    if extension is None:
        raise UsageError(f"no standard file is inside: the file is a stream of {_describe(header)}")
    if extension == ".jpg":
        return embedded.with_metadata(pictures[0], kept.from_chunks(chunks)), extension
    return pictures[0], extension


def info(data: bytes, size: int | None = None) -> dict[str, Any]:
    """What the header of a `.mlic` file says; needs no model.

    Args:
      data: the file's content, or its first `container.LONGEST_HEADER` bytes or more.
      size: the file's length in bytes, where `data` is not all of it.

    Returns:
      {"model", "fingerprint", "width", "height", "mode", "bit_depth", "quality" (or None), "bytes", "bpp",
       "chunks": [{"type": name, "bytes": length}], "metadata": {name: bytes as stored}}.

    Raises:
      CorruptStreamError, LimitError: as `decompress`.
    """
    _check_content(data)
    size = len(data) if size is None else size
    header, places = container.read_header(data, size)
    try:
        name = zoo.name_of(header.model_id)
    except ModelError:
        name = f"unknown (id {header.model_id})"
    return {
        "model": name,
        "fingerprint": header.fingerprint.hex(),
        "width": header.width,
        "height": header.height,
        "mode": header.mode.removesuffix(";16"),
        "bit_depth": container.bit_depth(header.mode),
        "quality": header.quality,
        "bytes": size,
        "bpp": 8 * size / (header.width * header.height),
        "chunks": [{"type": container.chunk_name(place.type), "bytes": place.length} for place in places],
        "metadata": {container.NAMES[p.type]: p.length for p in places if p.type in container.METADATA},
    }
