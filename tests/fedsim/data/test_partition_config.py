"""A partition of one's own is a file, and what its function returns fits."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from fedsim.data.partition_config import OwnPartition
from tests.tiny_runs import Cli


def test_only_a_file_names_a_partition_of_ones_own() -> None:
    assert OwnPartition(name="./mine.py:cut").name == "./mine.py:cut"
    with pytest.raises(ValidationError, match=r"must be a file, such as \./mine\.py:name"):
        OwnPartition(name="mine")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("labels * 0.5", "cut() returns float64 of shape"),
        ("labels", "returns clients 0 to 9; there are 0 to 3"),
        ("labels[7:1/0]", "cut() fails (ZeroDivisionError"),
    ],
)
def test_a_function_that_does_not_do_is_one_line(page_folder: Path, cli: Cli, body: str, says: str) -> None:
    (page_folder / "own.py").write_text(f"def cut(labels, clients, rng):\n    return {body}")
    done = cli("run", "--partition=./own.py", "--clients=4", "--rounds=1", "--model=mlp", "--quiet")
    assert (done.code, done.err.count("\n"), says in done.err) == (2, 1, True), done.err
