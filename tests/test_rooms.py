"""The house: imports point down, and nothing grows too long to be read.

A room is a folder of mlic_jax, or a module beside the folders. ROOMS is the only place where their order is written.
"""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "mlic_jax"

# From the ground up. A room imports rooms of the lines above its own, at the top of a module or inside a function, and
# none of its own line. What is named in a string and imported when it is used does not count: that is how the zoo knows
# its models, and mlic_jax its calls.
ROOMS = (
    {"errors"},
    {"atomic"},
    {"__init__", "extras", "runtime", "zoo"},
    {"codec", "data", "jpeg", "classical", "layers"},
    {"entropy", "metrics"},
    {"fileformat"},
    {"reference", "families", "toy"},
    {"models"},
    {"api"},
    {"pillow"},
    {"training"},
    {"evaluation", "interop"},
    {"cli"},
    {"__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}

# Further rules about who may import what: room -> all of the package that it knows.
REFERENCE = {"errors", "fileformat.artifact", "reference"}
STANDARD = {"bisect", "collections", "decimal", "functools", "hashlib", "io", "itertools", "sys", "typing"}
# Libraries that one module alone imports.
ONLY = {"orbax": "training/checkpoint.py", "constriction": "entropy/rangecoder.py", "grain": "data/pipeline.py"}

LONGEST_FUNCTION, LONGEST_FILE, MOST_MODULES = 80, 450, 8
# Longer ones, and why.
LONG_FUNCTIONS = {}
LONG_FILES = {
    "benchmarks/learning_curve.py": "one experiment with both of its sides, run as a program of its own",
}


@functools.cache
def parsed(text):
    return ast.parse(text)


def modules(folder=PACKAGE):
    return {path: parsed(path.read_text()) for path in sorted(folder.rglob("*.py"))}


def room_of(path, package=PACKAGE):
    return path.relative_to(package).parts[0].removesuffix(".py")


def names_imported(tree):
    """(line, dotted name) of everything that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def imports_of(tree, package=PACKAGE):
    """(line, module of the package without its name) of every import from the package; "" is the package itself."""
    for line, name in names_imported(tree):
        top, *parts = name.split(".")
        if top == package.name:
            folder, module = package, []
            for part in parts:  # the last ones may be names inside a module
                if not (folder / part).is_dir() and not (folder / f"{part}.py").exists():
                    break
                folder, module = folder / part, [*module, part]
            yield line, ".".join(module)


def climbs(package=PACKAGE):
    """Imports that do not point down, as lines."""
    for path, tree in modules(package).items():
        room = room_of(path, package)
        for line, module in imports_of(tree, package):
            other = module.split(".")[0] or "__init__"
            if other != room and FLOOR[other] >= FLOOR[room]:
                yield f"{path.relative_to(package)}:{line} imports {module or package.name}"


def test_every_room_is_on_a_floor():
    rooms = {room_of(path) for path in modules()}
    assert rooms == set(FLOOR)


def test_imports_point_down():
    assert not list(climbs())


@pytest.mark.parametrize(
    "room, line",
    [
        ("layers/one.py", "from mlic_jax.families import latent"),
        ("layers/one.py", "def f():\n    import mlic_jax.api as calls"),
        ("entropy/one.py", "from mlic_jax import api"),
        ("layers/one.py", "from mlic_jax.jpeg import scan"),
        ("errors.py", "if True:\n    from mlic_jax import atomic"),
        ("codec.py", "import mlic_jax.cli.main"),
    ],
)
def test_a_climb_is_noticed(tmp_path, room, line):
    package = tmp_path / "mlic_jax"
    for path in ("families/latent.py", "jpeg/scan.py", "cli/main.py", "api.py", "zoo.py", "atomic.py", room):
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text("import json\n")
    assert not list(climbs(package))
    (package / room).write_text(line)
    (found,) = climbs(package)
    assert found.startswith(room)


def test_the_reference_decoder_stands_alone():
    for path, tree in modules(PACKAGE / "reference").items():
        for line, module in imports_of(tree):
            known = any(module == name or module.startswith(f"{name}.") for name in REFERENCE)
            assert known, f"{path.name}:{line} imports {module}"
        outside = {name.split(".")[0] for _, name in names_imported(tree)} - {"mlic_jax", "numpy", "__future__"}
        assert outside <= STANDARD, path.name


def test_libraries_with_one_door():
    for path, tree in modules().items():
        for line, name in names_imported(tree):
            door = ONLY.get(name.split(".")[0])
            assert door in (None, path.relative_to(PACKAGE).as_posix()), f"{path.name}:{line} imports {name}"


# ---------------------------------------------------------------------- limits


def programs():
    """All Python of the repository but the tests."""
    folders = [PACKAGE, *(ROOT / name for name in ("benchmarks", "configs", "fuzz", "tools"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for folder in folders for path in folder.rglob("*.py")}


def test_functions_are_short():
    too_long = {}
    for path, text in programs().items():
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if (length := node.end_lineno - node.lineno + 1) > LONGEST_FUNCTION:
                    too_long[f"{path}:{node.name}"] = length
    assert too_long.keys() == LONG_FUNCTIONS.keys(), f"more than {LONGEST_FUNCTION} lines, or no longer: {too_long}"


def test_files_are_short():
    lengths = {path: text.count("\n") for path, text in programs().items()}
    too_long = {path: length for path, length in lengths.items() if length > LONGEST_FILE}
    assert too_long.keys() == LONG_FILES.keys(), f"more than {LONGEST_FILE} lines, or no longer: {too_long}"


def test_few_modules_stand_beside_the_rooms():
    beside = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}  # whose places Python decides
    assert len(beside) <= MOST_MODULES, sorted(beside)
