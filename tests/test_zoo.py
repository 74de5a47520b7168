"""The registry: its ids never change, and what cannot be made is said."""

import jax
import jax.numpy as jnp
import pytest

from mlic_jax import zoo
from mlic_jax.codec import Codec
from mlic_jax.errors import ModelError, UsageError

# Files that exist carry these numbers. Lines may be added here; a line that is here may never change.
IDS = {
    "bmshj2018-factorized": 1,
    "bmshj2018-hyperprior": 2,
    "mbt2018-mean": 3,
    "kltnet": 4,
    "jiang2017": 5,
    "talebi2020": 6,
    "li2018": 7,
    "toderici2017": 8,
    "johnston2018": 9,
    "kltnet2": 10,
    "bitmap": 11,
    "mbt2018": 12,
    "minnen2020": 13,
    "hu2020": 14,
    "cheng2020-anchor": 15,
    "cheng2020-attn": 16,
    "cheng2020-anchor-checkerboard": 17,
    "elic2022": 18,
    "bls2017": 19,
}
OWN = {name: entry for name, entry in zoo.MODELS.items() if entry.factory.startswith("mlic_jax.")}


def test_ids_never_change():
    assert {name: entry.stream_id for name, entry in OWN.items()} == IDS


def test_ids_are_unique_and_fit_two_bytes():
    ids = [entry.stream_id for entry in zoo.MODELS.values()]
    assert len(set(ids)) == len(ids) and all(1 <= number <= 65535 for number in ids)


@pytest.mark.parametrize("name", OWN)
def test_every_model_can_be_made(name):
    codec = zoo.make(name)
    assert isinstance(codec, Codec) and codec is zoo.make(name)
    assert zoo.name_of(zoo.stream_id(name)) == name
    for objective in codec.objectives.values():
        assert objective.owns and len(set(objective.owns)) == len(objective.owns)


def test_unknown_names():
    for call in (zoo.make, zoo.stream_id):
        with pytest.raises(ModelError, match=r"'vgg' is not known: use one of bmshj2018-factorized"):
            call("vgg")
    with pytest.raises(ModelError, match="id 64999"):
        zoo.name_of(64999)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 3}, "width"),
        ({"distortion": "psnr"}, "distortion 'psnr' is not known: use one of mse, ms-ssim"),
        ({"proxy": "round"}, "proxy 'round' is not known: use one of noise, ste, mixed"),
        ({"N": 0}, "N=0 is out of range"),
        ({"M": -3}, "M=-3 is out of range"),
        ({"N": 1 << 30}, "N=1073741824 is out of range"),
        ({"N": [8]}, r"N=\(8,\) is out of range"),
        ({"N": {"a": 8}}, "cannot be made"),
        ({"N": "8"}, "N"),
        ({"N": 8.0}, "N"),
        ({"M": True}, "M"),
        ({"M": None}, "M"),
    ],
)
@pytest.mark.parametrize("name", list(IDS)[:3])
def test_arguments_that_make_no_sense(name, arguments, message):
    with pytest.raises(UsageError, match=message):
        zoo.make(name, **arguments)


def test_precision_of_computation_changes_no_parameters():
    one, other = (zoo.make("bmshj2018-hyperprior", N=8, M=12, dtype=dtype) for dtype in (None, jnp.bfloat16))
    first, second = (codec.init(jax.random.key(0), (64, 64, 3))[0] for codec in (one, other))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), first) == jax.tree.map(lambda a: (a.shape, a.dtype), second)
