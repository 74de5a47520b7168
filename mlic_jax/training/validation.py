"""What a run is like on held-out patches: estimated figures, and pictures to look at."""

from __future__ import annotations

import io

import jax
import numpy as np
from PIL import Image

from mlic_jax.codec import Codec
from mlic_jax.training import parallel
from mlic_jax.training.step import TrainState
from mlic_jax.training.writer import Writer


def validate(codec: Codec, train_state: TrainState, images: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Estimated figures on fixed patches (rounded latents, no noise), and the reconstructions uint8 [n, P, P, 3]."""
    params = parallel.local(train_state.average or train_state.params)
    state = parallel.local(train_state.state)
    parts = [jax.device_get(codec.estimate(params, state, image[None])) for image in images]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    pixels = images.shape[1] * images.shape[2]
    figures = {
        "loss": joined["loss"].mean(),
        "bpp": joined["bits"].mean() / pixels,
        "psnr_db": np.mean(20 * np.log10(255) - 10 * np.log10(np.maximum(joined["mse255"], 1e-10))),
    }
    return {key: float(value) for key, value in figures.items()}, joined["reconstruction"]


def save_samples(writer: Writer, step: int, images: np.ndarray, reconstructions: np.ndarray) -> None:
    """One picture: originals above, reconstructions below, both uint8 [n, P, P, 3]; of no patches, none."""
    if not len(images):
        return
    grid = np.concatenate([np.concatenate(list(images), 1), np.concatenate(list(reconstructions), 1)], 0)
    out = io.BytesIO()
    Image.fromarray(grid).save(out, "PNG")
    writer.image(step, "samples", out.getvalue(), grid.shape[:2], grid)
