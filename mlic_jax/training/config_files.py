"""Config files and claims by name: those of the folder `configs` below the current directory, and the package's own.

In a checkout the package's own are the top-level folder `configs/`; an installed package has a copy of it. Files are
read here, not run: listing them imports neither jax nor a model.
"""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import mlic_jax
from mlic_jax.errors import UsageError

FOLDER = "configs"
CLAIMS = "configs/claims"


class About(NamedTuple):
    """What a config file says of itself.

    Attributes:
      name: as `mlic train --config` takes it.
      path: of the file.
      text: its docstring.
      variants: what may stand behind the colon, its `VARIANTS`; empty where it says nothing.
      default: the variant without a colon; "" where there is none.
    """

    name: str
    path: pathlib.Path
    text: str
    variants: Sequence[str]
    default: str

    @property
    def title(self) -> str:
        """The first line of its docstring."""
        return self.text.strip().partition("\n")[0].strip()


def folders(folder: str = FOLDER) -> list[pathlib.Path]:
    """Where files are looked for, in this order: below the current directory, and in the package."""
    package = pathlib.Path(mlic_jax.__file__).resolve().parent
    # A checkout has its configs beside the package, an installation inside of it.
    root = package if (package / FOLDER).is_dir() else package.parent
    return [pathlib.Path(folder), root / folder]


def find(name: str, folder: str = FOLDER) -> pathlib.Path | None:
    """The file of a config: the path of one as it stands, or a name, with _ or - between its words. None without one.

    Args:
      name: "configs/mbt2018_mean.py", "mbt2018_mean" or "mbt2018-mean"; no variant.
      folder: FOLDER, or CLAIMS for claims.
    """
    path = pathlib.Path(name)
    if path.suffix == ".py" and path.is_file():
        return path
    if not re.fullmatch(r"[\w.-]+", name):
        return None
    for there in folders(folder):
        for stem in (name, name.replace("-", "_")):
            if (path := there / f"{stem}.py").is_file():
                return path
    return None


def names(folder: str = FOLDER) -> list[str]:
    """What `find` finds by name and is one, in alphabetical order: other programs have folders of this name too."""
    function = b"def get_claim(" if folder == CLAIMS else b"def get_config("
    paths = [path for there in folders(folder) for path in there.glob("[!_]*.py")]
    return sorted({path.stem for path in paths if function in path.read_bytes()})


def about(name: str, folder: str = FOLDER) -> About:
    """What a config or claim says of itself. Raises UsageError where there is none, or it is no Python."""
    path = find(name, folder)
    if path is None:
        raise unknown(name, folder)
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as reason:
        raise UsageError(f"config {str(path)!r} cannot be read: {' '.join(str(reason).split())}") from reason
    return About(path.stem, path, ast.get_docstring(tree) or "", _variants(tree), _default(tree))


def unknown(name: str, folder: str = FOLDER) -> UsageError:
    """The error for a name or path that is none."""
    kind = "claim" if folder == CLAIMS else "config"
    if name.endswith(".py") or "/" in name:
        what = f"{kind} {name!r} does not exist"
    else:
        what = f"{kind} {name!r} is not known"
    return UsageError(f"{what}: give the path of a file, or one of {', '.join(names(folder)) or 'none'}")


def _variants(tree: ast.Module) -> tuple[str, ...]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(ast.unparse(target) == "VARIANTS" for target in node.targets):
            try:
                return tuple(map(str, ast.literal_eval(node.value)))
            except (ValueError, TypeError):  # made by an expression: it would have to be run
                return ()
    return ()


def _default(tree: ast.Module) -> str:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "get_config" and node.args.defaults:
            default = node.args.defaults[0]
            return str(default.value) if isinstance(default, ast.Constant) else ""
    return ""
