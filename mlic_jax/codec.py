"""The interface of every codec in this package, and nothing else.

A codec is a tuple of pure functions. The trainer, the evaluator and the command line know these functions only;
whatever is special about a paper stays in its model file.

    config -> zoo.make -> Codec -> train step -> checkpoint -> export -> Artifact
    uint8 image -> compress(Artifact) -> chunks -> container -> bytes on disk -> decompress(Artifact) -> uint8 image

Shapes: B examples of H x W pixels. Images are uint8 RGB at this interface and float32 in [0, 1] inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Params = Mapping[str, Any]
State = Mapping[str, Any]
# What `compress` returns: the coded picture in the order in which a decoder needs it. A codec that refines its
# picture step by step returns one chunk per step, and decodes any number of leading chunks.
Chunks = tuple[bytes, ...]


class Objective(NamedTuple):
    """One optimiser's view of the parameters.

    Attributes:
      owns: top-level keys of params that this objective may change. Those of one
        schedule own disjoint sets.
      loss: (params, state, batch, keys, step) -> (scalar, (metrics, state)).
        batch: {"image": uint8 [B, H, W, 3], "position": int32 [B]}.
        keys: [B] PRNG keys, one per example, so that noise does not depend on how examples are shared out to devices.
        step: int32 scalar, counts optimiser steps.
        metrics: dict of float32 scalars, means over the batch, units in their names.
        state: the new state (BatchNorm means and the like).
    """

    owns: tuple[str, ...]
    loss: Callable


class Traits(NamedTuple):
    """What a codec is, as far as its users act on it.

    Attributes:
      ladder: the qualities at which a curve of this codec is measured; empty where it has one rate only.
      default_quality: what is taken where a user names none; None where it has one rate only.
      quality_range: the least and the greatest quality, where it has several.
      efforts: the greatest effort that compressing knows, 0 to 9; 0 where it knows one way only.
      extension: ".jpg" and the like, where the one chunk that it writes is a standard file of the whole picture, which
        needs no decoder of ours; else None.
      progressive: whether any number of leading chunks is a picture.
      guided: whether a user's importance map is taken.
      portable: whether every machine reads its files; where not, those that compute otherwise refuse them.
    """

    ladder: tuple[float, ...] = ()
    default_quality: float | None = None
    quality_range: tuple[float, float] = (0.0, 100.0)
    efforts: int = 0
    extension: str | None = None
    progressive: bool = False
    guided: bool = False
    portable: bool = True


class Networks(NamedTuple):
    """What a user's own program may call of a codec: pure, differentiable, of float images [B, H, W, 3] of any size.

    All take variables, {"params", "state"} of an Artifact or of training, and a quality float [B], None for models of
    one rate. Rounding passes gradients as if it were not there.

    Attributes:
      analyze: (variables, image, quality) -> name -> latent [B, h, w, C].
      synthesize: (variables, latents, quality) -> image, whose sides are multiples of the model's stride.
      estimate: (variables, image, quality) -> {"bits": name -> [B], "reconstruction": float [B, H, W, 3]}: what a file
        weighs and shows, but for the last digits.
    """

    analyze: Callable
    synthesize: Callable
    estimate: Callable


class Codec(NamedTuple):
    """A trainable (or fixed) image codec.

    Attributes:
      init: (key, image_shape) -> (params, state). image_shape is (H, W, 3) of training crops; shapes come from tracing,
        values from the key by NumPy, so they are the same on every backend.
      objectives: name -> Objective; a config's `schedule` says which run in a step, and in what order.
      estimate: (params, state, image uint8 [B, H, W, 3], quality=None) -> {"loss" [B], "bits" [B], "mse255" [B],
        "reconstruction" uint8 [B, H, W, 3]}: rounded latents and -log2 P, no noise. Any H and W. What it
        reports is an estimate; figures about a codec come from `compress` and `decompress`. Without a quality, a codec
        of several rates gives a mean loss over several, and the rest at its default.
      export: (params, state, images=None) -> Artifact: NumPy weights and integer tables, all that compress and
        decompress need. images: pictures uint8 [H, W, 3] by which integer ranges are chosen, where a codec has such
        (default: some of the bundled photos).
      compress: (artifact, image uint8 [H, W, 3], quality=None, effort=0, importance=None) -> Chunks. quality: a number
        in 0..100 in half steps, the higher the better, or None where the codec has one rate only. effort: 0..9, what
        the encoder may spend on a smaller file; the decoder does not know of it. importance: where the user wants
        bits to go, as `families.importance` has it, or None. Raises UsageError for a quality that the codec does not
        have, or has to have, and for an effort or an importance map that its traits exclude; InputError for a map of
        another size or kind.
      decompress: (artifact, chunks, (H, W), quality=None) -> uint8 [H, W, 3]; quality as it was given to compress.
        Raises CorruptStreamError; ModelError where a model that is not portable computes otherwise than it did when the
        file was written. A progressive codec takes any number of leading chunks, one at least, and gives the picture
        that they hold.
      traits: what the codec is: see Traits.
      networks: see Networks; None where a codec has none.
      kmac_per_pixel: () -> {"analysis", "probabilities", "synthesis"}, thousands of multiply-accumulates; None where
        they are not counted. Encoding is the first two, decoding the last two.
    """

    init: Callable
    objectives: Mapping[str, Objective]
    estimate: Callable
    export: Callable
    compress: Callable
    decompress: Callable
    traits: Traits = Traits()
    networks: Networks | None = None
    kmac_per_pixel: Callable = lambda: None
