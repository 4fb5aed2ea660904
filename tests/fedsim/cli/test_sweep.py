"""What `fedsim sweep` refuses leaves nothing behind."""

from pathlib import Path

import pytest

from tests.tiny_runs import Cli


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--seeds=x"], "--seeds x: must be numbers"),
        (["--set=training.lr=[0.1,-1]"], "training.lr: must be greater than 0"),
        (["--set=strategy.name=[fedavg,fedavgg]"], "unknown strategy 'fedavgg'"),
        (["--set=name=x"], "--name names the sweep"),
        (["--name=a/b"], "name: must be letters"),
        (["--jobs=0"], "--jobs 0: must be at least 1"),
    ],
)
def test_bad_input_leaves_nothing_behind(cli: Cli, tmp_path: Path, more: list[str], told: str) -> None:
    outcome = cli("sweep", f"--out={tmp_path}", *more)
    assert outcome.code == 2
    assert told in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    outcome = cli("sweep", f"--out={tmp_path}")
    assert (outcome.code, "exists already and is not a sweep" in outcome.err) == (2, True)
