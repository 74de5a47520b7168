"""Model files: the same bytes again, the same fingerprint everywhere, and one error for whatever is damaged."""

import io
import json
import subprocess
import sys
import warnings
import zipfile

import jax
import numpy as np
import pytest
import small

from mlic_jax import zoo
from mlic_jax.entropy import tables
from mlic_jax.errors import ModelError
from mlic_jax.fileformat.artifact import Artifact, flatten, unflatten

NAME = "bmshj2018-hyperprior"


@pytest.fixture(scope="module")
def artifact():
    made = small.imported(NAME)[1]
    return Artifact(made.model, made.architecture, made.params, made.state, made.tables, {"steps": 3, "data": "none"})


@pytest.fixture(scope="module")
def data(artifact):
    return artifact.to_bytes()


def test_flatten():
    tree = {"b": {"x": np.ones(2), "a": {"c": np.zeros(())}}, "a": np.arange(3)}
    assert list(flatten(tree)) == ["a", "b/a/c", "b/x"]
    assert flatten(unflatten(flatten(tree))).keys() == flatten(tree).keys()


def test_comes_back_byte_by_byte(artifact, data, tmp_path):
    artifact.save(tmp_path / "a.mlicm")
    assert (tmp_path / "a.mlicm").read_bytes() == data
    again = Artifact.load(tmp_path / "a.mlicm")
    assert again.to_bytes() == data
    assert (again.model, again.architecture, again.card) == (artifact.model, artifact.architecture, artifact.card)
    assert again.fingerprint == artifact.fingerprint and len(again.fingerprint) == 6
    assert again.arrays().keys() == artifact.arrays().keys()
    for name, array in again.arrays().items():
        assert array.dtype == artifact.arrays()[name].dtype
        np.testing.assert_array_equal(array, artifact.arrays()[name])


def test_scalars_and_other_layouts_come_back():
    params = {"s": np.float32(3), "f": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))}
    params["big"] = np.arange(3, dtype=">f4")
    made = Artifact("m", {}, params, {}, {})
    again = Artifact.from_bytes(made.to_bytes())
    for name, array in params.items():
        np.testing.assert_array_equal(again.params[name], array)
        assert again.params[name].shape == array.shape
    assert again.fingerprint == made.fingerprint


def reversed_dicts(tree):
    return {key: reversed_dicts(tree[key]) for key in reversed(list(tree))} if isinstance(tree, dict) else tree


def test_fingerprint_is_about_the_content(artifact):
    a = artifact
    parts = (a.model, a.architecture, a.params, a.state, a.tables)
    assert Artifact(*map(reversed_dicts, parts), a.card).to_bytes() == a.to_bytes()
    assert Artifact(*parts, {"other": "card"}).fingerprint == a.fingerprint
    others = [
        ("mbt2018-mean", *parts[1:]),
        (a.model, {**a.architecture, "N": 9}, *parts[2:]),
        (*parts[:3], {"prior_z": {"medians": a.state["prior_z"]["medians"] + 1}}, a.tables),
        (*parts[:4], {name: t._replace(first=t.first - 1) for name, t in a.tables.items()}),
    ]
    for path in ("g_a/layers_0/bias", "h_s/layers_4/kernel"):
        flat = flatten(a.params)
        changed = flat[path].copy()
        changed.flat[0] = np.nextafter(changed.flat[0], np.float32(9))
        others.append((*parts[:2], unflatten({**flat, path: changed}), *parts[3:]))
    fingerprints = [Artifact(*other).fingerprint for other in others]
    assert len({a.fingerprint, *fingerprints}) == len(others) + 1


def test_fingerprint_is_the_same_in_another_process(artifact, tmp_path):
    artifact.save(tmp_path / "a.mlicm")
    code = (
        "from mlic_jax.fileformat.artifact import Artifact; "
        f"print(Artifact.load({str(tmp_path / 'a.mlicm')!r}).fingerprint.hex())"
    )
    for seed in ("1", "2"):  # of the hashes of strings
        out = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        )
        assert out.stdout.strip() == artifact.fingerprint.hex()


def loads_or_refuses(data, artifact):
    """True if refused; what is taken must be the same model."""
    try:
        found = Artifact.from_bytes(bytes(data), "some file")
    except ModelError as error:
        assert "some file" in str(error)
        return True
    assert found.fingerprint == artifact.fingerprint
    return False


def test_truncations(artifact, data):
    for length in [*range(200), *np.random.default_rng(0).integers(0, len(data), 200)]:
        assert loads_or_refuses(data[:length], artifact)


def test_random_damage(artifact, data):
    rng = np.random.default_rng(1)
    directory = data.index(b"PK\x01\x02")
    refused = 0
    for trial in range(400):
        changed = bytearray(data)
        start = directory if trial % 2 else 0
        for place in rng.integers(start, len(data), rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        refused += loads_or_refuses(changed, artifact)
    assert refused > 200  # the rest changed dates, permissions and the like


def rezip(entries, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return out.getvalue()


def npy(array, **options):
    out = io.BytesIO()
    np.lib.format.write_array(out, array, **options)
    return out.getvalue()


def header(description):
    """A .npy file with that header and no data."""
    text = description.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def about(**changes):
    whole = {"format": 1, "model": NAME, "architecture": {"N": 8, "M": 12}, "card": {}, "fingerprint": "", **changes}
    return json.dumps({key: value for key, value in whole.items() if value is not None}).encode()


BOMB = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }"
FORGERIES = {
    "about is no json": {"about.json": b"{"},
    "about is a list": {"about.json": b"[]"},
    "about is deep": {"about.json": b"[" * 100_000},
    "about is no text": {"about.json": b"\xff\xfe\xfd"},
    "format": {"about.json": about(format=2)},
    "no model": {"about.json": about(model=None)},
    "odd model": {"about.json": about(model=[1])},
    "odd architecture": {"about.json": about(architecture="N=8")},
    "odd card": {"about.json": about(card=7)},
    "a pickle": {"params/x.npy": npy(np.array([{"a": 1}], dtype=object), allow_pickle=True)},
    "a structure": {"params/x.npy": npy(np.zeros(2, [("a", "<f4")]))},
    "strings": {"params/x.npy": npy(np.array(["abc"]))},
    "dates": {"params/x.npy": npy(np.zeros(2, "<M8[s]"))},
    "complex": {"params/x.npy": npy(np.zeros(2, complex))},
    "no array": {"params/x.npy": b"hello"},
    "nothing": {"params/x.npy": b""},
    "too large": {"params/x.npy": header(BOMB % 10**12)},
    "much too large": {"params/x.npy": header(BOMB % 10**30)},
    "negative": {"params/x.npy": header(BOMB % -4)},
    "no shape": {"params/x.npy": header(BOMB % "'a'")},
    "deep header": {"params/x.npy": header("(" * 5000)},
    "long": {"params/x.npy": npy(np.ones(3)) + b"x"},
    "array over folder": {"params.npy": npy(np.ones(3)), "params/x.npy": npy(np.ones(3))},
    "folder over array": {"params/x/y.npy": npy(np.ones(3)), "params/x.npy": npy(np.ones(3))},
    "params is an array": {"params.npy": npy(np.ones(3))},
    "unknown part": {"other/x.npy": npy(np.ones(3))},
    "empty name": {".npy": npy(np.ones(3))},
    "upwards": {"../../x.npy": npy(np.ones(3))},
    "absolute": {"/etc/x.npy": npy(np.ones(3))},
    "tables are arrays": {"tables/gaussian.npy": npy(np.ones(3, np.int32))},
    "half a table": {"tables/gaussian/first.npy": npy(np.zeros(1, np.int32))},
    "table of floats": {
        "tables/g/frequencies.npy": npy(np.array([32768.0, 32768.0])),
        "tables/g/lengths.npy": npy(np.array([2], np.int32)),
        "tables/g/first.npy": npy(np.array([0], np.int32)),
    },
    "table with a wrong sum": {
        "tables/g/frequencies.npy": npy(np.array([32768, 32769], np.int32)),
        "tables/g/lengths.npy": npy(np.array([2], np.int32)),
        "tables/g/first.npy": npy(np.array([0], np.int32)),
    },
    "table in a table": {"tables/g/frequencies/x.npy": npy(np.ones(1, np.int32))},
}


@pytest.mark.parametrize("entries", FORGERIES.values(), ids=FORGERIES)
def test_forgeries(entries):
    with pytest.raises(ModelError) as error:
        Artifact.from_bytes(rezip({"about.json": about(), **entries}))
    assert "its fingerprint" not in str(error.value)  # the last check of all, not the one that is meant


def test_without_about():
    for entries in ({}, {"params/x.npy": npy(np.ones(3))}):
        with pytest.raises(ModelError, match=r"about\.json"):
            Artifact.from_bytes(rezip(entries))


def test_a_plain_file_is_taken_with_its_fingerprint():
    params = {"x": np.ones(3, np.float32)}
    fingerprint = Artifact(NAME, {"N": 8, "M": 12}, params, {}, {}).fingerprint.hex()
    entries = {"about.json": about(fingerprint=fingerprint), "params/x.npy": npy(params["x"])}
    assert Artifact.from_bytes(rezip(entries)).params["x"].sum() == 3
    for changes in (
        {"about.json": about()},
        {"params/y.npy": npy(params["x"])},
        {"params/x.npy": npy(2 * params["x"])},
    ):
        with pytest.raises(ModelError, match="fingerprint"):
            Artifact.from_bytes(rezip({**entries, **changes}))


def test_compressed_entries_are_refused():
    bomb = npy(np.zeros(10_000_000, np.float32))
    data = rezip({"about.json": about(), "params/x.npy": bomb}, zipfile.ZIP_DEFLATED)
    assert len(data) < 100_000
    with pytest.raises(ModelError, match="larger than the file"):
        Artifact.from_bytes(data)


def test_two_entries_of_one_name():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("about.json", about())
        for value in (1, 2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zipfile's, of what is meant here
                archive.writestr("params/x.npy", npy(np.full(3, value)))
    with pytest.raises(ModelError, match="two entries"):
        Artifact.from_bytes(out.getvalue())


def test_missing_file(tmp_path):
    for path in (tmp_path / "none.mlicm", tmp_path):
        with pytest.raises(ModelError, match="cannot read"):
            Artifact.load(path)


IMAGE = np.full((20, 30, 3), 77, np.uint8)


def changed(artifact, **changes):
    fields = ("model", "architecture", "params", "state", "tables")
    return Artifact(*({field: getattr(artifact, field) for field in fields} | changes).values())


def without(tree, path):
    flat = flatten(tree)
    del flat[path]
    return unflatten(flat)


def test_a_model_whose_parts_do_not_fit(artifact):
    # Each is a well-formed file; using it must end in the error for damaged models, whatever is wrong within.
    a, flat = artifact, flatten(artifact.params)
    short = tables.build([np.ones(3) / 3] * 7, np.zeros(7, np.int32))
    path = "g_a/layers_0/bias"
    cases = {
        "missing": changed(a, params=without(a.params, path)),
        "unexpected": changed(a, params={**a.params, "more": {"x": np.ones(3, np.float32)}}),
        "float32 (8,) is needed": changed(a, params=unflatten({**flat, path: flat[path][:3]})),
        "is float64": changed(a, params=unflatten({**flat, path: flat[path].astype(np.float64)})),
        "not finite": changed(a, params=unflatten({**flat, path: flat[path] * np.nan})),
        "medians for 8 channels": changed(a, state={"prior_z": {"medians": np.zeros(3, np.float32)}}),
        "no table 'gaussian'": changed(a, tables={"factorized_z": a.tables["factorized_z"]}),
        "has 7 rows": changed(a, tables={**a.tables, "factorized_z": short}),
        "N=0 is out of range": changed(a, architecture={"N": 0, "M": 12}),
        "width": changed(a, architecture={"N": 8, "M": 12, "width": 3}),
        "is needed": changed(a, architecture={"N": 8, "M": 13}),
        "N=(8,) is out of range": changed(a, architecture={"N": [8], "M": 12}),
        "cannot be made": changed(a, architecture={"N": {"a": 8}, "M": 12}),
        "'vgg' is not known": changed(a, model="vgg"),
        "parameters missing": changed(a, model="mbt2018-mean", params={}),
    }
    chunk = zoo.codec_of(a).compress(a, IMAGE, None)
    for message, broken in cases.items():
        for use in ("compress", "decompress"):
            with pytest.raises(ModelError) as error:
                codec = zoo.codec_of(broken)
                if use == "compress":
                    codec.compress(broken, IMAGE, None)
                else:
                    codec.decompress(broken, chunk, IMAGE.shape[:2])
            assert message in str(error.value), message


def test_medians_that_are_not_finite(artifact):
    broken = changed(artifact, state={"prior_z": {"medians": np.full(8, np.nan, np.float32)}})
    with pytest.raises(ModelError):
        zoo.codec_of(broken).compress(broken, IMAGE, None)


# ---------------------------------------------------------------------- packed


@pytest.fixture(scope="module")
def wide():
    """A model most of whose weights are in large kernels."""
    codec = zoo.make("bmshj2018-factorized", N=24, M=32)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    made = codec.export(params, state)
    made.card = {"steps": 3}
    return made


def test_packed_parameters(wide):
    half = "g_a/layers_2"
    packed, before = wide.pack((half,)), flatten(wide.params)
    after = flatten(packed.params)
    assert after.keys() == before.keys() and packed.fingerprint != wide.fingerprint
    assert (packed.model, packed.architecture, packed.card) == (wide.model, wide.architecture, wide.card)
    kinds = set()
    for name, array in after.items():
        assert array.dtype == np.float32 and array.shape == before[name].shape
        if half in name:
            np.testing.assert_array_equal(array, before[name].astype(np.float16))
            assert list(packed.packed[name]) == ["half"]
        elif before[name].size >= 4096:
            # 255 levels for each output channel: half a step is the largest error, and the largest weight stays.
            largest = np.abs(before[name]).max((0, 1, 2))
            error = np.abs(array - before[name]).max((0, 1, 2))
            assert (error <= 0.5001 * largest / 127).all() and error.max() > 0
            np.testing.assert_allclose(np.abs(array).max((0, 1, 2)), largest, rtol=1e-6)
            assert packed.packed[name]["bytes"].dtype == np.int8
        else:
            np.testing.assert_array_equal(array, before[name])
            assert name not in packed.packed
        kinds.add(tuple(packed.packed.get(name, ())))
    assert len(kinds) == 3
    for name, array in packed.arrays().items():
        if not name.startswith("params/"):
            np.testing.assert_array_equal(array, wide.arrays()[name])
    assert wide.packed == {}


def test_packed_files(wide, tmp_path):
    packed = wide.pack()
    packed.save(tmp_path / "a.mlicm")
    data = (tmp_path / "a.mlicm").read_bytes()
    parameters = sum(array.nbytes for array in flatten(wide.params).values())
    saved = sum(a.nbytes for a in flatten(wide.params).values() if a.size >= 4096)
    assert saved > 0.9 * parameters and len(data) < len(wide.to_bytes()) - 0.73 * saved
    again = Artifact.load(tmp_path / "a.mlicm")
    assert again.fingerprint == packed.fingerprint and again.to_bytes() == data == packed.to_bytes()
    assert again.arrays().keys() == packed.arrays().keys()
    for name, array in again.arrays().items():
        np.testing.assert_array_equal(array, packed.arrays()[name], err_msg=name)
    # What one has written, the other reads.
    image = small.crops(1, 64)[0]
    codec = zoo.codec_of(packed)
    chunks = codec.compress(packed, image, None)
    assert codec.compress(again, image, None) == chunks
    np.testing.assert_array_equal(codec.decompress(again, chunks, (64, 64)), codec.decompress(packed, chunks, (64, 64)))


def test_a_packed_file_is_a_quarter():
    params = {"a": {"kernel": np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)}}
    made = Artifact(NAME, {}, params, {}, {})
    assert len(made.pack().to_bytes()) < 0.27 * len(made.to_bytes())
    assert len(made.pack(("a",)).to_bytes()) < 0.52 * len(made.to_bytes())
    # A channel of zeros stays one.
    params["a"]["kernel"][..., 5] = 0
    found = Artifact(NAME, {}, params, {}, {}).pack().params["a"]["kernel"]
    assert not found[..., 5].any() and np.isfinite(found).all()


def entries_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_damaged_packed_files(wide):
    data = wide.pack(("g_a/layers_2",)).to_bytes()
    kernel, half = "packed/g_s/layers_2/kernel/", "packed/g_a/layers_2/kernel/"
    entries = entries_of(data)
    assert {kernel + "bytes.npy", kernel + "scale.npy", half + "half.npy"} <= entries.keys()
    integers, scale = (np.load(io.BytesIO(entries[kernel + name])) for name in ("bytes.npy", "scale.npy"))
    changes = {
        "no scale": {kernel + "scale.npy": None},
        "no bytes": {kernel + "bytes.npy": None},
        "nothing packed": {kernel + "scale.npy": None, kernel + "bytes.npy": None},
        "more": {kernel + "more.npy": npy(scale)},
        "both": {kernel + "half.npy": npy(integers.astype(np.float16))},
        "another type": {kernel + "bytes.npy": npy(integers.astype(np.int32))},
        "another type of scale": {kernel + "scale.npy": npy(scale.astype(np.float64))},
        "another type of half": {half + "half.npy": npy(np.ones((5, 5, 24, 24), np.float32))},
        "too few scales": {kernel + "scale.npy": npy(scale[:-1])},
        "one scale": {kernel + "scale.npy": npy(scale[0])},
        "no kernel": {kernel + "bytes.npy": npy(integers[0, 0, 0, 0])},
        "there twice": {"params/g_s/layers_2/kernel.npy": npy(integers.astype(np.float32) * scale)},
        "other bytes": {kernel + "bytes.npy": npy(integers + np.int8(1))},
        "other scales": {kernel + "scale.npy": npy(scale * np.float32(1.01))},
        "an array": {"packed.npy": npy(scale)},
        "an array over it": {"packed/g_s.npy": npy(scale)},
        "without a name": {"packed/bytes.npy": npy(scale)},
    }
    assert Artifact.from_bytes(rezip(entries)).fingerprint == wide.pack(("g_a/layers_2",)).fingerprint
    for name, change in changes.items():
        forged = {key: content for key, content in {**entries, **change}.items() if content is not None}
        with pytest.raises(ModelError):
            Artifact.from_bytes(rezip(forged))
            pytest.fail(name)
    rng = np.random.default_rng(1)
    for length in rng.integers(0, len(data), 20):
        with pytest.raises(ModelError):
            Artifact.from_bytes(data[:length])
