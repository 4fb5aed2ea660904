"""Runs go on: outcomes in runs of their own, finished runs to more rounds."""

from pathlib import Path

import pytest

import fedsim
from fedsim.runs.folder import RunFolder
from tests.tiny_runs import Cli
from tests.unlearning.pipeline.small_runs import RUN, bits, same, train
from unlearning.pipeline.runner import unlearn
from unlearning.pipeline.source import open_source


@pytest.mark.slow
def test_an_outcome_trains_on_in_a_run_of_its_own(cli: Cli, tmp_path: Path, no_pictures: None) -> None:
    folder = train(tmp_path)
    source = open_source(folder)
    outcome = unlearn(folder, ["retrain_checkpoint"], "client=3", name="exact").folder
    told = cli("run", "--resume", outcome, "--rounds", "6", "--quiet")
    assert told.code == 0, told.err
    longer = fedsim.run(RUN, overrides={"out": str(tmp_path), "name": "longer", "rounds": 6}).folder
    exact = unlearn(longer, ["retrain"], "client=3").folder
    continued = tmp_path / "tiny-exact"
    assert same(bits(continued), bits(exact))
    assert open_source(continued).data.partition.sizes[3] == 0
    assert source.data.partition.sizes[3] > 0
    assert "forgotten before: client=3" in cli("unlearn", continued, "--method=finetune", "--forget=client=3").err
    plain = unlearn(folder, ["finetune"], "client=3", name="plain").folder
    assert cli("run", "--resume", plain, "--rounds", "5", "--quiet").code == 0
    assert "give more, got 4" in cli("run", "--resume", plain, "--rounds", "4").err
    assert "give its last round with --rounds" in cli("run", "--resume", plain).err


def test_a_finished_run_goes_on_to_more_rounds(cli: Cli, tmp_path: Path, no_pictures: None) -> None:
    folder = train(tmp_path)
    assert cli("run", "--resume", folder, "--rounds", "6", "--quiet").code == 0
    longer = fedsim.run(RUN, overrides={"out": str(tmp_path), "name": "longer", "rounds": 6}).folder
    assert same(bits(folder), bits(longer))
    assert RunFolder.open(folder).rounds == 6
    assert "has done 6; give more, got 6" in cli("run", "--resume", folder, "--rounds", "6").err
