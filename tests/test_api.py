"""What programs use: every mode, metadata, models and threads, and nothing but MlicError for damage."""

import concurrent.futures
import inspect

import numpy as np
import plain
import pytest
import small
from pictures import exif, sample, stated, tags_of
from PIL import Image

import mlic_jax
from mlic_jax import api
from mlic_jax.errors import CorruptStreamError, InputError, LimitError, MlicError, ModelError, UsageError
from mlic_jax.fileformat import container, model_store
from mlic_jax.metrics.psnr import psnr_db

pytestmark = pytest.mark.usefixtures("plain_zoo")

XMP = b'<x:xmpmeta tiff:Orientation="1"/>'


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (299, 3), (33, 47)])
@pytest.mark.parametrize("mode", container.MODES)
def test_round_trip(mode, size):
    array = sample(mode, size)
    data = api.compress(array, plain.artifact())
    back = api.decompress(data, plain.artifact())
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, stated(array))
    image = api.decompress_image(data)
    assert image.size == size[::-1] and not image.info
    about = api.info(data)
    assert (about["mode"], about["bit_depth"]) == (
        mode.split(";")[0],
        {"bool": 1, "uint8": 8, "uint16": 16}[str(array.dtype)],
    )
    assert (about["width"], about["height"], about["bytes"]) == (size[1], size[0], len(data))


def test_names():
    assert set(mlic_jax._HOME) <= set(dir(mlic_jax))
    for name in ("compress", "decompress", "decompress_image", "info", "load_model"):
        assert getattr(mlic_jax, name) is getattr(api, name)
        assert inspect.getdoc(getattr(api, name))


def test_images_and_arrays_give_the_same_file():
    array = sample("RGBA", (20, 30))
    assert api.compress(array, plain.artifact()) == api.compress(Image.fromarray(array), plain.artifact())

    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return array

    assert api.compress(Tensor(), plain.artifact()) == api.compress(array, plain.artifact())


def test_metadata():
    image = Image.fromarray(sample("RGB", (6, 9)))
    image.info.update(icc_profile=b"profile" * 50, exif=exif(6), xmp=XMP.replace(b"1", b"6"))
    kept = {"icc_profile": b"profile" * 50, "exif": exif(1), "xmp": XMP}
    data = api.compress(image, plain.artifact())
    found = api.decompress_image(data).info
    assert {**found, "exif": tags_of(found["exif"])} == {**kept, "exif": tags_of(kept["exif"])}
    assert list(api.info(data)["metadata"]) == ["icc", "exif", "xmp"]
    for words, names in (("none", []), ("icc", ["icc_profile"]), ("xmp,exif", ["exif", "xmp"])):
        fewer = api.compress(image, plain.artifact(), metadata=words)
        assert sorted(api.decompress_image(fewer).info) == names
        assert sorted(api.decompress_image(data, metadata=words).info) == names
        np.testing.assert_array_equal(api.decompress(fewer), api.decompress(data))
    with pytest.raises(UsageError, match="icc,exif,xmp"):
        api.compress(image, plain.artifact(), metadata="jfif")
    with pytest.raises(LimitError, match="--metadata"):
        image.info["xmp"] = bytes(9 << 20)
        api.compress(image, plain.artifact())


def test_quality_is_kept_in_half_steps():
    array, model = sample("L", (4, 4)), plain.artifact(rates=2)
    for quality, stored in ((None, None), (0, 0.0), (37.3, 37.5), (37.2, 37.0), (100, 100.0), (np.float32(50), 50.0)):
        assert api.info(api.compress(array, model, quality))["quality"] == stored
    for quality in (-1, 100.5, float("nan"), "high"):
        with pytest.raises(UsageError, match="a number from 0 to 100"):
            api.compress(array, model, quality)
    with pytest.raises(UsageError, match="one rate"):
        api.compress(array, plain.artifact(), 50)


def test_overhead():
    array = sample("RGB", (100, 90))
    chunks = len(plain.codec().compress(None, array, None)[0]) + len(plain.codec().compress(None, array, None)[1])
    assert len(api.compress(array, plain.artifact())) - chunks <= 28 + 8  # with 8 for the second chunk of this codec


def test_what_cannot_be_compressed():
    for image in ("photo.png", None, b"bytes", [[1, 2]]):
        with pytest.raises(InputError, match="give an array or a PIL image"):
            api.compress(image, plain.artifact())
    with pytest.raises(InputError, match="float32"):
        api.compress(np.zeros((4, 4), np.float32), plain.artifact())
    with pytest.raises(InputError, match="convert it to RGB first"):
        api.compress(Image.new("CMYK", (4, 4)), plain.artifact())
    for data in ("photo.mlic", None, 3):
        with pytest.raises(InputError, match="give its bytes"):
            api.decompress(data)
        with pytest.raises(InputError, match="give its bytes"):
            api.info(data)


# ---------------------------------------------------------------------- models


def test_a_model_is_found(tmp_path, monkeypatch):
    array = sample("L", (4, 5))
    for name in range(3):
        plain.artifact(name=name).save(tmp_path / f"{name}.mlicm")
    (tmp_path / "bad.mlicm").write_bytes(b"bad")
    data = api.compress(array, tmp_path / "1.mlicm")
    np.testing.assert_array_equal(api.decompress(data), array)  # used before
    model_store._by_fingerprint.clear()
    with pytest.raises(ModelError, match=r"needs the model plain with fingerprint \w{12}, and MLIC_MODELS names no"):
        api.decompress(data)
    monkeypatch.setenv("MLIC_MODELS", f"{tmp_path / 'none'}:{tmp_path}")
    np.testing.assert_array_equal(api.decompress(data), array)
    model_store._by_fingerprint.clear()
    (tmp_path / "1.mlicm").unlink()
    with pytest.raises(
        ModelError, match=r"none of the \.mlicm files in .* is it \(.*bad\.mlicm cannot be read\)\. Ask"
    ):
        api.decompress(data)


def test_the_default_model(tmp_path, monkeypatch):
    array = sample("L", (4, 5))
    # The package's own, where no other is named.
    monkeypatch.setattr(model_store, "OWN_MODEL", tmp_path / "none.mlicm")
    with pytest.raises(ModelError, match=r"none\.mlicm.* cannot be read"):
        api.compress(array)
    plain.artifact(name=4).save(tmp_path / "own.mlicm")
    monkeypatch.setattr(model_store, "OWN_MODEL", tmp_path / "own.mlicm")
    assert api.info(api.compress(array))["fingerprint"] == plain.artifact(name=4).fingerprint.hex()
    plain.artifact(name=5).save(tmp_path / "5.mlicm")
    monkeypatch.setenv("MLIC_MODEL", str(tmp_path / "5.mlicm"))
    data = api.compress(array)
    assert api.info(data)["fingerprint"] == plain.artifact(name=5).fingerprint.hex()
    model_store._by_fingerprint.clear()
    np.testing.assert_array_equal(api.decompress(data), array)


def test_the_packages_models_are_found_by_fingerprint(tmp_path, monkeypatch):
    array = sample("L", (4, 5))
    data = api.compress(array, plain.artifact(name=6))
    model_store._by_fingerprint.clear()
    with pytest.raises(ModelError, match="needs the model plain"):
        api.decompress(data)
    plain.artifact(name=6).save(tmp_path / "6.mlicm")
    monkeypatch.setattr(model_store, "BUNDLED", tmp_path)
    np.testing.assert_array_equal(api.decompress(data), array)


def test_the_packages_own_model():
    """What `mlic compress` uses: there, of every rate, and small enough for a package."""
    assert model_store.OWN_MODEL.parent == model_store.BUNDLED and model_store.OWN_MODEL.stat().st_size < 10e6
    model = api.load_model()
    assert model.model == "kltnet" and model.packed
    image = np.ascontiguousarray(small.photos()[0][:64, :96])
    low, high = (api.compress(image, quality=quality) for quality in (10, 90))
    assert len(low) < len(high) and psnr_db(image, api.decompress(low)) < psnr_db(image, api.decompress(high))
    assert psnr_db(image, api.decompress(high)) > 33


def test_another_model_is_refused_by_name():
    data = api.compress(sample("L", (4, 5)), plain.artifact(name=1))
    wanted, given = (plain.artifact(name=name).fingerprint.hex() for name in (1, 2))
    with pytest.raises(ModelError, match=f"needs the model plain with fingerprint {wanted}; given is plain .* {given}"):
        api.decompress(data, plain.artifact(name=2))


def test_an_unknown_model_is_refused_by_number():
    header, chunks = container.unpack(api.compress(sample("L", (4, 5)), plain.artifact()))
    data = container.pack(header._replace(model_id=64999), chunks)
    with pytest.raises(ModelError, match=f"id 64999.*{header.fingerprint.hex()}.*a newer mlic_jax may"):
        api.decompress(data)
    assert api.info(data)["model"] == "unknown (id 64999)"


def test_a_changed_model_file_is_read_again(tmp_path):
    array = sample("L", (4, 5))
    for name in (1, 2):
        plain.artifact(name=name, rates=name).save(tmp_path / "m.mlicm")
        assert (
            api.info(api.compress(array, tmp_path / "m.mlicm"))["fingerprint"]
            == plain.artifact(name, name).fingerprint.hex()
        )
    assert len(model_store._by_path) == 1


def test_threads_load_a_model_once(tmp_path, monkeypatch):
    from mlic_jax.fileformat.artifact import Artifact

    loads = []
    load = Artifact.load.__func__
    monkeypatch.setattr(Artifact, "load", classmethod(lambda cls, path: loads.append(path) or load(cls, path)))
    plain.artifact().save(tmp_path / "m.mlicm")
    arrays = [sample("RGBA", (30, 20 + i)) for i in range(32)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        files = list(pool.map(lambda array: api.compress(array, tmp_path / "m.mlicm"), arrays))
        for array, back in zip(arrays, pool.map(api.decompress, files), strict=True):
            np.testing.assert_array_equal(back, array)
    assert len(loads) == 1


# ---------------------------------------------------------------------- targets


def made_for(target, effort=0):
    """(quality, bytes, PSNR) of the file that meets it."""
    image = sample("RGB", (20, 30))
    data = api.compress_to(image, plain.graded(), **target, effort=effort)
    return api.info(data)["quality"], len(data), psnr_db(image, api.decompress(data))


def at(quality, effort=0):
    image = sample("RGB", (20, 30))
    data = api.compress(image, plain.graded(), quality, effort=effort)
    return len(data), psnr_db(image, api.decompress(data))


def test_targets_are_met_and_no_half_step_is_left():
    for half_steps in (0, 1, 77, 128, 199, 200):
        size, psnr = at(half_steps / 2)
        for more in (0, 0.5):  # a byte is what a half step costs
            assert made_for({"size": size + more})[0] == half_steps / 2
        assert made_for({"bpp": 8 * size / 600})[:2] == (half_steps / 2, size)
        if half_steps < 200:  # there, nothing is wrong any more
            assert made_for({"psnr_db": psnr})[0] == half_steps / 2
            assert made_for({"psnr_db": psnr + 1e-9})[0] == (half_steps + 1) / 2
    assert made_for({"size": 10**9})[0] == 100 and made_for({"psnr_db": 1})[0] == 0


def test_targets_at_an_effort():
    # The search is at no effort. Where effort changes what a quality gives, the target is met all the same.
    size, psnr = at(40)
    quality, found, _ = made_for({"size": size}, effort=3)
    assert (quality, found) == (40, size - 9)
    quality, _, found = made_for({"psnr_db": psnr}, effort=3)
    assert quality == 43 and found == pytest.approx(psnr)
    # Where no quality meets it at that effort, the file is one without.
    quality, _, found = made_for({"psnr_db": at(99.5)[1]}, effort=3)
    assert quality == 100 and found == np.inf


def test_targets_that_cannot_be_met():
    image, model = sample("RGB", (20, 30)), plain.graded()
    smallest, _ = at(0)
    with pytest.raises(UsageError, match=rf"no quality meets {smallest - 1} bytes: quality 0 gives {smallest} bytes"):
        api.compress_to(image, model, size=smallest - 1)
    with pytest.raises(UsageError, match="no quality meets 0.1 bits per pixel: quality 0 gives"):
        api.compress_to(image, model, bpp=0.1)
    for wrong in (
        {}, {"size": 5000, "bpp": 1}, {"size": 5000, "bpp": 1, "psnr_db": 30}, {"size": 0}, {"bpp": -1},
        {"psnr_db": float("nan")}, {"psnr_db": float("inf")}, {"size": "1 kB"},
    ):  # fmt: skip
        with pytest.raises(UsageError, match="one target is needed"):
            api.compress_to(image, model, **wrong)
    with pytest.raises(UsageError, match="plain has one rate"):
        api.compress_to(image, plain.artifact(), size=5000)
    with pytest.raises(UsageError, match="effort 11 is out of range"):
        api.compress_to(image, model, size=5000, effort=11)


# ---------------------------------------------------------------------- info


def test_info():
    image = Image.fromarray(sample("RGBA", (4, 5)))
    image.info["xmp"] = XMP
    data = api.compress(image, plain.artifact(rates=2), 40)
    about = api.info(data)
    assert about == api.info(data[: container.LONGEST_HEADER], len(data))
    assert about == api.info(data[:60], len(data))  # the header ends before
    assert {key: about[key] for key in ("model", "width", "height", "mode", "bit_depth", "quality")} == {
        "model": "plain", "width": 5, "height": 4, "mode": "RGBA", "bit_depth": 8, "quality": 40.0,
    }  # fmt: skip
    assert [chunk["type"] for chunk in about["chunks"]] == ["data", "alpha", "xmp", "data"]
    assert about["metadata"] == {"xmp": about["chunks"][2]["bytes"]}
    assert about["bpp"] == 8 * len(data) / 20


# ---------------------------------------------------------------------- damage


def small_files():
    image = Image.fromarray(sample("RGBA", (3, 4)))
    image.info.update(icc_profile=b"profile", exif=exif(1), xmp=XMP)
    yield api.compress(sample("RGB", (2, 3)), plain.artifact())
    yield api.compress(sample("LA;16", (5, 1)), plain.artifact(rates=3), 20)
    yield api.compress(image, plain.artifact())


def test_every_prefix_and_every_flipped_bit_is_noticed():
    for data in small_files():
        for length in range(len(data)):
            with pytest.raises(CorruptStreamError):
                api.decompress_image(data[:length])
        for place in range(8 * len(data)):
            damaged = bytearray(data)
            damaged[place // 8] ^= 1 << place % 8
            with pytest.raises(CorruptStreamError):
                api.decompress_image(bytes(damaged))


def test_contents_with_checksums_that_fit():
    rng = np.random.default_rng(0)
    outcomes = set()
    for data in small_files():
        header, chunks = container.unpack(data)
        for _ in range(700):
            chosen = rng.integers(len(chunks))
            content = bytearray(chunks[chosen].content)
            for place in rng.integers(0, len(content), 2):
                content[place] = rng.integers(256)
            content = bytes(content[: rng.integers(len(content) + 1)] if rng.integers(2) else content)
            forged = [c._replace(content=content) if i == chosen else c for i, c in enumerate(chunks)]
            size = {"width": int(rng.integers(1, 9)), "height": int(rng.integers(1, 9))} if rng.integers(3) == 0 else {}
            try:
                image = api.decompress_image(container.pack(header._replace(**size), forged))
                assert image.size == (size.get("width", header.width), size.get("height", header.height))
            except MlicError as reason:
                outcomes.add(type(reason))
    assert outcomes == {CorruptStreamError, LimitError}
