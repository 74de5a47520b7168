"""`mlic toy` prints a table and draws a figure; its experiments are all there."""

import json
import subprocess
import sys
import xml.etree.ElementTree

import numpy as np
import pytest

from mlic_jax import cli
from mlic_jax.toy import command, experiments, figures


def test_the_command_knows_every_experiment_and_every_experiment_has_a_figure():
    assert list(command.WHAT) == list(experiments.EXPERIMENTS)
    assert all(callable(getattr(figures, name)) for name in command.WHAT)


def test_an_experiment_as_a_table_and_as_json(tmp_path, capsys):
    figure = tmp_path / "sources.svg"
    assert cli.main(["toy", "sources", "--figure", str(figure)]) == 0
    printed = capsys.readouterr().out
    assert "| banana | 2 |" in printed and printed.endswith(f"wrote {figure}\n")
    xml.etree.ElementTree.parse(figure)
    before = figure.read_bytes()
    assert cli.main(["toy", "sources", "--json", "--figure", str(figure)]) == 0
    rows = {row["source"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["laplace"]["energy"] == pytest.approx(2, abs=0.2) and rows["ramp"]["entropy"] is None
    assert figure.read_bytes() == before


@pytest.mark.parametrize(
    "words, reason",
    [
        (["sources", "--figure", "x.bmp"], "ends in .svg, .png, .pdf"),
        (["curves", "--source", "ramp"], "there are those of laplace, banana"),
        (["variable", "--methods", "Z", "--steps", "1"], "no method is called 'Z'"),
    ],
)
def test_bad_requests_end_in_one_line(words, reason, capsys):
    assert cli.main(["toy", *words, "--quiet"]) == 2
    assert reason in capsys.readouterr().err


def test_numbers_that_make_no_sense(capsys):
    for words in (["--lam", "0"], ["--steps", "x"], ["--samples", "-1"], ["--lam", "nan"]):
        with pytest.raises(SystemExit):
            cli.main(["toy", "laplace", *words])
        assert "above 0" in capsys.readouterr().err


def test_the_banana_is_drawn(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(figures, "_GRID", 40)
    figure = tmp_path / "banana.png"
    words = ["--steps", "3", "--samples", "2000", "--lam", "0.3", "--quiet"]
    monkeypatch.setattr(experiments.vector.ecvq, "__defaults__", ("banana", 1.0, 32, 5000, 0, 1e-3, 50))
    assert cli.main(["toy", "banana", "--figure", str(figure), *words]) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    rows = capsys.readouterr().out
    assert all(name in rows for name in ("rate-distortion function", "ECVQ", "NTC", "LTC"))


def test_edges_of_cells():
    symbols = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])[..., None]
    edge = [[False, True, False], [True, True, True], [False, False, False]]
    np.testing.assert_array_equal(figures.cells(symbols), edge)


def test_nothing_of_it_is_imported_before_it_is_used():
    code = (
        "import sys; from mlic_jax import cli, toy; cli._parser(); print('jax' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
