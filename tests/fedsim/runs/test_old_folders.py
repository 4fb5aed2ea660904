"""A run folder of before options were renamed, checksums written and later options added: it opens like any other."""

import shutil
from pathlib import Path

import pytest
import torch

import fedsim
from fedsim.runs.runner import load_run_model, resume
from tests.tiny_runs import Cli

OLD = Path(__file__).parent / "version_0_1"
"""Made by the code before the moves: SCAFFOLD of a logistic regression on the digits, 3 clients, 2 rounds."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "old"))


@pytest.mark.parametrize("command", ["show", "report", "privacy"])
def test_it_is_shown(folder: Path, command: str, cli: Cli) -> None:
    assert cli(command, folder).code == 0


def test_its_model_is_loaded(folder: Path) -> None:
    assert set(load_run_model(folder).state_dict()) == {"classifier.weight", "classifier.bias"}


def test_it_goes_on_as_a_run_of_today_does(folder: Path, tmp_path: Path, no_pictures: None) -> None:
    """What its checkpoint holds is all that a run needs to come to the model of one that never stopped.

    Its own rounds were rounded otherwise: clients that are trained at once have matrix products since then.
    """
    recorded = {"strategy.name": "scaffold", "model.name": "logistic", "clients": 3, "data.partition.name": "iid"}
    longer = fedsim.run(overrides={**recorded, "rounds": 3, "out": str(tmp_path), "name": "new", "training.epochs": 2})
    on = resume(folder, rounds=3)
    torch.testing.assert_close(on.model.state_dict(), longer.model.state_dict(), rtol=1e-4, atol=1e-6)


def test_its_history_serves_to_forget_a_client(folder: Path, cli: Cli) -> None:
    outcome = cli("unlearn", folder, "--method", "federaser", "--forget", "client=1")
    assert outcome.code == 0, outcome.err
    assert "federaser" in outcome.out
