"""A trained model in a user's hands: its networks for programs of his own, and its files."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mlic_jax import zoo
from mlic_jax.codec import Networks
from mlic_jax.errors import InputError, UsageError
from mlic_jax.fileformat import decoding, encoding, modes
from mlic_jax.fileformat.artifact import Artifact


class Model:
    """What `mlic_jax.load` returns.

    Images are float [B, H, W, 3] in [0, 1], of any size; a quality is a number or [B], 0 to 100, None for the default
    or for a model of one rate. `analyze`, `synthesize` and `estimate` can stand within jit, grad and vmap of a program;
    rounding passes gradients as if it were not there.

    Attributes:
      artifact: weights, tables and card.
      codec: what the model is and can.
    """

    def __init__(self, artifact: Artifact):
        self.artifact, self.codec = artifact, zoo.codec_of(artifact)

    def __repr__(self):
        return f"Model({self.artifact!r})"

    @property
    def params(self) -> dict[str, Any]:
        """Nested dicts of NumPy arrays."""
        return self.artifact.params

    @property
    def card(self) -> dict[str, Any]:
        """How the weights came about."""
        return self.artifact.card

    # ------------------------------------------------------------------ for programs

    def analyze(self, image: jax.Array, quality=None) -> dict[str, jax.Array]:
        """name -> latent [B, h, w, C], before rounding. Raises InputError, UsageError."""
        image = _floats(image)
        return self._networks.analyze(self.artifact.variables, image, self._quality(quality, len(image)))

    def estimate(self, image: jax.Array, quality=None) -> dict[str, Any]:
        """{"bits": name -> float [B], "reconstruction": float [B, H, W, 3]}: of a file, without one. Raises InputError,
        UsageError."""
        image = _floats(image)
        return self._networks.estimate(self.artifact.variables, image, self._quality(quality, len(image)))

    def synthesize(self, latents: dict[str, jax.Array], quality=None) -> jax.Array:
        """What a decoder shows of latents as `analyze` gives them, rounded: [B, H, W, 3], sides multiples of the
        model's stride. Raises UsageError."""
        count = len(next(iter(latents.values())))
        return self._networks.synthesize(self.artifact.variables, latents, self._quality(quality, count))

    @property
    def _networks(self) -> Networks:
        if self.codec.networks is None:
            raise UsageError(
                f"{self.artifact.model} has no latents with a learned prior: it compresses and decompresses"
            )
        return self.codec.networks

    def _quality(self, quality, count):
        default = self.codec.traits.default_quality
        if default is None:
            if quality is not None:
                raise UsageError(f"{self.artifact.model} has one rate, fixed in training: it takes no quality")
            return None
        quality = jnp.asarray(default if quality is None else quality, jnp.float32)
        if quality.shape not in ((), (count,)):
            raise UsageError(f"quality has shape {list(quality.shape)}: a number, or one for each of {count} images")
        return jnp.broadcast_to(quality, (count,))

    # ------------------------------------------------------------------ files

    def compress(self, image: np.ndarray | Image.Image, quality: float | None = None, *, effort: int = 0) -> bytes:
        """The content of a `.mlic` file; arguments and errors as of `mlic_jax.compress`."""
        return encoding.Encoding(modes.from_image(image), self.artifact).file(quality, effort)[0]

    def decompress(self, data: bytes) -> np.ndarray:
        """The picture of a `.mlic` file that this model wrote; errors as of `mlic_jax.decompress`."""
        opened = decoding.open_with(data, self.artifact)
        return opened.picture(opened.count(None))


def _floats(image):
    image = jnp.asarray(image)
    if image.ndim != 4 or image.shape[3] != 3 or not jnp.issubdtype(image.dtype, jnp.floating) or 0 in image.shape:
        raise InputError(f"images of {image.dtype} {list(image.shape)}: float [B, H, W, 3] in [0, 1] is needed")
    return image.astype(jnp.float32)
