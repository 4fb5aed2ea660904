"""Processes that kill themselves at a file operation or at a chunk."""

from __future__ import annotations

import functools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedsim.engine.worker import Worker

EVENTS: tuple[tuple[Any, str], ...] = (
    (os, "fsync"), (os, "link"), (Path, "rename"), (Path, "replace"), (shutil, "rmtree"), (Path, "mkdir"),
    (Path, "unlink"), (Worker, "run_chunk"),
)  # fmt: skip


def dying_at(event: int, count_file: Path | None = None) -> Callable[[], None]:
    """Return a function that makes its process kill itself before its nth event; -1 means never.

    `count_file` receives the number of events so far.
    """

    def arm() -> None:
        count = 0

        def wrap(owner: Any, name: str) -> None:
            inner = getattr(owner, name)

            @functools.wraps(inner)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count_file is not None:
                    count_file.write_text(str(count))
                if count == event:
                    os.kill(os.getpid(), signal.SIGKILL)
                return inner(*args, **kwargs)

            setattr(owner, name, wrapped)

        for owner, name in EVENTS:
            wrap(owner, name)

    return arm
