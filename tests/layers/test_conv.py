"""Convolutions against NumPy, in both of their forms: the one for CPUs and the one for accelerators."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlic_jax.layers import conv as layers
from mlic_jax.layers import conv_forms as forms
from mlic_jax.layers import init

# kernel, stride, height, width: with odd sizes, and with phases of a transposed convolution that no tap meets.
SHAPES = [(5, 2, 8, 12), (5, 2, 7, 9), (3, 1, 6, 5), (9, 4, 8, 9), (3, 4, 8, 5), (1, 2, 5, 6)]
FEATURES = [4, 18]  # transposed convolutions to 16 features or fewer have another CPU form than those to more


@pytest.fixture(params=["small", "large"])
def size_class(request, monkeypatch):
    """What CPU forms do with small images and with large ones, both tried on small ones."""
    limit = 1 if request.param == "large" else 10**9
    monkeypatch.setattr(forms, "LARGE", limit)
    monkeypatch.setattr(forms, "STRIPS_FROM", limit)
    monkeypatch.setattr(forms, "STRIP", 16)


def assert_close(ours, theirs, tolerance=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert np.abs(np.float64(a) - b).max() <= tolerance * np.abs(b).max()


def random(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def value_and_gradients(function, *args):
    """[y, gradients of sum(y * g) for each argument], with a fixed random g."""

    @jax.jit
    def both(*args):
        y, pull = jax.vjp(function, *args)
        return y, *pull(random(y.shape, seed=1)[0])

    return both(*args)


def reference_conv(x, kernel, stride):
    """Value and gradients in float64, tap by tap, as the definition says."""
    size, pad = kernel.shape[0], kernel.shape[0] // 2
    height, width = ((n - 1) // stride + 1 for n in x.shape[1:3])
    padded = np.pad(np.float64(x), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = {
        (i, j): np.s_[:, i : i + height * stride : stride, j : j + width * stride : stride]
        for i in range(size)
        for j in range(size)
    }
    y = sum(padded[window][:, :height, :width] @ kernel[tap] for tap, window in windows.items())
    g = random(y.shape, seed=1)[0]
    dx, dkernel = np.zeros_like(padded), np.zeros(kernel.shape)
    for tap, window in windows.items():
        dx[window] += g @ kernel[tap].T
        dkernel[tap] = np.einsum("bhwi,bhwo->io", padded[window], g)
    return y, dx[:, pad : pad + x.shape[1], pad : pad + x.shape[2]], dkernel


def reference_conv_transpose(x, torch_weight, stride):
    """torch's ConvTranspose2d(padding=k // 2, output_padding=stride - 1): each sample scatters its taps.

    x: [B, H, W, Cin]; torch_weight: [Cin, Cout, k, k]. In float64.
    """
    batch, height, width, _ = x.shape
    size, pad = torch_weight.shape[-1], torch_weight.shape[-1] // 2
    y = np.zeros((batch, height * stride + 2 * size, width * stride + 2 * size, torch_weight.shape[1]))
    for i in range(height):
        for j in range(width):
            for p in range(size):
                for q in range(size):
                    y[:, i * stride + p, j * stride + q] += np.float64(x[:, i, j]) @ torch_weight[:, :, p, q]
    return y[:, pad : pad + height * stride, pad : pad + width * stride]


@pytest.mark.parametrize(("size", "stride", "height", "width"), SHAPES)
@pytest.mark.usefixtures("size_class")
def test_conv(size, stride, height, width):
    x, kernel = random((2, height, width, 3), (size, size, 3, 18))
    ours = value_and_gradients(lambda x, kernel: layers.conv(x, kernel, None, stride), x, kernel)
    assert_close(ours, reference_conv(x, kernel, stride))


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize(("size", "stride", "height", "width"), SHAPES)
@pytest.mark.usefixtures("size_class")
def test_conv_transpose(size, stride, height, width, features):
    """Forward as torch defines it; gradients from adjointness: it is the transpose of a convolution, checked above."""
    x, kernel = random((2, height, width, 3), (size, size, 3, features))
    y, dx, dkernel = value_and_gradients(lambda x, k: layers.conv_transpose(x, k, None, stride), x, kernel)
    assert_close([y], [reference_conv_transpose(x, kernel[::-1, ::-1].transpose(2, 3, 0, 1), stride)])
    g = random(y.shape, seed=1)[0]
    back = reference_conv(g, kernel[::-1, ::-1].transpose(0, 1, 3, 2), stride)[0]
    assert_close([dx], [back])
    # <g, y(kernel')> is linear in kernel': one evaluation for each entry of a few taps gives their gradient.
    for tap in [(0, 0), (size // 2, size - 1)]:
        expected = np.zeros(kernel.shape[2:])
        for i in range(3):
            one = np.zeros(kernel.shape)
            one[(*tap, i)] = 1
            moved = reference_conv_transpose(x, one[::-1, ::-1].transpose(2, 3, 0, 1)[:, :1], stride)[..., 0]
            expected[i] = np.einsum("bhw,bhwo->o", moved, g)
        assert_close([dkernel[tap]], [expected])


@pytest.mark.parametrize(("size", "stride"), [(5, 2), (3, 1), (3, 4)])
def test_forms_for_accelerators(size, stride):
    """What GPUs and TPUs run, called by name, gives what CPUs run."""
    x, kernel = random((2, 16, 18, 3), (size, size, 3, 4))
    for function, default in [(layers.conv, forms.conv_lax), (layers.conv_transpose, forms.conv_transpose_lax)]:
        ours = value_and_gradients(lambda x, k, f=function: f(x, k, None, stride), x, kernel)
        assert_close(ours, value_and_gradients(lambda x, k, f=default: f(x, k, stride), x, kernel))
    (kernel,) = random((size, size, 1, 3))
    ours = value_and_gradients(lambda x, k: layers.depthwise(x, k, stride), x, kernel)
    assert_close(ours, value_and_gradients(lambda x, k: forms.depthwise_lax(x, k, stride), x, kernel))


@pytest.mark.parametrize(("size", "stride", "height", "width"), [(3, 1, 6, 5), (5, 2, 7, 9)])
def test_depthwise(size, stride, height, width):
    x, kernel = random((2, height, width, 3), (size, size, 1, 3))
    ours = value_and_gradients(lambda x, k: layers.depthwise(x, k, stride), x, kernel)
    dense = kernel * np.eye(3, dtype=np.float32)  # [k, k, 3, 3]
    y, dx, dkernel = reference_conv(x, dense, stride)
    assert_close(ours, [y, dx, np.einsum("ijcc->ijc", dkernel)[:, :, None]])


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_conv_transpose_is_the_adjoint_of_conv(stride):
    x, kernel, y = random((2, 8, 8, 3), (5, 5, 3, 4), (2, 8 // stride, 8 // stride, 4))
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    one = jnp.vdot(layers.conv(x, kernel, None, stride), y)
    other = jnp.vdot(x, layers.conv_transpose(y, flipped, None, stride))
    np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize("function", [layers.conv, layers.conv_transpose])
@pytest.mark.usefixtures("size_class")
def test_bias(function):
    x, kernel, bias = random((2, 6, 6, 3), (3, 3, 3, 18), (18,))
    y, *gradients = value_and_gradients(lambda *args: function(*args, 2), x, kernel, bias)
    plain = value_and_gradients(lambda *args: function(*args, None, 2), x, kernel)
    assert_close([y], [np.asarray(plain[0]) + bias])
    assert_close(gradients, [*map(np.asarray, plain[1:]), random(y.shape, seed=1)[0].sum((0, 1, 2))])


def test_zero_padding_is_centred():
    """Output sample 0 of a stride-2 layer sits on input sample 0; SAME padding would put it half a sample further."""
    x = np.zeros((1, 8, 8, 1), np.float32)
    x[0, 0, 0, 0] = 1
    y = layers.conv(x, np.arange(25, dtype=np.float32).reshape(5, 5, 1, 1), None, 2)
    np.testing.assert_array_equal(y[0, :2, :2, 0], [[12, 10], [2, 0]])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_edge_padding_is_a_convolution_of_the_extended_picture(kernel, stride, size):
    x, weights, bias = random((2, *size, 3), (kernel, kernel, 3, 5), (5,))
    pad = kernel // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    expected = jax.lax.conv_general_dilated(
        padded, weights, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    layer = layers.Conv(5, kernel, stride, padding="edge")
    found = layer.apply({"params": {"kernel": weights, "bias": bias}}, x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected + bias, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride"), [(8, 4), (4, 2), (2, 2), (12, 4)])
def test_even_kernels_are_centred_on_blocks(kernel, stride):
    """Caffe's and torch's convolution with padding (k - stride) / 2, one output sample after the other."""
    x, weights, bias = random((1, 2 * stride, 3 * stride, 3), (kernel, kernel, 3, 2), (2,))
    layer = layers.Conv(2, kernel, stride, gain=1.0)
    found = np.asarray(layer.apply({"params": {"kernel": weights, "bias": bias}}, x))
    pad = (kernel - stride) // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    assert found.shape == (1, 2, 3, 2)
    for i, j in np.ndindex(2, 3):
        window = padded[0, stride * i :, stride * j :][:kernel, :kernel]
        np.testing.assert_allclose(found[0, i, j], np.einsum("abc,abcf->f", window, weights) + bias, atol=1e-3)
    assert layer.inputs_of(0, 1) == (-pad, stride - pad + kernel - 1)


def test_conditions_scale_and_shift_channels():
    x, weights, bias, further = random((3, 6, 6, 2), (3, 3, 2, 4), (4,), (2, 2, 4))
    params = {"kernel": weights, "bias": bias}
    plain = layers.Conv(4, 3).apply({"params": params}, x)
    condition = np.float32([0, 1, -0.5])
    layer = layers.ConditionedConv(4, 3)
    found = layer.apply({"params": {**params, "condition": further}}, x, condition)
    for i, c in enumerate(condition):
        gain, shift = c * further[:, 0] + c**2 * further[:, 1]
        np.testing.assert_allclose(found[i], plain[i] * (1 + gain) + shift, rtol=1e-4, atol=1e-4)
    fresh = layer.init(jax.random.key(0), x, condition)["params"]
    assert not fresh["condition"].any() and fresh["kernel"].any()


def make(layer, x):
    return init.materialise(jax.eval_shape(layer.init, jax.random.key(0), x), jax.random.key(0))


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (layers.Conv(16, kernel=5, stride=2), 8 * 25),
        (layers.Conv(16, kernel=1), 8),
        (layers.ConvTranspose(16, kernel=5), 16 * 25),  # torch takes the outputs for the inputs here
        (layers.DepthwiseConv(kernel=5), 25),
    ],
)
def test_initial_values_are_torchs(layer, fan_in):
    parameters = make(layer, jnp.zeros((1, 8, 8, 8)))["params"]
    bound = 1 / np.sqrt(fan_in)
    assert set(parameters) == {"kernel", "bias"}
    assert np.abs(parameters["bias"]).max() <= bound
    kernel = parameters["kernel"]
    assert 0.95 * bound < np.abs(kernel).max() <= bound
    assert abs(kernel.mean()) < 0.2 * bound


LAYERS = [
    (layers.Conv(20, kernel=3, stride=2), (2, 3, 4, 20)),
    (layers.Conv(20, kernel=1, stride=2), (2, 3, 4, 20)),
    (layers.ConvTranspose(20, kernel=3), (2, 10, 14, 20)),
    (layers.ConvTranspose(3, kernel=5, use_bias=False), (2, 10, 14, 3)),
    (layers.DepthwiseConv(), (2, 5, 7, 6)),
    (layers.Conv(20, kernel=3, padding="edge"), (2, 5, 7, 20)),
    (layers.Conv(20, kernel=3, product_up_to=256, gain=1.0), (2, 5, 7, 20)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
@pytest.mark.usefixtures("size_class")
def test_layers_in_both_precisions(layer, shape):
    (x,) = random((2, 5, 7, 6))
    variables = make(layer, x)
    half = layer.clone(dtype=jnp.bfloat16)

    @jax.jit
    def both(variables):
        def loss(variables, layer):
            y = layer.apply(variables, x)
            return jnp.mean(y.astype(jnp.float32) ** 2), y

        return [jax.value_and_grad(loss, has_aux=True)(variables, one) for one in (layer, half)]

    ((_, y), gradients), ((_, y_half), gradients_half) = both(variables)
    assert (y.dtype, y_half.dtype) == (jnp.float32, jnp.bfloat16)
    assert y.shape == y_half.shape == shape
    assert_close([y_half], [np.asarray(y)], 0.02)
    for one, other in zip(jax.tree.leaves(gradients_half), jax.tree.leaves(gradients), strict=True):
        assert one.dtype == jnp.float32
        assert_close([one], [np.asarray(other)], 0.04)


@pytest.mark.usefixtures("size_class")
def test_transformations():
    """vmap, and a second derivative, as gradient penalties take it."""
    x, kernel = random((3, 1, 6, 6, 2), (3, 3, 2, 2))

    def net(function, transpose):
        return lambda x: jnp.sum(jnp.tanh(transpose(jnp.tanh(function(x, kernel)), kernel)))

    fast = net(functools.partial(layers.conv, bias=None, stride=2), functools.partial(layers.conv_transpose, bias=None))
    plain = net(functools.partial(forms.conv_lax, stride=2), forms.conv_transpose_lax)
    penalties = [jax.vmap(jax.grad(lambda x, f=f: jnp.sum(jax.grad(f)(x) ** 2))) for f in (fast, plain)]
    ours, theirs = jax.jit(lambda x: [penalty(x) for penalty in penalties])(x)
    assert_close([ours], [np.asarray(theirs)])


@pytest.mark.parametrize("layer", [layers.Conv, layers.ConvTranspose])
def test_even_kernels_that_have_no_centre_are_refused(layer):
    with pytest.raises(ValueError, match="kernel=4"):
        make(layer(3, kernel=4, stride=1), jnp.zeros((1, 8, 8, 3)))


def test_wrong_paddings_are_refused():
    x = jnp.zeros((1, 8, 8, 3))
    with pytest.raises(ValueError, match="padding 'reflect' is not known: use one of zero, edge"):
        make(layers.Conv(3, padding="reflect"), x)
    with pytest.raises(ValueError, match="kernel=4"):
        make(layers.Conv(3, kernel=4, stride=2, padding="edge"), x)
