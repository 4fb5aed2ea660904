"""A run that is not what it was is refused."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.tiny_runs import Cli


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ("partition", "its hash differs"),
        ("model", "model.safetensors: is not the model that the run recorded"),
        ("no model", "model.safetensors: not a readable model file"),
        ("unfinished", "is unfinished, and only a finished run can forget"),
        ("no config", "not a run folder"),
        ("gone", "no such run folder"),
        ("child", "federation.npz: is missing, and only it lists the allowed data"),
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
