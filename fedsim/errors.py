"""Exceptions whose message is one line for the user: what is wrong, where, and how to correct it."""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class FedsimError(Exception):
    """Bad input.

    The message is one line: what is wrong, where, and how to correct it. The command line exits with 2.
    """

    exit_code: ClassVar[int] = 2


class RunFailed(FedsimError):
    """A valid run that could not continue; its results so far are kept. Exit code 1."""

    exit_code = 1


class TooFewReplies(RunFailed):
    """A round had fewer good replies than it needs."""


class Diverged(RunFailed):
    """A run whose loss exceeded its bound, and that was configured to stop then."""


class ClusterLost(RunFailed):
    """The infrastructure that clients run on has failed, not the clients."""


class InUse(FedsimError):
    """Another process is using the folder."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return the end of an error message: the closest valid name, if there is one, and all valid names."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(names)}"


def reason_of(error: BaseException) -> str:
    """Return an error as one line: its type and its message."""
    return " ".join(f"{type(error).__name__}: {error}".split())
