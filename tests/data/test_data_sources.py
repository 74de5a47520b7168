"""Sources: the bundled photos, folders and TFDS sets, by one factory."""

import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mlic_jax.data import HELD_OUT, bundled, make_source
from mlic_jax.data.sources import Cached
from mlic_jax.errors import InputError, UsageError


def fill(folder, count, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for value in range(start, start + count):
        Image.fromarray(np.full((20, 30, 3), value, np.uint8)).save(folder / f"{value:03}.png")
    return folder


def values(source) -> list[int]:
    """Which of the flat images a source has, in its order."""
    return [int(source[index][0, 0, 0]) for index in range(len(source))]


def test_bundled_splits():
    train, held_out = bundled("train"), bundled("validation")
    assert [path.name for path in held_out] == sorted(HELD_OUT) and len(HELD_OUT) == 4
    assert len(train) == 8 and not set(train) & set(held_out)
    assert sorted(train + held_out) == bundled("all")
    source = make_source("bundled", "validation")
    assert len(source) == 4 and source[0].shape == (511, 768, 3) and source.name(0).endswith("aitzgorri.png")


@pytest.mark.parametrize("form", ["{}", "folder:{}"])
def test_folder(tmp_path, form):
    fill(tmp_path / "a", 40)
    spec = form.format(tmp_path)
    train, validation = values(make_source(spec, "train")), values(make_source(spec, "validation"))
    assert 1 <= len(validation) <= 8
    assert sorted(train + validation) == values(make_source(spec, "all")) == list(range(40))
    # More images move none from one split to the other.
    fill(tmp_path / "a", 40, start=100)
    assert set(train) <= set(values(make_source(spec, "train")))
    assert set(validation) <= set(values(make_source(spec, "validation")))


def test_folder_with_splits_of_its_own(tmp_path):
    fill(tmp_path / "train", 3)
    fill(tmp_path / "validation", 2, start=10)
    assert values(make_source(str(tmp_path), "train")) == [0, 1, 2]
    assert values(make_source(str(tmp_path), "validation")) == [10, 11]


def test_small_folders(tmp_path):
    fill(tmp_path, 1)
    assert values(make_source(str(tmp_path), "train")) == values(make_source(str(tmp_path), "validation")) == [0]
    fill(tmp_path, 2)
    assert sorted(values(make_source(str(tmp_path), "train")) + values(make_source(str(tmp_path), "validation"))) == [
        0,
        1,
    ]


@pytest.mark.parametrize(
    "spec, split, kind, words",
    [
        ("nowhere", "train", UsageError, "'bundled', 'folder:PATH'"),
        ("", "train", UsageError, "'bundled', 'folder:PATH'"),
        ("bundled", "test", UsageError, "train, validation, all"),
        ("folder:/nowhere", "train", InputError, "/nowhere: no such folder"),
        ("tfds:", "train", UsageError, "tfds:clic"),
        ("tfds:no_such_set", "train", UsageError, "TFDS knows no such set"),
    ],
)
def test_errors_name_what_would_be_right(tmp_path, spec, split, kind, words):
    with pytest.raises(kind) as error:
        make_source(spec, split, tmp_path)
    assert words in str(error.value) and "\n" not in str(error.value)


class Counting:
    def __init__(self):
        self.reads = 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.reads += 1
        return np.full((512, 1024, 3), index, np.uint8)  # 1.5 MiB

    def name(self, index):
        return str(index)


def test_cache_keeps_what_fits():
    counting = Counting()
    cached = Cached(counting, 3.5)
    for _ in range(3):
        assert [int(cached[index][0, 0, 0]) for index in range(4)] == [0, 1, 2, 3]
    assert counting.reads == 2 + 2 * 3  # two images fit; the other two are read each time
    with pytest.raises(ValueError):
        cached[0][0] = 1
    assert len(pickle.dumps(cached)) < 1000 and int(pickle.loads(pickle.dumps(cached))[3][0, 0, 0]) == 3


PREPARE = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    FEATURES = {"image": tfds.features.Image(), "title": tfds.features.Text()}

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(self.FEATURES))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(0, 5), "test": self._generate_examples(100, 102)}

    def _generate_examples(self, first, last):
        for value in range(first, last):
            example = {"title": str(value)}
            for offset, name in enumerate(sorted(self.FEATURES.keys() - {"title"})):
                example[name] = io.BytesIO()
                Image.fromarray(np.full((20, 30, 3), value + 10 * offset, np.uint8)).save(example[name], "PNG")
                example[name].seek(0)
            yield value, example

class TinyPhotos(Tiny):
    pass

class TinyPairs(Tiny):
    FEATURES = {"left": tfds.features.Image(), "right": tfds.features.Image(), "title": tfds.features.Text()}

class TinyDepth(Tiny):
    FEATURES = {"depth": tfds.features.Image(shape=(None, None, 1), dtype=np.uint16), "left": tfds.features.Image(),
                "title": tfds.features.Text()}

class TinyText(Tiny):
    FEATURES = {"title": tfds.features.Text()}

for builder in (TinyPhotos, TinyPairs, TinyDepth, TinyText):
    builder(data_dir=sys.argv[1]).download_and_prepare(file_format="array_record")
"""


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    # In a process of its own, so that reading has to do without the builders' code, as for sets prepared elsewhere.
    folder = tmp_path_factory.mktemp("tfds")
    subprocess.run([sys.executable, "-c", PREPARE, str(folder)], check=True, capture_output=True)
    return folder


def test_tfds(tfds_dir):
    source = make_source("tfds:tiny_photos", "train", tfds_dir)
    assert sorted(values(source)) == [0, 1, 2, 3, 4] and source[0].shape == (20, 30, 3)
    assert source.name(1) == "tfds:tiny_photos/train[1]"
    assert sorted(values(make_source("tfds:tiny_photos", "validation", tfds_dir))) == [100, 101]
    assert len(make_source("tfds:tiny_photos", "all", tfds_dir)) == 7
    assert len(make_source("tfds:tiny_photos", "train[:40%]", tfds_dir)) == 2
    assert values(pickle.loads(pickle.dumps(source))) == values(source)
    assert "tensorflow" not in sys.modules


def test_tfds_feature(tfds_dir):
    assert sorted(values(make_source("tfds:tiny_pairs#left", "train", tfds_dir))) == [0, 1, 2, 3, 4]
    assert sorted(values(make_source("tfds:tiny_pairs#right", "train", tfds_dir))) == [10, 11, 12, 13, 14]
    with pytest.raises(UsageError, match="tfds:tiny_pairs#left"):
        make_source("tfds:tiny_pairs", "train", tfds_dir)
    with pytest.raises(UsageError, match="it has left, right"):
        make_source("tfds:tiny_pairs#title", "train", tfds_dir)
    with pytest.raises(UsageError, match="no image feature, only title"):
        make_source("tfds:tiny_text", "train", tfds_dir)


def test_of_several_images_one_is_decoded(tfds_dir, monkeypatch):
    """The other may be of any kind, as 16 bits of depth, which TFDS decodes with TensorFlow alone."""
    assert sorted(values(make_source("tfds:tiny_depth#left", "train", tfds_dir))) == [10, 11, 12, 13, 14]
    import tensorflow_datasets as tfds

    def refuse(*_, **__):
        raise AssertionError("TFDS decodes an image")

    monkeypatch.setattr(tfds.features.Image, "decode_example_np", refuse)
    for spec in ("tfds:tiny_pairs#right", "tfds:tiny_photos"):
        assert make_source(spec, "train", tfds_dir)[0].shape == (20, 30, 3)


def test_digests_tell_sets_apart(tfds_dir, tmp_path):
    fill(tmp_path / "a", 3)
    fill(tmp_path / "b", 3)
    specs = [str(tmp_path / "a"), "bundled", "tfds:tiny_photos", "tfds:tiny_pairs#left", "tfds:tiny_pairs#right"]
    digests = [make_source(spec, "train", tfds_dir).digest() for spec in specs]
    assert len(set(digests)) == len(specs)
    assert digests[0] == make_source(str(tmp_path / "b"), "train", cache_mib=0).digest()
    assert make_source("tfds:tiny_photos", "all", tfds_dir).digest() not in digests


def test_the_recipe_of_the_docs_for_a_set_of_ones_own(tmp_path):
    fill(tmp_path / "pairs" / "sharp", 3)
    blurred = fill(tmp_path / "pairs" / "blurred", 3, start=100)
    for path in blurred.iterdir():
        path.rename(blurred / f"0{path.name[1:]}")
    text = (pathlib.Path(__file__).parents[2] / "docs" / "training.md").read_text()
    recipe, command = re.search(
        r"```python\n(import pathlib.*?)```.*?\n    (mlic train .*?)\n", text, re.DOTALL
    ).groups()
    (tmp_path / "own.py").write_text(f"{recipe}\nimport sys\nassert 'tensorflow' not in sys.modules")
    subprocess.run([sys.executable, "own.py"], check=True, capture_output=True, cwd=tmp_path)
    settings = dict(re.findall(r"--config\.data\.(\w+)=(\S+)", command))
    source = make_source(settings["source"], "train", tmp_path / settings["dir"])
    assert sorted(values(source)) == [0, 1, 2] and settings["source"].endswith("#sharp")
    other = make_source(settings["source"].replace("#sharp", "#blurred"), "train", tmp_path / settings["dir"])
    assert sorted(values(other)) == [100, 101, 102]


def test_tfds_split_error(tfds_dir):
    with pytest.raises(UsageError, match="one of train, test"):
        make_source("tfds:tiny_photos", "bogus", tfds_dir)


def test_tfds_prepared_without_random_access(tfds_dir, tmp_path):
    folder = tmp_path / "tiny_photos" / "1.0.0"
    folder.mkdir(parents=True)
    for name in ("dataset_info.json", "features.json"):
        text = (tfds_dir / "tiny_photos" / "1.0.0" / name).read_text()
        (folder / name).write_text(text.replace("array_record", "tfrecord"))
    with pytest.raises(UsageError, match="without random access"):
        make_source("tfds:tiny_photos", "train", tmp_path)


def test_tfds_set_that_needs_tensorflow_to_be_prepared(tmp_path, capsys):
    if "tensorflow" in sys.modules:
        pytest.skip("TensorFlow is loaded")
    import importlib.util

    if importlib.util.find_spec("tensorflow"):
        pytest.skip("TensorFlow is installed")
    with pytest.raises(UsageError, match=r"pip install .*\[tf\]"):
        make_source("tfds:clic", "train", tmp_path)
    # Its code asks for TensorFlow as soon as it is imported.
    with pytest.raises(UsageError, match=r"tfds:coco': preparing this set .* needs tensorflow.*\[tf\]") as error:
        make_source("tfds:coco", "train", tmp_path)
    assert "\n" not in str(error.value) and capsys.readouterr() == ("", "")
