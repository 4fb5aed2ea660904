"""Every mistake in a request is one line with exit code 2, and nothing is written."""

import shutil
from pathlib import Path

import pytest
import yaml

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


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ("partition", "its hash differs"),
        ("model", "model.safetensors: is not the model that the run recorded"),
        ("no model", "model.safetensors: not a readable model file"),
        ("unfinished", "is unfinished, and only a finished run forgets"),
        ("no config", "not a run folder"),
        ("gone", "no such run folder"),
        ("child", "federation.npz: is gone, and nothing else tells what its model may know"),
        ("data gone", "no such file"),
        ("labels hidden", "was trained with data.labelled_fraction below 1; unlearning needs all labels"),
    ],
)
def test_a_run_that_is_not_what_it_was_is_refused(
    cli: Cli, tiny_run: Path, tmp_path: Path, damage: str, line: str
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    match damage:
        case "partition":
            config["data"]["partition"]["alpha"] = 0.4
        case "data gone":
            config["data"]["name"] = f"npz:{tmp_path}/gone.npz"
        case "labels hidden":
            config["data"]["labelled_fraction"] = 0.5
        case "child":
            run = run / "unlearned" / "x"
            run.mkdir(parents=True)
            config = {"unlearn": {}}
        case "model":
            tensors = (run / "model.safetensors").read_bytes()
            (run / "model.safetensors").write_bytes(tensors[:-1] + b"\x01")
        case "no model":
            (run / "model.safetensors").unlink()
        case "unfinished":
            (run / "summary.json").unlink()
        case "gone":
            run = tmp_path / "other"
    if run.exists():
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    if damage == "no config":
        (run / "config.yaml").unlink()
    before = files(tmp_path)
    told = cli("unlearn", run, "--method", "finetune", "--forget", "client=2")
    assert told.code == 2
    assert line in told.err
    assert told.err.count("\n") == 1
    assert files(tmp_path) == before
