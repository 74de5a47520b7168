"""`python -m mlic_jax.reference FILE.mlic MODEL.mlicm [OUT.npz]`: one line for every array in a file, or the arrays."""

from __future__ import annotations

import hashlib
import io
import sys

import numpy as np

from mlic_jax.errors import MlicError
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.reference.decoder import decode


def main(arguments: list[str]) -> int:
    """Prints SHA-256, shape and name of each array, and returns the exit status; OUT.npz gets the arrays themselves:
    symbols, rows of tables and means, as `decode` has them."""
    if len(arguments) not in (2, 3):
        print("usage: python -m mlic_jax.reference FILE.mlic MODEL.mlicm [OUT.npz]", file=sys.stderr)
        return 2
    try:
        with open(arguments[0], "rb") as file:
            data = file.read()
        arrays = decode(data, Artifact.load(arguments[1]))
        if len(arguments) == 3:
            packed = io.BytesIO()  # so that no part of a file is left where something fails
            np.savez_compressed(packed, **arrays)
            with open(arguments[2], "wb") as file:
                file.write(packed.getvalue())
        for name, array in arrays.items():
            shape = "x".join(map(str, array.shape))
            print(hashlib.sha256(array.astype("<i4").tobytes()).hexdigest(), shape, name)
    except (MlicError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 3)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
