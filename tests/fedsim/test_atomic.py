import multiprocessing
from pathlib import Path

import pytest

from fedsim.atomic import only_writer, write_atomically
from fedsim.errors import FedsimError


def test_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with pytest.raises(FedsimError, match="No such file"):
        write_atomically(path, b"one")
    assert not path.parent.exists()  # a run that was removed does not come back in part
    assert write_atomically(path, b"one", folders=True) == path
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomically(tmp_path / "file", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedsim.atomic.os.fsync", full)
    with pytest.raises(FedsimError, match="cannot be written"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FedsimError, match="give another place"):
        write_atomically(tmp_path / "file" / "inside", b"")
    with pytest.raises(FedsimError, match="give another place"):
        write_atomically(tmp_path, b"")


def _add_lines(path: Path, number: int) -> None:
    for line in range(20):
        with only_writer(path.parent):
            before = path.read_bytes() if path.exists() else b""
            write_atomically(path, before + f"{number}-{line}\n".encode())


def test_writers_at_once_lose_nothing_of_each_other(tmp_path: Path) -> None:
    path, context = tmp_path / "new" / "file", multiprocessing.get_context("fork")
    writers = [context.Process(target=_add_lines, args=(path, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert set(path.read_text().split()) == {f"{number}-{line}" for number in range(4) for line in range(20)}
    assert list(path.parent.iterdir()) == [path]
    (tmp_path / "file").touch()
    with pytest.raises(FedsimError, match="give another place"), only_writer(tmp_path / "file"):
        pass
