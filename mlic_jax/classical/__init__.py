"""Standard codecs behind one signature: what learned codecs are measured against.

    from mlic_jax import classical
    avif = classical.get("avif")
    data = avif.encode(image, 40)                                    # uint8 [H, W, 3] -> bytes
    quality, data = classical.match_rate(avif, image, 20_000)        # the file nearest to 20 kB
    quality, data = classical.match_metric(avif, image, 35.0, psnr_db)    # to 35 dB, by mlic_jax.metrics.psnr
    image = avif.decode(data)

Importing this package costs no more than importing Pillow; other libraries are imported when a codec is used.
"""

from mlic_jax.classical.base import CODECS, ClassicalCodec, available, get
from mlic_jax.classical.matching import match_metric, match_rate

__all__ = ["CODECS", "ClassicalCodec", "available", "get", "match_metric", "match_rate"]
