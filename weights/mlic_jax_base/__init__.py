"""The model file of KltNet Base, for mlic_jax. Its card is kltnet-base.md."""

import pathlib

# Where the model files are: the entry point of the group mlic_jax.models.
FOLDER = pathlib.Path(__file__).parent
