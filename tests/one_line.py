"""Checks of refusals: one line, and nothing changed on disk."""

import hashlib
import re
from pathlib import Path


def snapshot(folder: Path) -> dict[str, str]:
    """Return what lies in a folder: each path with its content's hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def assert_one_line(err: str, needles: str) -> None:
    """Check that `err` is one line, and that the parts of `needles` are in it in this order."""
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err
    position = 0
    for needle in needles.split(" ... "):
        found = err.find(needle, position)
        assert found >= 0, f"no {needle!r} in {err[position:]!r}"
        position = found + 1


def assert_refused(outcome: tuple[int, str, str], pattern: str) -> None:
    """Check that a command was refused with one line that has the pattern."""
    code, _, err = outcome
    assert code == 2
    assert re.search(pattern, err), err
    assert err.count("\n") == 1
    assert err.startswith("error: ")
