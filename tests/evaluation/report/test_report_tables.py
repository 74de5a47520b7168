"""Tables: what people and other programs read."""

import csv

import numpy as np
import pytest

from mlic_jax.evaluation.report import tables


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (0.0, "0"),
        (30.1649, "30.16"),
        (-32.06, "−32.06"),
        (0.98765432, "0.9877"),
        (0.0033999, "0.0034"),
        (100.0, "100"),
        (1234567, "1\u202f234\u202f567"),
        (np.float32(0.5), "0.5"),
        (np.int64(12), "12"),
        (True, "True"),
        ("webp", "webp"),
    ],
)
def test_cells_read_well(value, text):
    assert tables.cell(value) == text


def test_markdown_table():
    rows = [{"codec": "a|b", "bpp": 0.5}, {"codec": "jpeg", "bpp": None, "note": "two\nlines"}]
    assert tables.markdown_table(rows).splitlines() == [
        "| codec | bpp | note |",
        "| --- | ---: | --- |",
        "| a\\|b | 0.5 | – |",
        "| jpeg | – | two lines |",
    ]
    assert tables.markdown_table([]) == ""


def test_csv_keeps_all_digits(tmp_path):
    rows = [{"codec": 'a,"b"', "bpp": 1 / 3}, {"codec": "jpeg", "psnr_db": 30.0}]
    tables.write_csv(tmp_path / "rows.csv", rows)
    with open(tmp_path / "rows.csv", newline="") as file:
        back = list(csv.DictReader(file))
    assert back[0]["codec"] == 'a,"b"' and float(back[0]["bpp"]) == 1 / 3
    assert back[1] == {"codec": "jpeg", "bpp": "", "psnr_db": "30.0"}


def test_compressai_s_layout_pairs_the_right_values():
    points = [
        {"bpp": 0.8, "psnr_db": 34.0, "ms_ssim": 0.98, "encode_s": 0.1},
        {"bpp": 0.2, "psnr_db": 29.0, "ms_ssim": float("nan"), "encode_s": 0.2},
    ]
    assert tables.compressai("ours", "a test", points) == {
        "name": "ours",
        "description": "a test",
        "results": {"bpp": [0.2, 0.8], "psnr-rgb": [29.0, 34.0], "encoding_time": [0.2, 0.1]},
    }
