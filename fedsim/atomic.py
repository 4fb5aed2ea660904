"""Write files completely or not at all, and measure their size."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fedsim.errors import FedsimError


def write_atomically(path: Path, content: bytes, *, folders: bool = False) -> Path:
    """Write `content` to `path` and return `path`; readers never see an incomplete file.

    The folder must exist, so that a folder that was removed or renamed does not come back incomplete; with `folders`,
    missing folders are created.

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
    """Exclude other processes that use this for the same `folder`; they wait, so use it only briefly.

    A file in the folder can be read and rewritten inside the block without losing what another process has added. The
    folder is created if it does not exist. On a file system without locks, nobody waits.

    Raises
    ------
    FedsimError
        With the folder, if it cannot be created or opened.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        raise FedsimError(f"{folder}: cannot be written ({err.strerror}); give another place") from err
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)  # closing the folder releases the lock
        yield
    finally:
        os.close(handle)


def fsync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link(source: str | Path, target: str | Path) -> None:
    """Make `target` a hard link to `source`, or a copy if the disk has no links; do not write to either afterwards."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def remove_folder(folder: Path) -> None:
    """Remove a folder; it is renamed first, so that nobody sees it incomplete."""
    hidden = folder.with_name(f".{folder.name}.old")
    folder.rename(hidden)
    shutil.rmtree(hidden)


def size_on_disk(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder; 0 if it does not exist."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
