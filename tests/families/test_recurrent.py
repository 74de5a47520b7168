"""Recurrent codecs: binarisation, streams that may be cut after any chunk, heights, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from small import crops, photos
from sparing import one_of

from mlic_jax import api, zoo
from mlic_jax.entropy.bits import coders
from mlic_jax.errors import CorruptStreamError, ModelError, TruncationWarning, UsageError
from mlic_jax.families import recurrent, recurrent_codec
from mlic_jax.fileformat.artifact import Artifact, flatten, unflatten
from mlic_jax.layers import init
from mlic_jax.models import johnston2018, toderici2017

SIZE = 44, 40  # one program for all: 48x48 pixels, nine cells
MIDDLE, BEST = 66.5, 100.0  # two and three iterations


@functools.cache
def made(name="johnston2018", **changes):
    """(codec, artifact) as initialised."""
    toy = (johnston2018 if name == "johnston2018" else toderici2017).TOY
    if name == "johnston2018":
        changes = {"prime_steps": 0, "allocation": "uniform", **changes}
    codec = zoo.make(name, **{**toy, **changes})
    return codec, codec.export(*codec.init(jax.random.key(0), (48, 48, 3)))


@functools.cache
def photo():
    return np.ascontiguousarray(crops(1, 48, seed=3)[0][: SIZE[0], : SIZE[1]])


def test_random_bits_have_the_codes_mean_and_its_gradient():
    y = jnp.array([-1.0, -0.7, 0.0, 0.2, 1.0])
    count = 100_000
    keys = jax.random.split(jax.random.key(0), count)
    drawn = recurrent.binarise_randomly(jnp.broadcast_to(y, (count, 5)), keys)
    assert set(np.unique(drawn)) == {-1, 1}
    assert (np.abs(drawn.mean(0) - y) <= 4 * np.sqrt((1 - y**2) / count) + 1e-6).all()
    gradient = jax.grad(lambda y: jnp.sum(recurrent.binarise_randomly(y, keys[:2]) * jnp.arange(10.0).reshape(2, 5)))
    np.testing.assert_array_equal(gradient(jnp.broadcast_to(y, (2, 5))), np.arange(10).reshape(2, 5))


def test_zero_is_a_bit():
    assert recurrent.binarise(jnp.array([-0.1, -0.0, 0.0, 0.1])).tolist() == [-1, 1, 1, 1]


@pytest.mark.parametrize("entropy", recurrent_codec.ENTROPY)
def test_any_leading_chunks_are_the_picture_of_as_many_iterations(entropy):
    codec, artifact = made(entropy=entropy)
    assert (
        codec.traits.progressive
        and codec.traits.ladder == (33.5, 66.5, 100.0)
        and codec.traits.default_quality == MIDDLE
    )
    streams = [codec.compress(artifact, photo(), quality) for quality in codec.traits.ladder]
    assert [len(chunks) for chunks in streams] == [1, 2, 3]
    for count, chunks in enumerate(streams, 1):
        assert chunks == streams[-1][:count]
        shown = codec.decompress(artifact, chunks, SIZE, codec.traits.ladder[count - 1])
        assert shown.shape == (*SIZE, 3) and shown.dtype == np.uint8
        np.testing.assert_array_equal(codec.decompress(artifact, streams[-1][:count], SIZE, BEST), shown)
    if entropy == "none":
        assert [len(chunk) for chunk in streams[-1]] == [1 + 9, 9, 9]  # a byte of 8 bits for each of nine cells


@pytest.mark.parametrize("size", [(1, 1), (17, 30)])
def test_files_of_any_size_hold_what_is_estimated(size):
    codec, artifact = made()
    image = photo()[: size[0], : size[1]]
    stream = api.compress(image, artifact)
    estimate = codec.estimate(artifact.params, artifact.state, image[None])
    np.testing.assert_array_equal(estimate["reconstruction"][0], api.decompress(stream, artifact))
    assert 8 * len(stream) <= 1.005 * float(estimate["bits"][0]) + 320
    assert set(estimate) == {"loss", "bits", "mse255", "reconstruction"}
    # Without the integers of an artifact, the code length is the network's own.
    floats = codec.estimate(artifact.params, {}, image[None])
    np.testing.assert_allclose(floats["bits"], estimate["bits"], rtol=0.02)


def test_models_of_many_iterations_show_every_second_of_them():
    codec = zoo.make("toderici2017", **{**toderici2017.TOY, "iterations": 16})
    assert [round(q * 16 / 100) for q in codec.traits.ladder] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert all(2 * q == round(2 * q) for q in codec.traits.ladder) and codec.traits.default_quality == 62.5


def test_what_is_not_sent_is_zero_and_decoders_show_the_encoders_picture():
    codec, artifact = made()
    module = networks()
    params = artifact.variables["params"]
    heights = np.array([[1, 2, 3], [3, 3, 2], [2, 1, 3]], np.int32)
    image = np.pad(photo(), ((0, 4), (0, 8), (0, 0)), mode="edge")
    codes, pictures = map(np.stack, zip(*recurrent.encode(module, params, image, 3, heights), strict=True))
    for t in range(3):
        np.testing.assert_array_equal(np.abs(codes[t]).min(-1), heights > t)
        np.testing.assert_array_equal(np.abs(codes[t]).max(-1), heights > t)
        np.testing.assert_array_equal(recurrent.decode(module, params, codes[: t + 1]), pictures[t])
    # Where all is sent, heights change nothing.
    plain = [code for code, _ in recurrent.encode(module, params, image, 3)]
    full = [code for code, _ in recurrent.encode(module, params, image, 3, np.full((3, 3), 3))]
    np.testing.assert_array_equal(plain, full)
    assert not np.array_equal(plain, codes)


@one_of(
    "cell, framework",
    ("gru", "additive"),
    [("lstm", "scaling"), ("gru", "additive"), ("residual_gru", "one_shot"), ("associative_lstm", "additive")],
)
def test_windows_of_a_ladder_give_what_the_whole_picture_gives(cell, framework):
    """The codes and pictures of one program for the picture's own size."""
    image = np.ascontiguousarray(photos()[0][:96, :160])  # 6x10 cells, in a window of 8x12
    module = networks(cell=cell, framework=framework, prime_steps=1 if cell == "gru" else 0)
    params = shaken(module)
    shown, codes = jax.jit(lambda params, x: recurrent.unroll(module, params, x, lambda y, t: recurrent.binarise(y)))(
        params, recurrent.to_input(image[None])
    )
    found, pictures = map(np.stack, zip(*recurrent.encode(module, params, image, 3), strict=True))
    np.testing.assert_array_equal(found, codes[:, 0])
    error = np.abs(np.asarray(shown)[:, 0] * 255 + 127.5 - pictures)
    assert error[(shown[:, 0] > -0.5) & (shown[:, 0] < 0.5)].max() < 0.51  # of rounding
    np.testing.assert_array_equal(recurrent.decode(module, params, found), pictures[-1])


def shaken(module):
    """Initial parameters with noise on all of them: biases, too, would show beyond the picture's edge."""
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    boxed = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    rng = np.random.default_rng(0)
    params = init.materialise(boxed, jax.random.key(0))
    return jax.tree.map(lambda a: (a + 0.1 * rng.normal(size=a.shape)).astype(np.float32), params)


def test_pictures_of_all_sizes_share_few_programs():
    module = networks(iterations=2)
    params, rng = shaken(module), np.random.default_rng(0)
    with toys.CompileCount() as count:
        for _ in range(30):
            height, width = 16 * rng.integers(1, 9, 2)  # up to 128x128: two lengths along an axis
            codes = np.stack([code for code, _ in recurrent.encode(module, params, photo_of(height, width), 2)])
            recurrent.decode(module, params, codes)
    # Of each of four shapes: the start, what encodes, and what decodes.
    assert len(count.names) <= 12, count.names


def photo_of(height, width):
    return np.ascontiguousarray(photos()[1][:height, :width])


def networks(**changes):
    """The module of `made`, built as its factory does."""
    arguments = {"cell": "gru", "framework": "additive", "hidden_kernels": "3x3", "copies": 4, **johnston2018.TOY}
    return toderici2017.networks("toy", **{**arguments, **changes})


def test_training_unrolls_what_is_used():
    codec, artifact = made()
    image = np.pad(photo(), ((0, 4), (0, 8), (0, 0)), mode="edge")
    found = list(recurrent.encode(networks(), artifact.variables["params"], image, 3))
    for remat in (False, True):
        shown, codes = jax.jit(
            lambda params, x, remat=remat: recurrent.unroll(
                networks(), params, x, lambda y, t: recurrent.binarise(y), remat=remat
            )
        )(artifact.params, recurrent.to_input(image[None]))
        np.testing.assert_array_equal(codes[:, 0], [code for code, _ in found])
        error = np.abs(np.asarray(shown)[:, 0] * 255 + 127.5 - [picture for _, picture in found])
        assert error[(shown[:, 0] > -0.5) & (shown[:, 0] < 0.5)].max() < 0.51  # of rounding


@pytest.mark.slow
def test_objectives_train_their_own_networks():
    codec, artifact = made(remat=False)
    batch = {"image": jnp.asarray(crops(2, 32)), "position": jnp.arange(2)}
    keys = jax.random.split(jax.random.key(1), 2)
    assert codec.objectives["rd"].owns == ("decoder", "encoder")
    assert codec.objectives["entropy"].owns == ("entropy",)
    state = {"weighting": {"mean": np.zeros(3, np.float32)}}
    for name, objective in codec.objectives.items():
        loss = jax.jit(jax.value_and_grad(lambda p, loss=objective.loss: loss(p, state, batch, keys, 0)[0]))
        value, gradients = loss(artifact.params)
        assert np.isfinite(value)
        for part, tree in gradients.items():
            assert (max(np.abs(a).max() for a in jax.tree.leaves(tree)) > 0) == (part in objective.owns), (name, part)
    assert value == pytest.approx(1.0, abs=1e-6)  # before its training, a bit costs a bit


# ---------------------------------------------------------------------- what is refused


def test_streams_that_nobody_writes():
    codec, artifact = made(entropy="none")
    chunks = codec.compress(artifact, photo(), BEST)
    heights = np.array([[1, 2, 2], [2, 2, 2], [2, 1, 2]], np.int32)
    coder = coders.Encoding({"codes": np.ones((1, 2, 3, 3, 8)), "heights": heights[None]})
    transmission = recurrent_codec.Transmission(8, 3, True)
    transmission.apply({}, coders.WithoutPriors(coder), method="transmit")
    mapped = coder.chunks
    assert codec.decompress(artifact, mapped, SIZE, BEST).shape == (*SIZE, 3)
    length = mapped[0][1]
    forged = [
        (),
        (*chunks, chunks[-1]),
        (b"", *chunks[1:]),
        (b"\2" + chunks[0][1:],),
        (chunks[0][:-1],),
        (chunks[0] + b"\0",),
        (chunks[0], chunks[1][:-1]),
        (*mapped, mapped[-1]),
        (mapped[0][:1],),
        (b"\1" + b"\xff" * 6,),
        (b"\1\x80\0" + mapped[0][2:],),
        (b"\1\x7f" + mapped[0][2:],),
        (b"\1" + bytes([length - 1]) + mapped[0][2:],),
        (b"\1" + bytes([length]) + b"\xff" * length + mapped[0][2 + length :],),
    ]
    for one in forged:
        with pytest.raises(CorruptStreamError):
            codec.decompress(artifact, one, SIZE, BEST)
    with pytest.raises(CorruptStreamError):
        codec.decompress(artifact, chunks, SIZE, None)


def test_damaged_models_are_refused():
    codec, artifact = made()
    flat = flatten(artifact.params)
    name = next(iter(flat))
    for params, state in (
        (unflatten({**flat, name: flat[name][..., :-1]}), artifact.state),
        (unflatten({**flat, name: np.full_like(flat[name], np.nan)}), artifact.state),
        ({key: tree for key, tree in artifact.params.items() if key != "decoder"}, artifact.state),
        (artifact.params, {}),
    ):
        broken = Artifact(artifact.model, artifact.architecture, params, state, {})
        with pytest.raises(ModelError):
            codec.compress(broken, photo(), BEST)


def test_wrong_use():
    codec, artifact = made("toderici2017")
    for arguments in ({}, {"quality": 101}, {"quality": 50, "effort": 1}, {"quality": 50, "importance": np.ones(SIZE)}):
        with pytest.raises(UsageError):
            codec.compress(artifact, photo(), **arguments)
    for name, wrong in (
        ("entropy", "zip"),
        ("cell", "rnn"),
        ("framework", "none"),
        ("divisor", 3),
        ("divisor", True),
        ("code", 0),
        ("iterations", 65),
        ("copies", 1.5),
    ):
        with pytest.raises(UsageError, match=name):
            toderici2017.toderici2017(**{**toderici2017.TOY, name: wrong})


# ---------------------------------------------------------------- whole files


@pytest.mark.parametrize("entropy", ["binary_rnn", "none"])
def test_a_file_cut_off_anywhere_shows_its_longest_whole_prefix(entropy):
    _, artifact = made(entropy=entropy)
    data = api.compress(photo(), artifact, BEST)
    found = list(api.prefixes(data, artifact))
    assert [prefix.iterations for prefix in found] == [1, 2, 3] and found[-1].bytes == len(data)
    ends = [prefix.bytes for prefix in found]
    for size in (5, 30, ends[0] - 1, ends[0], ends[0] + 1, ends[1] - 1, ends[1], ends[2] - 1):
        if size < ends[0]:
            with pytest.raises(CorruptStreamError):
                api.decompress(data[:size], artifact)
        else:
            with pytest.warns(TruncationWarning):
                shown = api.decompress(data[:size], artifact)
            np.testing.assert_array_equal(shown, found[sum(end <= size for end in ends) - 1].image)
    np.testing.assert_array_equal(api.decompress(data, artifact, iterations=2), found[1].image)


def test_files_of_a_size_and_of_a_users_heights():
    _, artifact = made(allocation="adaptive")
    image = np.ascontiguousarray(crops(1, 96, seed=5)[0])
    sizes = [len(api.compress(image, artifact, quality)) for quality in (40, 70, 100)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]
    data = api.compress_to(image, artifact, size=sizes[1])
    assert sizes[0] <= len(data) <= sizes[1]
    left = np.zeros(image.shape[:2], np.float32)
    left[:, :48] = 1
    files = [api.compress(image, artifact, 60, importance=importance) for importance in (left, 1 - left)]
    shown = [api.decompress(data, artifact) for data in files]
    assert (shown[0] != shown[1]).any()
