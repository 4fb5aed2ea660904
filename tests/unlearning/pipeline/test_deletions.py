"""The ledger of deletions and its receipts."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.errors import FedsimError
from tests.tiny_runs import Cli
from unlearning.pipeline.deletions import read_receipts, verify
from unlearning.pipeline.runner import unlearn


@pytest.fixture(scope="module")
def made(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(tiny_run, tmp_path_factory.mktemp("made") / "tiny")
    unlearn(folder, ["finetune"], "client=4")
    unlearn(folder, ["finetune"], "client=2", purge=True, command="fedsim unlearn")
    unlearn(folder, ["finetune"], "client=1", purge=True)
    return folder


@pytest.fixture
def purged(made: Path, tmp_path: Path) -> Path:
    """Return a copy, to be tampered with."""
    return shutil.copytree(made, tmp_path / "tiny")


def test_receipts_are_chained_and_say_what_was_done(cli: Cli, purged: Path) -> None:
    one, two = read_receipts(purged)
    assert (one.request.specs, one.request.clients, one.method) == (["client=2"], [2], "finetune")
    assert one.model_sha256_after == two.model_sha256_before
    assert any("client-4" in gone.path for gone in one.destroyed)  # its model knew client 2
    assert not (purged / "unlearned" / "finetune-client-4").exists()
    page = (purged / "receipts" / "0001.html").read_text()
    assert all(text in page for text in ("client=2", one.model_sha256_after, "fedsim unlearn", "Destroyed"))
    assert cli("receipts", purged, "--verify").out.count("whole, not signed") == 2
    assert "client=1 by finetune" in cli("receipts", purged).out
    assert "requires signed receipts" in cli("receipts", purged, "--verify", "--key", purged / "x").err


@pytest.mark.parametrize(
    ("tamper", "line"),
    [
        (lambda run: _edit(run / "receipts" / "0001.json", "client=2", "client=9"), "its hash is not the ledger's"),
        (lambda run: (run / "receipts" / "0002.json").unlink(), "cannot be read"),
        (lambda run: _edit(run / "deletions.json", "client=1", "client=0"), "is not what was written"),
        (lambda run: (run / "plots").mkdir(), "nothing"),
    ],
)
def test_what_was_changed_is_found(purged: Path, tamper: Callable[[Path], None], line: str) -> None:
    tamper(purged)
    if line == "nothing":
        assert len(verify(purged)) == 2
    else:
        with pytest.raises(FedsimError, match=line):
            verify(purged)


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
