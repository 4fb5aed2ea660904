"""`fedsim table` prints a table of runs."""

import pytest

from fedsim.runs.folder import RunFolder
from tests.fedsim.conftest import MakeRun
from tests.tiny_runs import Cli


@pytest.fixture
def runs(make_run: MakeRun) -> list[RunFolder]:
    """Three seeds of a method, two of which reach 80 %, and three of another that is better on all of them."""
    made = []
    for name, accuracies in (("fed_a", [0.70, 0.80, 0.90]), ("fed_b", [0.76, 0.855, 0.95])):
        for seed, accuracy in enumerate(accuracies):
            rows = [
                {"round": r, "time_s": 2.0 * r, "bytes_down": 400_000, "bytes_up": 100_000 * (1 + seed),
                 "metrics": {"global/accuracy": accuracy * r / 4} if r % 2 == 0 else {}}
                for r in (1, 2, 3, 4)
            ]  # fmt: skip
            config = {"seed": seed, "strategy": {"name": name}}
            path = make_run(f"{name}-{seed}", config=config, rows=rows, summary={"metrics": rows[-1]["metrics"]})
            made.append(RunFolder.open(path))
    return made


def test_command(cli: Cli, runs: list[RunFolder]) -> None:
    outcome = cli("table", *(run.path for run in runs), "--metric=global/accuracy", "--by=strategy")
    assert outcome.code == 0
    assert [line.split()[:3] for line in outcome.out.splitlines()[1:3]] == [
        ["fed_a", "3", "80.00"], ["fed_b", "3", "85.50"],
    ]  # fmt: skip
    assert "no such format" in cli("table", runs[0].path, "--format=tex").err
