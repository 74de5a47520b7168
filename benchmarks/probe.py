"""Where a trained latent model has too many channels, and where too little work is done: one line for each interface.

    python benchmarks/probe.py --model mlic_jax/weights/kltnet-tiny.mlicm --photos PHOTOS

An interface is the output of a layer or block, named by its path in the module. For each, on the middles of photos:

    channels  what it has
    needed    the PCA dimension, around the mean, at which the loss is 1 % above the model's: far fewer than it has
              means that the layer is wider than what is behind it can use
    gain      by how many percent the loss falls when the activation is optimised for the picture, all behind it frozen
              (Adam on an offset, the best of its steps by the estimate of files): much means that what stands before it
              does too little
    kMAC      of the layer that makes it, per pixel; and its parameters, in thousands

The loss is the codec's, bits and weighted errors by the estimate of files, over qualities for models of every rate.
After PULSE (2026, arXiv 2609.18602), whose authors chose their architecture so. Every interface is an argument of one
program, so that three are compiled in all. Exact networks compute in floating point here. Behind the last rounding an
interface changes pictures alone, before it bits too.
"""

import argparse
import functools
import pathlib
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from complexity import family_of, module_of

from mlic_jax import data, zoo
from mlic_jax.entropy import coders
from mlic_jax.families.common import mse255
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.layers.stack import Stack, Sum
from mlic_jax.layers.windows import to_float

QUALITIES = (10.0, 50.0, 90.0)
EXCESS = 0.01
# Modules that contain others: what they return, their last layer has returned already.
CONTAINERS = (Stack, Sum)


def _name(module):
    return "/".join(module.path)


class Interfaces:
    """Interceptor of Flax calls: changes, or looks at, the output of every layer.

    Args:
      change: (name, output [B, h, w, C]) -> output.
      seen: name -> (input shape, output shape, parameters), filled at the first call of each; or None.
    """

    def __init__(self, change, seen=None):
        self.change, self.seen, self.calls = change, seen, {}

    def __call__(self, next_function, args, kwargs, context):
        y = next_function(*args, **kwargs)
        module = context.module
        inner = context.method_name != "__call__" or isinstance(module, CONTAINERS) or not module.path
        if inner or not isinstance(y, jax.Array) or y.ndim != 4:
            return y
        # A network that is used several times is as many interfaces.
        name, count = _name(module), self.calls.get(_name(module), 0)
        self.calls[name] = count + 1
        name = f"{name} ({count + 1})" if count else name
        if self.seen is not None:
            self.seen[name] = (args[0].shape, y.shape, dict(module.variables.get("params", {})))
        return self.change(name, y)


def _through(module, variables, image, quality, make_coder, change, seen=None):
    """(bits, mean squared error [1]) of one picture, every interface changed."""
    more = () if quality is None else (quality,)

    def run(module):
        with nn.intercept_methods(Interfaces(change, seen)):
            coder = make_coder(module.analyze(image, *more), quality=quality)
            shown = module.synthesize(module.transmit(coder), *more)
        return sum(coder.bits.values()), mse255(image, jnp.clip(shown, 0, 1))

    return nn.apply(run, module)(variables)


def interfaces(module, variables, image, quality):
    """name -> (input shape, output shape, parameters), by tracing."""
    seen = {}
    make_coder = functools.partial(coders.Estimating, rounding=module.rounding)
    jax.eval_shape(lambda v: _through(module, v, image, quality, make_coder, lambda _, y: y, seen), variables)
    return seen


def work(shapes, pixels):
    """(kMAC/pixel, thousands of parameters) of a layer: each kernel meets every place of its coarser side once."""
    before, after, params = shapes
    places = min(before[1] * before[2], after[1] * after[2])
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(params) if np.ndim(leaf) == 4]
    return sum(sizes) * places / pixels / 1e3, sum(np.size(leaf) for leaf in jax.tree.leaves(params)) / 1e3


class Probe:
    """A model, pictures, and the two programs.

    Args:
      codec: of the zoo, made by latent_codec.
      artifact: its weights.
      images: uint8 [N, S, S, 3].
    """

    def __init__(self, codec, artifact, images):
        self.module = module_of(codec)
        # Networks on the parse path in floating point: an interface of integers cannot be changed.
        self.variables = {"params": artifact.params}
        qualities = QUALITIES if self.module.has_quality else (None,)
        weigh = family_of(codec).lagrangian.weights
        self.cases = []
        for image in images:
            for quality in qualities:
                q = None if quality is None else jnp.full(1, quality)
                of_distortion, of_loss = (jnp.broadcast_to(jnp.asarray(w, jnp.float32), (1,)) for w in weigh(q))
                self.cases.append((to_float(jnp.asarray(image[None])), q, of_distortion, of_loss))
        self.pixels = images.shape[1] * images.shape[2]
        image, quality = self.cases[0][:2]
        self.seen = interfaces(self.module, self.variables, image, quality)
        estimating = functools.partial(coders.Estimating, rounding=self.module.rounding)

        def rounded(offsets, bases, means, case):
            def change(name, y):
                y = y + offsets[name]
                centred = y - means[name]
                return means[name] + centred @ bases[name]

            return self._loss(case, estimating, change)

        def smooth(offsets, key, case):
            training = functools.partial(coders.Training, keys=jax.random.split(key, 1), proxy="mixed")
            return self._loss(case, training, lambda name, y: y + offsets[name])

        def activations(case):
            kept = {}

            def change(name, y):
                kept[name] = y[0]
                return y

            self._loss(case, estimating, change)
            return kept

        self.rounded, self.activations = jax.jit(rounded), jax.jit(activations)
        self.slope = jax.jit(jax.grad(smooth))
        self.zeros = {name: jnp.zeros(after) for name, (_, after, _) in self.seen.items()}
        self.whole = {name: jnp.eye(after[-1]) for name, (_, after, _) in self.seen.items()}

    def _loss(self, case, make_coder, change):
        image, quality, of_distortion, of_loss = case
        bits, squared = _through(self.module, self.variables, image, quality, make_coder, change)
        return jnp.mean(of_loss * (of_distortion * squared + bits / self.pixels))

    def bases(self):
        """name -> (mean [C], eigenvectors [C, C], strongest first), over all cases."""
        moments = {}
        for case in self.cases:
            for name, y in self.activations(case).items():
                flat = np.asarray(y, np.float64).reshape(-1, y.shape[-1])
                sums = (len(flat), flat.sum(0), flat.T @ flat)
                moments[name] = [a + b for a, b in zip(moments.get(name, (0, 0, 0)), sums, strict=True)]
        bases = {}
        for name, (count, total, square) in moments.items():
            mean = total / count
            _, vectors = np.linalg.eigh(square / count - np.outer(mean, mean))
            bases[name] = mean.astype(np.float32), vectors[:, ::-1].astype(np.float32)
        return bases

    def mean_loss(self, changed=None, basis=None, mean=None):
        """Over all cases; the activation `changed` projected to the columns of basis, around mean."""
        bases, means = dict(self.whole), {name: jnp.zeros(m.shape[0]) for name, m in self.whole.items()}
        if changed:
            bases[changed], means[changed] = jnp.asarray(basis @ basis.T), jnp.asarray(mean)
        return float(np.mean([self.rounded(self.zeros, bases, means, case) for case in self.cases]))

    def needed(self, name, mean, vectors, least):
        """The smallest dimension, to a twentieth, at which the loss is at most EXCESS above `least`."""
        low, high = 0, vectors.shape[1]
        while high - low > max(1, vectors.shape[1] // 20):
            middle = (low + high) // 2
            good = self.mean_loss(name, vectors[:, :middle], mean) <= (1 + EXCESS) * least
            low, high = (low, middle) if good else (middle, high)
        return high

    def gain(self, name, scale, steps):
        """Percent by which the loss falls, mean over pictures at the middle quality."""
        cases = [case for case in self.cases if case[1] is None or float(case[1][0]) == QUALITIES[len(QUALITIES) // 2]]
        means = {name: jnp.zeros(m.shape[0]) for name, m in self.whole.items()}
        optimizer, gains = optax.adam(optax.linear_schedule(0.03 * scale, 0.0, steps)), []
        for case in cases:
            offset = self.zeros[name]
            state = optimizer.init(offset)
            first = least = float(self.rounded(self.zeros, self.whole, means, case))
            for step in range(steps):
                slope = self.slope({**self.zeros, name: offset}, jax.random.key(step), case)[name]
                update, state = optimizer.update(slope, state)
                offset = offset + update
                if step % 5 == 4 or step + 1 == steps:
                    least = min(least, float(self.rounded({**self.zeros, name: offset}, self.whole, means, case)))
            gains.append(100 * (1 - least / first))
        return float(np.mean(gains))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a .mlicm file")
    parser.add_argument("--photos", required=True, help="a folder; its first COUNT are used")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--side", type=int, default=256, help="of the middles, pixels")
    parser.add_argument("--steps", type=int, default=30, help="of Adam for each gain; 0 leaves gains out")
    args = parser.parse_args()
    artifact = Artifact.load(pathlib.Path(args.model))
    photos = [data.read_image(path) for path in data.list_images(args.photos)[: args.count]]
    corners = [[(length - args.side) // 2 for length in photo.shape[:2]] for photo in photos]
    images = np.stack(
        [photo[y : y + args.side, x : x + args.side] for photo, (y, x) in zip(photos, corners, strict=True)]
    )
    began = time.perf_counter()
    probe = Probe(zoo.codec_of(artifact), artifact, images)
    least, bases = probe.mean_loss(), probe.bases()
    print(f"{args.model}: loss {least:.4f} on {len(images)} middles of {args.side}x{args.side}")
    print(f"{'interface':60} {'place':>6} {'channels':>8} {'needed':>6} {'gain':>7} {'kMAC':>6} {'params':>7}")
    for name, shapes in probe.seen.items():
        mean, vectors = bases[name]
        needed = probe.needed(name, mean, vectors, least)
        scale = float(np.sqrt(np.mean(np.square(probe.activations(probe.cases[0])[name])))) or 1.0
        gain = f"{probe.gain(name, scale, args.steps):6.2f}%" if args.steps else "      -"
        kmac, thousands = work(shapes, probe.pixels)
        place = f"1/{args.side // shapes[1][1]}"
        print(f"{name:60} {place:>6} {shapes[1][-1]:8} {needed:6} {gain} {kmac:6.2f} {thousands:6.0f}k", flush=True)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
