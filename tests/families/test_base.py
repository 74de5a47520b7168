"""The rules of a Family, each once: quality, effort, importance maps, chunks, shapes, and artifacts that fit."""

import dataclasses
import gc

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlic_jax.codec import Objective
from mlic_jax.errors import CorruptStreamError, InputError, ModelError, UsageError
from mlic_jax.families import common, quality
from mlic_jax.families.base import Family
from mlic_jax.fileformat.artifact import Artifact
from mlic_jax.layers import init

IMAGE = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
SIZE = (5, 7)


class Gain(nn.Module):
    """x times a parameter, and a count as state."""

    @nn.compact
    def __call__(self, x):
        self.variable("state", "count", lambda: jnp.zeros(1))
        return x * self.param("gain", init.constant(1.5), (3,))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Echo(Family):
    """Its stream is the picture and all that the rules let through."""

    module: Gain = Gain()
    calls: list = dataclasses.field(default_factory=list)

    def trace(self):
        self.calls.append("trace")
        return jax.eval_shape(self.module.init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))

    def objectives(self):
        self.calls.append("objectives")
        return {"rd": Objective(("gain",), None)}

    def estimate_at(self, params, state, image, quality):
        self.calls.append(quality)
        return {"loss": np.full(len(image), quality or 0.0), "bits": np.full(len(image), quality)}

    def check_state(self, artifact):
        self.calls.append("check")
        super().check_state(artifact)

    def encode(self, artifact, image, quality, effort, importance):
        self.calls.append((quality, effort, None if importance is None else importance.mean()))
        return (image.tobytes(),) * (3 if self.progressive else 1)

    def decode(self, artifact, chunks, size, quality):
        self.calls.append((quality, len(chunks)))
        return np.frombuffer(chunks[0], np.uint8).reshape(*size, 3)


def echo(qualities=None, **more):
    """(family, codec, artifact)"""
    family = Echo(model="echo", architecture={"n": 1}, qualities=qualities or quality.OneRate(), **more)
    codec = family.codec()
    artifact = codec.export(*codec.init(jax.random.key(0), (64, 64, 3)))
    family.calls.clear()
    return family, codec, artifact


def test_a_codec_from_a_family():
    family, codec, artifact = echo()
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    np.testing.assert_array_equal(params["gain"], np.float32([1.5] * 3))
    np.testing.assert_array_equal(state["count"], np.zeros(1, np.float32))
    assert artifact.model == "echo" and artifact.architecture == {"n": 1} and artifact.tables == {}
    chunks = codec.compress(artifact, IMAGE)
    np.testing.assert_array_equal(codec.decompress(artifact, chunks, SIZE), IMAGE)
    # Shapes were traced in `echo`, once.
    assert family.calls == ["check", (None, 0, None), (None, 1)]
    # Nor are objectives made before they are asked for; then once.
    family.calls.clear()
    assert list(codec.objectives) == ["rd"] and codec.objectives["rd"].owns == ("gain",) and len(codec.objectives) == 1
    assert family.calls == ["objectives"]


def test_an_artifact_is_checked_once():
    family, codec, artifact = echo()
    for _ in range(3):
        codec.compress(artifact, IMAGE)
        codec.decompress(artifact, (IMAGE.tobytes(),), SIZE)
    other = Artifact("echo", {"n": 1}, artifact.params, artifact.state, {})
    codec.compress(other, IMAGE)
    assert family.calls.count("check") == 2
    del other
    gc.collect()
    assert len(family._checked) == 1


@pytest.mark.parametrize(
    ("params", "state", "message"),
    [
        ({}, {"count": np.zeros(1, np.float32)}, "missing"),
        ({"gain": np.ones(4, np.float32)}, {"count": np.zeros(1, np.float32)}, "gain is float32"),
        ({"gain": np.float32([1, np.inf, 1])}, {"count": np.zeros(1, np.float32)}, "gain is not finite"),
        ({"gain": np.ones(3, np.float32)}, {}, "missing"),
        ({"gain": np.ones(3, np.float32)}, {"count": np.zeros(2, np.float32)}, "count is float32"),
    ],
)
def test_artifacts_of_another_model_are_refused_by_all(params, state, message):
    _, codec, _ = echo()
    artifact = Artifact("echo", {"n": 1}, params, state, {})
    for _ in range(2):  # what is wrong is not remembered as checked
        with pytest.raises(ModelError, match=message):
            codec.compress(artifact, IMAGE)
        with pytest.raises(ModelError, match=message):
            codec.decompress(artifact, (IMAGE.tobytes(),), SIZE)
    if "gain" in message or not params:
        with pytest.raises(ModelError, match=message):
            codec.export(params, state)


def test_one_rate():
    family, codec, artifact = echo()
    assert (codec.traits.ladder, codec.traits.default_quality) == ((), None)
    with pytest.raises(UsageError, match="echo has one rate, fixed in training"):
        codec.compress(artifact, IMAGE, 50.0)
    with pytest.raises(UsageError, match="echo has one rate, fixed in training"):
        codec.estimate({}, {}, IMAGE[None], 50.0)
    with pytest.raises(CorruptStreamError, match="a file of echo has no quality"):
        codec.decompress(artifact, (b"",), SIZE, 50.0)
    assert family.calls == [] and family.qualities.draw(None) is None
    assert codec.estimate({}, {}, IMAGE[None])["loss"] == 0 and family.calls == [None]


def test_every_rate():
    family, codec, artifact = echo(quality.EveryRate())
    assert codec.traits.ladder[0] == 0 and codec.traits.ladder[-1] == 100 and codec.traits.default_quality == 50
    for wrong in (-0.5, 100.5, float("nan")):
        with pytest.raises(UsageError, match="echo has the qualities 0 to 100"):
            codec.compress(artifact, IMAGE, wrong)
        with pytest.raises(CorruptStreamError, match="echo has the qualities 0 to 100"):
            codec.decompress(artifact, (b"",), SIZE, wrong)
    with pytest.raises(UsageError, match="echo needs a quality, a number from 0 to 100"):
        codec.compress(artifact, IMAGE)
    with pytest.raises(CorruptStreamError, match="a file of echo lacks its quality"):
        codec.decompress(artifact, (b"",), SIZE)
    codec.compress(artifact, IMAGE, 37)
    assert family.calls == ["check", (37.0, 0, None)]
    family.calls.clear()
    # Without a quality the loss is a mean, the rest at the default.
    estimate = codec.estimate({}, {}, IMAGE[None])
    assert family.calls == [10, 50, 90] and estimate["loss"] == 50 and estimate["bits"] == 50
    assert codec.estimate({}, {}, IMAGE[None], 20)["bits"] == 20


def test_qualities_of_a_standard_codec():
    family, codec, artifact = echo(quality.WholeNumbers(5, 60))
    ladder = codec.traits.ladder
    assert len(ladder) == quality.POINTS and ladder[0] == 5 and ladder[-1] == 60 and list(ladder) == sorted(set(ladder))
    assert codec.traits.default_quality == ladder[3] and codec.traits.quality_range == (5.0, 60.0)
    codec.compress(artifact, IMAGE, 7.4)
    assert family.calls[-1] == (7, 0, None) and type(family.calls[-1][0]) is int
    for wrong in (4.0, 61):
        with pytest.raises(UsageError, match="echo was made for qualities 5 to 60"):
            codec.compress(artifact, IMAGE, wrong)
        with pytest.raises(CorruptStreamError, match="echo was made for qualities 5 to 60"):
            codec.decompress(artifact, (b"",), SIZE, wrong)
    one = echo(quality.WholeNumbers(30, 30))
    assert one[1].traits == echo()[1].traits
    one[1].compress(one[2], IMAGE)
    assert one[0].calls[-1] == (30, 0, None)
    with pytest.raises(UsageError, match="one rate"):
        one[1].compress(one[2], IMAGE, 30)


@pytest.mark.parametrize(
    ("rule", "low", "high", "middle"),
    [
        (quality.EveryRate(), 0, 100, 50),
        (quality.WholeNumbers(4, 64), 4, 64, 16),
        (quality.WholeNumbers(9, 9), 9, 9, 9),
    ],
)
def test_each_training_example_draws_its_own(rule, low, high, middle):
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(rule.draw(keys))
    assert drawn.shape == (4000,) and drawn.min() >= low and drawn.max() <= high
    assert np.median(drawn) == pytest.approx(middle, rel=0.1)
    # It depends on the example's key alone.
    np.testing.assert_array_equal(rule.draw(keys[17:20]), drawn[17:20])
    if high > low:
        assert drawn.min() < low + 1.1 and drawn.max() > 0.95 * high


def test_efforts():
    family, codec, artifact = echo(efforts=9)
    assert codec.traits.efforts == 9
    codec.compress(artifact, IMAGE, effort=9)
    assert family.calls[-1] == (None, 9, None)
    for wrong in (10, -1, 1.5, None):
        with pytest.raises(UsageError, match="echo has the efforts 0 to 9"):
            codec.compress(artifact, IMAGE, effort=wrong)
    _, codec, artifact = echo()
    with pytest.raises(UsageError, match="echo has no effort but 0"):
        codec.compress(artifact, IMAGE, effort=1)


def test_importance_maps():
    family, codec, artifact = echo(guided=True)
    assert codec.traits.guided
    codec.compress(artifact, IMAGE, importance=np.full(SIZE, 0.25))
    assert family.calls[-1] == (None, 0, 0.25)
    for wrong in (np.zeros((7, 5)), np.zeros((5, 7, 1))):
        with pytest.raises(InputError, match="the picture 7x5 pixels: one number each"):
            codec.compress(artifact, IMAGE, importance=wrong)
    for wrong in (np.full(SIZE, 1.5), np.full(SIZE, np.nan)):
        with pytest.raises(InputError, match="numbers outside of 0..1"):
            codec.compress(artifact, IMAGE, importance=wrong)
    _, codec, artifact = echo()
    with pytest.raises(UsageError, match="takes no importance map"):
        codec.compress(artifact, IMAGE, importance=np.zeros(SIZE))


def test_chunks():
    _, codec, artifact = echo()
    for wrong in ((), (b"", b"")):
        with pytest.raises(CorruptStreamError, match=f"echo writes one chunk, the file has {len(wrong)}"):
            codec.decompress(artifact, wrong, SIZE)
    family, codec, artifact = echo(progressive=True)
    chunks = codec.compress(artifact, IMAGE)
    assert codec.traits.progressive and len(chunks) == 3
    codec.decompress(artifact, chunks[:2], SIZE)
    assert family.calls[-1] == (None, 2)


def test_arguments_of_factories():
    common.check_choices("m", ("form", "a", ("a", "b")), ("copies", 2, (1, 2)))
    for wrong in (
        ("form", "c", ("a", "b")),
        ("form", ["a"], ("a",)),
        ("copies", True, (1, 2)),
        ("copies", 1.0, (1, 2)),
    ):
        with pytest.raises(UsageError, match=f"m: {wrong[0]} .* is not known: use one of"):
            common.check_choices("m", wrong)
    common.check_widths("m", ("N", 1, 1), ("N", common.LARGEST_WIDTH, 1))
    for wrong in (0, common.LARGEST_WIDTH + 1, 2.0, True, "8", None):
        with pytest.raises(UsageError, match=r"m: N=.* is out of range: whole numbers from 1 to 4096"):
            common.check_widths("m", ("N", wrong, 1))
