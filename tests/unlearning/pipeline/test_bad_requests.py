"""Every mistake in a request is one line with exit code 2, and nothing is written."""

import shutil
from pathlib import Path

import pytest

from tests.tiny_runs import Cli


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


CASES = [
    ("--method finetun --forget client=2", "--method finetun: no such unlearning method; did you mean 'finetune'?"),
    ("--method , --forget client=2", "--method: must name a method"),
    ("--method finetune --forget client=77", "--forget client=77: no client 77; valid: 0 to 5"),
    ("--method finetune --forget clas=3", "--forget clas=3: 'clas' cannot be forgotten"),
    ("--method finetune --forget class=0,1,2,3,4,5,6,7,8,9", "names all 1317 training samples"),
    ("--method finetune --forget client=2 --compare retrian", "--compare retrian: ... did you mean 'retrain'?"),
    ("--method finetune --forget client=2 --seeds 0", "--seeds: must be at least 1, got 0"),
    ("--method finetune --forget client=2 --seeds two", "two"),
    ("--method finetune --forget client=2 --name ../x", "--name ../x: must be letters"),
    ("--method finetune --forget client=2 --name oracles", "--name oracles: must be"),
    ("--method finetune --forget client=2 --name taken", "taken: exists already"),
    ("--method finetune --forget client=2 --set lrr=1", "--set finetune.lrr: no such key ... did you mean 'lr'?"),
    ("--method finetune --forget client=2 --set lr=-1", "--set finetune.lr: must be greater than 0, got -1"),
    ("--method finetune,neggrad --forget client=2 --set lr=1", "--set lr: must be METHOD.option=value"),
    ("--method finetune --forget client=2 --set x.lr=1", "--set x.lr: must be METHOD.option=value"),
    ("--method modhifi_u --forget random=0.1", "--method modhifi_u: modhifi_u forgets class, not samples"),
    ("--method finetune", "--forget"),
    ("--forget client=2", "--method"),
]


@pytest.mark.parametrize(("arguments", "line"), CASES)
def test_bad_input_is_one_line_and_writes_nothing(
    cli: Cli, tiny_run: Path, tmp_path: Path, arguments: str, line: str
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "unlearned" / "taken").mkdir(parents=True)
    before = files(run)
    told = cli("unlearn", run, *arguments.split())
    assert told.code == 2
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    position = 0
    for part in line.split(" ... "):
        position = told.err.index(part, position)
    assert files(run) == before
