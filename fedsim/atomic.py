"""Files: written whole or not at all, and how large they are."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fedsim.errors import FedsimError


def write_atomically(path: Path, content: bytes, *, folders: bool = False) -> Path:
    """Write `content` to `path` and return `path`; readers never see a part of it.

    Its folder has to be there, lest one that was removed or renamed comes back in part, or `folders` are to be made.

    Raises
    ------
    FedsimError
        With the path, if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if folders:
            path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as err:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise FedsimError(f"{path}: cannot be written ({err.strerror}); give another place") from err
    return path


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep out other processes that enter this for the same `folder`; they wait, so use it for a moment only.

    A file in the folder that is read and written anew meanwhile loses nothing that another process has added. The
    folder is made if it is not there. On a file system without locks nobody waits.

    Raises
    ------
    FedsimError
        With the folder, if it cannot be made or opened.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        raise FedsimError(f"{folder}: cannot be written ({err.strerror}); give another place") from err
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)  # closing the folder gives the lock back
        yield
    finally:
        os.close(handle)


def fsync(path: Path) -> None:
    """Wait until a file, or the list of a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link(source: str | Path, target: str | Path) -> None:
    """Make `target` the same file as `source`, or a copy on a disk that knows no links; neither is written to again."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def remove_folder(folder: Path) -> None:
    """Remove a folder; it is renamed first, so that it is never there in part."""
    hidden = folder.with_name(f".{folder.name}.old")
    folder.rename(hidden)
    shutil.rmtree(hidden)


def size_on_disk(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder; 0 if there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
