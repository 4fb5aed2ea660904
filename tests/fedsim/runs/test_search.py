import math
from pathlib import Path
from typing import Any

import pytest

from fedsim.errors import FedsimError
from fedsim.report.groups import grouped
from fedsim.runs.folder import RunFolder
from fedsim.runs.search import Range, draw, judge, read_range
from tests.fedsim.conftest import MakeRun
from tests.tiny_runs import Cli

SMALL = [
    "--set=clients=4", "--set=rounds=2", "--set=model.name=mlp", "--set=model.hidden=[[8]]", "--set=cohort=2",
    "--set=training.vectorize=never", "--set=training.epochs=1", "--set=data.validation_fraction=0.2", "--jobs=2",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [("0.001..1", Range(0.001, 1, False)), (" 1 .. 8 ", Range(1, 8, True)), ("-1e-1..2.", Range(-0.1, 2, False)),
     ("0.1", None), ("a..b", None), (0.5, None)],
)  # fmt: skip
def test_ranges(text: object, found: Range | None) -> None:
    assert read_range("training.lr", text) == found
    assert read_range("strategy.name", "1..2") is None
    with pytest.raises(FedsimError, match="must go from a number to a greater one"):
        read_range("training.lr", "2..1")


def test_points_fill_their_ranges_and_the_first_are_those_of_a_shorter_search() -> None:
    axes: dict[str, Any] = {
        "lr": Range(0.001, 1, False), "mu": Range(-1, 1, False), "epochs": Range(1, 4, True), "name": ["a", "b"],
    }  # fmt: skip
    points = draw(axes, 200)
    assert draw(axes, 20) == points[:20]
    assert len({repr(point) for point in points}) == 200
    for key in ("epochs", "name"):
        values = [point[key] for point in points]
        shares = {value: values.count(value) / 200 for value in values}
        assert set(shares) == ({1, 2, 3, 4} if key == "epochs" else {"a", "b"})
        assert all(share == pytest.approx(1 / len(shares), abs=0.05) for share in shares.values())
    decades = [math.floor(math.log10(point["lr"])) for point in points]
    assert all(decades.count(decade) == pytest.approx(200 / 3, abs=8) for decade in (-3, -2, -1))
    assert sum(point["mu"] for point in points) / 200 == pytest.approx(0, abs=0.05)
    # No more than there are.
    assert draw({"name": ["a", "b"], "epochs": Range(1, 3, True)}, 50) == draw(
        {"name": ["a", "b"], "epochs": Range(1, 3, True)}, 6
    )


def test_the_best_is_so_in_the_mean_and_a_point_with_a_run_that_failed_is_none(make_run: MakeRun) -> None:
    accuracies = {0.1: [0.5, 0.7], 0.2: [0.9, 0.2], 0.3: [0.99, 0.99]}
    runs = []
    for lr, values in accuracies.items():
        for seed, value in enumerate(values):
            rows = [{"round": 1, "time_s": 2.0, "bytes_down": 3_000_000, "bytes_up": 1_000_000,
                     "metrics": {"validation/accuracy": value, "validation/loss": 1 - value}}]  # fmt: skip
            summary = {"metrics": rows[-1]["metrics"], "rounds_done": 1, "rounds": 1}
            if lr == 0.3 and seed:
                summary["status"] = "stopped"
            path = make_run(f"{lr}-{seed}", rows=rows, summary=summary, config={"seed": seed, "training": {"lr": lr}})
            runs.append(RunFolder.open(path))
    found = judge(runs, "validation/accuracy", 2)
    assert [group.label for group in found.groups] == ["lr=0.1", "lr=0.2", "lr=0.3"]
    assert (found.value, found.rounds, found.seconds, found.bytes) == (0.6, 6, 12.0, 24_000_000)
    assert found.cost() == "3 points, 6 runs, 6 rounds, 12 s of training, 24.0 MB sent to clients and back"
    assert judge(runs, "validation/loss", 2).value == pytest.approx(0.4)
    with pytest.raises(FedsimError, match=r"no point has it for all of its seeds; did you mean 'validation/loss'"):
        judge(runs, "validation/los", 2)
    assert len(grouped(runs)) == 3


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            ["--tune=global/accuracy"],
            "is measured on the test set, which chooses nothing; give validation/accuracy",
        ),
        (["--tune=train/loss"], "is not measured on held-out samples"),
        (["--tune=validation/accuracy", "--set=data.validation_fraction=0"], "--set data.validation_fraction=0.2"),
        (["--tune=validation/accuracy", "--trials=0"], "--trials 0: must be from 1"),
        (["--trials=3"], "add --tune"),
        ([], "a range is for a search"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(cli: Cli, tmp_path: Path, more: list[str], told: str) -> None:
    outcome = cli("sweep", *SMALL, "--set=training.lr=0.01..1", f"--out={tmp_path}", *more)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert told in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_search_needs_something_to_choose_from(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("sweep", *(flag for flag in SMALL if "hidden" not in flag), "--tune=validation/accuracy")
    assert (outcome.code, "nothing to choose from" in outcome.err) == (2, True)


@pytest.mark.slow
def test_a_search_writes_what_a_run_takes_and_a_longer_one_goes_on(cli: Cli, tmp_path: Path) -> None:
    command = ["sweep", *SMALL, "--set=training.lr=0.01..1", "--tune=validation/accuracy", f"--out={tmp_path}"]
    first = cli(*command, "--trials=2")
    assert first.code == 0
    assert "cost: 2 points, 2 runs, 4 rounds" in first.out
    before = {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("sweep/*/summary.json")}
    assert cli(*command, "--trials=4").code == 0
    after = {path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("sweep/*/summary.json")}
    assert len(after) == 4
    assert before.items() <= after.items()
    best = tmp_path / "sweep" / "best.yaml"
    runs = [RunFolder.open(path.parent) for path in tmp_path.glob("sweep/*/summary.json")]
    chosen = max(runs, key=lambda run: run.final_metrics["validation/accuracy"])
    assert cli("run", f"--config={best}", f"--out={tmp_path}", "--name=again", "-q").code == 0
    again = RunFolder.open(tmp_path / "again")
    assert again.summary is not None
    assert chosen.summary is not None
    assert again.summary.model_sha256 == chosen.summary.model_sha256
