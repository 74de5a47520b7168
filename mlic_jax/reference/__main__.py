"""`python -m mlic_jax.reference FILE.mlic MODEL.mlicm`: one line for every array in a file."""

from __future__ import annotations

import hashlib
import sys

from mlic_jax.errors import MlicError
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.reference.decoder import decode


def main(arguments: list[str]) -> int:
    """Prints SHA-256, shape and name of each array, and returns the exit status."""
    if len(arguments) != 2:
        print("usage: python -m mlic_jax.reference FILE.mlic MODEL.mlicm", file=sys.stderr)
        return 2
    try:
        with open(arguments[0], "rb") as file:
            data = file.read()
        for name, array in decode(data, Artifact.load(arguments[1])).items():
            shape = "x".join(map(str, array.shape))
            print(hashlib.sha256(array.astype("<i4").tobytes()).hexdigest(), shape, name)
    except (MlicError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 3)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
