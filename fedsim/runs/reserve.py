"""Locks on run folders: one process at a time may write, from before the folder exists until the work is done.

The lock is a file beside the folder, so it exists before the folder and while one folder replaces another. Files
that killed processes leave there are removed by the next process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from fedsim.errors import FedsimError, InUse
from fedsim.paths import expanded

_LEFT = re.compile(r"\.(?P<name>.+?)(\.\d+\.(?P<kind>tmp|old)|\.lock)")


@contextlib.contextmanager
def held(
    folder: Path, *, shared: bool = False, remedy: str = "change its permissions or give another place"
) -> Iterator[None]:
    """Keep other processes from working on `folder`, which need not exist; the lock ends with its process.

    Parameters
    ----------
    folder
        The folder of a run or of an unlearning.
    shared
        Allow other shared holders: they read the folder, and write only to their own folders inside it.
    remedy
        End of the error line if the place is not writable.

    Raises
    ------
    InUse
        If another process holds it.
    FedsimError
        If it, or the folder around it, cannot be written to: before any work is done.
    """
    place = expanded(folder).resolve()
    new_parents = [parent for parent in place.parents if not parent.exists()]
    handle = -1
    try:
        try:
            if not place.parent.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
            handle = _locked(place.with_name(f".{place.name}.lock"), fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            if place.exists() and not os.access(place, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if not shared:
                _sweep_away(place)
        except BlockingIOError:
            raise InUse(f"{folder}: another process is at work on this run; wait for it or stop it") from None
        except OSError as error:
            raise FedsimError(f"{folder}: cannot be written ({error.strerror}); {remedy}") from None
        yield
    finally:
        if handle >= 0:
            with contextlib.suppress(OSError):  # others may hold it too: the last one removes it
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                place.with_name(f".{place.name}.lock").unlink()
            os.close(handle)
        for parent in new_parents:
            with contextlib.suppress(OSError):  # the run is in it
                parent.rmdir()


def put_in_place(new: Path, folder: Path) -> None:
    """Rename `new` to `folder` and replace what is there; after a kill at any moment, one of the two survives.

    The caller holds `folder`.
    """
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def new_content(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `folder` at the end; if something fails, it is removed.

    The caller holds `folder`.
    """
    temporary = temporary_for(folder)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        put_in_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_for(folder: Path) -> Path:
    """Return the temporary place for the next content of `folder`; it is removed later if this process is killed."""
    return folder.with_name(f".{folder.name}.{os.getpid()}.tmp")


def sweep(parent: Path) -> None:
    """Remove the temporary files of killed processes from a folder of runs."""
    with contextlib.suppress(OSError):
        for name in {match["name"] for path in parent.iterdir() if (match := _LEFT.fullmatch(path.name))}:
            with contextlib.suppress(FedsimError), held(parent / name):
                pass


def _locked(file: Path, kind: int) -> int:
    """Return the open and locked lock file; it is not locked if the file system has no locks."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(_NoLocks):
                _flock(handle, kind)
            there = os.stat(file)
            if (there.st_dev, there.st_ino) == (os.fstat(handle).st_dev, os.fstat(handle).st_ino):
                return handle
        except FileNotFoundError:  # the previous holder has just removed it
            pass
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


class _NoLocks(Exception):
    """The file system has no locks."""


def _flock(handle: int, kind: int) -> None:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise _NoLocks from error


def _sweep_away(place: Path) -> None:
    """Remove the temporary folders of a killed process; `place` must be held by this process alone."""
    for path in place.parent.iterdir():
        match = _LEFT.fullmatch(path.name)
        if match is None or match["name"] != place.name or match["kind"] is None:
            continue
        if match["kind"] == "old" and not place.exists():
            path.rename(place)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
