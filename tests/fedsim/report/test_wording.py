import math

import pytest

from fedsim.report.wording import (
    best_of,
    direction,
    format_duration,
    format_metric,
    format_option,
    group_metrics,
    key_options,
    metric_label,
    rounds_text,
)
from fedsim.runs.folder import RunFolder
from tests.fedsim.conftest import MakeRun

NAN = math.nan


def test_metrics_are_grouped_accuracies_first() -> None:
    names = [
        *("train/loss", "global/loss", "global/accuracy_few", "global/accuracy", "global/accuracy_many", "steps"),
        *("clients/accuracy", "global_psi/accuracy", "privacy/epsilon", "global/accuracy_medium", "global/loss"),
    ]
    assert group_metrics(names) == {
        "Global": [
            *("global/accuracy", "global/accuracy_many", "global/accuracy_medium", "global/accuracy_few"),
            "global/loss",
        ],
        "Clients": ["clients/accuracy"],
        "Other heads": ["global_psi/accuracy"],
        "Training": ["train/loss"],
        "Other": ["steps", "privacy/epsilon"],
    }
    uneven = ["global/auc", "global/loss", "global_psi/auc", "global/f1_macro", "global/balanced_accuracy"]
    assert group_metrics([*uneven, "global/accuracy"]) == {
        "Global": ["global/accuracy", *uneven[:2:-1], "global/auc", "global/loss"],
        "Other heads": ["global_psi/auc"],
    }
    assert group_metrics([]) == {}


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("global/accuracy", "Accuracy"),
        ("global/accuracy_many", "Accuracy (many)"),
        ("global_psi/loss", "global_psi: Loss"),
        ("global/balanced_accuracy", "Balanced accuracy"),
        ("global/f1_macro", "F1 (macro)"),
        ("global_psi/auc", "global_psi: AUC"),
        ("train/grad_norm", "Grad norm"),
        ("train/picked:by_none", "Picked: by none"),
        ("steps", "Steps"),
        ("a/", "a: "),
    ],
)
def test_metric_label(name: str, label: str) -> None:
    assert metric_label(name) == label


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("global/accuracy", 0.87654, "87.65 %"),
        ("global/loss", 0.123456, "0.1235"),
        ("train/steps", 12345.0, "12,345"),
        ("global/loss", NAN, "–"),
        ("global/loss", math.inf, "∞"),
        ("global/accuracy", -math.inf, "-∞"),
        ("global/loss", 1e300, "1e+300"),
    ],
)
def test_format_metric(name: str, value: float, text: str) -> None:
    assert format_metric(name, value) == text


@pytest.mark.parametrize(
    ("name", "values", "marks"),
    [
        ("global/accuracy", [0.5, 0.75, 0.25], [False, True, False]),
        ("global/loss", [0.5, 0.75, 0.25], [False, False, True]),
        ("global/accuracy", [0.5, NAN, 0.25], [True, False, False]),
        ("global/accuracy", [0.50001, 0.50002, 0.25], [True, True, False]),  # 50.00 % either way
        ("global/accuracy", [0.5, 0.5], [False, False]),
        ("global/loss", [math.inf, 2.0, 1.0], [False, False, True]),
        ("global/accuracy", [0.5], [False]),
        ("global/accuracy", [0.5, NAN], [False, False]),
        ("train/loss", [0.5, 0.1], [False, False]),
        ("forget/accuracy", [0.5, 0.1], [False, False]),
        ("privacy/epsilon", [0.5, 0.1], [False, False]),
    ],
)
def test_best_of(name: str, values: list[float], marks: list[bool]) -> None:
    assert best_of(name, values) == marks


def test_direction_of_heads() -> None:
    assert [direction(n) for n in ("global_psi/accuracy", "clients/loss", "accuracy")] == ["higher", "lower", "higher"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.34, "8.3 s"), (59.99, "60.0 s"), (245, "4 min 05 s"), (7620, "2 h 07 min"), (0, "0.0 s")]
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ([1, None, "a"], "[1, null, a]"),
        ({"a": {"b": 1.0}}, "{a: {b: 1}}"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e-5, "1e-05"),
        (100000.0, "100000"),
    ],
)
def test_format_option(value: object, text: str) -> None:
    assert format_option(value) == text


def test_key_options_tell_what_auto_came_to(make_run: MakeRun) -> None:
    assert key_options(RunFolder.open(make_run("ended"))) == {
        "Strategy": "fedloge (mu 0.01)",
        "Data": "digits",
        "Partition": "dirichlet (alpha 0.3)",
        "Model": "cnn",
        "Clients": "3",
        "Engine": "inprocess",
        "Seed": "7",
    }
    options = {f"option_{i}": i for i in range(20)}
    config = {"data": {"name": "x", "imbalance_factor": 0.01}, "model": "plain", "strategy": {"name": "s", **options}}
    found = key_options(RunFolder.open(make_run("new", summary=None, config=config)))
    assert (found["Engine"], found["Long tail"], found["Model"]) == ("auto", "0.01", "plain")
    assert "Partition" not in found
    assert found["Strategy"].startswith("s (option_0 0, option_1 1, ")
    assert found["Strategy"].endswith(", …)")
    assert len(found["Strategy"]) < 100


def test_natural_clients_are_said_to_be_what_the_data_call_them(make_run: MakeRun) -> None:
    config = {"data": {"name": "csv:a.csv", "partition": {"name": "natural", "by": "identity"}}}
    for name, summary, said in (("a", {"clients_by": "hospital"}, "hospital"), ("b", {}, "identity")):
        found = key_options(RunFolder.open(make_run(name, config=config, summary=summary)))
        assert found["Partition"] == f"natural (by {said})"


def test_rounds_text(make_run: MakeRun) -> None:
    assert rounds_text(RunFolder.open(make_run("a"))) == "4 of 4"
    assert rounds_text(RunFolder.open(make_run("b", summary=None, config={"rounds": None}))) == "4"
