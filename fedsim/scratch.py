"""Folders for a process's passing files: readable by its user alone, gone with it, or swept away by the next one."""

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path

_NAME = re.compile(r"fedsim-(?P<pid>\d+)-\w+")


def scratch_folder(parent: Path | None = None, *, at_exit: bool = True) -> Path:
    """Return a new folder for files that must not outlive this process, in the system's temporary one by default.

    It is removed when the process ends, or `at_exit` is false and the caller removes it.
    """
    around = parent or Path(tempfile.gettempdir())
    for left in around.glob("fedsim-*"):
        match = _NAME.fullmatch(left.name)
        if match and is_gone(int(match["pid"])) and left.stat().st_uid == os.getuid():
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"fedsim-{os.getpid()}-", dir=around))
    if at_exit:
        atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # and not a child that it forked
        shutil.rmtree(folder, ignore_errors=True)


def is_gone(pid: int) -> bool:
    """Return whether no process has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
