"""What several subcommands need."""

from __future__ import annotations

import json
import os
import pathlib

# As many pictures of `mlic export --calibrate` are looked at.
CALIBRATION_PICTURES = 32


def prepare_jax() -> None:
    """Compiled programs are kept between runs: the second compress of a size starts in a second."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(home) / "mlic_jax" / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pictures(folder: str | None, limit: int):
    from mlic_jax import data

    paths = data.list_images(folder) if folder else data.bundled("validation")
    return [(path.stem, data.read_image(path)) for path in paths[: limit or None]]


def artifact_of_run(run: str, which: str, calibrate: str | None = None):
    from mlic_jax.training.train import load_run, make_codec

    config, params, state, step = load_run(run, which)
    config.train.bfloat16 = False
    images = [image for _, image in pictures(calibrate, CALIBRATION_PICTURES)] if calibrate else None
    artifact = make_codec(config).export(params, state, images)
    artifact.card = {"trained_with": json.loads(json.dumps(config.to_dict(), default=list)), "step": step}
    return artifact
