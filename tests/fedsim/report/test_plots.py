import numpy as np
import pytest

from fedsim.report.plots import (
    all_plots,
    learning_curves,
    png,
    write_plots,
)
from fedsim.runs.folder import RunFolder
from tests.fedsim.conftest import MakeRun
from tests.fedsim.report.drawn import PNG_HEAD, legend_texts

# --- files ---


def test_write_plots(make_run: MakeRun) -> None:
    folder = RunFolder.open(make_run())
    paths = write_plots(folder)
    assert [path.name for path in paths] == ["accuracy.png", "loss.png", "per_class.png", "partition.png"]
    assert sorted(paths) == sorted((folder.path / "plots").iterdir())
    for path in paths:
        assert path.read_bytes().startswith(PNG_HEAD)


def test_plots_are_not_blank_and_the_same_bytes_each_time(make_run: MakeRun) -> None:
    folder = RunFolder.open(make_run())
    for first, second in zip(all_plots([folder]), all_plots([folder]), strict=True):
        assert png(first.figure) == png(second.figure)
        canvas = first.figure.canvas
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].reshape(-1, 3)  # type: ignore[attr-defined]
        assert len(np.unique(pixels, axis=0)) > 20


@pytest.mark.parametrize("name", ["_hidden", "cost $5 and $\\bad$", "<b>&", "名前 😀", "a" * 300, "line\nbreak"])
def test_any_name_can_be_drawn(make_run: MakeRun, name: str) -> None:
    rows = [{"round": 1, "metrics": {f"{name}/accuracy": 0.5, f"{name}/accuracy_many": 0.5}}]
    runs = [RunFolder.open(make_run(x, rows=rows, summary={"name": f"{name}{x}"})) for x in "ab"]
    for plot in [*all_plots(runs), *learning_curves(runs[:1])]:
        assert png(plot.figure).startswith(PNG_HEAD)
        assert plot.name.isascii()
        assert "/" not in plot.name
    first = learning_curves(runs)[0]
    if len(name) < 40:
        assert legend_texts(first.figure) == [f"{name}a", f"{name}b"]


def test_twenty_runs_are_told_apart(make_run: MakeRun) -> None:
    runs = [RunFolder.open(make_run(f"run-{i}")) for i in range(20)]
    lines = learning_curves(runs)[0].figure.axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20
