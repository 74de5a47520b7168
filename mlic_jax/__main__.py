"""`python -m mlic_jax` is the command `mlic`."""

import sys

from mlic_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
