"""The exceptions that are one line for the user: what is wrong, where, and how to correct it."""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class FedsimError(Exception):
    """Bad input. Its text is one line: what is wrong, where, and how to correct it; the command line exits with 2."""

    exit_code: ClassVar[int] = 2


class RunFailed(FedsimError):
    """A run that was rightly asked for and could not go on; what it did so far is kept. Exit code 1."""

    exit_code = 1


class TooFewReplies(RunFailed):
    """A round had fewer good replies than it needs."""


class Diverged(RunFailed):
    """A run whose loss has left all bounds, and that was asked to stop then."""


class ClusterLost(RunFailed):
    """The machinery that clients run on has failed, not the clients."""


class InUse(FedsimError):
    """Another process is at work in the folder."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return the end of an error line: the closest valid name if there is one, and all valid names."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(names)}"


def reason_of(error: BaseException) -> str:
    """Return what failed, in one line: the kind of error, and its message."""
    return " ".join(f"{type(error).__name__}: {error}".split())
