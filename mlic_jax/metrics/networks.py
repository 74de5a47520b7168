"""What metrics on the features of trained networks share: files of weights in other people's packages, convolutions."""

from __future__ import annotations

import hashlib
import importlib.util
import pathlib
from collections.abc import Callable

import jax

from mlic_jax import atomic
from mlic_jax.errors import ModelError, UsageError


def known_file(
    package: str, release: str, parts: tuple[str, ...], digest: str, missing: Callable[[], str | None]
) -> bytes:
    """The content of a file of weights in a package, which is not imported.

    Args:
      package: by the name that is imported.
      release: whose files are known.
      parts: of the path within the package.
      digest: the file's SHA-256.
      missing: what to install where the package is not there.

    Raises:
      UsageError: the package is missing.
      ModelError: its file is not the known one.
      InputError: its file cannot be read.
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise UsageError(missing())
    path = pathlib.Path(spec.submodule_search_locations[0], *parts)
    data = atomic.read_bytes(path)
    if (found := hashlib.sha256(data).hexdigest()) != digest:
        raise ModelError(f"{str(path)!r} is not the file of {package} {release}: its SHA-256 is {found}, not {digest}")
    return data


def convolution(x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int, padding: int | str) -> jax.Array:
    """ReLU of a convolution, [N, h, w, in] -> [N, h', w', out]. padding: on all four sides, or "SAME" or "VALID"."""
    # Rounded to bfloat16 or TF32, as accelerators do unless told otherwise, near-identical pictures are far off.
    x = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding if isinstance(padding, str) else ((padding, padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return jax.nn.relu(x + bias)
