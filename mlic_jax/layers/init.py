"""Initial values of parameters, by NumPy.

A layer's plain `init(key, x)` gives real arrays, whose values depend on the keys that Flax hands out.

Codecs go another way. Running a model once, only to create its parameters, costs ten seconds of compilation where
tracing it with `jax.eval_shape` costs 0.3 s. So what is traced boxes the shape together with the recipe (`Fill`), and
`materialise` fills the boxes afterwards. Values then depend on the key and on the parameter's path alone: they are the
same on every backend and jax version, and do not change when another layer is added beside them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

# (rng, shape) -> float array of that shape.
Recipe = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
# A Flax initialiser: (key, shape, dtype) -> Fill.
Initialiser = Callable


@flax.struct.dataclass
class Fill(meta.AxisMetadata):
    """A parameter whose `init` is traced: its value, and the recipe for other ones.

    Through `jax.eval_shape` it carries the recipe to `materialise`. `jax.jit(module.init)` returns boxes with values;
    `apply` takes them as they are, `flax.linen.meta.unbox` takes them off.
    """

    value: Any
    recipe: Recipe = flax.struct.field(pytree_node=False)

    def unbox(self):
        return self.value

    def replace_boxed(self, val):
        return self.replace(value=val)

    def add_axis(self, index, params):
        return self

    def remove_axis(self, index, params):
        return self


def by(recipe: Recipe) -> Callable:
    """A Flax initialiser: an array, or, where the key is traced, a Fill."""

    def initialiser(key, shape, dtype=jnp.float32):
        if isinstance(key, jax.core.Tracer):
            run = functools.partial(_values, recipe, shape=shape, dtype=dtype)
            shaped = jax.ShapeDtypeStruct(shape, dtype)
            return Fill(jax.pure_callback(run, shaped, jax.random.key_data(key), vmap_method="sequential"), recipe)
        return jnp.asarray(_values(recipe, jax.random.key_data(key), shape, dtype))

    return initialiser


def _values(recipe, key_data, shape, dtype):
    """The recipe's values for a key, NumPy."""
    return _filled(recipe, np.asarray(key_data).astype(np.uint32).tobytes(), shape, dtype)


def _filled(recipe, seed, shape, dtype):
    digest = hashlib.sha256(seed).digest()
    rng = np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], np.uint64)))
    return np.array(recipe(rng, shape), dtype=dtype)


def constant(value) -> Callable:
    """All entries `value` (a number, or an array that broadcasts to the shape)."""
    return by(lambda rng, shape: np.broadcast_to(np.asarray(value, np.float64), shape))


def uniform(bound: float) -> Callable:
    """Uniform in [-bound, bound]."""
    return by(lambda rng, shape: rng.uniform(-bound, bound, shape))


def transformed(initialiser: Callable, shape: tuple[int, ...], function: Callable) -> Callable:
    """What a NumPy function makes of the values that another initialiser has for a shape."""

    def initialise(key, other, dtype=jnp.float32):
        made = initialiser(key, shape, dtype)
        if isinstance(made, Fill):
            return by(lambda rng, other: function(made.recipe(rng, shape)))(key, other, dtype)
        return jnp.asarray(function(np.asarray(made)), dtype)

    return initialise


class Normal(NamedTuple):
    """Normal with standard deviation gain / sqrt(fan in), of kernels [..., Cin, Cout]. Equal ones compare equal."""

    gain: float

    def __call__(self, key, shape, dtype=jnp.float32):
        scale = self.gain / np.sqrt(np.prod(shape[:-1]))
        return by(lambda rng, shape: rng.normal(0.0, scale, shape))(key, shape, dtype)


def materialise(boxed: Any, key: jax.Array) -> Any:
    """Fills a tree that came out of `jax.eval_shape`.

    Args:
      boxed: nested dict whose leaves are `Fill` boxes, or bare shapes (filled with zeros).
      key: the PRNG key that all values depend on.

    Returns:
      The same nesting with float32 NumPy arrays of the same shapes.
    """
    seed = np.asarray(jax.random.key_data(key)).astype(np.uint32).tobytes()

    def fill(path, leaf):
        if not isinstance(leaf, Fill):
            return np.zeros(leaf.shape, leaf.dtype)
        return _filled(leaf.recipe, seed + jax.tree_util.keystr(path).encode(), leaf.value.shape, leaf.value.dtype)

    return jax.tree_util.tree_map_with_path(fill, boxed, is_leaf=lambda leaf: isinstance(leaf, Fill))
