"""Trackers follow a real run, without a network, and their files are read back; a run that goes on goes on in them."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim.errors import FedsimError
from fedsim.runs.folder import RunFolder
from fedsim.runs.observers import RoundObserver
from fedsim.runs.state import Metrics, RunState
from fedsim.trackers.base import tracker_classes, tracker_names
from tests.tiny_runs import TINY, Cli

pytestmark = pytest.mark.usefixtures("no_pictures")

Read = Callable[[Path], dict[int, float]]
"""From a run folder to the global accuracies by round that its tracker has."""


def tensorboard(folder: Path) -> dict[int, float]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
    return {event.step: event.value for event in found.Scalars("global/accuracy")}


def mlflow(folder: Path) -> dict[int, float]:
    client = pytest.importorskip("mlflow").MlflowClient(f"sqlite:///{folder}/mlflow.db")
    run = (folder / "mlflow.id").read_text()
    assert client.get_run(run).data.params["strategy.name"] == "fedavg"
    return {metric.step: metric.value for metric in client.get_metric_history(run, "global/accuracy")}


def wandb(folder: Path) -> dict[int, float]:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    found: dict[int, float] = {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        assert file.stem == f"run-{(folder / 'wandb.id').read_text()}"
        for data in leveldb_log(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            if "global/accuracy" in items:
                found[int(items["_step"])] = float(items["global/accuracy"])
    return found


def leveldb_log(content: bytes) -> Iterator[bytes]:
    """Yield the records of an offline run: blocks of 32 KiB, and in them parts with checksum, length and kind."""
    place, record = 7, b""  # after the file's own header
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what trackers use themselves
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("read", [tensorboard, mlflow, wandb])
def test_a_run_and_what_goes_on_from_it_are_one_track(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = read.__name__
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = {"out": str(tmp_path), "rounds": 2, "log": [name]}
    folder = fedsim.run(TINY, overrides=options, progress=None).folder
    fedsim.resume(folder, None, 4, overrides={"log": [name]})
    rows = RunFolder.open(folder).metrics
    expected = {row.round: row.metrics["global/accuracy"] for row in rows}
    assert read(folder) == pytest.approx(expected, abs=1e-6)
    assert sorted(expected) == [1, 2, 3, 4]
    assert "log" not in RunFolder.open(folder).config  # whom a run is sent to is this machine's to say


def test_what_cannot_be_had_is_refused_before_anything_is_written(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("run", f"--out={tmp_path}", "--log=tensorbord")
    assert outcome.code == 2
    assert "log: no tracker 'tensorbord'; did you mean 'tensorboard'?" in outcome.err
    assert list(tmp_path.iterdir()) == []
    assert tracker_names() == ["mlflow", "tensorboard", "wandb"]


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(
        FedsimError, match=r"log: wandb is not installed; install it with: pip install 'fedsim\[wandb\]'"
    ):
        tracker_classes(["wandb"])


def test_a_file_cannot_turn_a_tracker_on(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text("log: [wandb]\n")
    outcome = cli("run", "--config", tmp_path / "theirs.yaml", f"--out={tmp_path}")
    assert (outcome.code, "log is a setting of this machine" in outcome.err) == (2, True)


class Own(RoundObserver):
    """What docs/many.md shows."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def round_done(self, state: RunState, metrics: Metrics) -> None:
        self.seen.append((state.round, metrics["global/accuracy"]))


def test_an_observer_of_ones_own_is_told_of_every_round(tmp_path: Path) -> None:
    own = Own()
    result = fedsim.run(TINY, overrides={"out": str(tmp_path)}, progress=None, observers=[own])
    assert own.seen == [(line["round"], line["metrics"]["global/accuracy"]) for line in result.metrics]
