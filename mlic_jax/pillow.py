"""Pillow reads and writes .mlic files once this module is imported.

    import mlic_jax.pillow
    from PIL import Image

    image = Image.open("photo.mlic")           # size, mode, ICC, EXIF and XMP: neither a model nor jax is needed yet
    image.load()                               # the model: one that is installed, MLIC_MODEL, or one of MLIC_MODELS
    image.save("copy.mlic", quality=60, model="base")

`save` takes `model` (a name or a file; default: the one in MLIC_MODEL, or the package's), `quality` (0 to 100, for
models of several rates) and `metadata` (as `mlic_jax.compress`). icc_profile, exif and xmp are those of `image.info`,
or given as for Pillow's own writers. A file holds one picture: of an image of several frames the one where it is, with
a LossWarning where that is the first. Pillow loads colours of 16 bits with 8 before it saves; `mlic_jax.compress` reads
all.

Errors are those that Pillow's other plugins raise: OSError for damaged files and missing models, ValueError for
arguments that make no sense, Image.DecompressionBombError for too many pixels.
"""

from __future__ import annotations

import contextlib
import io
import os

from PIL import Image, ImageFile

from mlic_jax import api, zoo
from mlic_jax.errors import LimitError, MlicError, ModelError, UsageError
from mlic_jax.fileformat import container, encoding, metadata, model_names, modes

FORMAT = "MLIC"


@contextlib.contextmanager
def _as_pillow():
    try:
        yield
    except UsageError as reason:
        raise ValueError(str(reason)) from reason
    except MlicError as reason:
        raise OSError(str(reason)) from reason


class MlicImageFile(ImageFile.ImageFile):
    """A .mlic file, of which only the header and the metadata were read until it is loaded."""

    format = FORMAT
    format_description = "Learned image compression (mlic_jax)"

    def _open(self):
        start = self.fp.read(container.LONGEST_HEADER)
        if not _accept(start):
            raise SyntaxError("not a .mlic file")
        try:
            header, places = container.read_header(start, self.fp.seek(0, os.SEEK_END))
        except LimitError as reason:
            raise Image.DecompressionBombError(str(reason)) from reason
        except MlicError as reason:
            raise OSError(str(reason)) from reason
        with _as_pillow():
            chunks = [self._read_chunk(place) for place in places if place.type in container.METADATA]
            self.info.update(metadata.to_pillow(metadata.from_chunks(chunks)))
        with contextlib.suppress(ModelError):  # the header of a file of an unknown model can be read
            self.info["model"] = model_names.name_of(header.fingerprint, zoo.name_of(header.model_id))
        if header.quality is not None:
            self.info["quality"] = header.quality
        self._size = (header.width, header.height)
        self._mode = modes.pillow_mode(header.mode)
        self.tile = [ImageFile._Tile("raw", (0, 0, *self._size), 0, self._mode)]

    def _read_chunk(self, place: container.Place) -> container.Chunk:
        self.fp.seek(place.offset)
        return container.Chunk(place.type, container.read_chunk(place, self.fp.read(place.length + 4)))

    def verify(self):
        """Checks the checksums of the whole file, and decodes nothing. As with other formats, open it again then."""
        self.fp.seek(0)
        with _as_pillow():
            container.unpack(self.fp.read())
        super().verify()

    def load(self):
        if self.tile:
            self.fp.seek(0)
            with _as_pillow():
                decoded = api.decompress_image(self.fp.read(), metadata="none")
            if self._exclusive_fp:
                self.fp.close()
            self.fp = io.BytesIO(decoded.tobytes())
        return super().load()

    def load_seek(self, pos):  # says that the pixels are not in the file itself, which Pillow might map otherwise
        pass


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(container.SIGNATURE)


def _save(image, file, filename):
    given = image.encoderinfo
    own = {key: given[key] for key in metadata.PILLOW.values() if key in given}
    with _as_pillow():
        picture = modes.from_pillow(image, metadata.choose(given.get("metadata", "all")), given=own)
        made = encoding.Encoding(picture, given.get("model")).file(given.get("quality"))
    file.write(made.data)


def register() -> None:
    """Registers the format with Pillow. Done on import; doing it again changes nothing."""
    Image.register_open(FORMAT, MlicImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_extension(FORMAT, ".mlic")
    Image.register_mime(FORMAT, "image/x-mlic")


register()
