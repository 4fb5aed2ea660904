"""The store of clients' states: recently used ones in memory, the others in files."""

from __future__ import annotations

import itertools
import os
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path

from flwr.app import RecordDict

from fedsim.engine.client_state_file import read_records, size_bytes, write_records
from fedsim.scratch import scratch_folder
from fedsim.sealed import sha256

_DEFAULT_MEMORY = 1 << 30


class _Version:
    """One state of one client: in memory, in a file, or both. A version never changes; a new one replaces it."""

    def __init__(self, records: RecordDict | None = None, path: Path | None = None, digest: str | None = None) -> None:
        self.records, self.path = records, path
        self.digest = digest
        """SHA-256 of the file."""
        self.size_bytes = 0


class ClientStates:
    """The state of every client that has one; a client that was never trained has none.

    States written during a round are staged until the round is complete, so an interrupted round leaves no trace.
    States beyond `memory_bytes` are moved to files in this object's own folder, the least recently used first. They are
    read again when needed. Do not write to a state that you get.
    """

    def __init__(self, memory_bytes: int = _DEFAULT_MEMORY) -> None:
        self.memory_bytes = memory_bytes
        self._kept: dict[int, _Version] = {}
        self._staged: dict[int, _Version] = {}
        self._recent: dict[_Version, None] = {}  # those in memory, the most recently used last
        self._used_bytes = 0
        self._numbers = itertools.count()
        self._place: Path | None = None
        self._folder: Path | None = None

    def spill_to(self, folder: Path) -> None:
        """Create state files in `folder` if they are needed, and remove its present content.

        If the folder is on the run's disk, checkpoints can link to its files.
        """
        shutil.rmtree(folder, ignore_errors=True)
        self._place = folder

    def __getitem__(self, client: int) -> RecordDict:
        version = self._staged.get(client) or self._kept.get(client)
        if version is None:
            return RecordDict()
        records = version.records
        if records is None:
            assert version.path is not None
            records = read_records(version.path, version.digest)
        self._remember(version, records)
        return records

    def stage(self, client: int, state: RecordDict) -> None:
        """Set a client's state until `commit` or `discard`."""
        if (before := self._staged.pop(client, None)) is not None:
            self._drop(before)
        self._staged[client] = version = _Version()
        self._remember(version, state)

    def commit(self) -> None:
        """Keep the staged states."""
        for client, version in self._staged.items():
            if (before := self._kept.get(client)) is not None:
                self._drop(before)
            self._kept[client] = version
        self._staged = {}

    def discard(self) -> None:
        """Discard the staged states."""
        for version in self._staged.values():
            self._drop(version)
        self._staged = {}

    def committed(self) -> list[int]:
        """Return the clients with a kept state, ascending."""
        return sorted(self._kept)

    def files(self) -> dict[int, Path]:
        """Return the file of each kept state that has one."""
        return {client: version.path for client, version in self._kept.items() if version.path is not None}

    def digests(self) -> dict[int, str]:
        """Return the SHA-256 of each of `files`, if it is known."""
        return {client: version.digest for client, version in self._kept.items() if version.digest is not None}

    # Files --------------------------------------------------------------------------------------------------------

    def adopt(self, files: Mapping[int, Path], digests: Mapping[int, str] | None = None) -> None:
        """Keep exactly the states in these files. The files stay in place, and each is read when it is needed."""
        known = digests or {}
        self.discard()
        for version in self._kept.values():
            self._drop(version)
        self._kept = {client: _Version(path=path, digest=known.get(client)) for client, path in files.items()}

    def write_committed(self, folder: Path) -> list[Path]:
        """Put a file for every kept state into `folder`; return the files that are not safely on disk yet.

        States are written one by one. If a state has a file already, a hard link is made instead.
        """
        new = []
        for client, version in sorted(self._kept.items()):
            target = folder / file_name(client)
            if version.path is None:
                assert version.records is not None
                version.digest = write_records(target, version.records)
                new.append(target)
                continue
            try:
                os.link(version.path, target)
                linked = True
            except OSError:  # another disk, or one without hard links
                shutil.copyfile(version.path, target)
                linked = False
            if version.digest is None:
                version.digest = sha256(target)
            if not linked or version.path.parent == self._folder:
                new.append(target)
        return new

    def moved_to(self, folder: Path) -> None:
        """Record that the files of `write_committed` are now in `folder`, and stay there until the next call."""
        for client, version in self._kept.items():
            before = version.path
            version.path = folder / file_name(client)
            self._unlink(before)

    def close(self) -> None:
        """Discard everything and remove this object's own folder."""
        self._kept, self._staged, self._recent, self._used_bytes = {}, {}, {}, 0
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    # Memory -------------------------------------------------------------------------------------------------------

    def _remember(self, version: _Version, records: RecordDict) -> None:
        if version.records is None:
            version.records, version.size_bytes = records, size_bytes(records)
            self._used_bytes += version.size_bytes
        self._recent.pop(version, None)
        self._recent[version] = None
        while self._used_bytes > self.memory_bytes and self._recent:
            self._evict(next(iter(self._recent)))

    def _evict(self, version: _Version) -> None:
        assert version.records is not None
        if version.path is None:
            path = self._own_folder() / f"{next(self._numbers)}.safetensors"
            version.digest = write_records(path, version.records)
            version.path = path
        self._forget(version)

    def _forget(self, version: _Version) -> None:
        if version.records is not None:
            self._used_bytes -= version.size_bytes
            version.records = None
            del self._recent[version]

    def _drop(self, version: _Version) -> None:
        self._forget(version)
        self._unlink(version.path)

    def _unlink(self, path: Path | None) -> None:
        if path is not None and path.parent == self._folder:
            path.unlink()

    def _own_folder(self) -> Path:
        if self._folder is None:
            if self._place is None:
                self._folder = scratch_folder()
            else:
                self._folder = self._place
                self._folder.mkdir()
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder


def file_name(client: int) -> str:
    """Return the file name of a client's state."""
    return f"{client}.safetensors"
