"""Convolutions for compression models, NHWC, zero padding of k // 2 on both sides.

Every layer is written twice: as the plain `lax` operation, which GPUs and TPUs want, and rewritten for CPUs, where XLA
runs transposed and depthwise convolutions, and the gradients of strided ones, up to a hundred times too slowly.
`jax.lax.platform_dependent` picks when the program is compiled. Parameters are the same for both, values and gradients
agree to float32 rounding.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mlic_jax.layers import init

_LAYOUT = ("NHWC", "HWIO", "NHWC")
# Samples of one image from which on a CPU goes through the batch image by image: below, a batch fits the cache.
LARGE = 1024
# Output samples of one image from which on its own form of the kernel gradient beats XLA's, and what it does at a time.
STRIPS_FROM = 256
STRIP = 256


# --- The plain lax forms: what the layers mean, and what GPUs and TPUs run.


def conv_lax(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """[B, H, W, Cin], [k, k, Cin, Cout] -> [B, ceil(H / stride), ceil(W / stride), Cout]."""
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=_LAYOUT)


def conv_transpose_lax(x: jax.Array, kernel: jax.Array, stride: int = 2) -> jax.Array:
    """[B, H, W, Cin], [k, k, Cin, Cout] -> [B, H * stride, W * stride, Cout]; the adjoint of a flipped `conv_lax`."""
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(pad, pad + stride - 1)] * 2,
        lhs_dilation=(stride, stride),
        dimension_numbers=_LAYOUT,
    )


def depthwise_lax(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """[B, H, W, C], [k, k, 1, C] -> [B, ceil(H / stride), ceil(W / stride), C]."""
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(pad, pad)] * 2,
        dimension_numbers=_LAYOUT,
        feature_group_count=x.shape[-1],
    )


# --- The same on a CPU.


def _adjoint_kernel(kernel):
    """[k, k, Cin, Cout] -> [k, k, Cout, Cin], flipped: `conv_transpose(., adjoint)` is the transpose of `conv`."""
    return kernel[::-1, ::-1].transpose(0, 1, 3, 2)


def _taps(size, stride, phase):
    """Which taps of a transposed convolution meet a sample in output phase `phase`: (first tap, count, first shift)."""
    pad = size // 2
    first = (pad - phase) % stride
    count = len(range(first, size, stride))
    return first, count, (phase + first - pad) // stride


def _by_image(function, x, samples):
    """[B, H, W, C] through a function of one image [1, H, W, C] after the other where images are large."""
    if samples < LARGE:
        return function(x)
    return lax.map(lambda image: function(image[None])[0], x)


def _conv_cpu(x, kernel, bias, stride):
    """`conv_lax` image by image: 139 GFLOP/s instead of 106 for 64x64 outputs, and the bias is added in the cache."""
    samples = x.shape[1] * x.shape[2] // stride**2
    return _by_image(lambda x: _add(conv_lax(x, kernel, stride), bias), x, samples)


def _conv_transpose_phases(x, kernel, bias, stride):
    """Transposed convolution as stride^2 small convolutions, one for each output phase: no multiplications by zero."""
    size, _, _, features = kernel.shape

    def phase(x, a, b):
        (ta, na, sa), (tb, nb, sb) = _taps(size, stride, a), _taps(size, stride, b)
        if na == 0 or nb == 0:
            return jnp.zeros((*x.shape[:3], features), x.dtype)
        sub = kernel[ta::stride, tb::stride]
        pads = [(-sa, sa + na - 1), (-sb, sb + nb - 1)]
        return lax.conv_general_dilated(x, sub, (1, 1), pads, dimension_numbers=_LAYOUT)

    def upsample(x):
        batch, height, width, _ = x.shape
        phases = jnp.stack([phase(x, a, b) for a in range(stride) for b in range(stride)])
        phases = phases.reshape(stride, stride, batch, height, width, features)
        y = phases.transpose(2, 3, 0, 4, 1, 5).reshape(batch, height * stride, width * stride, features)
        return _add(y, bias)

    return _by_image(upsample, x, x.shape[1] * x.shape[2])


def _rows_per_strip(height, width, pixels):
    """The largest divisor of `height` whose rows hold at most `pixels` samples (or 1)."""
    return max(rows for rows in range(1, height + 1) if height % rows == 0 and (rows == 1 or rows * width <= pixels))


def _kernel_gradient_strips(x, g, size, stride):
    """Kernel gradient of `conv_lax`, strip by strip: shifted copies of x beside each other, then matrix products.

    XLA's own form is a convolution with a kernel as large as the image, at 33 to 50 GFLOP/s on one core for images of
    64x64 and larger. Here the copies of one strip stay in the cache, and `g^T @ copies`, the faster order of the two,
    reaches 140 GFLOP/s: 100 in all with the copying.
    """
    _, height, width, features = g.shape
    channels = x.shape[-1]
    rows = _rows_per_strip(height, width, STRIP)
    pad = size // 2
    # Rows and columns are folded by the stride, so that a shifted copy is a slice.
    margin = (size - 1) // stride
    bottom, right = ((n + margin) * stride - m - pad for n, m in ((height, x.shape[1]), (width, x.shape[2])))
    folded = (height + margin, stride, width + margin, stride * channels)
    total_dtype = jnp.promote_types(x.dtype, jnp.float32)
    thin = size * channels < 128  # then one product of a decent size instead of `size` thin ones

    def add_strip(totals, image, g, row):
        strip = lax.dynamic_slice(image, (row, 0, 0, 0), (rows + margin, *folded[1:]))
        g = lax.dynamic_slice(g, (row, 0, 0), (rows, width, features)).reshape(-1, features)
        wide = []  # by row phase, what the taps of one kernel row meet: [rows + margin, width, size * channels]
        for a in range(min(size, stride)):
            columns = [strip[:, a, j // stride : j // stride + width] for j in range(0, size, stride)]
            wide.append(jnp.concatenate(columns, axis=-1)[..., : size * channels])
        taps = [wide[i % stride][i // stride : i // stride + rows].reshape(rows * width, -1) for i in range(size)]
        if thin:
            taps = [jnp.concatenate(taps, axis=-1)]
        product = functools.partial(
            lax.dot_general, g, dimension_numbers=(((0,), (0,)), ((), ())), preferred_element_type=total_dtype
        )
        return [total + product(tap) for total, tap in zip(totals, taps, strict=True)]

    def add_image(totals, x_and_g):
        image, g = x_and_g
        image = lax.pad(image, jnp.zeros((), x.dtype), ((pad, bottom, 0), (pad, right, 0), (0, 0, 0))).reshape(folded)
        starts = jnp.arange(0, height, rows)
        return lax.scan(lambda totals, row: (add_strip(totals, image, g, row), None), totals, starts)[0], None

    count = 1 if thin else size
    totals = [jnp.zeros((features, size * size * channels // count), total_dtype) for _ in range(count)]
    totals, _ = lax.scan(add_image, totals, (x, g))
    return jnp.concatenate(totals, axis=1).T.reshape(size, size, channels, features).astype(x.dtype)


def _conv_transpose_planes(x, kernel, stride):
    """Transposed convolution to a few features: one product gives all taps of all samples, then shifted sums.

    The product is laid out [k, k, features, H, W]: with the samples innermost the sums run over long vectors, although
    there are only three features, say. 37 ms for 128 -> 3 features on eight images of 128x128, where phases take 220.
    """
    size, _, channels, features = kernel.shape
    batch, height, width, _ = x.shape
    taps = kernel.transpose(0, 1, 3, 2).reshape(-1, channels)
    edge = size // 2

    def one_image(image):
        products = lax.dot_general(taps, image.reshape(-1, channels), (((1,), (1,)), ((), ())))
        products = products.reshape(size, size, features, height, width)
        products = jnp.pad(products, ((0, 0),) * 3 + ((edge, edge),) * 2)

        def phase(a, b):
            total = jnp.zeros((features, height, width), x.dtype)
            for p in range((edge - a) % stride, size, stride):
                for q in range((edge - b) % stride, size, stride):
                    top, left = edge + (a + p - edge) // stride, edge + (b + q - edge) // stride
                    total += products[p, q, :, top : top + height, left : left + width]
            return total

        return jnp.stack([phase(a, b) for a in range(stride) for b in range(stride)])

    y = lax.map(one_image, x).reshape(batch, stride, stride, features, height, width)
    return y.transpose(0, 4, 1, 5, 2, 3).reshape(batch, height * stride, width * stride, features)


def _conv_transpose_cpu(x, kernel, bias, stride):
    if kernel.shape[-1] <= 16:
        return _add(_conv_transpose_planes(x, kernel, stride), bias)
    return _conv_transpose_phases(x, kernel, bias, stride)


def _conv_kernel_gradient(x, g, size, stride):
    """Gradient of sum(g * conv_lax(x, kernel, stride)) with respect to the kernel."""
    if g.shape[1] * g.shape[2] >= STRIPS_FROM:
        return _kernel_gradient_strips(x, g, size, stride)
    kernel = jax.ShapeDtypeStruct((size, size, x.shape[-1], g.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda w: conv_lax(x, w, stride), kernel)(g)[0]


def _conv_input_gradient(g, kernel, shape, stride):
    dx = _conv_transpose_cpu(g, _adjoint_kernel(kernel), None, stride)
    return dx[:, : shape[1], : shape[2]]


def _conv_vjp_lax(x, kernel, g, stride):
    return jax.vjp(functools.partial(conv_lax, stride=stride), x, kernel)[1](g)


def _conv_vjp_cpu(x, kernel, g, stride):
    dx = _conv_input_gradient(g, kernel, x.shape, stride)
    return dx, _conv_kernel_gradient(x, g, kernel.shape[0], stride)


def _conv_transpose_vjp_lax(x, kernel, g, stride):
    return jax.vjp(functools.partial(conv_transpose_lax, stride=stride), x, kernel)[1](g)


def _conv_transpose_vjp_cpu(x, kernel, g, stride):
    dx = _conv_cpu(g, _adjoint_kernel(kernel), None, stride)
    # y = adjoint of conv(., K'), so <g, y> = <conv(g, K'), x>: the gradient of K' is that of a convolution of g.
    return dx, _adjoint_kernel(_conv_kernel_gradient(g, x, kernel.shape[0], stride))


def _by_platform(cpu, default, *args, **static):
    return lax.platform_dependent(
        *args, cpu=functools.partial(cpu, **static), default=functools.partial(default, **static)
    )


def _add(y, bias):
    return y if bias is None else y + bias


def _bias_gradient(bias, g):
    return None if bias is None else g.sum((0, 1, 2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
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

    def default(x, kernel, bias, stride):
        return _add(conv_lax(x, kernel, stride), bias)

    return _by_platform(_conv_cpu, default, x, kernel, bias, stride=stride)


def _conv_forward(x, kernel, bias, stride):
    return conv(x, kernel, bias, stride), (x, kernel, bias)


def _conv_backward(stride, residuals, g):
    x, kernel, bias = residuals
    gradients = _by_platform(_conv_vjp_cpu, _conv_vjp_lax, x, kernel, g, stride=stride)
    return *gradients, _bias_gradient(bias, g)


conv.defvjp(_conv_forward, _conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
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

    def default(x, kernel, bias, stride):
        return _add(conv_transpose_lax(x, kernel, stride), bias)

    return _by_platform(_conv_transpose_cpu, default, x, kernel, bias, stride=stride)


def _conv_transpose_forward(x, kernel, bias, stride):
    return conv_transpose(x, kernel, bias, stride), (x, kernel, bias)


def _conv_transpose_backward(stride, residuals, g):
    x, kernel, bias = residuals
    gradients = _by_platform(_conv_transpose_vjp_cpu, _conv_transpose_vjp_lax, x, kernel, g, stride=stride)
    return *gradients, _bias_gradient(bias, g)


conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)


def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1x1 convolution as one matrix product: [B, H, W, Cin], [1, 1, Cin, Cout] -> [B, H, W, Cout]."""
    flat = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


def _shifts(x, size, stride):
    """The k * k shifted views of the zero-padded image, each [B, ceil(H / stride), ceil(W / stride), C]."""
    pad = size // 2
    height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    padded = jnp.pad(x, ((0, 0), (pad, pad + stride - 1), (pad, pad + stride - 1), (0, 0)))
    for i in range(size):
        for j in range(size):
            yield i, j, padded[:, i : i + height * stride : stride, j : j + width * stride : stride]


def _depthwise_shifts(x, kernel, stride):
    return sum(view * kernel[i, j, 0] for i, j, view in _shifts(x, kernel.shape[0], stride))


def _depthwise_vjp_lax(x, kernel, g, stride):
    return jax.vjp(functools.partial(depthwise_lax, stride=stride), x, kernel)[1](g)


def _depthwise_vjp_cpu(x, kernel, g, stride):
    size = kernel.shape[0]
    if stride == 1:
        dx = _depthwise_shifts(g, kernel[::-1, ::-1], 1)
    else:
        dx = jax.linear_transpose(lambda x: _depthwise_shifts(x, kernel, stride), x)(g)[0]
    # One image row at a time, [k * k, W, C] accumulators: a fifth of the time that sums of shifted products take.
    pad = size // 2
    batch, height, width, channels = g.shape
    padded = jnp.pad(x, ((0, 0), (pad, pad + stride - 1), (pad, pad + stride - 1), (0, 0)))

    def add_row(total, index):
        image, row = index // height, index % height
        window = lax.dynamic_slice(padded, (image, row * stride, 0, 0), (1, size, padded.shape[2], channels))[0]
        g_row = lax.dynamic_slice(g, (image, row, 0, 0), (1, 1, width, channels))[0, 0]
        products = [window[i, j : j + width * stride : stride] * g_row for i in range(size) for j in range(size)]
        return total + jnp.stack(products), None

    zeros = jnp.zeros((size * size, width, channels), jnp.promote_types(x.dtype, jnp.float32))
    total, _ = lax.scan(add_row, zeros, jnp.arange(batch * height))
    return dx, total.sum(1).reshape(kernel.shape).astype(x.dtype)


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
    return _by_platform(_depthwise_shifts, depthwise_lax, x, kernel, stride=stride)


def _depthwise_forward(x, kernel, stride):
    return depthwise(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride, residuals, g):
    return _by_platform(_depthwise_vjp_cpu, _depthwise_vjp_lax, *residuals, g, stride=stride)


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


def _check_odd(size):
    if size % 2 == 0:
        raise ValueError(f"kernel={size}: expected an odd size (with an even one, padding k // 2 is not centred)")


class Conv(nn.Module):
    """Convolution, padding k // 2: [B, H, W, Cin] -> [B, ceil(H / stride), ceil(W / stride), features].

    Attributes:
      features: output channels.
      kernel: odd size k.
      stride: of the output grid.
      use_bias: add a vector [features].
      dtype: to compute and return in; parameters stay float32.
    """

    features: int
    kernel: int = 5
    stride: int = 1
    use_bias: bool = True
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _check_odd(self.kernel)
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        # torch's default: uniform within 1 / sqrt(fan in).
        bound = 1 / np.sqrt(self.kernel * self.kernel * x.shape[-1])
        kernel = self.param("kernel", init.uniform(bound), shape)
        dtype = self.dtype or jnp.result_type(x, kernel)
        bias = self.param("bias", init.uniform(bound), (self.features,)).astype(dtype) if self.use_bias else None
        x, kernel = x.astype(dtype), kernel.astype(dtype)
        if self.kernel == 1:
            return _add(pointwise(x[:, :: self.stride, :: self.stride], kernel), bias)
        return conv(x, kernel, bias, self.stride)


class ConvTranspose(nn.Module):
    """Transposed convolution: [B, H, W, Cin] -> [B, H * stride, W * stride, features].

    Attributes:
      features: output channels.
      kernel: odd size k.
      stride: upsampling factor.
      use_bias: add a vector [features].
      dtype: to compute and return in; parameters stay float32.
    """

    features: int
    kernel: int = 5
    stride: int = 2
    use_bias: bool = True
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _check_odd(self.kernel)
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        # torch takes "fan in" from axis 1 of its [Cin, Cout, k, k] weight: the output channels.
        bound = 1 / np.sqrt(self.kernel * self.kernel * self.features)
        kernel = self.param("kernel", init.uniform(bound), shape)
        dtype = self.dtype or jnp.result_type(x, kernel)
        bias = self.param("bias", init.uniform(bound), (self.features,)).astype(dtype) if self.use_bias else None
        return conv_transpose(x.astype(dtype), kernel.astype(dtype), bias, self.stride)


class DepthwiseConv(nn.Module):
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
