"""Samples moved into channels, in both orders, and back."""

import jax
import numpy as np
import pytest

from mlic_jax.layers import DepthToSpace, SpaceToDepth, depth_to_space, space_to_depth

X = np.random.default_rng(0).normal(size=(2, 6, 9, 4)).astype(np.float32)


def channel(order, block, channels, i, j, c):
    return {"tensorflow": (i * block + j) * channels + c, "torch": c * block * block + i * block + j}[order]


@pytest.mark.parametrize("order", ["tensorflow", "torch"])
def test_every_sample_goes_where_the_order_says(order):
    deep = np.asarray(space_to_depth(X, 3, order=order))
    assert deep.shape == (2, 2, 3, 36)
    for i, j, c in np.ndindex(3, 3, 4):
        np.testing.assert_array_equal(deep[..., channel(order, 3, 4, i, j, c)], X[:, i::3, j::3, c])
    np.testing.assert_array_equal(depth_to_space(deep, 3, order=order), X)
    np.testing.assert_array_equal(SpaceToDepth(3, order).apply({}, X), deep)
    np.testing.assert_array_equal(DepthToSpace(3, order).apply({}, deep), X)


def test_layers_say_what_they_read():
    assert SpaceToDepth(3).inputs_of(2, 3) == (6, 11) and DepthToSpace(3).inputs_of(5, 6) == (1, 2)
    assert SpaceToDepth(3).order == DepthToSpace(3).order == "tensorflow"


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="order 'caffe' of channels is not known: use one of tensorflow, torch"):
        space_to_depth(X, 3, order="caffe")
    with pytest.raises(ValueError, match="order 'caffe'"):
        jax.eval_shape(lambda x: DepthToSpace(3, "caffe").apply({}, x), np.zeros((1, 2, 2, 9)))
