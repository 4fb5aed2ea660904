"""Learning curves."""

from fedsim.report.figures import COLORS, GROUP_COLORS
from fedsim.report.plots import Plot, learning_curves
from fedsim.runs.folder import RunFolder
from tests.fedsim.conftest import MakeRun
from tests.fedsim.report.drawn import legend_texts, tick_labels


def curves(plot: Plot) -> dict[str, tuple[list[float], list[float]]]:
    lines = plot.figure.axes[0].lines
    return {
        label: (list(line.get_xdata()), list(line.get_ydata()))
        for label, line in zip(legend_texts(plot.figure), lines, strict=True)
    }


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
    more = {"train/picked:by_none": 0.75, "train/parts:a": 2.0}
    rows = [{"round": 1, "metrics": metrics}, {"round": 2, "metrics": more}]
    runs = [RunFolder.open(make_run(name, rows=rows)) for name in "ab"]
    picked, parts = sorted(learning_curves(runs[:1]), key=lambda plot: plot.name, reverse=True)
    assert (picked.name, picked.title, parts.title) == ("train_picked", "Picked", "Parts")
    assert curves(picked) == {"by both": ([1], [0.5]), "by none": ([1, 2], [0.25, 0.75])}
    both = {plot.title: curves(plot) for plot in learning_curves(runs)}
    assert both["Picked: by none"] == {"a": ([1, 2], [0.25, 0.75]), "b": ([1, 2], [0.25, 0.75])}
    assert len(both) == 3


def test_a_family_measured_once_is_no_curve(make_run: MakeRun) -> None:
    shares = {"train/share:least": 0.1, "train/share:most": 0.3}
    rows = [{"round": 1, "metrics": {"train/loss": 1.0}}, {"round": 2, "metrics": {"train/loss": 0.5} | shares}]
    assert [plot.name for plot in learning_curves([RunFolder.open(make_run(rows=rows))])] == ["loss"]


def test_a_loss_over_decades_has_a_log_axis(make_run: MakeRun) -> None:
    rows = [{"round": i, "metrics": {"train/loss": 10.0**-i}} for i in range(4)]
    (plot,) = learning_curves([RunFolder.open(make_run(rows=rows))])
    assert plot.figure.axes[0].get_yscale() == "log"


def test_no_metrics_no_curves(make_run: MakeRun) -> None:
    assert learning_curves([RunFolder.open(make_run(rows=None, summary=None))]) == []
