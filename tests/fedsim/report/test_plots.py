import itertools
import time
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedsim.report.figures import COLORS, GROUP_COLORS
from fedsim.report.plots import (
    Plot,
    all_plots,
    learning_curves,
    partition_plot,
    partition_plots,
    per_class_plots,
    png,
    write_plots,
)
from fedsim.runs.folder import RunFolder
from tests.fedsim.conftest import MakeRun

PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def tick_labels(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def image_data(axes: Axes) -> np.ndarray:
    array = axes.images[0].get_array()
    assert array is not None
    return np.asarray(array)


def colors_of(bars: Any) -> list[str]:
    from matplotlib.colors import to_hex

    return [to_hex(bar.get_facecolor()).upper() for bar in bars]


def curves(plot: Plot) -> dict[str, tuple[list[float], list[float]]]:
    lines = plot.figure.axes[0].lines
    return {
        label: (list(line.get_xdata()), list(line.get_ydata()))
        for label, line in zip(legend_texts(plot.figure), lines, strict=True)
    }


# --- learning curves ---


def test_one_run_shows_its_heads(make_run: MakeRun) -> None:
    accuracy, loss = learning_curves([RunFolder.open(make_run())])
    assert (accuracy.name, loss.name) == ("accuracy", "loss")
    assert curves(accuracy) == {"Global": ([2, 4], [0.25, 0.875]), "Clients": ([4], [0.75]), "global_psi": ([4], [0.9])}
    assert curves(loss) == {"Global": ([2, 4], [1.75, 0.5]), "Training": ([1, 2, 3, 4], [2.0, 1.5, 1.0, 0.5])}
    accuracy.figure.draw_without_rendering()
    axes = accuracy.figure.axes[0]
    assert axes.get_xlabel() == "Round"
    assert all(label.endswith(" %") for label in tick_labels(axes.yaxis))
    assert set(tick_labels(axes.xaxis)) <= {"1", "2", "3", "4", "5"}


def test_several_runs_are_overlaid_metric_by_metric(make_run: MakeRun) -> None:
    rows = [{"round": 4, "metrics": {"global/accuracy": 0.5}}]
    runs = [RunFolder.open(make_run("a")), RunFolder.open(make_run("b", rows=rows))]
    plots = {plot.title: curves(plot) for plot in learning_curves(runs)}
    assert list(plots) == [
        *("Global accuracy", "Clients accuracy", "global_psi accuracy", "Global loss", "Training loss"),
    ]
    assert plots["Global accuracy"] == {"a": ([2, 4], [0.25, 0.875]), "b": ([4], [0.5])}
    assert plots["Clients accuracy"] == {"a": ([4], [0.75])}


def test_a_run_keeps_its_colour_where_another_has_no_values(make_run: MakeRun) -> None:
    rows = [{"round": 1, "metrics": {"global/loss": 1.0}}]
    runs = [RunFolder.open(make_run("a", rows=rows, summary=None)), RunFolder.open(make_run("b"))]
    for plot in learning_curves(runs):
        lines = dict(zip(legend_texts(plot.figure), plot.figure.axes[0].lines, strict=True))
        assert lines["b"].get_color() == COLORS[1]


def test_class_sizes_have_their_own_plot_and_colours(make_run: MakeRun) -> None:
    metrics = {"global/accuracy_many": 0.9, "global/accuracy_medium": 0.5, "global/accuracy_few": 0.1}
    (plot,) = learning_curves([RunFolder.open(make_run(rows=[{"round": 3, "metrics": metrics}]))])
    assert plot.name == "accuracy_groups_global"
    assert curves(plot) == {"many": ([3], [0.9]), "medium": ([3], [0.5]), "few": ([3], [0.1])}
    assert [line.get_color() for line in plot.figure.axes[0].lines] == list(GROUP_COLORS.values())
    rows = [{"round": 3, "metrics": metrics}]
    assert learning_curves([RunFolder.open(make_run("even", rows=rows, summary={"class_counts": [5, 5, 5]}))]) == []


def test_values_that_are_not_finite_are_left_out(make_run: MakeRun) -> None:
    """A run writes null for them; anything else is refused as the file is read."""
    values = [1.0, None, None, 0.5]
    rows = [{"round": i, "metrics": {"train/loss": v, "global/loss": None}} for i, v in enumerate(values)]
    (plot,) = learning_curves([RunFolder.open(make_run(rows=rows))])
    assert curves(plot) == {"Training": ([0, 3], [1.0, 0.5])}


def test_metrics_of_one_family_share_a_plot(make_run: MakeRun) -> None:
    metrics = {"train/picked:by_both": 0.5, "train/picked:by_none": 0.25, "train/other": 9.0, "train/parts:a": 1.0}
    rows = [{"round": 1, "metrics": metrics}, {"round": 2, "metrics": {"train/picked:by_none": 0.75}}]
    runs = [RunFolder.open(make_run(name, rows=rows)) for name in "ab"]
    picked, parts = sorted(learning_curves(runs[:1]), key=lambda plot: plot.name, reverse=True)
    assert (picked.name, picked.title, parts.title) == ("train_picked", "Picked", "Parts")
    assert curves(picked) == {"by both": ([1], [0.5]), "by none": ([1, 2], [0.25, 0.75])}
    both = {plot.title: curves(plot) for plot in learning_curves(runs)}
    assert both["Picked: by none"] == {"a": ([1, 2], [0.25, 0.75]), "b": ([1, 2], [0.25, 0.75])}
    assert len(both) == 3


def test_a_loss_over_decades_has_a_log_axis(make_run: MakeRun) -> None:
    rows = [{"round": i, "metrics": {"train/loss": 10.0**-i}} for i in range(4)]
    (plot,) = learning_curves([RunFolder.open(make_run(rows=rows))])
    assert plot.figure.axes[0].get_yscale() == "log"


def test_no_metrics_no_curves(make_run: MakeRun) -> None:
    assert learning_curves([RunFolder.open(make_run(rows=None, summary=None))]) == []


# --- accuracy per class ---


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


# --- partition ---


def test_few_clients_are_bubbles_by_client_and_class() -> None:
    figure = partition_plot(np.array([[5, 0, 1], [0, 7, 0], [2, 2, 2], [0, 0, 0]]))
    sizes, main = figure.axes
    (bubbles,) = main.collections
    offsets, areas = np.asarray(bubbles.get_offsets()), np.asarray(bubbles.get_sizes())  # type: ignore[attr-defined]
    at = {(int(x), int(y)): area / areas.max() for (x, y), area in zip(offsets, areas, strict=True)}
    expected = {(0, 0): 5, (0, 2): 1, (1, 1): 7, (2, 0): 2, (2, 1): 2, (2, 2): 2}
    assert at == {place: pytest.approx(count / 7) for place, count in expected.items()}
    assert [bar.get_height() for bar in sizes.patches] == [6, 7, 6, 0]
    assert tick_labels(main.xaxis) == ["0", "1", "2", "3"]
    assert tick_labels(main.yaxis) == ["0", "1", "2"]
    assert legend_texts(figure) == ["7 samples", "1 sample"]


def test_clients_and_classes_with_names_are_called_by_them():
    counts = np.array([[5, 0, 1], [0, 7, 0]])
    main = partition_plot(counts, ["St. Mary $1$", "a hospital with a long name"], ["benign", "_x", "$y$"]).axes[1]
    assert [label.get_text() for label in main.get_xticklabels()] == ["St. Mary $1$", "a hospital with…"]
    assert [label.get_text() for label in main.get_yticklabels()] == ["benign", "_x", "$y$"]
    assert png(main.figure).startswith(PNG_HEAD)
    many = partition_plot(np.ones((40, 3), dtype=np.int64), [f"client {i}" for i in range(40)]).axes[1]
    assert "client 1" not in [label.get_text() for label in many.get_xticklabels()]  # there is no room for all


def test_ticks_of_fifty_clients_are_thinned() -> None:
    main = partition_plot(np.ones((50, 30), dtype=np.int64)).axes[1]
    assert tick_labels(main.xaxis) == [str(i) for i in range(0, 50, 2)]
    assert tick_labels(main.yaxis) == [str(i) for i in range(30)]


@pytest.mark.parametrize("shape", [(51, 3), (3, 31)])
def test_more_clients_or_classes_are_a_heat_map(shape: tuple[int, int]) -> None:
    figure = partition_plot(np.ones(shape, dtype=np.int64))
    assert image_data(figure.axes[1]).shape == shape[::-1]


def slow_order(counts: np.ndarray) -> list[int]:
    """By main class, then by falling lead; clients without samples last: the same in plain Python."""

    def key(client: int) -> tuple[bool, int, float]:
        row = counts[client].tolist()
        return sum(row) == 0, row.index(max(row)), -max(row) / max(sum(row), 1)

    return sorted(range(len(counts)), key=key)


def test_heat_map_orders_clients_by_main_class() -> None:
    counts = np.random.default_rng(0).integers(0, 4, (120, 5)) * np.random.default_rng(1).integers(0, 2, (120, 1))
    figure = partition_plot(counts)
    sizes, main = figure.axes[:2]
    shares = image_data(main)
    ordered = counts[slow_order(counts)]
    np.testing.assert_allclose(shares, (ordered / np.maximum(ordered.sum(1), 1)[:, None]).T)
    np.testing.assert_allclose(sizes.patches[0].get_data().values, ordered.sum(1))  # type: ignore[attr-defined]
    assert "those without samples last" in main.get_xlabel()


def test_heat_map_of_many_clients_averages_neighbours() -> None:
    counts = np.random.default_rng(2).integers(0, 9, (1000, 4))
    counts[7] = 0
    figure = partition_plot(counts)
    shares, ordered = image_data(figure.axes[1]), counts[slow_order(counts)]
    assert shares.shape == (4, 400)
    edges = [column * 1000 // 400 for column in range(401)]
    for column, (start, stop) in enumerate(itertools.pairwise(edges)):
        members = [row / row.sum() for row in ordered[start:stop] if row.sum()]
        np.testing.assert_allclose(shares[:, column], np.mean(members, axis=0))
    sizes = [ordered[start:stop].sum(1).mean() for start, stop in itertools.pairwise(edges)]
    np.testing.assert_allclose(figure.axes[0].patches[0].get_data().values, sizes)  # type: ignore[attr-defined]
    assert figure.axes[1].get_xlabel().endswith("a column is the mean of about 2")
    assert figure.axes[1].get_xlim() == (-0.5, 999.5)


def test_a_hundred_thousand_clients_are_drawn_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.report.figures._DPI", 180)
    counts = np.random.default_rng(0).integers(0, 20, (100_000, 10))
    start = time.perf_counter()
    assert len(png(partition_plot(counts))) < 500_000
    assert time.perf_counter() - start < 20  # about 1 s on a laptop core


@pytest.mark.parametrize("counts", [[[3]], [[0]], [[0, 0]] * 60, [[4]] * 60, [[1] * 400]])
def test_extreme_partitions(counts: list[list[int]]) -> None:
    assert png(partition_plot(np.array(counts))).startswith(PNG_HEAD)


def test_equal_partitions_are_drawn_once(make_run: MakeRun) -> None:
    runs = [
        RunFolder.open(make_run(n, counts=c))
        for n, c in [("a", [[1, 2]]), ("b", [[1], [2]]), ("c", [[1, 2]]), ("d", None)]
    ]
    assert [plot.title for plot in partition_plots(runs)] == [
        "Labels of the only client: a, c",
        "Labels of the 2 clients: b",
    ]
    assert [plot.title for plot in partition_plots([runs[0], runs[2]])] == ["Labels of the only client"]


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


def test_no_pyplot() -> None:
    import subprocess
    import sys

    code = (
        "import sys, numpy; from fedsim.report.plots import partition_plot, png; "
        "png(partition_plot(numpy.ones((3, 3), int))); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
