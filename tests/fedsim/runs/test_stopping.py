"""A run that ends early is a run of fewer rounds, to the bit; and nothing is chosen on the test set."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedsim
from fedsim.errors import FedsimError
from fedsim.privacy.ledger import Ledger
from fedsim.runs.progress import QuietProgress
from tests.tiny_runs import Cli

pytestmark = pytest.mark.usefixtures("no_pictures")

SMALL: dict[str, Any] = {
    "clients": 4, "rounds": 12, "model": {"name": "mlp", "hidden": [16]}, "checkpoint_every": 4,
    "training": {"vectorize": "never", "epochs": 1, "lr": 1.2}, "data": {"validation_fraction": 0.3},
}  # fmt: skip
STOP = {"stop.patience": 2}


def run(tmp_path: Path, name: str, **overrides: Any) -> fedsim.RunResult:
    return fedsim.run(SMALL, overrides={"out": str(tmp_path), "name": name, **overrides})


def course(folder: Path, metric: str) -> list[float]:
    return [json.loads(line)["metrics"][metric] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def first_best(values: list[float], patience: int) -> tuple[int, int]:
    """Return the best round and the last one that is run, by the plainest rule there is."""
    for last in range(1, len(values) + 1):
        best = int(np.argmax(values[:last])) + 1
        if last - best >= patience:
            return best, last
    return int(np.argmax(values)) + 1, len(values)


@pytest.mark.parametrize(
    ("strategy", "metric"),
    [("fedavg", "validation/accuracy"), pytest.param("fedrep", "validation_clients/accuracy", marks=pytest.mark.slow)],
)
def test_it_ends_as_a_run_of_fewer_rounds(strategy: str, metric: str, tmp_path: Path) -> None:
    stopped = run(tmp_path, "stopped", **STOP, **{"strategy.name": strategy})
    whole = run(tmp_path, "whole", **{"strategy.name": strategy})
    best, last = first_best(course(whole.folder, metric), 2)
    assert 1 <= best < last <= 12, "the test shows nothing otherwise"
    assert stopped.config.rounds == best
    assert stopped.config.stop is None
    assert len(course(stopped.folder, metric)) == last
    assert Ledger.read(stopped.folder).rounds == last
    short = run(tmp_path, "short", rounds=best, **{"strategy.name": strategy})
    for file in ("model.safetensors", *(["clients.csv"] if strategy == "fedrep" else [])):
        assert (stopped.folder / file).read_bytes() == (short.folder / file).read_bytes()
    names = [path.name for path in (stopped.folder / "checkpoints").iterdir()]
    assert names == [f"round-{best:08d}"]
    assert {path.name for path in stopped.folder.iterdir()} == {path.name for path in short.folder.iterdir()}
    longer = fedsim.resume(stopped, rounds=12)
    assert (longer.folder / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()


class Interrupting(QuietProgress):
    """Presses Ctrl-C after a round."""

    def __init__(self, after: int) -> None:
        self.after = after

    def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
        if server_round == self.after:
            raise KeyboardInterrupt


def test_an_interrupted_one_ends_alike(tmp_path: Path) -> None:
    stopped = run(tmp_path, "stopped", **STOP)
    with pytest.raises(KeyboardInterrupt):
        fedsim.run(
            SMALL, overrides={"out": str(tmp_path), "name": "cut", **STOP},
            progress=Interrupting(stopped.config.rounds + 1),
        )  # fmt: skip
    resumed = fedsim.resume(tmp_path / "cut")
    assert resumed.config.rounds == stopped.config.rounds
    assert (resumed.folder / "model.safetensors").read_bytes() == (stopped.folder / "model.safetensors").read_bytes()
    assert not (resumed.folder / "best").exists()


def test_the_last_round_is_kept_if_asked_for(tmp_path: Path) -> None:
    stopped = run(tmp_path, "last", **STOP, **{"stop.keep": "last"})
    last = len(course(stopped.folder, "validation/accuracy"))
    assert stopped.config.rounds == last == first_best(course(stopped.folder, "validation/accuracy"), 2)[1]
    assert stopped.final["validation/accuracy"] == course(stopped.folder, "validation/accuracy")[-1]


def test_the_summary_says_so(tmp_path: Path, cli: Cli) -> None:
    stopped = run(tmp_path, "told", **STOP)
    best, last = first_best(course(stopped.folder, "validation/accuracy"), 2)
    told = f"ends with round {best} of {last} that were run, of 12; validation/accuracy is best in {best}"
    assert told in cli("show", stopped.folder).out


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"stop.patience": 2, "data.validation_fraction": 0}, "stop: is judged on samples that clients hold out"),
        ({"stop.metric": "global/accuracy"}, "stop.metric: .*validation"),
        ({"stop.metric": "validation/acc"}, "stop.metric: validation/acc is not measured; did you mean"),
        ({"stop.patience": 0}, "stop.patience: must be at least 1"),
        ({"strategy.name": "aggregate", "data.name": "linear", "model.name": "linear", "data.partition.name": "iid",
          "strategy.epsilon": 1.0}, "data.validation_fraction: aggregate makes something else"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(overrides: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match=says):
        run(tmp_path, "bad", **overrides)
