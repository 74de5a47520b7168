"""The reference decoder: from the bytes of a file to its symbols and bits, in plain Python integers and NumPy.

    python -m mlic_jax.reference FILE.mlic MODEL.mlicm

prints SHA-256 and shape of every array that is in the file: symbols of latents and the table rows they were coded with,
codes of recurrent models and their heights, bits of li2018 and its levels. This is docs/format.md as a program, and the
oracle of the tests: it shares no line with the container, the range coder and the networks that users run, and imports
neither jax nor constriction, so it will still read today's files when those are gone. Of the rest of the package it
knows the errors and the model file. Clear before fast: a picture of 768x512 takes seconds.

It stops at the symbols. Everything behind them, from the symbols to pixels, is floating point and need not be exact.

    container    the file, taken apart                     bits        bits, and the layers that predict them
    rangecoder   entries of table rows                     heights     maps of heights
    exact        networks in whole numbers                 recurrent   codes of recurrent models
    latents      coding orders of latents                  trimmed     bits of li2018
    bitmap       pictures of black and white            decoder    all of it: a file and its model -> arrays
"""

from mlic_jax.reference import bitmap, bits, container, exact, heights, latents, rangecoder, recurrent, trimmed
from mlic_jax.reference.decoder import MODELS, decode, decode_chunks

__all__ = [
    "MODELS",
    "bitmap",
    "bits",
    "container",
    "decode",
    "decode_chunks",
    "exact",
    "heights",
    "latents",
    "rangecoder",
    "recurrent",
    "trimmed",
]
