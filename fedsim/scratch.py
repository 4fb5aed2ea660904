"""Folders for temporary files: private to the user, and removed by this process or by a later one."""

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path

_NAME = re.compile(r"fedsim-(?P<pid>\d+)-\w+")


def scratch_folder(parent: Path | None = None, *, at_exit: bool = True) -> Path:
    """Return a new folder for files that must not outlive this process, by default in the system's temporary folder.

    It is removed when the process ends; if `at_exit` is false, the caller must remove it.
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
    if os.getpid() == owner:  # not by a forked child
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
