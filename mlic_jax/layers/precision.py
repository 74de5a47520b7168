"""The precision of products: float32, or operands rounded to bfloat16 with sums, and all else, in float32.

Matrix units do the latter several times faster than products of float32: those of GPUs and TPUs, and the AMX of Intel's
processors since 2023, which XLA uses where a product has bfloat16 operands, a float32 result, and rows in order. So on
a CPU a convolution becomes products here, one for each tap of its kernel.

`precision` is an attribute of layers and models, as `dtype` is, so that a program that was compiled for one is never
taken for the other. Gradients are rounded likewise where they are operands, as usual in mixed precision (Micikevicius
et al., "Mixed precision training", ICLR 2018; with bfloat16 no scaling of the loss is needed).
"""

from __future__ import annotations

import enum
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from mlic_jax.layers import conv_forms as forms

# Entries of the copies that a convolution makes from which on a batch goes through image by image.
LARGE = 1 << 23
# Channels below which the taps of a kernel are one product.
FEW = 24


class Precision(enum.Enum):
    """How layers multiply, where it is not in the dtype of their operands (which is None)."""

    # Float32 operands are rounded to bfloat16; the sums of their products are float32.
    BFLOAT16_OPERANDS = "bfloat16_operands"


def rounds(precision: Precision | None, x: jax.Array) -> bool:
    """Whether a layer of this precision rounds x before it multiplies. Only float32 is rounded."""
    return precision is Precision.BFLOAT16_OPERANDS and x.dtype == jnp.float32


def in_float32(module: nn.Module) -> nn.Module:
    """The same module with neither `dtype` nor `precision`: what codes files, whatever the model is trained with."""
    fields = {name: None for name in ("dtype", "precision") if name in module.__dataclass_fields__}
    return module.clone(**fields)


def _round(x):
    return x.astype(jnp.bfloat16)


def _product(a, b, contracted=((1,), (0,))):
    """[m, k] [k, n] -> float32 [m, n], of bfloat16."""
    return lax.dot_general(a, b, (contracted, ((), ())), preferred_element_type=jnp.float32)


def _in_order(x):
    # XLA would rather read a transposed matrix where it lies, but has matrix units for rows in order alone.
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def _product_over_rows(a, b):
    """[p, m], [p, n] -> [m, n], the sum over rows. The shorter of both is transposed."""
    if a.shape[1] > b.shape[1]:
        return _in_order(_product_over_rows(b, a)).T
    return _product(_in_order(a.T), b)


# --- Matrix products.


@jax.custom_vjp
def matmul(x: jax.Array, w: jax.Array) -> jax.Array:
    """[p, k] [k, n] -> [p, n], float32."""
    return _product(_round(x), _round(w))


def _matmul_forward(x, w):
    x, w = _round(x), _round(w)
    return _product(x, w), (x, w)


def _matmul_backward(residuals, g):
    x, w = residuals
    g = _round(g)
    return _product(g, w, ((1,), (1,))), lax.platform_dependent(x, g, cpu=_product_over_rows, default=_over_rows_plain)


def _over_rows_plain(a, b):
    return _product(a, b, ((0,), (0,)))


matmul.defvjp(_matmul_forward, _matmul_backward)


# --- Convolutions, on a CPU.


def _taps(x, sizes, pads, stride):
    """[B, H, W, C] -> [B h w, .]s: what each tap of a kernel meets, or all taps side by side where channels are few."""
    batch, height, width, channels = x.shape
    if sizes == (1, 1) and stride == 1 and not any(map(any, pads)):
        return [x.reshape(-1, channels)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])  # also below zero
    x = _in_order(x)
    rows, columns = _output_size(sizes, pads, stride, height, width)
    taps = [
        x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(sizes[0])
        for j in range(sizes[1])
    ]
    if channels < FEW:
        taps = [jnp.concatenate(taps, axis=-1)]
    # Copied tap by tap: two to three times faster than one copy of all beside each other.
    return [_in_order(tap.reshape(batch * rows * columns, -1)) for tap in taps]


def _output_size(sizes, pads, stride, height, width):
    return tuple((n + sum(pad) - size) // stride + 1 for n, pad, size in zip((height, width), pads, sizes, strict=True))


def _around(size):
    return ((size // 2, size // 2),) * 2


def _at_once(samples, taps, channels, batch):
    return batch == 1 or batch * samples * taps * channels <= LARGE


def _convolve(x, kernel, pads, stride=1):
    """bfloat16 [B, H, W, C], [kh, kw, C, F] -> float32 [B, h, w, F]."""
    sizes, (channels, features) = kernel.shape[:2], kernel.shape[2:]
    rows, columns = _output_size(sizes, pads, stride, *x.shape[1:3])

    def some(x):
        taps = _taps(x, sizes, pads, stride)
        kernels = kernel.reshape(len(taps), -1, features)
        products = [_product(tap, part) for tap, part in zip(taps, kernels, strict=True)]
        return sum(products[1:], products[0]).reshape(-1, rows, columns, features)

    if _at_once(rows * columns, sizes[0] * sizes[1], channels, len(x)):
        return some(x)
    return lax.map(lambda image: some(image[None])[0], x)


def _conv_cpu(x, kernel, stride):
    return _convolve(x, kernel, _around(kernel.shape[0]), stride)


def _transposed_cpu(x, kernel, stride):
    return forms.conv_transpose_phases(x, kernel, stride, _convolve)


def _kernel_gradient_cpu(x, g, size, stride):
    """Gradient of sum(g * conv(x, kernel, stride)) with respect to the kernel, bfloat16 -> float32."""
    channels, features = x.shape[-1], g.shape[-1]

    def some(x, g):
        rows = _in_order(g.reshape(-1, features).T)
        return jnp.stack([_in_order(_product(rows, tap)) for tap in _taps(x, (size, size), _around(size), stride)])

    if _at_once(g.shape[1] * g.shape[2], size * size, channels, len(x)):
        total = some(x, g)
    else:
        shapes = jax.eval_shape(some, x[:1], g[:1])
        zeros = jnp.zeros(shapes.shape, shapes.dtype)
        total, _ = lax.scan(lambda total, pair: (total + some(pair[0][None], pair[1][None]), None), zeros, (x, g))
    return total.transpose(0, 2, 1).reshape(size, size, channels, features)


# --- And on anything.


_conv_default = functools.partial(forms.conv_lax, result=jnp.float32)
_transposed_default = functools.partial(forms.conv_transpose_lax, result=jnp.float32)


def _conv_vjp_cpu(x, kernel, g, stride):
    dx = _transposed_cpu(g, forms.adjoint_kernel(kernel), stride)[:, : x.shape[1], : x.shape[2]]
    return dx, _kernel_gradient_cpu(x, g, kernel.shape[0], stride)


def _conv_vjp_default(x, kernel, g, stride):
    return tuple(d.astype(jnp.float32) for d in forms.conv_vjp_lax(x, kernel, g, stride))


def _transposed_vjp_cpu(x, kernel, g, stride):
    dx = _conv_cpu(g, forms.adjoint_kernel(kernel), stride)
    return dx, forms.adjoint_kernel(_kernel_gradient_cpu(g, x, kernel.shape[0], stride))


def _transposed_vjp_default(x, kernel, g, stride):
    return tuple(d.astype(jnp.float32) for d in forms.conv_transpose_vjp_lax(x, kernel, g, stride))


def _layer(cpu, default, vjp_cpu, vjp_default):
    """A convolution (x, kernel, stride) -> float32, differentiable."""

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
    def apply(x, kernel, stride):
        return forms.by_platform(cpu, default, _round(x), _round(kernel), stride=stride)

    def forward(x, kernel, stride):
        x, kernel = _round(x), _round(kernel)
        return forms.by_platform(cpu, default, x, kernel, stride=stride), (x, kernel)

    def backward(stride, residuals, g):
        return forms.by_platform(vjp_cpu, vjp_default, *residuals, _round(g), stride=stride)

    apply.defvjp(forward, backward)
    return apply


conv = _layer(_conv_cpu, _conv_default, _conv_vjp_cpu, _conv_vjp_default)
conv_transpose = _layer(_transposed_cpu, _transposed_default, _transposed_vjp_cpu, _transposed_vjp_default)
