"""Accuracies of classes."""

from typing import Any

from fedsim.report.figures import COLORS, GROUP_COLORS
from fedsim.report.plots import per_class_plots, png
from fedsim.runs.folder import RunFolder
from tests.fedsim.conftest import MakeRun
from tests.fedsim.report.drawn import PNG_HEAD, legend_texts, tick_labels


def colors_of(bars: Any) -> list[str]:
    from matplotlib.colors import to_hex

    return [to_hex(bar.get_facecolor()).upper() for bar in bars]


def test_per_class_accuracy_above_class_sizes(make_run: MakeRun) -> None:
    (plot,) = per_class_plots([RunFolder.open(make_run())])
    top, bottom = plot.figure.axes
    assert [bar.get_height() for bar in top.patches] == [0.9, 0.5, 0.0]
    assert [bar.get_height() for bar in bottom.patches] == [7, 9, 3]
    assert bottom.get_yscale() == "log"
    assert tick_labels(bottom.xaxis) == ["0", "1", "2"]
    assert plot.figure.legends == []


def test_per_class_colours_tell_many_medium_few(make_run: MakeRun) -> None:
    summary = {"metrics": {"global/accuracy_many": 0.5}, "class_counts": [80, 16, 4]}
    (plot,) = per_class_plots([RunFolder.open(make_run(summary=summary))])
    for axes in plot.figure.axes:
        assert colors_of(axes.patches) == list(GROUP_COLORS.values())
    assert legend_texts(plot.figure) == ["many samples", "medium samples", "few samples"]


def test_per_class_of_several_runs_on_the_same_and_other_data(make_run: MakeRun) -> None:
    runs = [
        RunFolder.open(make_run("a")),
        RunFolder.open(make_run("other", summary={"per_class_accuracy": [1.0], "class_counts": [3]})),
        RunFolder.open(make_run("unmeasured", summary=None)),
        RunFolder.open(make_run("b", summary={"per_class_accuracy": [0.1, 0.2, 0.3]})),
    ]
    same, other = per_class_plots(runs)
    assert (same.name, other.name) == ("per_class_1", "per_class_2")
    assert same.title.endswith(": a, b")
    assert legend_texts(same.figure) == ["a", "b"]
    lines = same.figure.axes[0].lines
    assert [list(line.get_ydata()) for line in lines[1:]] == [[0.1, 0.2, 0.3]]
    assert [line.get_color() for line in lines] == [COLORS[0], COLORS[3]]
    assert [bar.get_height() for bar in other.figure.axes[0].patches] == [1.0]


def test_per_class_with_classes_that_have_no_samples_or_no_counts(make_run: MakeRun) -> None:
    runs = [
        RunFolder.open(make_run("zero", summary={"class_counts": [0, 0, 0]})),
        RunFolder.open(make_run("none", summary={"class_counts": None}, counts=None)),
    ]
    with_counts, without = (per_class_plots([run])[0] for run in runs)
    assert [len(plot.figure.axes) for plot in (with_counts, without)] == [2, 1]
    assert png(with_counts.figure).startswith(PNG_HEAD)
    assert png(without.figure).startswith(PNG_HEAD)
