"""The figures of small runs are those of expected.json; see `tests.golden.runs`."""

import json
from pathlib import Path

import pytest

from tests.golden.runs import EXPECTED, RUNS, UNLEARNED, Figures, figures

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Figures]:
    return dict(figures(Path(tmp_path_factory.mktemp("golden"))))


@pytest.mark.parametrize("name", [*RUNS, *UNLEARNED])
def test_figures_are_the_expected_ones(name: str, found: dict[str, Figures]) -> None:
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))["runs"][name]
    got = found[name].metrics
    assert got.keys() == expected.keys() != set()
    is_share = {metric: "accuracy" in metric or "auc" in metric or "f1" in metric for metric in got}
    for metric, value in expected.items():
        bound = 0.02 if is_share[metric] else max(0.01, 0.01 * abs(value))
        assert got[metric] == pytest.approx(value, abs=bound, nan_ok=True), metric
