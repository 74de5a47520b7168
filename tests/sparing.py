"""What keeps a run of the tests short: most of its time goes to compiling, and most of that to the same code for other
models."""

import pytest


def one_of(argument, kept, values):
    """Parametrises by `values`, of which all but `kept` are marked slow: it stands for those that share its code.

    Args:
      argument: its name, or names with commas between; values are tuples then.
    """
    assert kept in values
    return pytest.mark.parametrize(
        argument,
        [
            pytest.param(*(value if "," in argument else [value]), marks=[] if value == kept else [pytest.mark.slow])
            for value in values
        ],
    )
