"""Importing and exporting CompressAI's weights, and reading PyTorch's files without PyTorch."""

import collections
import io
import pickle
import re
import zipfile

import jax
import numpy as np
import pytest
import small
from commands import run
from PIL import Image

from mlic_jax import zoo
from mlic_jax.data.torch_files import read_checkpoint
from mlic_jax.errors import MlicError, ModelError
from mlic_jax.fileformat.artifact import Artifact, flatten, unflatten
from mlic_jax.interop.compressai import MODELS, architecture_of, cost_of_integers, from_compressai, to_compressai

CHECKPOINT = small.FIXTURES / "bmshj2018-factorized.pth.tar"
# In the format before torch 1.6, with CompressAI's names of then.
EARLIER = small.FIXTURES / "bmshj2018-factorized-1.5.pth.tar"


@pytest.mark.parametrize("name", small.NAMES)
def test_there_and_back(name):
    weights = small.fixture_weights(name)
    assert architecture_of(name, weights) == small.WIDTHS
    params, state = from_compressai(name, weights)
    back = to_compressai(name, params, state)
    for key, array in back.items():
        if not key.endswith("quantiles"):
            np.testing.assert_array_equal(array, weights[key], err_msg=key)
    # CompressAI searches its quantiles to 1e-4 of the value.
    np.testing.assert_allclose(back["entropy_bottleneck.quantiles"], weights["entropy_bottleneck.quantiles"], rtol=1e-4)
    again, state_again = from_compressai(name, back)
    for key, array in flatten(again).items():
        np.testing.assert_array_equal(array, flatten(params)[key])
    for prior in state:
        np.testing.assert_array_equal(state[prior]["medians"], state_again[prior]["medians"])


def test_medians_without_state_are_searched():
    params, state = from_compressai("mbt2018-mean", small.fixture_weights("mbt2018-mean"))
    found = to_compressai("mbt2018-mean", params)["entropy_bottleneck.quantiles"]
    np.testing.assert_allclose(found[:, 0, 1], state["prior_z"]["medians"], atol=1e-2)


def test_old_names_and_prefix():
    name = "bmshj2018-hyperprior"
    weights = small.fixture_weights(name)
    old = {}
    for key, array in weights.items():
        for new_name, old_name in (("matrices.", "_matrix"), ("biases.", "_bias"), ("factors.", "_factor")):
            key = key.replace(new_name, old_name)
        old["module." + key] = array
    for key, array in flatten(from_compressai(name, old)[0]).items():
        np.testing.assert_array_equal(array, flatten(from_compressai(name, weights)[0])[key])


def test_old_names_of_residual_blocks():
    name = "cheng2020-anchor"
    weights = small.fixture_weights(name)
    old = {key.replace(".skip.", ".downsample."): array for key, array in weights.items()}
    assert set(old) != set(weights)
    for key, array in flatten(from_compressai(name, old)[0]).items():
        np.testing.assert_array_equal(array, flatten(from_compressai(name, weights)[0])[key])
    assert MODELS[name].widths[6] == {"N": 192} and 7 not in MODELS[name].widths


def test_what_does_not_fit_is_named():
    name = "bmshj2018-hyperprior"
    weights = small.fixture_weights(name)
    without = {key: a for key, a in weights.items() if key != "h_s.2.bias"}
    with pytest.raises(ModelError, match=r"missing h_s\.2\.bias"):
        from_compressai(name, without)
    with pytest.raises(ModelError, match=r"unexpected context_prediction\.weight"):
        from_compressai(name, {**weights, "context_prediction.weight": np.zeros(3)})
    with pytest.raises(ModelError, match=r"h_s\.2\.bias has shape"):
        from_compressai(name, {**weights, "h_s.2.bias": np.zeros(5)})
    with pytest.raises(ModelError, match="quantiles has shape"):
        from_compressai(name, {**weights, "entropy_bottleneck.quantiles": np.zeros((8, 3))})
    with pytest.raises(ModelError, match=r"missing h_a"):
        from_compressai(name, small.fixture_weights("bmshj2018-factorized"))
    with pytest.raises(ModelError, match="g_a"):
        from_compressai(name, {})
    with pytest.raises(ModelError, match="not known"):
        from_compressai("minnen2020", weights)
    with pytest.raises(ModelError, match="not known: use one of bmshj2018-factorized"):
        to_compressai("minnen2020", {})


def test_reads_what_torch_wrote():
    found = read_checkpoint(CHECKPOINT)
    for key, array in small.fixture_weights("bmshj2018-factorized").items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)
        assert found[key].dtype == array.dtype
    params, _ = from_compressai("bmshj2018-factorized", found)
    earlier, _ = from_compressai("bmshj2018-factorized", read_checkpoint(EARLIER))
    for key, array in flatten(params).items():
        np.testing.assert_array_equal(flatten(earlier)[key], array, err_msg=key)


def test_the_command_makes_a_model_that_works(tmp_path, capsys):
    path, photo = tmp_path / "x.mlicm", tmp_path / "photo.png"
    words = "import", "compressai", CHECKPOINT, "--model", "bmshj2018-factorized"
    status, out, err = run(capsys, *words, "-o", path, "--cost")
    assert status == 0 and "integers cost +0.00 % of the bits and +0.000 dB" in out  # it has no network on that path
    assert out.startswith(f"{path}: bmshj2018-factorized, "), err
    _, made = small.imported("bmshj2018-factorized")
    artifact = Artifact.load(path)
    assert artifact.fingerprint == made.fingerprint and CHECKPOINT.name in artifact.card["weights"]
    image = small.fixture("bmshj2018-factorized")["image"]
    Image.fromarray(image).save(photo)
    assert run(capsys, "compress", photo, "-m", path, "-o", tmp_path / "a.mlic")[0] == 0
    assert run(capsys, "decompress", tmp_path / "a.mlic", "-m", path, "-o", tmp_path / "b.png")[0] == 0
    decoded = np.asarray(Image.open(tmp_path / "b.png"))
    theirs = small.fixture("bmshj2018-factorized")["out/decoded"][0].transpose(1, 2, 0).clip(0, 1) * 255
    assert np.abs(decoded - np.rint(theirs)).max() <= 1
    status, out, err = run(capsys, "evaluate", "--model", path, "--images", tmp_path, "--metrics", "psnr")
    assert status == 0 and "| bmshj2018-factorized | x |" in out, err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["--model", "mbt2018-mean"],
            5,
            r"no CompressAI weights of mbt2018-mean: missing .*h_a.0.bias, .* and \d+ more",
        ),
        (
            ["--model", "minnen2020"],
            2,
            "'minnen2020' is not known: use one of bmshj2018-factorized, .*cheng2020-attn",
        ),
        (["--model", "cheng2020-attn"], 5, "no CompressAI weights of cheng2020-attn: g_a.0.conv1.weight is missing"),
        (["--model", "bmshj2018-factorized", "--quality", "9"], 2, "quality 9 is not known: use one of 1, 2"),
        (["--model", "bmshj2018-factorized", "--quality", "6"], 5, "with N=8, M=12: quality 6 has N=192, M=320"),
    ],
)
def test_what_the_command_cannot_read_is_one_line(tmp_path, capsys, words, code, message):
    status, _, err = run(capsys, "import", "compressai", CHECKPOINT, *words, "-o", tmp_path / "x.mlicm")
    assert status == code and re.search(message, err) and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


def _archive(content, **entries):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", content)
        for name, data in entries.items():
            archive.writestr(name.replace("__", "/"), data)
    return out.getvalue()


class _Storage:
    """Pickles as torch's reference to a storage of floats."""


class _Pickler(pickle._Pickler):
    """Writes `torch.<name>` for the strings "torch:<name>" within persistent ids, as torch does."""

    def persistent_id(self, obj):
        return ("storage", _FloatStorage, "0", "cpu", obj.count) if isinstance(obj, _Storage) else None

    def save_global(self, obj, name=None):
        module, name = {_FloatStorage: ("torch", "FloatStorage"), _rebuild: ("torch._utils", "_rebuild_tensor_v2")}[obj]
        self.write(b"c" + f"{module}\n{name}\n".encode())


class _FloatStorage:
    pass


def _rebuild():
    pass


_Pickler.dispatch = {**pickle._Pickler.dispatch, type: _Pickler.save_global, type(_rebuild): _Pickler.save_global}


class _Tensor:
    def __init__(self, count, offset, shape, strides):
        self.storage = _Storage()
        self.storage.count, self.layout = count, (offset, shape, strides)

    def __reduce__(self):
        return _rebuild, (self.storage, *self.layout, False, {})


def _checkpoint(tensor, data):
    out = io.BytesIO()
    _Pickler(out, 2).dump({"state_dict": {"x": tensor}, "epoch": 3})
    return _archive(out.getvalue(), a__data__0=data)


def _earlier_checkpoint(tensor, data):
    """As torch wrote it before 1.6."""
    out = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(part, out, 2)
    _Pickler(out, 2).dump({"state_dict": {"x": tensor}, "epoch": 3})
    pickle.dump(["0"], out, 2)
    return out.getvalue() + (len(data) // 4).to_bytes(8, "little") + data


NUMBERS = np.arange(6, dtype="<f4")
both_formats = pytest.mark.parametrize("checkpoint", [_checkpoint, _earlier_checkpoint])


@both_formats
def test_strided_tensors_of_a_training_checkpoint(tmp_path, checkpoint):
    path = tmp_path / "c.pth.tar"
    path.write_bytes(checkpoint(_Tensor(6, 1, (2, 2), (1, 3)), NUMBERS.tobytes()))
    np.testing.assert_array_equal(read_checkpoint(path)["x"], [[1, 4], [2, 5]])
    assert read_checkpoint(path)["x"].flags.owndata


@pytest.mark.parametrize(
    ("count", "offset", "shape", "strides"),
    [
        (7, 0, (7,), (1,)),  # longer than the data
        (6, 1, (6,), (1,)),
        (6, 0, (2, 2), (1, 5)),
        (6, 5, (2,), (-1,)),
        (6, -1, (2,), (1,)),
        (6, 0, (1 << 40,), (0,)),  # much out of little
        (6, 0, (2, 2), (1,)),
        (6, 0.5, (2,), (1,)),
    ],
)
@both_formats
def test_tensors_stay_within_their_data(tmp_path, count, offset, shape, strides, checkpoint):
    path = tmp_path / "c.pth.tar"
    path.write_bytes(checkpoint(_Tensor(count, offset, shape, strides), NUMBERS.tobytes()))
    with pytest.raises(ModelError):
        read_checkpoint(path)


class _Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_is_executed(tmp_path, capsys):
    path = tmp_path / "evil.pth.tar"
    ordered = collections.OrderedDict(x=_Evil())
    for content in (pickle.dumps(_Evil()), pickle.dumps({"state_dict": ordered}), b"cos\nsystem\n(S'true'\ntR."):
        path.write_bytes(_archive(content))
        with pytest.raises(ModelError, match="not allowed"):
            read_checkpoint(path)
    assert capsys.readouterr().out == ""


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "odd.pth.tar"
    for content in (
        b"",
        b"PK",
        pickle.dumps({}),
        _earlier_checkpoint(_Tensor(6, 0, (6,), (1,)), NUMBERS.tobytes())[:-4],
        _earlier_checkpoint(_Tensor(6, 0, (6,), (1,)), b""),
        _archive(pickle.dumps({})),
        _archive(pickle.dumps(3)),
        _archive(b"\x80\x02}r\xff\xff\xff\x7f."),  # its memory would have 2^31 places
        _archive(pickle.dumps({"x": 1})),
        _archive(pickle.dumps({"x": 1}), a__byteorder=b"big"),
        _archive(pickle.dumps({"x": 1}), b__data__pkl=b""),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"odd\.pth\.tar"):
            read_checkpoint(path)
    with pytest.raises(ModelError, match="cannot read"):
        read_checkpoint(tmp_path / "missing.pth.tar")


@pytest.mark.parametrize("checkpoint", [CHECKPOINT, EARLIER])
def test_damaged_files_raise_nothing_else(tmp_path, checkpoint):
    whole = checkpoint.read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.pth.tar"
    index = whole.rindex(b"data.pkl" if checkpoint == CHECKPOINT else b"q")  # the directory or keys at the end
    for trial in range(300):
        damaged = bytearray(whole)
        start = index if trial % 2 else 0
        for place in rng.integers(start, len(whole) if trial % 2 else 12000, 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged if trial % 5 else whole[: rng.integers(len(whole))])
        try:
            read_checkpoint(path)
        except MlicError:
            pass


def test_what_integers_cost():
    codec = zoo.make("mbt2018-mean", **small.WIDTHS)
    params, state = codec.init(jax.random.key(0), (64, 64, 3))
    flat = flatten(params)
    # Scales well above the smallest one, and means that are not zero.
    larger = {path: array * 4 if path.endswith("kernel") and path[0] != "p" else array for path, array in flat.items()}
    artifact = codec.export(unflatten(larger), state)
    more_bits, psnr_db = cost_of_integers(artifact, list(small.crops(2, 64)), side=64)
    assert 0 < abs(more_bits) < 0.05 and abs(psnr_db) < 0.5
