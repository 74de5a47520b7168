"""Layers for image codecs: Flax modules of NHWC arrays, usable in any Flax model.

    import jax, jax.numpy as jnp
    from mlic_jax.layers import GDN, Conv, Stack

    net = Stack((Conv(32, kernel=5, stride=2), GDN(), Conv(48, kernel=5, stride=2)))
    x = jnp.zeros((1, 64, 64, 3))
    variables = net.init(jax.random.key(0), x)
    y = net.apply(variables, x)

Public are the names below; `mlic_jax.layers.init` has initialisers, `mlic_jax.layers.windows` evaluates networks on
pictures of any size. Attributes that are the same everywhere: `dtype`, to compute and return in, with parameters that
stay float32; `precision`, of products (`Precision`).
"""

from mlic_jax.layers.batch_norm import BatchNorm
from mlic_jax.layers.blocks import ConvBlock, Gain, ShiftBlock, block_transform
from mlic_jax.layers.bounds import lower_bound, upper_bound
from mlic_jax.layers.conv import ConditionedConv, Conv, ConvTranspose, DepthwiseConv, SpectralConv
from mlic_jax.layers.gdn import GDN
from mlic_jax.layers.precision import Precision, in_float32
from mlic_jax.layers.recurrent import GRU, LSTM, AssociativeLSTM
from mlic_jax.layers.resample import box_downsample, upsample
from mlic_jax.layers.space import DepthToSpace, SpaceToDepth, depth_to_space, space_to_depth
from mlic_jax.layers.stack import Channels, Concatenation, LeakyReLU, Stack, Sum, relu
from mlic_jax.layers.windows import to_float, to_uint8

__all__ = [
    "GDN",
    "GRU",
    "LSTM",
    "AssociativeLSTM",
    "BatchNorm",
    "Channels",
    "Concatenation",
    "ConditionedConv",
    "Conv",
    "ConvBlock",
    "ConvTranspose",
    "DepthToSpace",
    "DepthwiseConv",
    "Gain",
    "LeakyReLU",
    "Precision",
    "ShiftBlock",
    "SpaceToDepth",
    "SpectralConv",
    "Stack",
    "Sum",
    "block_transform",
    "box_downsample",
    "depth_to_space",
    "in_float32",
    "lower_bound",
    "relu",
    "space_to_depth",
    "to_float",
    "to_uint8",
    "upper_bound",
    "upsample",
]
