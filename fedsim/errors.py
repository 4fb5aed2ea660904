"""The one exception that means: the user can mend this."""

import difflib
from collections.abc import Iterable


class FedsimError(Exception):
    """Bad input. Its text is one line: what is wrong, where, and how to mend it; the command line exits with 2."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return the end of an error line: the closest valid name if there is one, and all valid names."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(names)}"
