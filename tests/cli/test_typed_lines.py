"""Commands that README, docs, configs and --help show are understood as they stand."""

import pathlib
import re
import shlex

import pytest

from mlic_jax.cli import main as cli
from mlic_jax.training import config_files

ROOT = pathlib.Path(__file__).parents[2]
PLACES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "configs").glob("*.py"))]
EXAMPLES = [*cli.EXAMPLES, *(line for command in cli.COMMANDS for line in command.examples)]


def lines():
    """(place, command) of every indented line that begins with `mlic`, with what a backslash continues."""
    for path in PLACES:
        text = re.sub(r"\\\n\s*", " ", path.read_text())
        for line in re.findall(r"^    (mlic .*)$", text, re.MULTILINE):
            yield path.relative_to(ROOT).as_posix(), line
    yield from (("--help", line) for line in EXAMPLES if line.startswith("mlic "))


TYPED = list(lines())


def test_there_are_some():
    assert {place for place, _ in TYPED} >= {"README.md", "docs/training.md", "configs/li2018.py", "--help"}
    assert all(command.examples for command in cli.COMMANDS)


@pytest.mark.parametrize(("place", "line"), TYPED, ids=[f"{place}-{line[5:40]}" for place, line in TYPED])
def test_a_line_is_understood(place, line):
    words = [word for word in shlex.split(line, comments=True)[1:] if word != "..."]
    if words[0] == "COMMAND":
        return
    arguments, rest = cli._parser().parse_known_args(words)
    command = next(command for command in cli.COMMANDS if command.name == arguments.command)
    assert not rest or (command.passes_on and all(word.startswith("--config.") for word in rest)), rest
    if arguments.command == "train":
        name, _, variant = arguments.config.partition(":")
        about = config_files.about(name)
        assert not variant or variant in (*about.variants, "Q"), f"{variant!r} is none of {about.variants}"
