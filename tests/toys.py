"""Small trainings for the tests of the trainer: codecs that compile in a second, and configs for them.

`config({"train.steps": 3})` is a run of the tiny hyperprior on the bundled photos, `config(model="toy")` of a linear
autoencoder, `config(model="toy-gan")` of two networks that take turns. The last two are no codecs for use: `ENTRIES`
has to be added to the zoo, which the fixture `toy_zoo` does for a test module.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from mlic_jax import zoo
from mlic_jax.codec import Codec, Objective
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.training.config import defaults

ENTRIES = {"toy": zoo.Entry(65001, "toys:toy"), "toy-gan": zoo.Entry(65002, "toys:toy_gan")}


def config(changes=None, model="bmshj2018-hyperprior", **arguments):
    """A config of a run that takes seconds. changes: {"train.steps": 3}; arguments: of the model's factory."""
    c = defaults()
    c.model.name = model
    c.model.arguments = {"N": 8, "M": 12, "lmbda": 0.01} if model.startswith("bmshj") else {}
    c.model.arguments.update(arguments)
    c.schedule = ("disc", "gen") if model == "toy-gan" else ("rd",)
    c.data.batch_size = 8
    c.data.patch_size = 64 if model.startswith("bmshj") else 16
    c.data.threads = 0
    c.data.cache_mib = 64
    c.data.validation_images = 2
    c.data.validation_patch = c.data.patch_size
    c.optimizer.learning_rate = 1e-2
    c.train.steps = 20
    c.train.log_every = 1
    c.train.evaluate_every = 0
    c.train.checkpoint_every = 1000
    c.train.samples = 0
    c.update_from_flattened_dict(changes or {})
    return c


def lines(workdir, kind="train"):
    """The records of metrics.jsonl. NaN is not JSON, though Python reads it."""

    def refuse(word):
        raise ValueError(f"{word} is not JSON")

    text = (workdir / "metrics.jsonl").read_text()
    records = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    return [record for record in records if record["kind"] == kind]


def same(a, b):
    """Whether two trees are bit-identical, types included."""
    a, b = jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b))
    return len(a) == len(b) and all(
        np.asarray(x).dtype == np.asarray(y).dtype and np.array_equal(x, y, equal_nan=True)
        for x, y in zip(a, b, strict=True)
    )


class CompileCount:
    """A context manager that lists the names of the functions that XLA compiles, cached on disk or not."""

    def __enter__(self):
        self.names = []
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def _listen(self, event, duration, fun_name="", **_):
        if event.endswith("/backend_compile_duration"):
            self.names.append(fun_name)

    def steps(self):
        """How many train steps were compiled. `jax.pmap` calls what it maps `_fun`."""
        return self.names.count("jit(_fun)")

    def __exit__(self, *_):
        jax.monitoring.unregister_event_duration_listener(self._listen)


def start_training(runs, log, **environment):
    """Starts tests/run_training.py on a list of runs; returns the process. Its output goes to the file `log`."""
    words = [sys.executable, str(pathlib.Path(__file__).with_name("run_training.py")), json.dumps(runs, default=str)]
    with open(log, "wb") as output:
        return subprocess.Popen(words, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT)


def images_of(batch):
    return batch["image"].astype(jnp.float32) / 255


@functools.partial(jax.custom_vjp)
def _spoil_gradient(x, factor):
    return x


_spoil_gradient.defvjp(lambda x, factor: (x, factor), lambda factor, g: (g * factor, None))


def _estimate(reconstruct):
    @jax.jit
    def estimate(params, state, image):
        x = image.astype(jnp.float32) / 255
        out = jnp.clip(reconstruct(params, x), 0, 1)
        mse255 = jnp.mean((x - out) ** 2, (1, 2, 3)) * 255**2
        return {
            "loss": mse255,
            "bits": jnp.zeros(x.shape[0]),
            "mse255": mse255,
            "reconstruction": jnp.round(out * 255).astype(jnp.uint8),
        }

    return estimate


def toy(*, width=4, bad_losses=(), bad_gradients=(), extra=False, dtype=None):
    """A linear autoencoder of pixels, with noise and with a state of floats and an integer.

    bad_losses, bad_gradients: steps whose loss, or only its gradient, is NaN. extra: one parameter more.
    """

    def init(key, image_shape):
        rng = np.random.default_rng(int(np.asarray(jax.random.key_data(key))[-1]))
        params = {
            "encoder": {"kernel": rng.normal(0, 0.5, (3, width)).astype(np.float32)},
            "decoder": {"kernel": rng.normal(0, 0.5, (width, 3)).astype(np.float32)},
        }
        if extra:
            params["extra"] = {"bias": np.full(3, 0.25, np.float32)}
        return params, {"mean": np.zeros(3, np.float32), "count": np.zeros((), np.int32)}

    def reconstruct(params, x, noise=0.0):
        y = (x.astype(dtype or x.dtype) @ params["encoder"]["kernel"].astype(dtype)) + noise
        out = (y @ params["decoder"]["kernel"].astype(dtype)).astype(jnp.float32)
        return out + params["extra"]["bias"] if extra else out

    def loss(params, state, batch, keys, step):
        x = images_of(batch)
        noise = jax.vmap(lambda key: 0.1 * jax.random.normal(key, (*x.shape[1:3], width)))(keys)
        gradient_factor = jnp.where(jnp.isin(step, jnp.array(bad_gradients or (-1,))), jnp.nan, 1.0)
        params = jax.tree.map(lambda p: _spoil_gradient(p, gradient_factor), params)
        value = jnp.mean((x - reconstruct(params, x, noise)) ** 2)
        value = jnp.where(jnp.isin(step, jnp.array(bad_losses or (-1,))), jnp.nan, value)
        mean = jax.lax.stop_gradient(jnp.mean(x, (0, 1, 2)))
        state = {"mean": 0.9 * state["mean"] + 0.1 * mean, "count": state["count"] + 1}
        return value, ({"loss": value, "bpp": jnp.mean(jnp.abs(x)), "step": step.astype(jnp.float32)}, state)

    def export(params, state):
        return Artifact("toy", {"width": width}, params, state, {})

    owns = ("encoder", "decoder") + (("extra",) if extra else ())
    return Codec(init, {"rd": Objective(owns, loss)}, _estimate(reconstruct), export, None, None)


def toy_gan(*, overlap=False):
    """Two networks: "disc" moves v towards where w's images are not, "gen" moves w. "critic" is another name of "disc".

    Each objective reports which positions of the batch it saw: `seen` is the mean of 2^position over its examples, as
    far as they are below 24 (float32 is exact up to there), and `seen_above_23` that of 2^(position - 24).
    """

    def init(key, image_shape):
        return {"w": {"bias": np.full(3, 0.1, np.float32)}, "v": {"bias": np.full(3, 0.2, np.float32)}}, {}

    def make(sign):
        def loss(params, state, batch, keys, step):
            noise = jax.vmap(lambda key: jax.random.uniform(key, (3,)))(keys)
            score = jnp.mean(images_of(batch), (1, 2)) * params["v"]["bias"] + noise * params["w"]["bias"]
            value = sign * jnp.mean(score * params["v"]["bias"]) + jnp.mean(params["w"]["bias"] ** 2)
            bits = 2.0 ** (batch["position"] % 24).astype(jnp.float32)
            low = batch["position"] < 24
            seen = {"seen": jnp.mean(jnp.where(low, bits, 0)), "seen_above_23": jnp.mean(jnp.where(low, 0, bits))}
            return value, ({"loss": value, **seen}, state)

        return loss

    disc = Objective(("v", "w") if overlap else ("v",), make(1.0))
    objectives = {"disc": disc, "critic": disc, "gen": Objective(("w",), make(-1.0))}
    return Codec(init, objectives, _estimate(lambda params, x: x + params["w"]["bias"]), None, None, None)
