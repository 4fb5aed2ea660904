import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fedsim.report.html import render_report
from fedsim.report.show import render_summary, sparkline
from fedsim.runs.folder import RunFolder
from tests.fedsim.conftest import ROWS, MakeRun


def shown(folder: RunFolder, width: int = 200, everything: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render_summary(folder, everything))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def words(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_a_finished_run(make_run: MakeRun) -> None:
    path = make_run("first", summary={"failures": 1234})
    (path / "model.safetensors").touch()
    lines = words(shown(RunFolder.open(path), everything=True))
    assert lines[0] == "first finished round 4 of 4 in 2 min 05 s 1,234 client failures"
    for line in (
        "Strategy fedloge (mu 0.01)",
        "Engine inprocess",
        "Global Accuracy 87.50 %",
        "Loss 0.5",
        "Clients Accuracy 75.00 %",
        "Other heads global_psi: Accuracy 90.00 %",
        "Training Loss 0.5",
        "Trend ▁█ 25.00 % → 87.50 % (rounds 2–4) global/accuracy",
        "Per class 0: 90 % 1: 50 % 2: –",
        f"Model {path / 'model.safetensors'}",
        f"Next fedsim report {path}",
        f"fedsim unlearn {path} --method METHOD --forget client=0",
    ):
        assert line in lines
    assert "--resume" not in " ".join(lines)
    assert not [line for line in lines if line.startswith("Report")]


def test_what_matters_for_the_method_comes_first_and_in_words(make_run: MakeRun) -> None:
    rows = [{**row, "metrics": {**row["metrics"], "train/a": 1.0, "train/b": 2.0}} for row in ROWS]
    summary = {"shows": ["global_psi/accuracy", "not/there"], "own_metrics": {"psi": "the other head"}, "metrics": {}}
    path = make_run("few", rows=rows, summary=summary)
    lines = words(shown(RunFolder.open(path), width=250))
    first = next(number for number, line in enumerate(lines) if line.startswith("Global, psi: accuracy 90.00 %"))
    assert lines[first].endswith("; the other head.")
    assert lines[first + 1].startswith("Global: accuracy 87.50 % Share of test samples whose class is predicted")
    few = lines.index("", first) - first
    assert few <= 5
    rest = len(RunFolder.open(path).final_metrics) - few
    assert f"And {rest} more: fedsim show {path} --all" in lines


@pytest.mark.parametrize("labelled", [0.1, 1])
def test_forgetting_is_proposed_only_where_all_labels_are_known(labelled: float, make_run: MakeRun) -> None:
    path = make_run(config={"data": {"name": "digits", "labelled_fraction": labelled}})
    assert ("fedsim unlearn" in shown(RunFolder.open(path))) == (labelled == 1)


def test_an_unfinished_run_tells_how_to_go_on(make_run: MakeRun) -> None:
    path = make_run("a b", rows=ROWS[:3], summary=None)
    (path / "report.html").touch()
    lines = words(shown(RunFolder.open(path)))
    assert lines[0] == "a b unfinished round 3 of 4"
    assert f"Next fedsim run --resume '{path}'" in lines
    assert f"Report {path / 'report.html'}" in lines
    assert "Trend ▅ 25.00 % (round 2) global/accuracy" in lines


def test_a_stopped_run_says_why(make_run: MakeRun) -> None:
    lines = words(shown(RunFolder.open(make_run(summary={"status": "stopped", "reason": "too few\nreplies"}))))
    assert lines[1] == "too few�replies"


def test_a_run_without_metrics(make_run: MakeRun) -> None:
    path = make_run(rows=None, summary=None, counts=None)
    lines = words(shown(RunFolder.open(path)))
    assert "Nothing has been measured yet." in lines
    assert lines[-1] == f"Next fedsim run --resume {path}"


def test_trend_falls_back_to_another_head_and_tells_a_better_past(make_run: MakeRun) -> None:
    rows = [{"round": i, "metrics": {"clients/accuracy": v}} for i, v in [(1, 0.5), (2, 0.75), (3, 0.625)]]
    text = " ".join(words(shown(RunFolder.open(make_run(rows=rows)))))
    assert "Trend ▁█▅ 50.00 % → 62.50 % (rounds 1–3, best 75.00 % at round 2) clients/accuracy" in text


def test_many_classes_are_bars_with_the_extremes_named(make_run: MakeRun) -> None:
    accuracy = [0.5] * 98 + [0.0, 1.0]
    accuracy[3] = 0.25
    text = " ".join(words(shown(RunFolder.open(make_run(summary={"per_class_accuracy": accuracy})))))
    assert "lowest 98 (0 %), 3 (25 %), 0 (50 %); highest 99 (100 %)" in text


def test_names_are_neither_markup_nor_terminal_codes(make_run: MakeRun) -> None:
    name = "[red]x[/] \x1b[2J"
    text = shown(RunFolder.open(make_run(summary={"name": name}, config={"model": {"name": name}})))
    assert "\x1b" not in text
    assert text.count("[red]x[/]") == 2


def test_narrow_terminal(make_run: MakeRun) -> None:
    assert max(len(line) for line in shown(RunFolder.open(make_run()), width=40).splitlines()) <= 40


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([], ""),
        ([0.0, 1.0], "▁█"),
        ([0.0, 0.5, np.nan, 1.0], "▁▅ █"),
        ([0.3, 0.3], "▅▅"),
        ([np.nan], ""),
        ([0.0] * 40 + [1.0] * 40, "▁" * 20 + "█" * 20),
    ],
)
def test_sparkline(values: list[float], bars: str) -> None:
    assert sparkline(np.array(values)) == bars


def test_sparkline_on_a_given_scale() -> None:
    assert sparkline(np.array([0.0, 0.5]), 0.0, 1.0) == "▁▅"


def test_showing_imports_neither_matplotlib_nor_torch() -> None:
    code = "import sys, fedsim.report.show; assert not {'matplotlib', 'torch', 'flwr'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_configuration_that_was_changed_since_is_said_to_be(tiny_run: Path, tmp_path: Path) -> None:
    whole = RunFolder.open(shutil.copytree(tiny_run, tmp_path / "run"))
    assert "was changed" not in shown(whole) + render_report([whole])
    file = whole.path / "config.yaml"
    file.write_text(file.read_text().replace("momentum:", "momeotum:"))
    changed = RunFolder.open(whole.path)
    assert "config.yaml was changed since the run began: it had other options" in shown(changed)
    assert "was changed since the run began" in render_report([changed])
