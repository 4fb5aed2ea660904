"""Locks and temporary folders for outcomes, so that no other process works on them."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from fedsim.errors import FedsimError, InUse
from fedsim.runs.folder import RunFolder
from fedsim.runs.reserve import held, sweep, temporary_for
from unlearning.pipeline.oracle import FOLDERS, MEMBERS
from unlearning.pipeline.source import MARK, OUTCOME_NAME

_TAKEN = (*FOLDERS, MEMBERS)
"""Names under `unlearned/` that no outcome may have."""


@contextlib.contextmanager
def held_run(path: Path, *, shared: bool) -> Iterator[None]:
    """Hold the lock of a run, or of an outcome and its run."""
    folder = RunFolder.open(path)
    root = path.resolve().parents[1] if MARK in folder.config else path
    with held(root, shared=shared), held(path, shared=True) if root != path else contextlib.nullcontext():
        yield


_scratches = itertools.count()


@contextlib.contextmanager
def scratch(outcomes: Path) -> Iterator[Path]:
    """Yield a place for temporary files of outcomes; the writer creates it, and it is removed at the end."""
    place = outcomes / f"replays-{os.getpid()}-{next(_scratches)}"
    with held(place):  # to distinguish files of killed processes from those in use
        sweep(outcomes)
        try:
            yield temporary_for(place)
        finally:
            shutil.rmtree(temporary_for(place), ignore_errors=True)


@contextlib.contextmanager
def reserved(parent: Path, name: str | None, described: str, force: bool) -> Iterator[Path]:
    """Hold the lock of the folder of a new outcome; refuse a folder that must not be replaced."""
    if name is None:
        plain = unicodedata.normalize("NFKD", described).encode("ascii", "ignore").decode()  # Köln is Koln
        stem = re.sub(r"[^A-Za-z0-9.]+", "-", plain)[:80].strip("-.")
        for number in itertools.count(1):
            folder = parent / (stem if number == 1 else f"{stem}-{number}")
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(held(folder))
                except InUse:  # the same request, at the same time
                    continue
                if not folder.exists():
                    yield folder
                    return
    elif not re.fullmatch(OUTCOME_NAME, name) or name in _TAKEN:
        raise FedsimError(f"--name {name}: must be letters, digits, '.', '_' and '-', and none of {', '.join(_TAKEN)}")
    else:
        with held(folder := parent / name):
            if folder.exists() and not force:
                raise FedsimError(f"{folder}: exists already; choose another --name, or replace it with --force")
            yield folder
