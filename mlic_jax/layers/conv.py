"""Convolutions for compression models, NHWC, zero padding of k // 2 on both sides.

Every layer is written twice: as the plain `lax` operation, which GPUs and TPUs want, and rewritten for CPUs, where XLA
runs transposed and depthwise convolutions, and the gradients of strided ones, up to a hundred times too slowly.
`jax.lax.platform_dependent` picks when the program is compiled. Parameters are the same for both, values and gradients
agree to float32 rounding.
"""

from __future__ import annotations

import functools
from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.layers import conv_forms as forms
from mlic_jax.layers import init, rounded


def _bias_gradient(bias, g):
    return None if bias is None else g.sum((0, 1, 2))


def conv(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, stride: int = 1) -> jax.Array:
    """Convolution with odd k, padding k // 2.

    Args:
      x: [B, H, W, Cin].
      kernel: [k, k, Cin, Cout].
      bias: [Cout] or None.
      stride: of the output grid.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), Cout].
    """
    if rounded.active(x):
        return forms.add_bias(rounded.conv(x, kernel, stride), bias)
    return _conv(x, kernel, bias, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _conv(x, kernel, bias, stride):
    def default(x, kernel, bias, stride):
        return forms.add_bias(forms.conv_lax(x, kernel, stride), bias)

    return forms.by_platform(forms.conv_cpu, default, x, kernel, bias, stride=stride)


def _conv_forward(x, kernel, bias, stride):
    return _conv(x, kernel, bias, stride), (x, kernel, bias)


def _conv_backward(stride, residuals, g):
    x, kernel, bias = residuals
    gradients = forms.by_platform(forms.conv_vjp_cpu, forms.conv_vjp_lax, x, kernel, g, stride=stride)
    return *gradients, _bias_gradient(bias, g)


_conv.defvjp(_conv_forward, _conv_backward)


def conv_transpose(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None, stride: int = 2) -> jax.Array:
    """Transposed convolution with odd k: torch's `ConvTranspose2d(padding=k // 2, output_padding=stride - 1)`.

    Args:
      x: [B, H, W, Cin].
      kernel: [k, k, Cin, Cout]; torch's weight [Cin, Cout, k, k] is this, flipped in both spatial axes.
      bias: [Cout] or None.
      stride: upsampling factor.

    Returns:
      [B, H * stride, W * stride, Cout].
    """
    if rounded.active(x):
        return forms.add_bias(rounded.conv_transpose(x, kernel, stride), bias)
    return _conv_transpose(x, kernel, bias, stride)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _conv_transpose(x, kernel, bias, stride):
    def default(x, kernel, bias, stride):
        return forms.add_bias(forms.conv_transpose_lax(x, kernel, stride), bias)

    return forms.by_platform(forms.conv_transpose_cpu, default, x, kernel, bias, stride=stride)


def _conv_transpose_forward(x, kernel, bias, stride):
    return _conv_transpose(x, kernel, bias, stride), (x, kernel, bias)


def _conv_transpose_backward(stride, residuals, g):
    x, kernel, bias = residuals
    gradients = forms.by_platform(
        forms.conv_transpose_vjp_cpu, forms.conv_transpose_vjp_lax, x, kernel, g, stride=stride
    )
    return *gradients, _bias_gradient(bias, g)


_conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)


def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1x1 convolution as one matrix product: [B, H, W, Cin], [1, 1, Cin, Cout] -> [B, H, W, Cout]."""
    product = rounded.matmul if rounded.active(x) else jnp.matmul
    flat = product(x.reshape(-1, x.shape[-1]), kernel[0, 0])
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """One k x k filter for each channel, odd k, padding k // 2.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, 1, C].
      stride: of the output grid.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C].
    """
    return forms.by_platform(forms.depthwise_shifts, forms.depthwise_lax, x, kernel, stride=stride)


def _depthwise_forward(x, kernel, stride):
    return depthwise(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride, residuals, g):
    return forms.by_platform(forms.depthwise_vjp_cpu, forms.depthwise_vjp_lax, *residuals, g, stride=stride)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


# --- Moving samples between space and channels.


def space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """Inverse of `depth_to_space` (torch's PixelUnshuffle): [B, H, W, C] -> [B, H / block, W / block, C * block^2]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // block, block, width // block, block, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // block, width // block, channels * block * block)


def depth_to_space(x: jax.Array, block: int) -> jax.Array:
    """Torch's PixelShuffle: [B, H, W, C * block^2] -> [B, H * block, W * block, C].

    Output channel c at sub-pixel (i, j) comes from input channel c * block^2 + i * block + j.
    """
    batch, height, width, channels = x.shape
    channels //= block * block
    x = x.reshape(batch, height, width, channels, block, block)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(batch, height * block, width * block, channels)


# --- Layers.


class _Strided:
    """What layers/windows.py asks of a convolution."""

    @property
    def scale(self) -> Fraction:
        """Output samples per input sample along an axis."""
        return Fraction(1, self.stride)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The first and last input sample along an axis on which the output samples first..last depend."""
        return first * self.stride - self.kernel // 2, last * self.stride + self.kernel // 2


def _check_odd(size):
    if size % 2 == 0:
        raise ValueError(f"kernel={size}: expected an odd size (with an even one, padding k // 2 is not centred)")


def _initialisers(bound, gain):
    """Of kernel and bias: uniform within the bound, or by a gain."""
    return (init.uniform(bound), init.uniform(bound)) if gain is None else (init.Normal(gain), init.constant(0.0))


class Conv(_Strided, nn.Module):
    """Convolution, padding k // 2: [B, H, W, Cin] -> [B, ceil(H / stride), ceil(W / stride), features].

    Attributes:
      features: output channels.
      kernel: odd size k.
      stride: of the output grid.
      use_bias: add a vector [features].
      dtype: to compute and return in; parameters stay float32.
      gain: None begins with torch's defaults; a number with init.Normal(gain), and a bias of zero.
    """

    features: int
    kernel: int = 5
    stride: int = 1
    use_bias: bool = True
    dtype: jnp.dtype | None = None
    gain: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _check_odd(self.kernel)
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        # torch's default: uniform within 1 / sqrt(fan in).
        weights, biases = _initialisers(1 / np.sqrt(self.kernel * self.kernel * x.shape[-1]), self.gain)
        kernel = self.param("kernel", weights, shape)
        dtype = self.dtype or jnp.result_type(x, kernel)
        bias = self.param("bias", biases, (self.features,)).astype(dtype) if self.use_bias else None
        x, kernel = x.astype(dtype), kernel.astype(dtype)
        if self.kernel == 1:
            return forms.add_bias(pointwise(x[:, :: self.stride, :: self.stride], kernel), bias)
        return conv(x, kernel, bias, self.stride)


class ConvTranspose(nn.Module):
    """Transposed convolution: [B, H, W, Cin] -> [B, H * stride, W * stride, features].

    Attributes:
      features: output channels.
      kernel: odd size k.
      stride: upsampling factor.
      use_bias: add a vector [features].
      dtype: to compute and return in; parameters stay float32.
      gain: None begins with torch's defaults; a number with the gain that Conv has, over the taps that meet in an
        output sample.
    """

    features: int
    kernel: int = 5
    stride: int = 2
    use_bias: bool = True
    dtype: jnp.dtype | None = None
    gain: float | None = None

    @property
    def scale(self) -> Fraction:
        """Output samples per input sample along an axis."""
        return Fraction(self.stride)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The first and last input sample along an axis on which the output samples first..last depend."""
        return -((self.kernel // 2 - first) // self.stride), (last + self.kernel // 2) // self.stride

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _check_odd(self.kernel)
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        # torch takes "fan in" from axis 1 of its [Cin, Cout, k, k] weight: the output channels.
        bound = 1 / np.sqrt(self.kernel * self.kernel * self.features)
        weights, biases = _initialisers(bound, None if self.gain is None else self.gain * self.stride)
        kernel = self.param("kernel", weights, shape)
        dtype = self.dtype or jnp.result_type(x, kernel)
        bias = self.param("bias", biases, (self.features,)).astype(dtype) if self.use_bias else None
        return conv_transpose(x.astype(dtype), kernel.astype(dtype), bias, self.stride)


class DepthwiseConv(_Strided, nn.Module):
    """One filter for each channel, padding k // 2: [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), C].

    Attributes:
      kernel: odd size k.
      stride: of the output grid.
      use_bias: add a vector [C].
      dtype: to compute and return in; parameters stay float32.
    """

    kernel: int = 3
    stride: int = 1
    use_bias: bool = True
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _check_odd(self.kernel)
        channels = x.shape[-1]
        bound = 1 / self.kernel
        kernel = self.param("kernel", init.uniform(bound), (self.kernel, self.kernel, 1, channels))
        dtype = self.dtype or jnp.result_type(x, kernel)
        y = depthwise(x.astype(dtype), kernel.astype(dtype), self.stride)
        if self.use_bias:
            y = y + self.param("bias", init.uniform(bound), (channels,)).astype(dtype)
        return y
