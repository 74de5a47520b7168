"""Metrics of sets: what is kept of each picture, and the one number at the end, that is no mean of them."""

import json

import numpy as np
import pytest

from mlic_jax.errors import InputError, UsageError
from mlic_jax.evaluation.benchmark import measuring
from mlic_jax.evaluation.benchmark.cache import Cache
from mlic_jax.evaluation.benchmark.entrants import Entrant, Point
from mlic_jax.evaluation.benchmark.results import curve_json, image_rows
from mlic_jax.metrics import frechet, registry

RNG = np.random.default_rng(0)


def test_the_psnr_of_a_set_is_that_of_its_mean_error():
    metric = registry.get("psnr-set")
    originals = [RNG.integers(0, 256, shape, np.uint8) for shape in ((8, 9, 3), (20, 4, 3), (5, 5, 3))]
    decoded = [np.clip(image + RNG.normal(0, 3 * i, image.shape), 0, 255).astype(np.uint8) for i, image in
               enumerate(originals)]  # fmt: skip
    parts = [metric.of_set.part(*pair) for pair in zip(originals, decoded, strict=True)]
    errors = np.concatenate([(a.astype(float) - b).ravel() for a, b in zip(originals, decoded, strict=True)])
    assert metric.of_set.value(parts) == pytest.approx(10 * np.log10(255**2 / np.mean(errors**2)))
    assert metric.compute(originals[2], decoded[2]) == pytest.approx(
        registry.get("psnr").compute(originals[2], decoded[2])
    )
    assert metric.of_set.value(parts[:1]) == np.inf  # identical pictures


def colours(image):
    """Features [n, 3]: the colours of a picture's pixels."""
    return image.reshape(-1, 3) / 255


def test_the_frechet_distance_of_gaussians():
    """That of its formula, where matrices commute, and of features of all pictures together."""
    of_set = frechet.of_features(lambda features: features)
    means, scales = RNG.normal(size=(2, 4)), RNG.uniform(0.5, 2, (2, 4))
    turned = np.linalg.qr(RNG.normal(size=(4, 4)))[0]
    sets = [(RNG.normal(size=(20000, 4)) * scale + mean) @ turned for mean, scale in zip(means, scales, strict=True)]
    wanted = np.sum((means[0] - means[1]) ** 2) + np.sum((scales[0] - scales[1]) ** 2)
    parts = [of_set.part(*pair) for pair in zip(*(np.split(features, [700, 9000]) for features in sets), strict=True)]
    found = of_set.value(json.loads(json.dumps(parts)))
    assert found == pytest.approx(wanted, rel=0.05)
    assert found == pytest.approx(of_set.value([of_set.part(*sets)]), rel=1e-9)
    assert of_set.value([of_set.part(sets[0], sets[0])]) == pytest.approx(0, abs=1e-9)
    assert np.isnan(of_set.value([of_set.part(sets[0][:1], sets[1][:1])]))
    with pytest.raises(InputError, match="different lengths"):
        of_set.value([of_set.part(*sets), of_set.part(sets[0][:, :2], sets[1][:, :2])])


def test_an_evaluation_measures_sets(tmp_path, monkeypatch):
    """A metric of one's own is a row of the registry: measured, cached, and one number for all pictures."""
    metric = registry.set_distance("fd-colours", "fd_colours", "FD (colours)", frechet.of_features(colours))
    monkeypatch.setattr(registry, "METRICS", dict(registry.METRICS))
    monkeypatch.setattr(registry, "BY_KEY", dict(registry.BY_KEY))
    registry.register(metric)
    with pytest.raises(UsageError, match="there is a metric 'fd-colours'"):
        registry.register(metric)
    pictures = [measuring.picture(str(i), RNG.integers(0, 200, (12, 10 + i, 3), np.uint8)) for i in range(3)]

    def brighter(data):
        height, width = data[:2]
        return np.frombuffer(data[2:], np.uint8).reshape(height, width, 3) + np.uint8(51)

    point = Point("one", {"point": 1}, lambda image: bytes(image.shape[:2]) + image.tobytes(), brighter)
    cache, names = Cache(tmp_path), ("psnr", "fd-colours", "psnr-set")
    entrant = Entrant(label="one", family="classical", about="", points=(point,), at=None)
    for kept in (0, 3):
        found = measuring.measure([entrant], pictures, cache, names)
        assert (found.new, found.kept) == (3 - kept, kept)
        (means,) = found.curves[0].means
        assert means["fd_colours"] == pytest.approx(3 * 0.2**2) and means["psnr_set_db"] == pytest.approx(13.979, 1e-3)
    # Pictures have values of their own, and what only sets need is in no document.
    rows = image_rows(found.curves)
    assert [row["fd_colours"] for row in rows] == pytest.approx([0.12] * 3)
    assert not any(registry.PART in key for row in rows for key in row)
    assert registry.PART.encode() not in curve_json(found.curves[0])
