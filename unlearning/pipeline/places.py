"""Where outcomes are made: folders that are held, so that no other process works on them."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
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
    """Hold a run, or the outcome of a request and the run that it is of."""
    folder = RunFolder.open(path)
    root = path.resolve().parents[1] if MARK in folder.config else path
    with held(root, shared=shared), held(path, shared=True) if root != path else contextlib.nullcontext():
        yield


_scratches = itertools.count()


@contextlib.contextmanager
def scratch(outcomes: Path) -> Iterator[Path]:
    """Give a place for what outcomes may need later, made by whoever writes there, and remove it in the end."""
    place = outcomes / f"replays-{os.getpid()}-{next(_scratches)}"
    with held(place):  # so that what a killed process left is told from what another one is at
        sweep(outcomes)
        try:
            yield temporary_for(place)
        finally:
            shutil.rmtree(temporary_for(place), ignore_errors=True)


@contextlib.contextmanager
def reserved(parent: Path, name: str | None, described: str, force: bool) -> Iterator[Path]:
    """Hold the folder of a new outcome, having refused one that may not be written to."""
    if name is None:
        stem = re.sub(r"[^A-Za-z0-9.]+", "-", described)[:80].strip("-.")
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
