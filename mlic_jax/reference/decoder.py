"""Whole files: their models, and the symbols and bits that are in them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from mlic_jax.errors import CorruptStreamError, ModelError
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.reference import bitmap, container, latents, recurrent, trimmed
from mlic_jax.reference.rangecoder import Mirrored


def _one_stream(read: Callable, chunks, model, height, width, quality):
    """What a model of latents has in its one chunk."""
    if len(chunks) != 1:
        raise CorruptStreamError(f"{model.model} writes one data chunk, the file has {len(chunks)}")
    coder = Mirrored(chunks[0])
    arrays = read(coder, model, height, width, quality)
    coder.finish()
    return arrays


# Model id -> name, and what reads its data chunks: (chunks, model, height, width, quality) -> arrays by name.
# The chunks of jiang2017 (5) and talebi2020 (6) are files of standard codecs.
MODELS = {
    1: ("bmshj2018-factorized", functools.partial(_one_stream, latents.factorized)),
    2: ("bmshj2018-hyperprior", functools.partial(_one_stream, functools.partial(latents.hyperprior, has_means=False))),
    3: ("mbt2018-mean", functools.partial(_one_stream, functools.partial(latents.hyperprior, has_means=True))),
    4: ("kltnet", functools.partial(_one_stream, latents.kltnet)),
    7: ("li2018", trimmed.read_bits),
    8: ("toderici2017", recurrent.read_codes),
    9: ("johnston2018", recurrent.read_codes),
    10: ("kltnet2", functools.partial(_one_stream, latents.kltnet2)),
    11: ("bitmap", bitmap.read_bits),
    12: ("mbt2018", functools.partial(_one_stream, latents.joint)),
    13: ("minnen2020", functools.partial(_one_stream, latents.channel_wise)),
    14: ("hu2020", functools.partial(_one_stream, latents.coarse_to_fine)),
    15: ("cheng2020-anchor", functools.partial(_one_stream, latents.joint)),
    16: ("cheng2020-attn", functools.partial(_one_stream, latents.joint)),
    17: ("cheng2020-anchor-checkerboard", functools.partial(_one_stream, latents.two_passes)),
    18: ("elic2022", functools.partial(_one_stream, latents.uneven_groups)),
    19: ("bls2017", functools.partial(_one_stream, latents.factorized)),
}


def decode(data: bytes, model: Artifact) -> dict[str, np.ndarray]:
    """The symbols or bits of a file.

    Args:
      data: the file, all of it.
      model: the one it was written with.

    Returns:
      int32 arrays. Of models of latents, [h, w, C] each: for every latent ("y", and "z" where there is one) its symbols
      under its name, the table rows they were coded with as "y_rows", and the means in steps of 1/256, where there are
      any, as "y_means": the latent is y + y_means / 256. Of recurrent models: "codes" [K, h, w, C], -1 or +1, and 0 for
      what is not sent, and "heights" [h, w], where the file has them. Of li2018: "bits" [h, w, n], 0 or 1, and 0 for
      what is not sent, and "levels" [h, w], where the model has an importance map. Of bitmap: "bits" [H, W], 1 for
      white.

    Raises:
      CorruptStreamError: a damaged file.
      ModelError: it was written with another model, or with one that this decoder does not know.
    """
    file = container.parse(data)
    if file.model_id not in MODELS:
        raise ModelError(f"the file was written by a model with id {file.model_id}, which this decoder does not know")
    name, _ = MODELS[file.model_id]
    if name != model.model or file.fingerprint != model.fingerprint[:6]:
        wanted = f"{name} {file.fingerprint.hex()}"
        raise ModelError(f"the file was written with {wanted}, not with {model.model} {model.fingerprint.hex()}")
    if not file.portable:
        raise CorruptStreamError(f"the file is not portable, and those of {name} are")
    chunks = [content for kind, content in file.chunks if kind == container.DATA]
    return decode_chunks(chunks, model, file.height, file.width, file.quality)


def decode_chunks(
    chunks: Sequence[bytes], model: Artifact, height: int, width: int, quality: int | None = None
) -> dict[str, np.ndarray]:
    """As `decode`, of data chunks alone, which may be the first ones of a progressive file.

    Args:
      chunks: their content.
      model: the one they were written with.
      height, width: of the picture, in pixels.
      quality: in half steps, as the header has it.
    """
    for name, read in MODELS.values():
        if name == model.model:
            arrays = read([bytes(chunk) for chunk in chunks], model, height, width, quality)
            return {key: array.astype(np.int32) for key, array in arrays.items()}
    raise ModelError(
        f"{model.model} is no model of this decoder: it has {', '.join(name for name, _ in MODELS.values())}"
    )
