"""Picture files of named formats alone are opened, by one function, and nothing that was opened starts a program."""

import ast
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from mlic_jax.cli import common
from mlic_jax.data import images, sources
from mlic_jax.errors import InputError

PACKAGE = pathlib.Path(images.__file__).parents[1]
# Who else opens files, and why that is safe: (module, what it passes as formats).
OTHERS = {"classical/pillow_codecs.py", "data/samples.py"}

POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 20 20
%%EndComments
(touched) (w) file closefile
showpage
"""


def calls_of_open():
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "Image.open",
                "PIL.Image.open",
                "PngImageFile",
            ):
                yield path.relative_to(PACKAGE).as_posix(), node


def test_one_function_opens_pictures():
    found = list(calls_of_open())
    assert {name for name, _ in found} == {"data/images.py", *OTHERS}
    for name, node in found:
        assert any(word.arg == "formats" for word in node.keywords), name


@pytest.fixture
def no_programs(monkeypatch):
    started = []

    def hook(event, arguments):
        if watching and event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"):
            started.append(event)

    watching = True
    sys.addaudithook(hook)
    yield started
    watching = False


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.eps"])
def test_postscript_is_no_picture(tmp_path, monkeypatch, no_programs, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.write_bytes(POSTSCRIPT)
    readers = [
        lambda: images.read_image(path),
        lambda: images.decode_image(POSTSCRIPT),
        lambda: sources.ImageFiles([path], path.parent)[0],
        lambda: images.read_grey(POSTSCRIPT, "map"),
    ]
    if name != "a.eps":
        readers.append(lambda: common.pictures(str(tmp_path), 0))
    for read in readers:
        with pytest.raises(InputError, match="not an image that can be read: PNG, JPEG, WebP"):
            read()
    assert not no_programs and sorted(p.name for p in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("format", ["ICO", "PCX", "SGI", "TGA", "ICNS", "DDS", "IM", "MSP", "SPIDER"])
def test_other_formats_of_pillow_are_not_opened(tmp_path, format):
    mode = {"MSP": "1", "SPIDER": "F"}.get(format, "RGB")
    path = tmp_path / "a.png"
    # Under another name first: whoever writes SPIDER teaches Pillow that files of this suffix are SPIDER's.
    Image.new(mode, (64, 64)).save(tmp_path / "a.other", format)
    (tmp_path / "a.other").rename(path)
    with pytest.raises(InputError, match="not an image that can be read"):
        images.read_image(path)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "PPM", "JPEG2000"])
def test_named_formats_are_opened_whatever_the_name(tmp_path, format):
    array = np.full((40, 50, 3), 128, np.uint8)
    Image.fromarray(array).save(tmp_path / "a.eps", format)
    assert np.abs(images.read_image(tmp_path / "a.eps").astype(int) - array).max() <= 4
    assert format in images.FORMATS
