"""Convolutions for compression models, NHWC: `Conv`, `ConvTranspose` and `DepthwiseConv`.

These three are different mathematics: one kernel for all channels, its adjoint, and a filter for each channel; all else
is an attribute. Each is written twice: as the plain `lax` operation, which GPUs and TPUs want, and rewritten for CPUs,
where XLA runs transposed and depthwise convolutions, and the gradients of strided ones, up to a hundred times too
slowly. `jax.lax.platform_dependent` picks when the program is compiled. Parameters are the same for both, values and
gradients agree to float32 rounding.
"""

from __future__ import annotations

import functools
from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax.layers import conv_forms as forms
from mlic_jax.layers import init
from mlic_jax.layers import precision as rounded
from mlic_jax.layers.precision import Precision
from mlic_jax.layers.space import space_to_depth


def _bias_gradient(bias, g):
    return None if bias is None else g.sum((0, 1, 2))


def conv(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    stride: int = 1,
    precision: Precision | None = None,
) -> jax.Array:
    """Convolution with odd k, padding k // 2.

    Args:
      x: [B, H, W, Cin].
      kernel: [k, k, Cin, Cout].
      bias: [Cout] or None.
      stride: of the output grid.
      precision: see layers/precision.py.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), Cout].
    """
    if rounded.rounds(precision, x):
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


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    stride: int = 2,
    precision: Precision | None = None,
) -> jax.Array:
    """Transposed convolution with odd k: torch's `ConvTranspose2d(padding=k // 2, output_padding=stride - 1)`.

    Args:
      x: [B, H, W, Cin].
      kernel: [k, k, Cin, Cout]; torch's weight [Cin, Cout, k, k] is this, flipped in both spatial axes.
      bias: [Cout] or None.
      stride: upsampling factor.
      precision: see layers/precision.py.

    Returns:
      [B, H * stride, W * stride, Cout].
    """
    if rounded.rounds(precision, x):
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


def pointwise(x: jax.Array, kernel: jax.Array, precision: Precision | None = None) -> jax.Array:
    """1x1 convolution as one matrix product: [B, H, W, Cin], [1, 1, Cin, Cout] -> [B, H, W, Cout]."""
    product = rounded.matmul if rounded.rounds(precision, x) else jnp.matmul
    flat = product(x.reshape(-1, x.shape[-1]), kernel[0, 0])
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


def conv_or_product(
    x: jax.Array, kernel: jax.Array, stride: int = 1, limit: int = 256, precision: Precision | None = None
) -> jax.Array:
    """As `conv` without a bias; on a CPU one matrix product where an image has at most `limit` output samples.

    XLA's convolutions are slow on images of a few samples: the product takes a fiftieth of the time on 2x2.
    """
    if x.shape[1] * x.shape[2] > limit * stride**2 or rounded.rounds(precision, x):
        return conv(x, kernel, None, stride, precision)
    return jax.lax.platform_dependent(
        x,
        kernel,
        # Of all copies nothing is kept for the gradient: there are nine times as many as samples.
        cpu=jax.checkpoint(lambda x, kernel: forms.conv_product(x, kernel, stride), prevent_cse=False),
        default=lambda x, kernel: forms.conv_lax(x, kernel, stride),
    )


def conv_of_blocks(x: jax.Array, kernel: jax.Array, stride: int, precision: Precision | None = None) -> jax.Array:
    """Convolution with k a multiple of the stride, padding (k - stride) / 2: [B, H, W, Cin] -> [B, H / stride, ..].

    Computed as a convolution with k / stride taps of blocks of stride x stride samples: the gradients of strided
    convolutions are slow on CPUs.
    """
    size, _, channels, features = kernel.shape
    taps, pad = size // stride, (size - stride) // 2
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    blocks = space_to_depth(x, stride, order="tensorflow")
    kernel = kernel.reshape(taps, stride, taps, stride, channels, features).transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(taps, taps, stride * stride * channels, features)
    if not rounded.rounds(precision, x):
        return forms.correlate(blocks, kernel, "VALID")
    rows, columns = (side - taps + 1 for side in blocks.shape[1:3])
    copies = [blocks[:, i : i + rows, j : j + columns] for i in range(taps) for j in range(taps)]
    return pointwise(jnp.concatenate(copies, -1), kernel.reshape(1, 1, -1, features), precision)


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


# --- Layers.


class _Strided:
    """What layers/windows.py asks of a convolution."""

    @property
    def scale(self) -> Fraction:
        """Output samples per input sample along an axis."""
        return Fraction(1, self.stride)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """The first and last input sample along an axis on which the output samples first..last depend."""
        before = self.kernel // 2 if self.kernel % 2 else (self.kernel - self.stride) // 2
        return first * self.stride - before, last * self.stride - before + self.kernel - 1


def _check_odd(size):
    if size % 2 == 0:
        raise ValueError(f"kernel={size}: expected an odd size (with an even one, padding k // 2 is not centred)")


def _initialisers(bound, gain):
    """Of kernel and bias: uniform within the bound, or by a gain."""
    return (init.uniform(bound), init.uniform(bound)) if gain is None else (init.Normal(gain), init.constant(0.0))


PADDINGS = ("zero", "edge")


class Conv(_Strided, nn.Module):
    """Convolution: [B, H, W, Cin] -> [B, ceil(H / stride), ceil(W / stride), features].

    Output sample (i, j) is centred on input sample (i stride, j stride), with padding k // 2. An even kernel is centred
    on the block of samples that begins there, with padding (k - stride) / 2: k has to be a multiple of the stride, with
    an even difference, and sides multiples of the stride.

    Attributes:
      features: output channels.
      kernel: size k.
      stride: of the output grid.
      use_bias: add a vector [features].
      dtype: to compute and return in, of input and parameters where None; parameters stay float32.
      gain: None begins with torch's defaults; a number with init.Normal(gain), and a bias of zero.
      padding: "zero", or "edge" for the edge repeated (odd kernels).
      precision: of products, see layers/precision.py.
      kernel_init: of [k, k, Cin, features], in place of init.Normal; the bias is zero.
      product_up_to: so many output samples of an image are, on a CPU, one matrix product with all shifted copies of the
        input. A fiftieth of the time where images have 2x2 samples, as in recurrent networks; rounding differs.
      mask: k rows of k booleans, which taps of the kernel there are; None for all of them.
    """

    features: int
    kernel: int = 5
    stride: int = 1
    use_bias: bool = True
    dtype: jnp.dtype | None = None
    gain: float | None = None
    padding: str = "zero"
    precision: Precision | None = None
    kernel_init: init.Initialiser | None = None
    product_up_to: int = 0
    mask: tuple[tuple[bool, ...], ...] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.convolved(x)

    def convolved(self, x: jax.Array) -> jax.Array:
        """What `__call__` returns, for subclasses that go on with it."""
        self._check()
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        # torch's default: uniform within 1 / sqrt(fan in).
        weights, biases = _initialisers(1 / np.sqrt(self.kernel * self.kernel * x.shape[-1]), self.gain)
        if self.kernel_init is not None:
            weights, biases = self.kernel_init, init.constant(0.0)
        kernel = self.masked(self.whole_kernel(weights, shape))
        dtype = self.dtype or jnp.result_type(x, kernel)
        bias = self.param("bias", biases, (self.features,)).astype(dtype) if self.use_bias else None
        x, kernel = x.astype(dtype), kernel.astype(dtype)
        if self.padding == "zero":
            return self._apply(x, kernel, bias)
        # The functions pad with zeros by themselves: the repeated edge reaches as far as samples that are kept look.
        reach = -(-(self.kernel // 2) // self.stride)  # in output samples
        rows, columns = (-(-side // self.stride) for side in x.shape[1:3])
        x = jnp.pad(x, ((0, 0), *((reach * self.stride,) * 2,) * 2, (0, 0)), mode="edge")
        return self._apply(x, kernel, bias)[:, reach : reach + rows, reach : reach + columns]

    def whole_kernel(self, weights: init.Initialiser, shape: tuple[int, ...]) -> jax.Array:
        """The kernel of a shape, from its parameter."""
        return self.param("kernel", weights, shape)

    def taps(self) -> np.ndarray:
        """bool [k, k]: which there are."""
        return np.ones((self.kernel,) * 2, bool) if self.mask is None else np.array(self.mask)

    def masked(self, kernel):
        """The kernel without the taps that there are none of."""
        return kernel if self.mask is None else kernel * np.asarray(self.mask, np.float32)[..., None, None]

    def _check(self):
        if self.padding not in PADDINGS:
            raise ValueError(f"padding {self.padding!r} is not known: use one of {', '.join(PADDINGS)}")
        if self.kernel % self.stride or (self.kernel - self.stride) % 2 or self.padding != "zero":
            _check_odd(self.kernel)

    def _apply(self, x, kernel, bias):
        if self.kernel == 1:
            x = x[:, :: self.stride, :: self.stride] if self.stride > 1 else x
            return forms.add_bias(pointwise(x, kernel, self.precision), bias)
        if self.kernel % 2 == 0:
            return forms.add_bias(conv_of_blocks(x, kernel, self.stride, self.precision), bias)
        if self.product_up_to:
            return forms.add_bias(conv_or_product(x, kernel, self.stride, self.product_up_to, self.precision), bias)
        return conv(x, kernel, bias, self.stride, self.precision)


class ConditionedConv(Conv):
    """A Conv whose output channels are scaled and shifted by what a number says; at first by nothing.

    Gain and shift of a channel are polynomials of second degree without a constant.
    """

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """x [B, H, W, Cin], condition float [B], of the order of 1 -> as Conv."""
        y = self.convolved(x)
        further = self.param("condition", init.constant(0.0), (2, 2, self.features))
        powers = jnp.stack([condition, condition**2], -1)
        gain, shift = jnp.einsum("bp,kpf->kbf", powers, further)[:, :, None, None]
        return (y * (1 + gain) + shift).astype(y.dtype)


class SpectralConv(Conv):
    """A Conv whose parameter is the spectrum of its kernel: optimisers that scale each parameter's steps then treat
    frequencies alike, and not taps.

    Ballé et al., "Nonlinear transform coding", 2021, and TensorFlow Compression's `RDFTParameter`: real and imaginary
    parts of the two-dimensional transform, divided by the root of the number of taps. Initial kernels are Conv's.
    """

    def whole_kernel(self, weights: init.Initialiser, shape: tuple[int, ...]) -> jax.Array:
        """See Conv."""
        spectrum = init.transformed(weights, shape, _spectrum)
        parts = self.param("spectrum", spectrum, (2, shape[0], shape[1] // 2 + 1, *shape[2:]))
        return jnp.fft.irfft2(parts[0] + 1j * parts[1], shape[:2], (0, 1), norm="ortho")


def _spectrum(kernel):
    """float64 [k, k, Cin, Cout] -> [2, k, k // 2 + 1, Cin, Cout]."""
    spectrum = np.fft.rfft2(kernel, axes=(0, 1), norm="ortho")
    return np.stack([spectrum.real, spectrum.imag])


class ConvTranspose(nn.Module):
    """Transposed convolution: [B, H, W, Cin] -> [B, H * stride, W * stride, features].

    Attributes:
      features: output channels.
      kernel: odd size k.
      stride: upsampling factor.
      use_bias: add a vector [features].
      dtype: to compute and return in, of input and parameters where None; parameters stay float32.
      gain: None begins with torch's defaults; a number with the gain that Conv has, over the taps that meet in an
        output sample.
      precision: of products, see layers/precision.py.
    """

    features: int
    kernel: int = 5
    stride: int = 2
    use_bias: bool = True
    dtype: jnp.dtype | None = None
    gain: float | None = None
    precision: Precision | None = None

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
        return conv_transpose(x.astype(dtype), kernel.astype(dtype), bias, self.stride, self.precision)


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
