"""Objectives of other people around the forward pass of a latent model: a GAN, whose discriminator no artifact has."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
import toys

from mlic_jax import zoo
from mlic_jax.codec import Objective
from mlic_jax.entropy.exact import ExactStack
from mlic_jax.entropy.priors.gaussian import Gaussian, LogGaussian
from mlic_jax.errors import UsageError
from mlic_jax.families.latent import LatentCodec, LatentModel, latent_codec
from mlic_jax.fileformat.artifact import Artifact, flatten
from mlic_jax.layers import Conv, ConvTranspose
from mlic_jax.training import runs
from mlic_jax.training.step import check_schedule, initial_state, make_step
from mlic_jax.training.train import train

NAME = "test_forward:gan"
PROXIES = {"z": "noise", "y": "mixed"}


SIDE, C = 16, 3


class Small(LatentModel):
    """A scale hyperprior of few layers, which compiles in seconds."""

    stride = 4

    def setup(self):
        self.down, self.further = Conv(C, kernel=3, stride=2), Conv(C, kernel=3, stride=2)
        self.up = ConvTranspose(3, kernel=3, stride=2)
        self.h_s = ExactStack((ConvTranspose(C, kernel=3, stride=2),), of_values=True)

    def analyze(self, image):
        y = 8 * self.down(image)
        return {"y": y, "z": self.further(y)}

    def transmit(self, code):
        z = code("z", LogGaussian(np.full((1, 1, 1, C), 0.5, np.float32)))
        return code("y", Gaussian(scale=code.exact(self.h_s, z)))

    def synthesize(self, received):
        return self.up(received / 8)


class Critic(nn.Module):
    """Plain Flax: whether pictures [B, H, W, 3] are the originals, given what was sent of them: [B]."""

    @nn.compact
    def __call__(self, image, y):
        self.variable("state", "calls", jnp.zeros, ()).value += 1.0
        coarse = nn.avg_pool(image, (2, 2), (2, 2))
        return nn.Dense(1)(nn.relu(nn.Dense(8)(jnp.concatenate([coarse, y], -1)))).mean((1, 2, 3))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Adversarial(LatentCodec):
    """After HiFiC (Mentzer et al. 2020): non-saturating, conditional, two objectives in turn; the rate has a target."""

    beta: float
    target_bpp: float = 1.0
    critic: Critic = Critic()

    def training_only(self, key):
        made = self.critic.init(key, jnp.zeros((1, SIDE, SIDE, 3)), jnp.zeros((1, SIDE // 2, SIDE // 2, C)))
        return {kind: {"critic": values} for kind, values in made.items()}

    def objectives(self):
        own = super().objectives()
        return {**own, "gen": Objective(own["rd"].owns, self.gen_loss), "disc": Objective(("critic",), self.disc_loss)}

    def judge(self, params, state, image, y):
        variables = {"params": params["critic"], "state": state["critic"]}
        logits, changed = self.critic.apply(variables, image, jax.lax.stop_gradient(y), mutable=["state"])
        return logits, {**state, "critic": changed["state"]}

    def gen_loss(self, params, state, batch, keys, step):
        passed = self.forward(params, state, batch, keys, step, count_rounded=True)
        _, metrics = self.rate_distortion(passed)
        rounded = passed.rounded_bits_per_pixel().mean()
        weight = jnp.where(rounded > self.target_bpp, 2.0, 2.0**-4)
        fooled = nn.softplus(-self.judge(params, state, passed.reconstruction, passed.received["y"])[0]).mean()
        total = weight * passed.bits_per_pixel().mean() + 1e-3 * metrics["mse255"] + self.beta * fooled
        return total, ({**metrics, "loss": total, "rounded_bpp": rounded, "fooled": fooled}, passed.state)

    def disc_loss(self, params, state, batch, keys, step):
        passed = self.forward(params, state, batch, keys, step)
        y = passed.received["y"]
        true, state = self.judge(params, state, passed.image, y)
        false, state = self.judge(params, state, jax.lax.stop_gradient(passed.reconstruction), y)
        total = nn.softplus(-true).mean() + nn.softplus(false).mean()
        return total, ({"loss": total}, state)


@zoo.factory
def gan(*, lmbda=0.01, proxy=None, family=None, **training):
    training.pop("dtype", None)
    family = functools.partial(family or Adversarial, beta=0.15)
    proxy = PROXIES if proxy is None else proxy
    return latent_codec(Small(), model=NAME, architecture={}, lmbda=lmbda, proxy=proxy, family=family, **training)


def batch(count=4):
    return {"image": jnp.asarray(small.crops(count, SIDE)), "position": jnp.arange(count)}


def begin(codec):
    return codec.init(jax.random.key(0), (SIDE, SIDE, 3))


@pytest.fixture(scope="module")
def trained():
    """(codec, states before and after each of four steps, their metrics)."""
    codec = gan()
    optimizers = {name: optax.adam(3e-3) for name in ("disc", "gen")}
    step = jax.jit(make_step(codec, ("disc", "gen"), optimizers, seed=0))
    states, metrics = [initial_state(codec, *begin(codec), optimizers, 0.5)], []
    for _ in range(4):
        state, measured = step(states[-1], batch())
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(measured))
    return codec, states, metrics


def test_a_gan_around_the_forward_pass(trained):
    codec, states, metrics = trained
    check_schedule(codec, ("disc", "gen"))
    assert metrics[-1]["disc/loss"] < metrics[0]["disc/loss"] and metrics[-1]["gen/loss"] < metrics[0]["gen/loss"]
    before, after = (flatten(state.params) for state in (states[0], states[-1]))
    assert not [name for name in before if (before[name] == after[name]).all()]
    assert states[-1].state["critic"]["calls"] == 1 + 2 * 4  # one when it was made; `gen` leaves it alone
    assert all(m["gen/rounded_bpp"] > 0 and m["gen/rounded_bpp"] != m["gen/bpp"] for m in metrics)


def test_what_the_forward_pass_says():
    codec = gan()
    params, state = begin(codec)
    family = codec.init.__self__
    keys = jax.vmap(jax.random.key)(jnp.arange(4))

    @jax.jit
    def run(params):
        passed = family.forward(params, state, batch(), keys, 0, count_rounded=True)
        latents = family.module.apply({"params": params}, passed.image, method="analyze")
        return passed, latents, codec.objectives["rd"].loss(params, state, batch(), keys, 0)[1][0]

    passed, latents, metrics = jax.device_get(run(params))
    # z is noisy, and y is rounded, around a mean of 0.
    noise = passed.received["z"] - latents["z"]
    assert np.abs(noise).max() <= 0.5 + 1e-5 and 0.2 < np.abs(noise).mean() < 0.3
    np.testing.assert_allclose(passed.received["y"], np.rint(latents["y"]), atol=1e-5)
    for name, bits in passed.bits.items():
        assert metrics[f"bpp_{name}"] == pytest.approx(bits.mean() / SIDE**2, rel=1e-5)
    assert metrics["bpp"] == pytest.approx(passed.bits_per_pixel().mean(), rel=1e-5)
    error = 255**2 * np.mean((passed.image - passed.reconstruction) ** 2)
    assert metrics["mse255"] == pytest.approx(error, rel=1e-5) and metrics["loss"] == pytest.approx(
        0.01 * error + metrics["bpp"], rel=1e-5
    )
    # The scales of y come from a noisy z here: rounded, it is about what a file takes, and not the noise's bits.
    estimate = codec.estimate(params, state, batch()["image"])["bits"]
    rounded = sum(passed.rounded_bits.values())
    np.testing.assert_allclose(rounded, estimate, rtol=0.1)
    assert not np.allclose(rounded, sum(passed.bits.values()), rtol=1e-3)


def test_what_training_alone_has_is_not_exported(trained):
    codec, states, _ = trained
    state, images = states[-1], list(small.crops(2, SIDE))
    artifact = codec.export(state.params, state.state, images)
    assert "critic" in state.params and "critic" in state.average
    loaded = Artifact.from_bytes(artifact.to_bytes())
    assert "critic" not in loaded.params and "critic" not in loaded.state
    image = small.crops(1, SIDE)[0]
    decoded = codec.decompress(loaded, codec.compress(loaded, image), image.shape[:2])
    wanted = codec.estimate(loaded.params, loaded.state, image[None])["reconstruction"][0]
    assert np.abs(np.asarray(wanted, int) - decoded).max() <= 1
    assert codec.export(artifact.params, artifact.state, images).to_bytes() == artifact.to_bytes()


def test_it_is_checkpointed_and_resumed(tmp_path):
    """A run that was interrupted ends with the same bits, the discriminator's among them."""
    config = toys.config({"train.steps": 2, "train.checkpoint_every": 1, "data.patch_size": SIDE}, NAME)
    config.schedule = ("disc", "gen")
    whole = train(config, tmp_path / "whole", quiet=True)
    for config.train.steps in (1, 2):
        parts = train(config, tmp_path / "parts", quiet=True)
    assert toys.same(parts, whole)
    assert int(whole.step) == 2 and whole.state["critic"]["calls"] == 1 + 2 * 2
    assert "critic" not in runs.export_run(tmp_path / "parts", "latest", list(small.crops(1, SIDE))).params


class Clash(Adversarial):
    def training_only(self, key):
        return {"params": {"down": {"bias": jnp.zeros(1)}}}


def test_what_cannot_be_trained():
    for wrong in ({"y": "ste"}, {"y": "ste", "z": "ste", "w": "ste"}):
        with pytest.raises(UsageError, match="proxies are given for y.*the model's latents are y, z"):
            begin(gan(proxy=wrong))
    with pytest.raises(UsageError, match="proxy 'loud' is not known"):
        gan(proxy={"y": "ste", "z": "loud"})
    with pytest.raises(UsageError, match="needs other names than down"):
        begin(gan(family=Clash))
