"""JPEG with gradients, and its files in plain NumPy.

    decoded, coefficients = jpeg.simulate(image, quality=50)      # float32 [B, H, W, 1 or 3] in 0..255
    bits = jpeg.rate(coefficients)                                # float32 [B]: of the whole file, nearly
    loss = ((image - decoded) ** 2).mean() + lmbda * bits.mean()

    jpeg.scan_bits(jpeg.quantised(coefficients))                  # int64 [B]: exact, without gradient

    jpeg.jfif.encode(pixels, quality=50)                          # uint8 [H, W, 1 or 3] -> bytes, those of Pillow
    jpeg.jfif.decode(data)                                        # and back

`simulate` and `jfif` share their arithmetic (`arithmetic`), which is libjpeg's to the last bit; `simulate` adds the
surrogates for rounding (`ROUNDINGS`), `rate` those for counting (`PROXIES`). `tables`, `huffman`, `scan` and `jfif` are
made for reading: the format from its constants to the file. `jfif` is to `simulate` what mlic_jax.reference is to our
own files: the notebook on JPEG is written with it, and the tests hold `simulate` and `scan_bits` against its bytes.
"""

from mlic_jax.jpeg import jfif
from mlic_jax.jpeg.blocks import SUBSAMPLINGS, Coefficients
from mlic_jax.jpeg.layer import CLIPS, simulate
from mlic_jax.jpeg.proxy import HEADER_BYTES, PROXIES, calibrated, rate
from mlic_jax.jpeg.rounding import ROUNDINGS
from mlic_jax.jpeg.scan import HUFFMANS, quantised, scan_bits
from mlic_jax.jpeg.tables import quantisation_tables

__all__ = [
    "CLIPS",
    "Coefficients",
    "HEADER_BYTES",
    "HUFFMANS",
    "PROXIES",
    "ROUNDINGS",
    "SUBSAMPLINGS",
    "calibrated",
    "jfif",
    "quantisation_tables",
    "quantised",
    "rate",
    "scan_bits",
    "simulate",
]
