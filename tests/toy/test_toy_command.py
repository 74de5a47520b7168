"""`mlic toy` prints a table and draws a figure; its experiments are all there."""

import json
import subprocess
import sys
import xml.etree.ElementTree

import numpy as np
import pytest

from mlic_jax import toy
from mlic_jax.cli import main as cli
from mlic_jax.cli import toy as command
from mlic_jax.toy import experiments, figures, training


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


def test_an_experiment_trains_and_writes_bytes(capsys):
    assert cli.main(["toy", "laplace", "--steps", "2", "--samples", "2000", "--quiet", "--json"]) == 0
    rows = {row["code"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == ["rate-distortion function", "ECSQ", "NTC", "LTC"]
    assert rows["rate-distortion function"]["loss"] < rows["ECSQ"]["loss"] < rows["NTC"]["loss"]
    assert rows["NTC"]["bits of bytes"] == pytest.approx(rows["NTC"]["bits by prior"], rel=0.01, abs=16 * 8 / 1e4)


def shown_of(name):
    """What a figure is drawn from, with models that were never trained."""
    small = dict(hidden=(4,), prior="lsm-1")
    costs = [toy.Point(float(i), 0.5**i, i + 0.5**i) for i in range(1, 4)]
    if name in ("laplace", "banana"):
        pair = {"ntc": dict(small, mode="soft"), "ltc": dict(small, transform="linear")}
        shown = {key: training.untrained(toy.defaults(name, **options)) for key, options in pair.items()}
        best = toy.ecsq() if name == "laplace" else toy.ecvq(codewords=16, samples=2000)
        return shown | {"lam": 1.0, "ecsq" if name == "laplace" else "ecvq": best}
    if name == "sawbridge":
        given = toy.source("sawbridge", points=16)
        curves = dict.fromkeys(("NTC", "KLT", "closed form"), costs)
        return {"curves": curves, "source": given, "ntc": training.untrained(toy.defaults(given, **small))}
    return {
        "curves": {
            "name": "banana",
            "curves": dict.fromkeys(("rate-distortion function", "ECVQ", "NTC", "LTC"), costs),
        },
        "quantisers": {"lam": 1.0, "best": 1.4, "rows": [{"training": "noise", "rounded": 1.6, "dithered": 1.7}]},
        "variable": {"lams": (1.0, 2.0, 4.0), "gaps": {"A": [0.0, 0.1, 0.0], "C": [0.2, 0.1, 0.1]}},
    }[name]


@pytest.mark.parametrize("name", [name for name in command.WHAT if name != "sources"])
def test_every_figure_is_drawn(name, monkeypatch):
    monkeypatch.setattr(figures, "_GRID", 40)
    drawn = figures.draw_figure(name, shown_of(name), "svg")
    assert xml.etree.ElementTree.fromstring(drawn).tag.endswith("svg")
    assert figures.draw_figure("variable", shown_of("variable"), "png").startswith(b"\x89PNG")


def test_edges_of_cells():
    symbols = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])[..., None]
    edge = [[False, True, False], [True, True, True], [False, False, False]]
    np.testing.assert_array_equal(figures.cells(symbols), edge)


def test_nothing_of_it_is_imported_before_it_is_used():
    code = "import sys; from mlic_jax import toy; from mlic_jax.cli import main; main._parser(); "
    code += "print('jax' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
