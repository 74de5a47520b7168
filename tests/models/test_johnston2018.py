"""Johnston 2018: the 2017 networks as a special case, priming, the weighted loss, adaptive and user-given heights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import crops

from mlic_jax import zoo
from mlic_jax.entropy.bits import heights as height_maps
from mlic_jax.entropy.bits import raw
from mlic_jax.errors import CorruptStreamError, InputError, UsageError
from mlic_jax.families import recurrent, recurrent_codec
from mlic_jax.layers import init
from mlic_jax.models import johnston2018, toderici2017

OPTIONS = {"cell": "gru", "framework": "additive", "hidden_kernels": "3x3", "copies": 4, **johnston2018.TOY}
SIZE = 48, 64


def networks(**changes):
    return toderici2017.networks("johnston2018", **{**OPTIONS, **changes})


@functools.cache
def parameters(hidden_kernels="3x3"):
    module = networks(hidden_kernels=hidden_kernels)
    boxed = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32))["params"]
    return init.materialise(boxed, jax.random.key(0))


@functools.cache
def made(**changes):
    """(codec, artifact) as initialised."""
    codec = zoo.make("johnston2018", **{**johnston2018.TOY, "prime_steps": 1, **changes})
    return codec, codec.export(*codec.init(jax.random.key(0), (48, 48, 3)))


@functools.cache
def photo():
    """Half of it flat."""
    image = crops(1, 64, seed=5)[0][: SIZE[0]].copy()
    image[:, :32] = 90
    return image


def test_without_its_own_parts_it_is_the_model_of_2017():
    shared = {**johnston2018.TOY, "cell": "lstm", "framework": "additive"}
    old = zoo.make("toderici2017", **shared)
    new = zoo.make("johnston2018", **shared, hidden_kernels="2017", prime_steps=0, loss="l1", allocation="uniform")
    params, _ = old.init(jax.random.key(0), (48, 48, 3))
    of_old, of_new = old.export(params, {}), new.export(params, {})
    chunks = old.compress(of_old, photo(), 100.0)
    assert new.compress(of_new, photo(), 100.0) == chunks
    shown = old.decompress(of_old, chunks, SIZE, 100.0)
    np.testing.assert_array_equal(new.decompress(of_new, chunks, SIZE, 100.0), shown)
    # Heights of all iterations everywhere code the same bits, and a map.
    guided = new.compress(of_new, photo(), 100.0, importance=np.ones(SIZE))
    assert guided[1:] == chunks[1:] and guided[0][-len(chunks[0]) + 1 :] == chunks[0][1:]
    np.testing.assert_array_equal(new.decompress(of_new, guided, SIZE, 100.0), shown)


def unrolled(module, params, image):
    return jax.jit(lambda x: recurrent.unroll(module, params, x, lambda y, t: recurrent.binarise(y)))(image)


def test_priming_adds_no_bits_and_decoders_prime_by_the_first_code():
    image = recurrent.to_input(jnp.asarray(photo()[None]))
    found = {k: unrolled(networks(prime_steps=k), parameters(), image) for k in (0, 2)}
    assert found[0][1].shape == found[2][1].shape == (3, 1, 3, 4, 8)
    assert not np.array_equal(found[0][0], found[2][0])
    # By hand: the encoder's states of two runs on the picture, then the decoder's of two runs on the first code.
    module, variables = networks(), {"params": parameters()}
    analyze, synthesize = (jax.jit(functools.partial(module.apply, method=name)) for name in ("analyze", "synthesize"))
    of_encoder, of_decoder = module.apply(variables, 1, *SIZE, method="start")
    for _ in range(3):
        of_encoder, y = analyze(variables, of_encoder, image, of_decoder)
    code = recurrent.binarise(y)
    np.testing.assert_array_equal(found[2][1][0], code)
    states = {}
    for name, fed in (("code", code), ("nothing", 0 * code)):
        state = of_decoder
        for _ in range(2):
            state = (synthesize(variables, state, fed)[0], *of_decoder[1:])
        states[name] = state
    shown = synthesize(variables, states["code"], code)[1]
    np.testing.assert_allclose(found[2][0][0], shown, atol=1e-5)
    assert np.abs(states["code"][0][0] - states["nothing"][0][0]).max() > 1e-3


def test_diffusion_runs_before_all_other_iterations():
    image = recurrent.to_input(jnp.asarray(photo()[None]))
    plain = unrolled(networks(), parameters(), image)
    diffused = unrolled(networks(diffuse_steps=1), parameters(), image)
    np.testing.assert_allclose(plain[0][0], diffused[0][0], atol=1e-6)
    assert not np.allclose(plain[0][1], diffused[0][1], atol=1e-4)


def test_states_spread_with_priming_and_with_hidden_kernels():
    def reach(hidden_kernels, prime_steps):
        """How many cells' first codes, before their sign, depend on a pixel in the middle of 11 cells."""
        module, params = networks(hidden_kernels=hidden_kernels), {"params": parameters(hidden_kernels)}

        def y(x):
            state, of_decoder = module.apply(params, 1, 16, 176, method="start")
            for _ in range(prime_steps + 1):
                state, y = module.apply(params, state, x, of_decoder, method="analyze")
            return y

        x = jnp.asarray(np.random.default_rng(0).uniform(-0.5, 0.5, (1, 16, 176, 3)), jnp.float32)
        other = x.at[0, 8, 88].add(0.5)
        return int((np.abs(y(x) - y(other)).max(-1) > 0).sum())

    assert reach("2017", 0) <= reach("2017", 3)
    assert reach("3x3", 0) < reach("3x3", 1) < reach("3x3", 3)
    assert reach("2017", 3) < reach("3x3", 3)


# ---------------------------------------------------------------------- the loss


def test_ssim_of_blocks_follows_its_definition():
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(0, 1, (16, 24, 3)).astype(np.float32) for _ in range(2))
    found = np.asarray(johnston2018.block_ssim(jnp.asarray(x), jnp.asarray(y)))
    for i, j in np.ndindex(2, 3):
        a, b = (one[8 * i : 8 * i + 8, 8 * j : 8 * j + 8].reshape(64, 3).astype(float) for one in (x, y))
        covariance = ((a - a.mean(0)) * (b - b.mean(0))).mean(0)
        value = (2 * a.mean(0) * b.mean(0) + 1e-4) * (2 * covariance + 9e-4)
        value /= (a.mean(0) ** 2 + b.mean(0) ** 2 + 1e-4) * (a.var(0) + b.var(0) + 9e-4)
        assert found[i, j] == pytest.approx(value.mean(), abs=1e-5)
    np.testing.assert_allclose(johnston2018.block_ssim(jnp.asarray(x), jnp.asarray(x)), 1, atol=1e-6)


def pictures(seed=0, strength=0.1):
    rng = np.random.default_rng(seed)
    image = recurrent.to_input(jnp.asarray(crops(2, 32, seed=seed)))
    noise = rng.normal(0, strength, (3, *image.shape)) / np.arange(1, 4)[:, None, None, None, None]
    return image, image + noise.astype(np.float32)


def test_weights_take_part_in_no_gradient():
    image, shown = pictures()
    state = {"weighting": {"mean": jnp.full(3, 0.1)}}
    weights = np.asarray(johnston2018.weigh(image, shown, state["weighting"]["mean"])[0], float)
    assert weights.min() >= 0.05 and weights.std() > 0.05
    gradient = jax.grad(lambda s: johnston2018.ssim_weighted(image, s, state)[0].sum())(shown)

    def frozen(shown):  # in double precision, of NumPy alone
        errors = np.abs(np.asarray(image, float) - shown).reshape(3, 2, 4, 8, 4, 8, 3).mean((3, 5, 6))
        return 255 * (weights * errors).mean((0, 2, 3)).sum()

    rng, shown = np.random.default_rng(1), np.asarray(shown, float)
    for _ in range(12):
        place = tuple(rng.integers(0, side) for side in shown.shape)
        step = np.zeros_like(shown)
        step[place] = 1e-6
        difference = (frozen(shown + step) - frozen(shown - step)) / 2e-6
        assert float(gradient[place]) == pytest.approx(difference, rel=1e-3)
        # w times the gradient of the plain loss.
        t, b, row, column, _ = place
        plain = 255 * np.sign(shown[place] - float(image[place[1:]])) / shown[0, 0].size / 3
        assert difference == pytest.approx(weights[t, b, row // 8, column // 8] * plain, rel=1e-4)


def test_weights_are_about_one_and_their_mean_follows():
    mean, found = jnp.zeros(3), []
    for seed in range(40):
        image, shown = pictures(seed)
        weights, mean = jax.jit(johnston2018.weigh)(image, shown, mean)
        if seed == 0:
            assert (weights == 1).all()  # nothing is known yet: the plain loss
            expected = (1 - johnston2018.block_ssim(image + 0.5, shown + 0.5)).mean((1, 2, 3)) / 2
            np.testing.assert_allclose(mean, expected, rtol=1e-5)
        found.append(np.asarray(weights).mean((1, 2, 3)))
    assert (np.mean(found, 0) > 0.5).all() and (np.mean(found, 0) < 2).all()


@pytest.mark.slow
def test_the_running_mean_is_the_losses_state():
    codec, _ = made(remat=False)
    params, state = codec.init(jax.random.key(0), (32, 32, 3))
    batch = {"image": jnp.asarray(crops(2, 32)), "position": jnp.arange(2)}
    keys = jax.random.split(jax.random.key(1), 2)
    _, (metrics, after) = jax.jit(codec.objectives["rd"].loss)(params, state, batch, keys, 0)
    assert (state["weighting"]["mean"] == 0).all() and (after["weighting"]["mean"] > 0.01).all()
    assert metrics["l1_255"] == pytest.approx(float(metrics["loss"]), rel=1e-5)
    assert codec.export(params, after).state.keys() == {"entropy"}


# ---------------------------------------------------------------------- heights


def heights_in(chunks):
    """The map [3, 4] in the first chunk, or None."""
    if chunks[0][0] == 0:
        return None
    return height_maps.decode(raw.split(chunks[0][1:])[0], (3, 4), 3)


@pytest.mark.parametrize("entropy", recurrent_codec.ENTROPY)
def test_adaptive_streams_show_the_encoders_picture(entropy):
    codec, artifact = made(entropy=entropy)
    module, params = networks(prime_steps=1), artifact.variables["params"]
    for quality in (50.0, 83.5):
        chunks = codec.compress(artifact, photo(), quality)
        heights = heights_in(chunks)
        assert heights is not None and heights.mean() <= quality * 3 / 100
        assert heights.min() >= np.ceil(heights.max() / 2) and len(chunks) == heights.max()
        codes, shown = map(
            np.stack, zip(*recurrent.encode(module, params, photo(), heights.max(), heights), strict=True)
        )
        for count in range(1, len(chunks) + 1):
            found = codec.decompress(artifact, chunks[:count], SIZE, quality)
            np.testing.assert_array_equal(found, shown[count - 1])
        assert (np.abs(codes).sum((0, 3)) == 8 * heights).all()
        estimate = codec.estimate(artifact.params, artifact.state, photo()[None], quality)
        np.testing.assert_array_equal(estimate["reconstruction"][0], shown[-1])
        assert 8 * sum(map(len, chunks)) <= 1.005 * float(estimate["bits"][0]) + 320


def test_a_users_map_decides_where_bits_go():
    codec, artifact = made(entropy="none", allocation="uniform")
    assert codec.traits.guided and codec.traits.progressive
    importance = np.zeros(SIZE)
    importance[:, 48:] = 1
    chunks = codec.compress(artifact, photo(), 66.5, importance=importance)
    heights = heights_in(chunks)
    assert (heights[:, 3] == heights.max()).all() and (heights[:, 0] < heights.max()).all() and heights.mean() <= 2
    assert codec.decompress(artifact, chunks, SIZE, 66.5).shape == photo().shape
    assert heights_in(codec.compress(artifact, photo(), 66.5)) is None
    for wrong in (importance[1:], importance + 1, np.full(SIZE, np.nan)):
        with pytest.raises(InputError):
            codec.compress(artifact, photo(), 66.5, importance=wrong)


def test_damaged_maps_are_refused():
    codec, artifact = made(entropy="none")
    chunks = codec.compress(artifact, photo(), 83.5)
    with pytest.raises(CorruptStreamError):  # of another model, whose heights may be greater
        other = b"\1" + (coded := height_maps.encode(np.full((3, 4), 9), 16))[:0] + bytes([len(coded)]) + coded
        codec.decompress(artifact, (other + chunks[0],), SIZE, 83.5)
    for i in range(1, chunks[0][1] + 2):
        forged = bytearray(chunks[0])
        forged[i] ^= 0x40
        try:
            found = codec.decompress(artifact, (bytes(forged), *chunks[1:]), SIZE, 83.5)
        except CorruptStreamError:
            continue
        assert found.shape == photo().shape


def test_wrong_arguments():
    for name, wrong in (
        ("loss", "l2"),
        ("allocation", "sabr"),
        ("masked", 2),
        ("prime_steps", -1),
        ("hidden_kernels", 3),
    ):
        with pytest.raises(UsageError, match=name):
            johnston2018.johnston2018(**{**johnston2018.TOY, name: wrong})
