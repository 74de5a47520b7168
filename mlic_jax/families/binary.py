"""A codec from a model whose codes are bits, of which it sends some.

A binary model is a Flax module with

    analyze(image float [B, H, W, 3] in [0, 1]) -> {"code": [B, h, w, n], ..}   volumes of -1 and +1
    transmit(code) -> received                                                  see mlic_jax.entropy.bits.coders
    synthesize(received) -> image float [B, H, W, 3]
    quantise(image, keys) -> Quantised                                          what "rd" trains by
    stride: int                                                                 sides of images must be multiples

and `Binary` makes of it everything that `mlic_jax.codec.Codec` asks for. The networks are trained first, by bits whose
rounding has a made-up gradient and a rate that the model states; then the priors of bits, on codes as they are.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.codec import Objective
from mlic_jax.entropy.bits.coders import Checking, Decoding, Encoding, Estimating, Exporting, WithoutPriors
from mlic_jax.entropy.coders import per_example_sum
from mlic_jax.families.base import Family
from mlic_jax.families.common import mean_psnr_db, mse255, pad, pad_picture, padded_size
from mlic_jax.layers.precision import in_float32
from mlic_jax.layers.windows import Pixels, stored_pixels, to_float, to_uint8


class Quantised(NamedTuple):
    """What training knows of pictures.

    Attributes:
      bits: float32 [B, h, w, n], 0 or 1, with a gradient.
      present: float32 [B, h, w, n], 1 for bits that are sent and 0 for others, with a gradient.
      penalty: float32 [B], what the rate adds to the loss, beside the mean squared error in steps of 8 bits.
      metrics: name -> float32 [..], of which the means are logged.
    """

    bits: jax.Array
    present: jax.Array
    penalty: jax.Array
    metrics: dict[str, jax.Array]


class BinaryModel(nn.Module):
    """Base of such models.

    Attributes of subclasses:
      stride: see above.
      priors: the names of the modules that are priors of bits; all others are networks.
      guided: whether `analyze` takes a second argument: what a user says of where bits are to go, the mean of each
        cell of stride x stride pixels, float [B, h, w] in 0..1 or None.
    """

    # Without types: Flax makes arguments of what has one.
    priors = ()
    guided = False

    def __call__(self, image):
        """The way through all methods, in which every parameter takes part."""
        return self.synthesize(self.transmit(Estimating(self.analyze(image))))

    def train(self, image, keys=None):
        """(reconstruction, Quantised) of images float [B, H, W, 3]; keys [B] for what training draws, or None."""
        quantised = self.quantise(image, keys)
        return self.synthesize((quantised.bits, quantised.present)), quantised


def cell_means(values: np.ndarray, cell: int) -> np.ndarray:
    """The means of cells of so many pixels: [H, W] -> float64 [ceil(H / cell), ceil(W / cell)]; edges are repeated."""
    padded = pad_picture(np.asarray(values, np.float64), cell)
    height, width = padded.shape
    return padded.reshape(height // cell, cell, width // cell, cell).mean((1, 3))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Binary(Family):
    """The codecs of binary models.

    Attributes:
      module: the model.
      plain: whether bits are written as they are; the priors have parameters all the same.
    """

    module: BinaryModel
    plain: bool = False

    def trace(self):
        return jax.eval_shape(self.module.init, jax.random.key(0), self._smallest)

    @property
    def _smallest(self):
        return jax.ShapeDtypeStruct((1, self.module.stride, self.module.stride, 3), jnp.float32)

    def shapes(self, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """name -> shape of the volumes of one picture of that size (H, W)."""
        stride = self.module.stride
        height, width = (side // stride for side in padded_size(*size, stride))
        return {name: (1, height * h, width * w, n) for name, (_, h, w, n) in self._cell.items()}

    @functools.cached_property
    def _cell(self):
        """name -> shape of the volumes of a picture as large as the stride, by tracing."""

        def analyze(params, image):
            return self._apply({"params": params}, image, method="analyze")

        volumes = jax.eval_shape(analyze, nn.meta.unbox(self.boxed["params"]), self._smallest)
        return {name: volume.shape for name, volume in volumes.items()}

    @functools.cached_property
    def exact(self) -> BinaryModel:
        """The module in float32, for everything but the training losses."""
        return in_float32(self.module)

    def _apply(self, variables, *arguments, method):
        return self.exact.apply(variables, *arguments, method=method)

    def _transmit(self, variables, coder):
        """What a decoder knows, by a coder; without the priors where bits are plain."""
        return self._apply(variables, WithoutPriors(coder) if self.plain else coder, method="transmit")

    # ------------------------------------------------------------------ training

    def objectives(self):
        """ "rd" trains the networks, "entropy" the priors, for codes that stand still."""
        networks = tuple(name for name in self.boxed["params"] if name not in self.module.priors)
        return {
            "rd": Objective(networks, self.rd_loss),
            "entropy": Objective(tuple(self.module.priors), self.entropy_loss),
        }

    def rd_loss(self, params, state, batch, keys, step):
        del step
        image = to_float(batch["image"])
        _, height, width, _ = image.shape
        padded = pad(image, self.module.stride)
        shown, quantised = self.module.apply({"params": params}, padded, keys, method="train")
        squared = mse255(image, shown[:, :height, :width].astype(jnp.float32))
        total = jnp.mean(squared + quantised.penalty)
        metrics = {
            "loss": total,
            "mse255": jnp.mean(squared),
            "psnr_db": mean_psnr_db(squared),
            "bpp_sent": quantised.present.sum() / (len(image) * height * width),  # before the coder, without a map
            **{name: jnp.mean(value) for name, value in quantised.metrics.items()},
        }
        return total, (metrics, state)

    def entropy_loss(self, params, state, batch, keys, step):
        del keys, step
        image = to_float(batch["image"])
        volumes = self.module.apply({"params": params}, pad(image, self.module.stride), method="analyze")
        coder = Estimating(jax.lax.stop_gradient(volumes))
        self._transmit({"params": params}, coder)
        bpp = {
            f"bpp_{name}": jnp.mean(per_example_sum(bits)) / image[0, ..., 0].size
            for name, bits in coder.lengths.items()
        }
        total = sum(bpp.values())
        return total, ({"loss": total, "bpp": total, **bpp}, state)

    # ------------------------------------------------------------------ use

    def estimate_at(self, params, state, image, quality):
        del state, quality
        return self._estimate(params, image)

    @functools.cached_property
    def _estimate(self):
        return jax.jit(self._estimated)

    def _estimated(self, params, image):
        seen, (_, height, width, _), variables = to_float(image), image.shape, {"params": params}
        padded = pad(seen, self.module.stride)
        coder = Estimating(self._apply(variables, padded, method="analyze"))
        received = self._transmit(variables, coder)
        reconstruction = to_uint8(self._apply(variables, received, method="synthesize"))[:, :height, :width]
        squared = mse255(seen, to_float(reconstruction))
        bits = sum(per_example_sum(lengths) for lengths in coder.lengths.values())
        penalty = self._apply(variables, padded, method="quantise").penalty
        # Bits per pixel beside the loss of the networks: while these stand still, it is what the priors learn by.
        loss = squared + penalty + bits / (height * width)
        return {"loss": loss, "bits": bits, "mse255": squared, "reconstruction": reconstruction}

    def tabulate(self, variables, images):
        del images
        stride = self.module.stride
        coder = Exporting(self.shapes((stride, stride)))
        self._transmit({"params": variables["params"]}, coder)
        return coder.state, {}

    def check_state(self, artifact):
        stride = self.module.stride
        self._transmit({"state": artifact.state}, Checking(self.shapes((stride, stride))))

    def encode(self, artifact, image, quality, effort, importance):
        del quality, effort
        padded = pad_picture(image, self.module.stride)[None]
        guide = () if importance is None else (cell_means(importance, self.module.stride)[None],)
        coder = Encoding(
            self._apply({"params": artifact.variables["params"]}, Pixels(padded), *guide, method="analyze")
        )
        self._transmit({"state": artifact.state}, coder)
        return coder.chunks

    def decode(self, artifact, chunks, size, quality):
        del quality
        received = self.receive(artifact, chunks, size)
        variables = {"params": artifact.variables["params"]}
        return stored_pixels(self._apply(variables, received, method="synthesize"))[0, : size[0], : size[1]]

    def receive(self, artifact, chunks, size) -> Any:
        """The first half of `decode`, which is the same on every machine: what the encoder's `transmit` returned."""
        coder = Decoding(chunks, self.shapes(size))
        received = self._transmit({"state": artifact.state}, coder)
        coder.finish()
        return received
