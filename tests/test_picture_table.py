"""The page about pictures says what is so."""

import numpy as np
import picture_table
import pytest

pytest.importorskip("pillow_heif")


def test_the_page_is_true():
    page = picture_table.page()
    assert "CHANGED" not in page
    written = picture_table.PAGE.read_text()
    wrong = [line for line in page.splitlines() if line not in written.splitlines()]
    assert page == written, f"python tests/picture_table.py writes it again; new are {wrong[:5]}"


def test_the_table_can_fail():
    """What comes back is compared: another picture is noticed, and so is another alpha."""
    for row in picture_table._png_rows():
        content, expected = row.make()
        assert picture_table.outcome(content, expected)[1].startswith(("exact", "colours rounded to 8 bits"))
        if expected.ndim == 3 and expected.shape[2] == 4:
            other = expected.copy()
            other[0, 0, 3] ^= 1
            assert "CHANGED" in picture_table.outcome(content, other)[1]
        other = expected.copy()
        other[-1, -1] ^= True if expected.dtype == bool else np.iinfo(expected.dtype).max
        assert "CHANGED" in picture_table.outcome(content, other)[1]
