"""The forms of a convolution: the plain `lax` operation, and what computes the same faster on a CPU.

The first half says what the layers of `conv.py` mean, and is what GPUs and TPUs run. On CPUs XLA runs transposed and
depthwise convolutions, and the gradients of strided ones, up to a hundred times too slowly; the second half is written
for them. `benchmarks/train_step.py` measures what it buys.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")
# Samples of one image from which on a CPU goes through the batch image by image: below, a batch fits the cache.
LARGE = 1024
# Output samples of one image from which on its own form of the kernel gradient beats XLA's, and what it does at a time.
STRIPS_FROM = 256
STRIP = 256


def by_platform(cpu, default, *args, **static):
    """cpu(*args, **static) where the program is compiled for a CPU, default(*args, **static) elsewhere."""
    return lax.platform_dependent(
        *args, cpu=functools.partial(cpu, **static), default=functools.partial(default, **static)
    )


# --- The plain lax forms: what the layers mean, and what GPUs and TPUs run.


def conv_lax(x: jax.Array, kernel: jax.Array, stride: int = 1, result=None) -> jax.Array:
    """[B, H, W, Cin], [k, k, Cin, Cout] -> [B, ceil(H / stride), ceil(W / stride), Cout], of dtype `result`."""
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=_LAYOUT, preferred_element_type=result
    )


def conv_transpose_lax(x: jax.Array, kernel: jax.Array, stride: int = 2, result=None) -> jax.Array:
    """[B, H, W, Cin], [k, k, Cin, Cout] -> [B, H * stride, W * stride, Cout]; the adjoint of a flipped `conv_lax`."""
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(pad, pad + stride - 1)] * 2,
        lhs_dilation=(stride, stride),
        dimension_numbers=_LAYOUT,
        preferred_element_type=result,
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


def add_bias(y, bias):
    """y + bias, where there is one."""
    return y if bias is None else y + bias


def adjoint_kernel(kernel):
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


def conv_cpu(x, kernel, bias, stride):
    """`conv_lax` image by image: 139 GFLOP/s instead of 106 for 64x64 outputs, and the bias is added in the cache."""
    samples = x.shape[1] * x.shape[2] // stride**2
    return _by_image(lambda x: add_bias(conv_lax(x, kernel, stride), bias), x, samples)


def correlate(x, kernel, pads):
    """[B, H, W, Cin], [h, w, Cin, Cout], padding as `lax` has it -> [B, H', W', Cout]."""
    return lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=_LAYOUT)


def conv_transpose_phases(x, kernel, stride, correlate=correlate):
    """`conv_transpose_lax` as stride^2 small convolutions, one for each output phase: no multiplications by zero.

    correlate(x, kernel [h, w, Cin, Cout], pads) -> [B, H', W', Cout] does them; pads, ((top, bottom), (left, right)),
    may be below zero.
    """
    size, _, _, features = kernel.shape
    batch, height, width, _ = x.shape

    def phase(a, b):
        (ta, na, sa), (tb, nb, sb) = _taps(size, stride, a), _taps(size, stride, b)
        if na == 0 or nb == 0:
            return jnp.zeros((batch, height, width, features), x.dtype)
        return correlate(x, kernel[ta::stride, tb::stride], ((-sa, sa + na - 1), (-sb, sb + nb - 1)))

    phases = jnp.stack([phase(a, b) for a in range(stride) for b in range(stride)])
    phases = phases.reshape(stride, stride, batch, height, width, features)
    return phases.transpose(2, 3, 0, 4, 1, 5).reshape(batch, height * stride, width * stride, features)


def conv_product(x, kernel, stride):
    """`conv_lax` as one product of all shifted copies of the input."""
    size, _, channels, features = kernel.shape
    pad = size // 2
    rows, columns = ((side - 1) // stride * stride + 1 for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    copies = [x[:, i : i + rows : stride, j : j + columns : stride] for i in range(size) for j in range(size)]
    x = jnp.concatenate(copies, -1)
    return (x.reshape(-1, size * size * channels) @ kernel.reshape(-1, features)).reshape(*x.shape[:3], features)


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


def conv_transpose_cpu(x, kernel, bias, stride):
    if kernel.shape[-1] <= 16:
        return add_bias(_conv_transpose_planes(x, kernel, stride), bias)

    def upsample(x):
        return add_bias(conv_transpose_phases(x, kernel, stride), bias)

    return _by_image(upsample, x, x.shape[1] * x.shape[2])


def _conv_kernel_gradient(x, g, size, stride):
    """Gradient of sum(g * conv_lax(x, kernel, stride)) with respect to the kernel."""
    if g.shape[1] * g.shape[2] >= STRIPS_FROM:
        return _kernel_gradient_strips(x, g, size, stride)
    kernel = jax.ShapeDtypeStruct((size, size, x.shape[-1], g.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda w: conv_lax(x, w, stride), kernel)(g)[0]


def _conv_input_gradient(g, kernel, shape, stride):
    dx = conv_transpose_cpu(g, adjoint_kernel(kernel), None, stride)
    return dx[:, : shape[1], : shape[2]]


def conv_vjp_lax(x, kernel, g, stride):
    return jax.vjp(functools.partial(conv_lax, stride=stride), x, kernel)[1](g)


def conv_vjp_cpu(x, kernel, g, stride):
    dx = _conv_input_gradient(g, kernel, x.shape, stride)
    return dx, _conv_kernel_gradient(x, g, kernel.shape[0], stride)


def conv_transpose_vjp_lax(x, kernel, g, stride):
    return jax.vjp(functools.partial(conv_transpose_lax, stride=stride), x, kernel)[1](g)


def conv_transpose_vjp_cpu(x, kernel, g, stride):
    dx = conv_cpu(g, adjoint_kernel(kernel), None, stride)
    # y = adjoint of conv(., K'), so <g, y> = <conv(g, K'), x>: the gradient of K' is that of a convolution of g.
    return dx, adjoint_kernel(_conv_kernel_gradient(g, x, kernel.shape[0], stride))


def _shifts(x, size, stride):
    """The k * k shifted views of the zero-padded image, each [B, ceil(H / stride), ceil(W / stride), C]."""
    pad = size // 2
    height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    padded = jnp.pad(x, ((0, 0), (pad, pad + stride - 1), (pad, pad + stride - 1), (0, 0)))
    for i in range(size):
        for j in range(size):
            yield i, j, padded[:, i : i + height * stride : stride, j : j + width * stride : stride]


def depthwise_shifts(x, kernel, stride):
    return sum(view * kernel[i, j, 0] for i, j, view in _shifts(x, kernel.shape[0], stride))


def depthwise_vjp_lax(x, kernel, g, stride):
    return jax.vjp(functools.partial(depthwise_lax, stride=stride), x, kernel)[1](g)


def depthwise_vjp_cpu(x, kernel, g, stride):
    size = kernel.shape[0]
    if stride == 1:
        dx = depthwise_shifts(g, kernel[::-1, ::-1], 1)
    else:
        dx = jax.linear_transpose(lambda x: depthwise_shifts(x, kernel, stride), x)(g)[0]
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
