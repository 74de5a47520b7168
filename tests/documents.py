"""What tests read in docs/, and how the reference decoder is started without any library."""

import pathlib
import re

DOCUMENTS = pathlib.Path(__file__).parents[1] / "docs"
ALONE = """
import sys
for name in ("jax", "jaxlib", "flax", "constriction", "google_crc32c", "scipy", "PIL"):
    sys.modules[name] = None  # whoever imports it now, fails
import runpy
runpy.run_module("mlic_jax.reference", None, "__main__")
"""


def tables_behind(mark):
    """The tables that follow a comment of docs/format*.md: a list of tables of rows of cells, without headings."""
    found = [path.read_text().split(mark)[1] for path in DOCUMENTS.glob("format*.md") if mark in path.read_text()]
    assert len(found) == 1
    parts = re.findall(r"(?:^\|.*\n)+", found[0], re.MULTILINE)
    return found[0], [[[c.strip() for c in line.split("|")[1:-1]] for line in part.splitlines()[2:]] for part in parts]
