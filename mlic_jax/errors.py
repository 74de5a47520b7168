"""The one family of errors that bad input raises.

Everything a user can get wrong ends in an `MlicError` whose message names what was wrong and what would have been
right; the command line prints that one line and exits with `exit_code`. Any other exception that escapes is a bug.
"""


class MlicError(Exception):
    """Base of all errors that bad input causes. `exit_code` is what the `mlic` command returns for it."""

    exit_code = 1


class TruncationWarning(UserWarning):
    """A file was cut off; the picture shows the part that has arrived."""


class LossWarning(UserWarning):
    """Something that a picture's file says is not kept, and nobody has chosen so: frames, a gamma, metadata."""


class UsageError(MlicError):
    """A command, option or configuration that makes no sense as given."""

    exit_code = 2


class InputError(MlicError):
    """A file or folder that is missing, unreadable, empty, or not of the kind that was asked for."""

    exit_code = 3


class CorruptStreamError(MlicError):
    """A compressed file that is damaged, truncated or of an unknown version."""

    exit_code = 4


class ModelError(MlicError):
    """A model that is unknown, missing, damaged, or not the one a file was written with."""

    exit_code = 5


class LimitError(MlicError):
    """An input that exceeds a resource limit (sides, pixels, bytes)."""

    exit_code = 6


class TrainingError(MlicError):
    """A training run that cannot start or go on: a workdir of another config, or too many non-finite steps."""

    exit_code = 7
