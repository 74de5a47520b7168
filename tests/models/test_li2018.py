"""Li 2018: quantisers and their gradients, the released networks' counts, rates, streams, and where bits go."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.linen import meta
from small import crops, photos

from mlic_jax import zoo
from mlic_jax.entropy.bits import raw
from mlic_jax.errors import CorruptStreamError, InputError, ModelError, UsageError
from mlic_jax.families import binary
from mlic_jax.fileformat.artifact import Artifact, flatten, unflatten
from mlic_jax.layers.windows import geometry
from mlic_jax.models import li2018


@functools.cache
def started(noise=0.1, **arguments):
    """(codec, params, artifact) of the toy with noise on every weight."""
    codec = zoo.make("li2018", **{**li2018.TOY, **arguments})
    params, _ = codec.init(jax.random.key(0), (64, 64, 3))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: (a + noise * rng.normal(size=a.shape)).astype(np.float32), params)
    return codec, params, codec.export(params, {})


def batch(images):
    return {"image": jnp.asarray(images), "position": jnp.arange(len(images))}


def loss_of(codec, params, images, objective="rd"):
    return codec.objectives[objective].loss(params, {}, batch(images), None, 0)


# ---------------------------------------------------------------------- quantisers


def test_a_bit_is_one_above_a_half_and_its_gradient_is_one_within_0_and_1():
    e = jnp.array([-0.5, 0.0, 0.3, 0.5, 0.50001, 0.9, 1.0, 1.5])
    np.testing.assert_array_equal(li2018.binarise(e), [0, 0, 0, 0, 1, 1, 1, 1])
    gradient = jax.grad(lambda e: jnp.sum(li2018.binarise(e) * jnp.arange(8)))(e)
    np.testing.assert_array_equal(gradient[jnp.array([2, 3, 4, 5])], [2, 3, 4, 5])
    assert gradient[0] == 0 and gradient[7] == 0


@pytest.mark.parametrize("n, levels", [(64, 16), (128, 32), (8, 4), (8, 8)])
@pytest.mark.parametrize("floor_levels", li2018.LEVELS)
def test_the_mask_is_that_of_the_levels(n, levels, floor_levels):
    p = np.concatenate([[0.0, 1.0, 1 - 2.0**-24], np.linspace(0, 1, 97)]).astype(np.float32)
    found = np.asarray(li2018.mask(jnp.asarray(p)[None, None], n, levels, floor_levels))[0, 0]
    level = li2018.levels_of(p, levels)
    kept = li2018.keep_of(level, n, levels, floor_levels)
    for value, row, number, count in zip(p, found, level, kept, strict=True):
        # Q(p) = l - 1 for (l - 1) / L <= p < l / L; the last interval holds 1 as well.
        assert number / levels <= value and (value < (number + 1) / levels or number == levels - 1)
        assert count == n // levels * (number + (floor_levels == "released"))
        np.testing.assert_array_equal(row, np.arange(1, n + 1) <= count)
    possible = np.arange(levels) * (n // levels) + (n // levels if floor_levels == "released" else 0)
    np.testing.assert_array_equal(np.unique(kept), possible)


def test_the_local_gradient_is_that_of_the_authors_window():
    """n = 64, L = 16, p = 0.53, L p = 8.48: the eight channels 29 to 36, each with 16 (Li et al., equation 7)."""

    def gradient(floor_levels, kind):
        def picked(p):
            return li2018.mask(p * jnp.ones((1, 1, 1)), 64, 16, floor_levels, kind)[0, 0, 0]

        return np.asarray(jax.jacrev(picked)(0.53))

    for floor_levels, channels in (("paper", range(29, 37)), ("released", range(33, 41))):
        found = gradient(floor_levels, "local")
        np.testing.assert_array_equal(np.flatnonzero(found) + 1, list(channels))
        assert set(found[found != 0]) == {16.0}
        kept = int(li2018.keep_of(np.float32(8), 64, 16, floor_levels))
        assert kept - 4 + 1 == channels[0] and kept + 4 == channels[-1]  # as many on both sides of the cut
        np.testing.assert_array_equal(gradient(floor_levels, "global"), 1)


def test_planes_of_levels_begin_with_the_most_significant_bit():
    level = np.arange(16).reshape(4, 4)
    planes = li2018.planes_of(level, 4)
    assert planes[0, 3].tolist() == [0, 0, 1, 1] and planes[2, 0].tolist() == [1, 0, 0, 0]
    np.testing.assert_array_equal(li2018.level_of_planes(planes), level)


# ---------------------------------------------------------------------- networks


@pytest.mark.parametrize(
    "size, analysis, synthesis", [("PUBLISHED", 2_631_360, 5_905_923), ("PUBLISHED_HIGH", 2_647_808, 6_200_835)]
)
def test_parameters_of_the_released_networks(size, analysis, synthesis):
    counts = _counts(getattr(li2018, size))
    assert counts["encoder"] + counts["head"] == analysis
    assert counts["importance_net"] == 295_169
    assert counts["decoder"] == synthesis


def test_parameters_of_the_papers_layers():
    counts = _counts({**li2018.PUBLISHED, "variant": "paper"})
    # Less a 3x3 convolution of 256 in the encoder; one more of 128 in the importance network.
    assert counts["encoder"] == 2_614_912 - (9 * 256 * 256 + 256)
    assert counts["importance_net"] == 295_169 + 9 * 128 * 128 + 128
    # 1x1 for 3x3 in front, no second 3x3 of 512, 3x3 for 1x1 at the end.
    assert counts["decoder"] == 5_905_923 - 8 * 64 * 512 - (9 * 512 * 512 + 512) + 8 * 32 * 3


def _counts(size):
    fields = {key: value for key, value in size.items() if key not in ("code_features", "map_features", "blocks")}
    module = li2018.Li2018(
        **fields, importance="map", floor_levels="released", code_features=1, map_features=1, blocks=0
    )
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    return {
        name: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(part))
        for name, part in meta.unbox(shapes)["params"].items()
    }


@pytest.mark.parametrize("variant", li2018.VARIANTS)
def test_networks_have_a_stride_of_8(variant):
    for layers, cells in ((li2018.encoder(variant, 8, 1), (8, 1)), (li2018.decoder(variant, 8, 1), (1, 8))):
        found = geometry(layers)
        assert (found.cell_in, found.cell_out) == cells
        assert found.margin <= 9


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_published_layers_code_pictures(variant):
    codec, params, artifact = started(variant=variant, n=8, levels=4)
    image = crops(1, 64)[0][:41, :52]
    chunks = codec.compress(artifact, image)
    shown = codec.decompress(artifact, chunks, image.shape[:2])
    estimate = codec.estimate(params, {}, image[None])
    assert np.abs(np.asarray(estimate["reconstruction"])[0].astype(int) - shown).max() <= 1


# ---------------------------------------------------------------------- loss


@functools.cache
def gradient_by_importance(**arguments):
    """d loss / d (bias of the importance network's last layer), the distortion left out by dead codes."""
    codec, params, _ = started(**arguments)
    flat = dict(params)
    flat["decoder"] = jax.tree.map(np.zeros_like, params["decoder"])
    loss = jax.grad(lambda p: loss_of(codec, p, crops(2, 32)), has_aux=True)
    gradient, (metrics, _) = jax.jit(loss)(flat)
    return float(gradient["importance_net"]["layers_2"]["bias"][0]), jax.device_get(metrics)


def test_the_hinge_is_flat_below_r0_and_rises_with_gamma_above():
    below, metrics = gradient_by_importance(r0=1.0, gamma=1.0)
    assert below == 0 and metrics["loss"] == metrics["mse255"]
    above, metrics = gradient_by_importance(r0=0.0, gamma=1.0)
    twice, _ = gradient_by_importance(r0=0.0, gamma=2.0)
    assert above > 0 and twice == pytest.approx(2 * above, rel=1e-4)
    # In the paper's units gamma weighs the sum of p beside half of the squared errors in -1..1.
    cells, samples = 16, 32 * 32 * 3
    papers = samples / 2 * (2 / 255) ** 2 * metrics["mse255"] + cells * metrics["importance"]
    assert metrics["loss"] == pytest.approx(float(papers) / (samples / 2 * (2 / 255) ** 2), rel=1e-4)


def test_the_released_rate_is_a_push_while_too_many_bits_are_sent():
    above, metrics = gradient_by_importance(rate="keep_ratio", r0=0.0, gamma=1.0)
    as_hinge, _ = gradient_by_importance(r0=0.0, gamma=1.0)
    assert above == pytest.approx(as_hinge, rel=1e-5)
    below, _ = gradient_by_importance(rate="keep_ratio", r0=1.0, gamma=1.0)
    assert below == 0


def test_the_loss_is_a_mean_over_pictures():
    codec, params, _ = started(r0=0.3, gamma=1.0)
    images = crops(2, 32)
    loss = jax.jit(lambda images: loss_of(codec, params, images)[0])
    single = [float(loss(images[i : i + 1])) for i in range(2)]
    assert float(loss(images)) == pytest.approx(np.mean(single), rel=1e-5)
    assert float(loss(np.concatenate([images, images]))) == pytest.approx(np.mean(single), rel=1e-5)


def test_objectives_own_different_parameters_and_move_all_of_theirs():
    codec, params, _ = started(r0=0.0)
    rd, entropy = codec.objectives["rd"], codec.objectives["entropy"]
    assert set(rd.owns) | set(entropy.owns) == set(params) and not set(rd.owns) & set(entropy.owns)
    for name, objective in codec.objectives.items():
        gradient = jax.jit(jax.grad(lambda p, name=name: loss_of(codec, p, crops(2, 32), name)[0]))(params)
        for key, part in gradient.items():
            moved = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(part))
            assert (moved > 0) == (key in objective.owns), key


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("arguments", [{"floor_levels": "paper"}, {"entropy": "none"}, {"importance": "none"}], ids=str)
def test_files_show_what_was_estimated(arguments):
    codec, params, artifact = started(**arguments)
    artifact = Artifact.from_bytes(artifact.to_bytes())
    for size in ((1, 1), (17, 40)):
        image = np.ascontiguousarray(photos()[1][: size[0], : size[1]])
        (chunk,) = codec.compress(artifact, image)
        shown = codec.decompress(artifact, (chunk,), size)
        assert shown.dtype == np.uint8 and shown.shape == image.shape
        estimate = jax.device_get(codec.estimate(params, {}, image[None]))
        assert np.abs(estimate["reconstruction"][0].astype(int) - shown).max() <= 1
        overhead = 8 + 2 * (7 if arguments.get("entropy") == "none" else 48)
        assert 0.98 * estimate["bits"][0] - 8 <= 8 * len(chunk) <= 1.01 * estimate["bits"][0] + overhead


def test_the_decoder_counts_bits_by_the_map_in_the_file():
    """Raw bits: of the levels L p of all cells, and n / L (level + 1) for each cell."""
    codec, params, artifact = started(entropy="none")
    module = _module()
    image = crops(1, 64)[0]
    (chunk,) = codec.compress(artifact, image)
    _, p = module.apply({"params": _networks(params)}, jnp.asarray(image[None]) / 255.0, method="codes")
    level = li2018.levels_of(np.asarray(p[0]), 4)
    first, rest = raw.split(chunk)
    assert len(first) == 64 * 2 // 8
    assert len(rest) == -(-int(li2018.keep_of(level, 8, 4, "released").sum()) // 8)


def _module():
    return li2018.Li2018(**li2018.TOY, importance="map", floor_levels="released")


def _networks(params):
    return {key: value for key, value in params.items() if not key.endswith("prior")}


def test_a_user_says_where_bits_go():
    for entropy in li2018.ENTROPY:
        codec, _, artifact = started(entropy=entropy)
        assert codec.traits.guided
        image = crops(1, 96)[0][:90, :95]
        left, right = np.zeros((90, 95)), np.zeros((90, 95))
        left[:, :48], right[:, 48:] = 1, 1
        shown = {}
        for name, importance in (("none", 0 * left), ("left", left), ("right", right), ("all", 1 + 0 * left)):
            chunks = codec.compress(artifact, image, importance=importance)
            shown[name] = codec.decompress(artifact, chunks, image.shape[:2]), len(chunks[0])
        assert shown["none"][1] < shown["left"][1] < shown["all"][1]
        # Far from the border, either half is what the same bits make of it everywhere.
        np.testing.assert_array_equal(shown["left"][0][:, :24], shown["all"][0][:, :24])
        np.testing.assert_array_equal(shown["left"][0][:, 72:], shown["none"][0][:, 72:])
        np.testing.assert_array_equal(shown["right"][0][:, 72:], shown["all"][0][:, 72:])
        assert (shown["left"][0] != shown["none"][0]).any()
        for wrong in (left[:-1], left * 2, left - 0.1, np.where(left, np.nan, 0)):
            with pytest.raises(InputError, match="importance map"):
                codec.compress(artifact, image, importance=wrong)


def test_a_users_map_is_the_mean_of_cells():
    importance = np.random.default_rng(0).random((10, 17))
    cells = binary.cell_means(importance, 8)
    assert cells.shape == (2, 3)
    np.testing.assert_allclose(cells[0, 1], importance[:8, 8:16].mean())
    np.testing.assert_allclose(cells[0, 2], importance[:8, 16].mean())


@pytest.mark.parametrize("entropy", li2018.ENTROPY)
def test_damaged_files(entropy):
    codec, _, artifact = started(entropy=entropy)
    image = crops(1, 64)[0]
    (chunk,) = codec.compress(artifact, image)
    shown = codec.decompress(artifact, (chunk,), (64, 64))
    with pytest.raises(CorruptStreamError, match="one chunk"):
        codec.decompress(artifact, (chunk, chunk), (64, 64))
    with pytest.raises(CorruptStreamError, match="quality"):
        codec.decompress(artifact, (chunk,), (64, 64), 50)
    for wrong in (b"", chunk[:1], chunk[:-1], chunk + bytes(4), chunk[:10]):
        with pytest.raises(CorruptStreamError):
            codec.decompress(artifact, (wrong,), (64, 64))
    rng = np.random.default_rng(0)
    for _ in range(25):
        at = rng.integers(len(chunk))
        damaged = chunk[:at] + bytes([chunk[at] ^ rng.integers(1, 256)]) + chunk[at + 1 :]
        try:
            assert codec.decompress(artifact, (damaged,), (64, 64)).shape == shown.shape
        except CorruptStreamError:
            pass


def test_damaged_models():
    codec, _, artifact = started()
    image = crops(1, 16)[0]
    for part, name in (("state", "code_prior/layer_0/kernel"), ("state", "map_prior/frequencies"), ("params", "head")):
        flat = flatten(getattr(artifact, part))
        kept = {key: value for key, value in flat.items() if not key.startswith(name)}
        parts = {"params": artifact.params, "state": artifact.state, part: unflatten(kept)}
        broken = Artifact(artifact.model, artifact.architecture, parts["params"], parts["state"], {})
        with pytest.raises(ModelError):
            codec.compress(broken, image)
    # Integers are made anew when an artifact is exported again.
    assert codec.export(artifact.params, artifact.state).fingerprint == artifact.fingerprint


@pytest.mark.parametrize(
    "wrong, names",
    [({"n": 10}, "levels"), ({"levels": 6, "n": 12}, "levels"), ({"r0": 1.5}, "r0"), ({"gamma": -1.0}, "gamma"),
     ({"variant": "best"}, "variant"), ({"variant": "released", "width": 12}, "width"), ({"width": 193}, "width"),
     ({"code_features": 1000}, "coder"), ({"importance": "some"}, "importance"), ({"n": 8.0}, "n="),
     ({"entropy": "huffman"}, "entropy"), ({"depth": -1}, "depth")],
)  # fmt: skip
def test_wrong_arguments(wrong, names):
    with pytest.raises(UsageError, match=names):
        zoo.make("li2018", **{**li2018.TOY, **wrong})


def test_what_compress_refuses():
    codec, _, artifact = started()
    image = crops(1, 16)[0]
    for arguments in ({"quality": 50}, {"effort": 1}):
        with pytest.raises(UsageError):
            codec.compress(artifact, image, **arguments)
    codec, _, artifact = started(importance="none")
    assert not codec.traits.guided and not any("map" in name or "importance" in name for name in artifact.params)
    with pytest.raises(UsageError, match="takes no importance map"):
        codec.compress(artifact, image, importance=np.ones((16, 16)))


# ---------------------------------------------------------------------- what it learns


def half_and_half(rng, count, size=64):
    """uint8 [count, size, size, 3]: one half flat, of any colour, the other noise beside; and which is which."""
    flat = rng.integers(60, 196, (count, 1, 1, 3)) * np.ones((1, size, size, 1))
    noise = rng.normal(0, 50, (count, size // 4, size // 4, 3)).repeat(4, 1).repeat(4, 2)
    side = np.arange(size)[None, None, :, None] < size // 2
    swap = rng.random((count, 1, 1, 1)) < 0.5
    return np.clip(flat + noise * (side ^ swap), 0, 255).astype(np.uint8), (side ^ swap)[..., 0]


def learn(codec, params, images, steps):
    """The parameters after some steps of "rd"."""
    optimizer, images = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3)), jnp.asarray(images)

    def step(carry, i):
        params, moments = carry
        chosen = jax.random.randint(jax.random.fold_in(jax.random.key(0), i), (8,), 0, len(images))
        gradient = jax.grad(lambda p: loss_of(codec, p, images[chosen])[0])(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), None

    run = jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))[0][0])
    return jax.device_get(run(params))


@pytest.mark.slow
def test_bits_go_where_they_are_needed():
    """After a brief training, in the paper's two stages, the map sends more bits to the half that is not flat."""
    size = {**li2018.TOY, "n": 16, "levels": 4, "width": 24}
    images, _ = half_and_half(np.random.default_rng(0), 64)
    first = zoo.make("li2018", **size, importance="none")
    second = zoo.make("li2018", **size, r0=0.0, gamma=4.0)
    params = learn(first, first.init(jax.random.key(0), (64, 64, 3))[0], images, 150)
    params = learn(second, {**second.init(jax.random.key(0), (64, 64, 3))[0], **params}, images, 150)
    images, busy = half_and_half(np.random.default_rng(1), 8)
    module = li2018.Li2018(**size, importance="map", floor_levels="released")
    analyze = jax.jit(lambda images: module.apply({"params": _networks(params)}, images, method="codes"))
    kept = np.asarray(li2018.mask(analyze(jnp.asarray(images) / 255.0)[1], 16, 4, "released").sum(-1))
    cells = np.broadcast_to(busy, images.shape[:3])[:, ::8, ::8]
    assert kept[cells].mean() > 1.3 * kept[~cells].mean()
