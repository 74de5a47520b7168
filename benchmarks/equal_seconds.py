"""Latent models of every rate against each other after equal seconds of one processor core.

    taskset -c 1 python benchmarks/equal_seconds.py PHOTOS HELD_OUT --seconds 120 --seeds 1 2 3 \
        --models "kltnet2" "kltnet2:D=160,H=256" "kltnet2-single" "kltnet:C=64,D=80,steps=2"

A model is a name of the zoo with arguments of its factory, or one of VARIANTS below, which are KltNet 2 with one thing
changed. Each is trained by Adam on the same crops in the same order, by the clock: seconds are those of the process
(time.process_time), compilation left out; the learning rate is constant and falls on a line to zero in the last part of
them. Judged are the middles of held-out photos at every other quality of the ladder, with the average of weights, by
the model's estimate of its files: the mean loss, and the BD-rate in PSNR against the first model. Other work beside it
costs seconds, since caches are shared: compare what ran side by side, and look at the steps.
"""

import argparse
import contextlib
import json
import os
import pathlib
import time

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"

import jax
import jax.numpy as jnp
import numpy as np
import optax
from complexity import module_of

from mlic_jax import data, zoo
from mlic_jax.data import make_source, make_train_iterator
from mlic_jax.families.complexity import kmac_per_pixel
from mlic_jax.families.latent import latent_codec
from mlic_jax.layers.blocks import ConvBlock, DepthwiseBlock, Gain, ShiftBlock
from mlic_jax.layers.conv import Conv
from mlic_jax.layers.space import DepthToSpace
from mlic_jax.layers.stack import Stack, Sum
from mlic_jax.metrics.bd import bd_rate
from mlic_jax.models import kltnet, kltnet2
from mlic_jax.training import step

DECAY = 0.35  # the last part of the seconds, in which the learning rate falls
CROPS = 2048  # of which batches are drawn, seen again in another order once all were
MIDDLE = 256


def linear(features):
    """The block transform's inverse, from `features` coefficients to pixels."""
    transform = kltnet.BlockTransform(features, inverse=True)
    return Stack((Conv(3 * kltnet.BLOCK**2, 1, use_bias=False, kernel_init=transform), DepthToSpace(kltnet.BLOCK)))


class Single(kltnet2.KltNet2):
    """The body's blocks alone: everything at 1/16, a product to the pixels; H blocks more pay for the renderer."""

    def synthesis_layers(self):
        network = (
            Conv(self.D, 1, gain=1.0),
            Gain(kltnet.LEVELS),
            *(DepthwiseBlock() for _ in range(self.blocks_d + self.H)),
            Conv(3 * kltnet.BLOCK**2, 1, gain=0.0),
            DepthToSpace(kltnet.BLOCK),
        )
        return [Sum((linear(self.M), Stack(network)))]


class Eighth(kltnet2.KltNet2):
    """KltNet's synthesis: D at 1/16, H at 1/8."""

    def synthesis_layers(self):
        network = (
            Conv(self.D, 1, gain=1.0),
            *(block for _ in range(self.blocks_d) for block in (ConvBlock(), ShiftBlock())),
            Conv(4 * self.H, 1, gain=1.0),
            DepthToSpace(2),
            Gain(kltnet.LEVELS),
            ShiftBlock(),
            Conv(3 * (kltnet.BLOCK // 2) ** 2, 3, gain=0.0),
            DepthToSpace(kltnet.BLOCK // 2),
        )
        return [Sum((linear(self.M), Stack(network)))]


VARIANTS = {"kltnet2-single": Single, "kltnet2-eighth": Eighth}


def make(text):
    """(codec, module) of "name:key=value,..."."""
    name, _, arguments = text.partition(":")
    changes = {key: int(value) for key, value in (part.split("=") for part in arguments.split(",") if part)}
    training = {"proxy": "split", "clipped": True}
    if name in VARIANTS:
        widths = {**kltnet2.NANO, **changes}
        module = VARIANTS[name](**widths)
        return latent_codec(module, model="kltnet2", architecture=widths, lmbda=kltnet.LAMBDAS, **training), module
    codec = zoo.make(name, **changes, **training)
    return codec, module_of(codec)


def crops_of(folder, side, cache, seed=0):
    """uint8 [CROPS, side, side, 3] from the training pipeline, or from a file that an earlier call left."""
    if cache and cache.exists():
        return np.load(cache)
    source = make_source(f"{folder}", "all", cache_mib=1024)
    batches = make_train_iterator(source, seed=seed, batch_size=64, patch_size=side, detail_weight=1.0)
    with contextlib.closing(batches):
        crops = np.concatenate([next(batches)["image"] for _ in range(CROPS // 64)])
    if cache:
        np.save(cache, crops)
    return crops


def middles_of(folder):
    """The middles of all photos of a folder."""
    images = [data.read_image(path) for path in data.list_images(folder)]
    side = min(MIDDLE, *(min(image.shape[:2]) for image in images))
    side -= side % 64
    corners = [[(length - side) // 2 for length in image.shape[:2]] for image in images]
    return np.stack([image[y : y + side, x : x + side] for image, (y, x) in zip(images, corners, strict=True)])


def train(codec, crops, args, seed):
    """(averaged parameters, state, steps) after args.seconds of this process."""
    rate = optax.inject_hyperparams(optax.adam)(learning_rate=args.rate, b2=0.99)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), rate)
    params, state = codec.init(jax.random.key(seed), crops[:1].shape[1:])
    train_state = step.initial_state(codec, params, state, {"rd": optimizer}, 0.998)
    take = step.make_step(codec, ("rd",), {"rd": optimizer}, seed=seed, ema=0.998)
    rng, order, position = np.random.default_rng(seed), [], jnp.arange(args.batch, dtype=jnp.int32)
    compiled = jax.jit(take, donate_argnums=0).lower(train_state, {"image": crops[: args.batch], "position": position})
    compiled = compiled.compile()
    train_state = jax.device_put(train_state)
    begin, steps = time.process_time(), 0
    while (part := (time.process_time() - begin) / args.seconds) < 1:
        if len(order) < args.batch:
            order = list(rng.permutation(len(crops)))
        chosen = [order.pop() for _ in range(args.batch)]
        warm = min(1, (1 + steps) / 100)
        now = args.rate * warm * min(1, (1 - part) / DECAY)
        train_state.optimizer["rd"][1].hyperparams["learning_rate"] = jnp.float32(now)
        train_state, metrics = compiled(train_state, {"image": jnp.asarray(crops[chosen]), "position": position})
        metrics["loss"].block_until_ready()
        steps += 1
    return jax.device_get(train_state.average), train_state.state, steps


def judge(codec, params, state, middles):
    """(mean loss, [(bpp, PSNR)]) over photos, by the ladder of qualities."""
    losses, points = [], []
    for quality in codec.traits.ladder[::2]:
        estimates = [codec.estimate(params, state, image[None], quality) for image in middles]
        losses.append(np.mean([estimate["loss"] for estimate in estimates]))
        pixels = middles[0].shape[0] * middles[0].shape[1]
        psnr = np.mean([20 * np.log10(255) - 10 * np.log10(float(estimate["mse255"][0])) for estimate in estimates])
        points.append((float(np.mean([estimate["bits"] for estimate in estimates])) / pixels, float(psnr)))
    return float(np.mean(losses)), points


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("held_out")
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--out", type=pathlib.Path, help="a file of JSON lines; models that it has are not run again")
    parser.add_argument("--crops", type=pathlib.Path, help="a .npy file to keep crops in, for further calls")
    args = parser.parse_args()
    known = {}
    if args.out and args.out.exists():
        lines = map(json.loads, args.out.read_text().splitlines())
        known = {(result["model"], result["seed"]): result for result in lines}
    crops, middles, anchors = None, middles_of(args.held_out), {}
    for seed in args.seeds:
        for text in args.models:
            if (result := known.get((text, seed))) is None:
                crops = crops_of(args.photos, args.patch, args.crops) if crops is None else crops
                codec, module = make(text)
                params, state, steps = train(codec, crops, args, seed)
                loss, points = judge(codec, params, state, middles)
                work = kmac_per_pixel(module, params)
                sender, receiver = (work[part] + work["probabilities"] for part in ("analysis", "synthesis"))
                result = {"model": text, "seed": seed, "steps": steps, "seconds": args.seconds, "loss": loss}
                result.update(sender=sender, receiver=receiver, points=points)
                if args.out:
                    with args.out.open("a") as file:
                        file.write(json.dumps(result) + "\n")
            anchors.setdefault(seed, result["points"])
            rate = bd_rate(anchors[seed], result["points"]).value if text != args.models[0] else 0.0
            print(
                f"{text:45} seed {seed}  {result['steps']:6} steps  kMAC/pixel {result['sender']:5.1f} "
                f"{result['receiver']:5.1f}  loss {result['loss']:.4f}  BD-rate {rate:+6.2f} %",
                flush=True,
            )


if __name__ == "__main__":
    main()
