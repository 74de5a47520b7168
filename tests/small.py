"""Small latent models for tests: CompressAI's weights, noise, or a brief training. Each is made once a session."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from mlic_jax import zoo
from mlic_jax.fileformat.artifact import flatten, unflatten
from mlic_jax.interop.compressai import architecture_of, from_compressai
from mlic_jax.models import bmshj2018, kltnet, mbt2018

WIDTHS = {"N": 8, "M": 12}
MODULES = {
    "bmshj2018-factorized": bmshj2018.Factorized(**WIDTHS),
    "bmshj2018-hyperprior": bmshj2018.ScaleHyperprior(**WIDTHS),
    "mbt2018-mean": mbt2018.MeanScaleHyperprior(**WIDTHS),
}
NAMES = tuple(MODULES)
FIXTURES = pathlib.Path(__file__).parent / "fixtures" / "compressai"
PHOTOS = pathlib.Path(__file__).parent.parent / "mlic_jax" / "data" / "photos"


@functools.cache
def fixture(name):
    """What CompressAI computed: {"image": .., "weights/..": .., "out/..": .., "string/0": ..}."""
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        return dict(arrays)


def fixture_weights(name):
    """The fixture's state dict."""
    return {key.removeprefix("weights/"): a for key, a in fixture(name).items() if key.startswith("weights/")}


@functools.cache
def imported(name):
    """(codec, artifact) with the fixture's weights: many of its symbols take the escape."""
    weights = fixture_weights(name)
    codec = zoo.make(name, **architecture_of(name, weights))
    return codec, codec.export(*from_compressai(name, weights))


def of_every_rate(steps):
    """The module of a small model of every rate, which transmits y in 2 or 4 steps."""
    return kltnet.KltNet(**{**kltnet.TOY, "steps": steps})


@functools.cache
def noisy(steps):
    """(codec, artifact) of that module with noise on all weights: nothing is zero as it is before training."""
    codec = zoo.make("kltnet", **{**kltnet.TOY, "steps": steps})
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    rng, flat = np.random.default_rng(steps), flatten(params)
    for name, array in flat.items():
        fan_in = np.prod(array.shape[:-1]) if array.ndim == 4 else 10
        flat[name] = array + rng.normal(0, 0.1 * fan_in**-0.5, array.shape).astype(np.float32)
    return codec, codec.export(unflatten(flat), state, list(crops(2, 64)))


def to_torch(array):
    """[B, h, w, C] -> [B, C, h, w]."""
    return np.asarray(array).transpose(0, 3, 1, 2)


class Likelihoods:
    """Of a coder's estimates: keeps the likelihoods that the bits come from."""

    def __init__(self, latents, quality=None):
        super().__init__(latents, quality)
        self.likelihoods = {}

    def _count(self, name, prior, value):
        self.likelihoods[name] = 2.0 ** -np.asarray(prior.bits(value), np.float64)


@functools.cache
def photos():
    """The bundled photos, uint8 [H, W, 3]."""
    return [np.asarray(Image.open(path).convert("RGB")) for path in sorted(PHOTOS.glob("*.png"))]


def crops(count, size, seed=0):
    """uint8 [count, size, size, 3], random places of the photos in turn."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        photo = photos()[i % len(photos())]
        top, left = (rng.integers(0, side - size + 1) for side in photo.shape[:2])
        found.append(photo[top : top + size, left : left + size])
    return np.stack(found)


def train(name, steps, patch=64, batch=8, **arguments):
    """(codec, params, metrics of each step): Adam on crops, all steps in one program.

    Among the metrics, "gradient" is a tree: the largest entry of each parameter's gradient.
    """
    codec = zoo.make(name, **WIDTHS, **arguments)
    params, state = codec.init(jax.random.key(0), (patch, patch, 3))
    images = jnp.asarray(crops(512 if patch <= 64 else 48, patch))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(2e-3, steps, 0.02)))

    def step(carry, i):
        params, moments = carry
        key = jax.random.fold_in(jax.random.key(1), i)
        chosen = jax.random.randint(key, (batch,), 0, len(images))
        data = {"image": images[chosen], "position": jnp.arange(batch)}
        loss = jax.grad(codec.objectives["rd"].loss, has_aux=True)
        grads, (metrics, _) = loss(params, state, data, jax.random.split(key, batch), i)
        updates, moments = optimizer.update(grads, moments, params)
        metrics["gradient"] = jax.tree.map(lambda g: jnp.abs(g).max(), grads)
        return (optax.apply_updates(params, updates), moments), metrics

    run = jax.jit(
        lambda params: jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps)),
        compiler_options={"xla_backend_optimization_level": 2},  # it runs for longer than it compiles
    )
    (params, _), metrics = jax.device_get(run(params))
    return codec, params, metrics


@functools.cache
def trained(name):
    """(codec, artifact, metrics) after 800 steps: not good, but its densities fit its latents."""
    codec, params, metrics = train(name, 800, lmbda=0.02)
    return codec, codec.export(params, {}), metrics
