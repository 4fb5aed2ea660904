"""The summary of a run."""

import json

from fedsim.runs.folder import RunFolder
from tests.fedsim.conftest import MakeRun


def test_unknown_keys_of_a_summary_are_kept(make_run: MakeRun) -> None:
    run = RunFolder.open(make_run(summary={"later": [1]}))
    assert run.summary is not None
    assert run.summary.model_extra == {"later": [1]}


def test_summary_round_trips_through_json(make_run: MakeRun) -> None:
    path = make_run()
    run = RunFolder.open(path)
    assert run.summary is not None
    written = json.loads((path / "summary.json").read_text())
    assert run.summary.model_dump(exclude_unset=True) == written
