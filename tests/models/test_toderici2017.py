"""Toderici 2017: the paper's counts of parameters, its frameworks' identities, its gain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import crops

from mlic_jax.families import recurrent
from mlic_jax.layers import init
from mlic_jax.layers.recurrent import LSTM, AssociativeLSTM
from mlic_jax.models import toderici2017

TOY = {"cell": "lstm", "framework": "additive", "hidden_kernels": "2017", "copies": 2, **toderici2017.TOY}


def networks(**changes):
    return toderici2017.networks("toderici2017", **{**TOY, **changes})


def shapes(module):
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), image)["params"]


def started(**changes):
    """(module, params) with noise on every weight."""
    module, rng = networks(**changes), np.random.default_rng(0)
    params = init.materialise(shapes(module), jax.random.key(0))
    return module, jax.tree.map(lambda a: (a + 0.05 * rng.normal(size=a.shape)).astype(np.float32), params)


def image():
    return recurrent.to_input(jnp.asarray(crops(1, 32)))


def kernels(tree):
    """How many weights, biases aside."""
    return sum(
        kernels(value) if isinstance(value, dict) else int(name == "kernel") * int(np.prod(value.value.shape))
        for name, value in tree.items()
    )


@pytest.mark.parametrize(
    "options, millions",
    [
        ({"cell": "lstm"}, 35.46),
        ({"cell": "gru"}, 26.6),
        ({"cell": "residual_gru"}, 35.46),
        ({"cell": "gru", "hidden_kernels": "3x3"}, 53.3),
        ({"cell": "residual_gru", "hidden_kernels": "3x3"}, 71.1),
    ],
)
def test_parameters_of_the_papers(options, millions):
    found = shapes(networks(**{**toderici2017.PUBLISHED, **options}))
    assert kernels(found) / 1e6 == pytest.approx(millions, abs=0.05)
    if options == {"cell": "lstm"}:
        assert kernels(found["encoder"]["last"]) == 16_384
        assert [kernels(found[part]) for part in ("encoder", "decoder")] == [17_106_624 + 16_384, 18_333_792]


def test_parameters_of_the_gain():
    assert kernels(shapes(networks(framework="scaling"))["gain"]) == 28_640


def test_the_associative_memory_is_the_decoders():
    bound = networks(cell="associative_lstm").bind({"params": {}})
    assert {type(cell) for cell in bound.decoder.cells} == {AssociativeLSTM}
    assert {type(cell) for cell in bound.encoder.cells} == {LSTM}


def test_code_and_picture_have_the_shapes_of_the_table():
    module, params = started()
    shown, codes = recurrent.unroll(module, params, image(), lambda y, t: recurrent.binarise(y))
    assert shown.shape == (3, 1, 32, 32, 3) and codes.shape == (3, 1, 2, 2, 8)
    assert set(np.unique(codes)) == {-1, 1}
    assert np.abs(shown[0]).max() < 0.5


def test_additive_pictures_are_sums_and_one_shot_pictures_are_their_own():
    code = recurrent.binarise(jax.random.normal(jax.random.key(1), (1, 2, 2, 8)))
    before = 0.1 * jax.random.normal(jax.random.key(2), (1, 32, 32, 3))
    module, params = started()
    _, (states, _, gain) = module.apply({"params": params}, 1, 32, 32, method="start")
    said = {}
    for framework in ("additive", "one_shot"):
        module = networks(framework=framework)
        for name, shown in (("zero", jnp.zeros_like(before)), ("some", before)):
            state = module.apply({"params": params}, (states, shown, gain), code, method="synthesize")
            said[framework, name] = np.asarray(module.shown(state))
    np.testing.assert_allclose(said["additive", "some"] - before, said["additive", "zero"], atol=1e-6)
    np.testing.assert_array_equal(said["one_shot", "some"], said["one_shot", "zero"])
    np.testing.assert_array_equal(said["one_shot", "zero"], said["additive", "zero"])


def test_scaling_by_one_is_additive():
    module, params = started(framework="scaling")
    code = recurrent.binarise(jax.random.normal(jax.random.key(1), (1, 2, 2, 8)))
    start = module.apply({"params": params}, 1, 32, 32, method="start")
    assert (start[1][2] == 1).all()
    additive = networks()
    for one in (module, additive):
        assert one.stride == (32 if one is module else 16)
    before = additive.apply({"params": params}, 1, 32, 32, method="start")
    for function, arguments in (("analyze", (image(),)), ("synthesize", (code,))):
        more = (start[1],) if function == "analyze" else ()
        plain = (before[1],) if function == "analyze" else ()
        state, other = (start[0], before[0]) if function == "analyze" else (start[1], before[1])
        found = module.apply({"params": params}, state, *arguments, *more, method=function)
        expected = additive.apply({"params": params}, other, *arguments, *plain, method=function)
        np.testing.assert_array_equal(found[1], expected[1])
    # A gain enlarges what the encoder sees, and makes small what the decoder says.
    of_decoder = (start[1][0], start[1][1], jnp.full_like(start[1][2], 4.0))
    shown = module.apply({"params": params}, of_decoder, code, method="synthesize")[1]
    np.testing.assert_allclose(4 * shown, expected[1], rtol=1e-5, atol=1e-7)
    enlarged = module.apply({"params": params}, start[0], image() / 4, of_decoder, method="analyze")[1]
    plain = module.apply({"params": params}, start[0], image(), start[1], method="analyze")[1]
    np.testing.assert_allclose(enlarged, plain, atol=1e-5)


def test_gains_are_above_one_and_held_for_their_pixels():
    module, params = started(framework="scaling")
    shown = jax.random.uniform(jax.random.key(0), (1, 64, 96, 3), minval=-1, maxval=1)
    gain = toderici2017.Gain().apply({"params": params["gain"]}, shown)
    assert gain.shape == (1, 2, 3, 1) and gain.min() > 1
    wide = np.asarray(toderici2017.hold(gain))
    np.testing.assert_array_equal(wide, np.asarray(gain).repeat(32, 1).repeat(32, 2))
