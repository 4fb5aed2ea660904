"""One flipped bit in any file of a run folder is told, or changes nothing."""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import fedsim
from fedsim.errors import FedsimError
from fedsim.flower.records import to_tensors
from fedsim.runs.history import open_history
from fedsim.runs.progress import QuietProgress
from fedsim.sealed import Damaged, seal, sha256, unseal
from tests.tiny_runs import TINY

pytestmark = pytest.mark.usefixtures("no_pictures")

KEEPS = {"strategy": "fedrep", "history": {"keep": "updates"}, "rounds": 4, "checkpoint_every": 2}
"""Clients with states of their own, and a history."""


@pytest.fixture(scope="module")
def rich_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run that has every kind of file; nobody writes to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
        return fedsim.run(TINY, overrides={**KEEPS, "out": str(tmp_path_factory.mktemp("rich"))}).folder


def files_of(run: Path) -> list[Path]:
    return sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file())


def flip(file: Path, rng: random.Random) -> None:
    """Flip one bit of a file."""
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.unlink()  # it may be linked to from elsewhere
    file.write_bytes(content)


def bits(tensors: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


def readers(run: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield everything that reads a run folder, each returning something that can be compared."""
    from fedsim.privacy.ledger import Ledger
    from fedsim.runs.checkpoint import load_latest
    from fedsim.runs.folder import RunFolder

    def opened() -> object:
        folder = RunFolder.open(run)
        counts = folder.label_counts
        return (
            folder.metrics, folder.summary, dict(folder.environment), dict(folder.config),
            None if counts is None else counts.tolist(),
        )  # fmt: skip

    def checkpoint() -> object:
        found = load_latest(run)
        assert found is not None
        states = [bits(to_tensors(found.clients[c].array_records["personal"])) for c in found.clients.committed()]
        return found.round, bits(found.model), bits(found.server[0]), found.server[1], found.metrics, states

    def history() -> object:
        rounds = open_history(run, KEEPS["rounds"])
        return [(bits(r.model()[0]), [bits(r.sent(client).tensors) for client in r.clients]) for r in rounds]

    yield "show", opened
    yield "model", lambda: bits(fedsim.load_run_model(run).state_dict())
    yield "checkpoint", checkpoint
    yield "history", history
    yield "ledger", lambda: Ledger.read(run)


def test_one_bit_in_each_file(rich_run: Path, tmp_path: Path) -> None:
    whole = {name: read() for name, read in readers(rich_run)}
    rng = random.Random(13)
    silent = []
    for number, relative in enumerate(files_of(rich_run)):
        run = Path(shutil.copytree(rich_run, tmp_path / str(number)))
        flip(run / relative, rng)
        for name, read in readers(run):
            try:
                found = read()
            except FedsimError:
                continue
            if found != whole[name] and relative != Path("config.yaml"):  # which a user may edit: see below
                silent.append((str(relative), name))
        shutil.rmtree(run)
    assert silent == []


@pytest.mark.parametrize("where", ["tensors.safetensors", "state.json", "clients/3.safetensors"])
def test_one_bit_in_a_checkpoint_is_told_and_an_older_one_offered(rich_run: Path, tmp_path: Path, where: str) -> None:
    """The bit of a tensor: the file can still be read, to another model."""
    run = Path(shutil.copytree(rich_run, tmp_path / "tiny"))
    file = run / "checkpoints" / "round-00000004" / where
    content = bytearray(file.read_bytes())
    content[-9] ^= 4
    file.unlink()
    file.write_bytes(content)
    line = r"round-00000004: the checkpoint is damaged; remove that folder to go on from the one of round 2, which is"
    with pytest.raises(FedsimError, match=line):
        fedsim.resume(run)
    shutil.rmtree(run / "checkpoints" / "round-00000004")
    assert sha256(fedsim.resume(run).folder / "model.safetensors") == sha256(rich_run / "model.safetensors")


def test_a_model_that_is_not_the_recorded_one(rich_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(rich_run, tmp_path / "tiny"))
    content = bytearray((run / "model.safetensors").read_bytes())
    content[-9] ^= 4
    (run / "model.safetensors").write_bytes(content)
    with pytest.raises(FedsimError, match="is not the model that the run recorded"):
        fedsim.load_run_model(run)


def test_an_edited_configuration_is_told(rich_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(rich_run, tmp_path / "tiny"))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("rounds: 4", "rounds: 5"))
    fedsim.resume(run)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["rounds_done"] == 5
    assert summary["engine"]["why"]["config"].startswith("config.yaml was changed since the run began")


def test_a_seal() -> None:
    written = seal(json.dumps({"a": [1, 2.5], "b": "ü"}, indent=1))
    assert json.loads(unseal(written)) == {"a": [1, 2.5], "b": "ü"}
    assert set(json.loads(written)) == {"a", "b", "seal"}
    for position in range(len(written)):
        for bit in range(8):
            changed = bytearray(written)
            changed[position] ^= 1 << bit
            try:
                assert json.loads(unseal(bytes(changed), required=True)) == {"a": [1, 2.5], "b": "ü"}
            except (Damaged, UnicodeDecodeError):
                continue
    assert unseal(b'{"a": 1}') == b'{"a": 1}'
    with pytest.raises(Damaged, match="no checksum"):
        unseal(b'{"a": 1}', required=True)


def test_a_damaged_history_is_told_when_the_run_goes_on(rich_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(rich_run, tmp_path / "tiny"))
    flip(sorted((run / "history" / "round-00000002").glob("client-*"))[0], random.Random(1))
    told: list[str] = []

    class Hears(QuietProgress):
        def warn(self, text: str) -> None:
            told.append(text)

    assert sha256(fedsim.resume(run, Hears()).folder / "model.safetensors") == sha256(rich_run / "model.safetensors")
    assert len(told) == 1
    assert (
        "is not what the run kept (gone, or its hash differs); run it anew, or go on without what needs it" in told[0]
    )
