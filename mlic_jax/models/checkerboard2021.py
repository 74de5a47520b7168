"""Checkerboard context model: a spatial context in two passes, in place of one position after the other.

He, Zheng, Sun, Wang, Qin, CVPR 2021, https://arxiv.org/abs/2103.15306. Layers, widths and constants as in CompressAI's
`Cheng2020AnchorCheckerboard`, whose weights give the same numbers here (tests).

    image -> g_a -> y -> round(y - mu) + mu -> y^ -> g_s -> reconstruction          g_a, g_s, h_a, h_s: cheng2020-anchor
                    |                          ^
                    v                          | P(y^) = N(mu, sigma^2) * U(-1/2, 1/2)
                   h_a -> z -> round -> z^ -> h_s
                                               |
       0, of black positions                 \\  |
       known black ones -> context_prediction -> entropy_parameters -> sigma, mu     of white positions, i + j odd

    context_prediction    k5 2N, masked: of a position's surroundings those of the other colour
    entropy_parameters    of context and h_s: k1 10N/3; k1 8N/3; k1 2N, LeakyReLU between; sigma, then mu

Black positions are coded first, and for them the context says nothing: zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlic_jax.codec import Codec
from mlic_jax.entropy.exact import ExactStack
from mlic_jax.entropy.priors.gaussian import Gaussian
from mlic_jax.entropy.scanning import Checkerboard
from mlic_jax.families.common import check_widths, module_of
from mlic_jax.families.latent import latent_codec
from mlic_jax.models import cheng2020

WIDTHS, LAMBDAS, LAMBDAS_MS_SSIM = cheng2020.WIDTHS, cheng2020.LAMBDAS, cheng2020.LAMBDAS_MS_SSIM
TINY = cheng2020.TINY
ORDER = Checkerboard(5)


def scan_in_two(code: Any, name: str, context: ExactStack, parameters: ExactStack, side: Any) -> Any:
    """Transmits a latent in two passes, by a Gaussian for every entry.

    Args:
      code: a coder, see mlic_jax.entropy.coders.
      name: of the latent, [B, h, w, C].
      context: makes of what is known of the latent what `parameters` reads first, masked by ORDER.
      parameters: its outputs are scales, then means, [B, h, w, 2 C].
      side: what it reads besides, [B, h, w, S].

    Returns:
      what a decoder knows of the latent.
    """
    together = module_of(side).concatenate
    later = np.float32(ORDER.waves(*side.shape[1:3]) > 0)[None, ..., None]
    later = np.broadcast_to(later, (*side.shape[:3], 1))

    def prior(known, side):
        seen = code.exact(context, known) * side[..., -1:]
        both = code.exact(parameters, together([seen, side[..., :-1]], axis=-1))
        C = both.shape[-1] // 2
        return Gaussian(scale=both[..., :C], mean=both[..., C:])

    return code.scan(name, ORDER, prior, together([side, later], axis=-1))


class Checkerboard2021(cheng2020.Cheng2020):
    """cheng2020-anchor with a context in two passes. N, M: one width."""

    order = ORDER

    def transmit(self, code):
        z = code("z", self.prior_z)
        hyper = code.exact(self.h_s, z, self.prior_z)
        return scan_in_two(code, "y", self.context_prediction, self.entropy_parameters, hyper)


def checkerboard(*, N: int = 192, lmbda: float = 0.0130, dtype=None, precision=None, **training) -> Codec:
    """cheng2020-anchor-checkerboard. N: width of everything; training: see latent_codec."""
    model = "cheng2020-anchor-checkerboard"
    check_widths(model, ("N", N, 2))
    module = Checkerboard2021(N=N, M=N, dtype=dtype, precision=precision)
    return latent_codec(module, model=model, architecture={"N": N}, lmbda=lmbda, **training)
