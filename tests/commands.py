"""Commands as a user types them."""

from mlic_jax.cli import main as cli


def run(capsys, *words):
    """(exit status, standard output, standard error)."""
    try:
        status = cli.main([str(word) for word in words])
    except SystemExit as reason:  # argparse
        status = reason.code
    out = capsys.readouterr()
    return status, out.out, out.err
