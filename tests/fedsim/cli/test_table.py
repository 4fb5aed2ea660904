"""`fedsim table` prints a table of runs."""

from fedsim.runs.folder import RunFolder
from tests.tiny_runs import Cli


def test_command(cli: Cli, six_runs: list[RunFolder]) -> None:
    outcome = cli("table", *(run.path for run in six_runs), "--metric=global/accuracy", "--by=strategy")
    assert outcome.code == 0
    assert [line.split()[:3] for line in outcome.out.splitlines()[1:3]] == [
        ["fed_a", "3", "80.00"], ["fed_b", "3", "85.50"],
    ]  # fmt: skip
    assert "no such format" in cli("table", six_runs[0].path, "--format=tex").err
