"""Write a file that is there whole or not at all."""

import contextlib
import os
from pathlib import Path

from fedsim.errors import FedsimError


def write_atomically(path: Path, content: bytes) -> Path:
    """Write `content` to `path`, making its folder when missing, and return `path`; readers never see a part of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
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
