"""Pictures of a partition."""

import itertools
import time

import numpy as np
import pytest
from matplotlib.axes import Axes

from fedsim.report.plots import partition_plot, partition_plots, png
from fedsim.runs.folder import RunFolder
from tests.fedsim.conftest import MakeRun
from tests.fedsim.report.drawn import PNG_HEAD, legend_texts, tick_labels


def image_data(axes: Axes) -> np.ndarray:
    array = axes.images[0].get_array()
    assert array is not None
    return np.asarray(array)


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
