import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsim.errors import FedsimError
from fedsim.report.groups import final, grouped, not_worse, open_runs, rounds_to, seconds_to, spread
from fedsim.runs.folder import RunFolder
from tests.fedsim.conftest import CONFIG, MakeRun

VALUES = st.dictionaries(st.integers(0, 9), st.floats(-10, 10), max_size=6)


def run(
    make_run: MakeRun, folder: str, config: Mapping[str, Any] = MappingProxyType({}), **metrics: float
) -> RunFolder:
    summary = {"metrics": metrics} if metrics else {}
    return RunFolder.open(make_run(folder, config=config, summary=summary))


def test_runs_that_differ_in_their_seed_alone_are_one_group(make_run: MakeRun) -> None:
    prox = {"strategy": {"name": "fedprox", "mu": 0.1}}
    runs = [
        run(make_run, "a", {"seed": 1}),
        run(make_run, "b", {"seed": 0, "training": {"vectorize": "never", "chunk": 5}}),
        run(make_run, "c", {"seed": 0, **prox}),
        run(make_run, "d", {"seed": 0, **prox, "clients": 9}),
    ]
    groups = grouped(runs)
    assert [group.label for group in groups] == ["fedloge, clients=3", "fedprox, clients=3", "fedprox, clients=9"]
    assert [folder.name for folder in groups[0].runs] == ["b", "a"]
    with pytest.raises(FedsimError, match=r"same seed .* they differ in clients, so add --by clients"):
        grouped(runs, ["strategy"])
    assert [group.label for group in grouped(runs[:3], ["strategy"])] == ["fedloge", "fedprox"]
    with pytest.raises(FedsimError, match="--by strateg: no run has such an option"):
        grouped(runs, ["strateg"])


def test_the_same_run_twice_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(FedsimError, match="give one of them"):
        grouped([run(make_run, "a"), run(make_run, "b")])


def test_folders_of_runs_are_opened_and_each_run_once(make_run: MakeRun, tmp_path: Path) -> None:
    inside = [make_run("sweep/x"), make_run("sweep/y")]
    found = open_runs([tmp_path / "sweep", inside[1], make_run("alone")])
    assert [folder.path.name for folder in found] == ["x", "y", "alone"]
    with pytest.raises(FedsimError, match="no such run folder"):
        open_runs([tmp_path / "nothing"])


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8))
def test_mean_deviation_and_interval(values: list[float]) -> None:
    found = spread(dict(enumerate(values)), 9)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.sd == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    assert (found.n, found.of) == (len(values), 9)
    if found.sd > 1e-3:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert found.half_width == pytest.approx((high - low) / 2)


def test_one_value_has_no_spread_and_none_no_mean() -> None:
    assert math.isnan(spread({0: 1.0}, 1).sd)
    assert math.isnan(spread({0: 1.0}, 1).half_width)
    assert math.isnan(spread({}, 3).mean)


def test_worse_is_what_a_paired_test_calls_so() -> None:
    best = {0: 0.90, 1: 0.80, 2: 0.85}
    near = {0: 0.91, 1: 0.77, 2: 0.84}  # differences -0.01, 0.03, 0.01
    below = {seed: value - 0.05 - 0.001 * seed for seed, value in best.items()}  # paired, though it overlaps
    alone = {7: 0.84}
    assert not_worse([near, best, below, alone, {}], "higher") == [True, True, False, False, False]
    lower = [{seed: -value for seed, value in group.items()} for group in (near, best, below)]
    assert not_worse(lower, "lower") == [True, True, False]
    assert not_worse([best, near], None) == [False, False]
    assert not_worse([best], "higher") == [False]


@given(st.lists(VALUES, min_size=1, max_size=5), st.sampled_from(["higher", "lower"]))
def test_the_best_mean_is_marked_where_there_is_one(groups: list[dict[int, float]], way: Any) -> None:
    marks = not_worse(groups, way)
    means = [np.mean(list(group.values())) for group in groups if group]
    if len(means) < 2 or min(means) == max(means):
        assert not any(marks)
    else:
        best = max(means) if way == "higher" else min(means)
        assert any(mark and np.mean(list(group.values())) == best for mark, group in zip(marks, groups, strict=True))
        assert not any(mark for mark, group in zip(marks, groups, strict=True) if not group)


def test_measures_of_a_run(make_run: MakeRun) -> None:
    folder = run(make_run, "a")
    assert final("global/accuracy")(folder) == 0.875
    assert (rounds_to("global/accuracy", 0.25)(folder), seconds_to("global/accuracy", 0.25)(folder)) == (2, 1.0)
    assert rounds_to("global/accuracy", 0.3)(folder) == 4
    assert math.isnan(rounds_to("global/accuracy", 0.9)(folder))
    assert rounds_to("global/loss", 1.0)(folder) == 4  # lower is better
    assert CONFIG["seed"] == 7
