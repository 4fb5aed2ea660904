"""A second table of a kind is read as the first one was, even if it has few rows or classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedsim.data.config import DataConfig
from fedsim.data.datasets import load_dataset, load_newcomers
from fedsim.errors import FedsimError

ROWS = [
    (f"{20 + number % 40}", ("red", "green", "blue", "")[number % 4], ("ill", "well", "unsure")[number % 3])
    for number in range(48)
]


def table(path: Path, rows: list[tuple[str, ...]], header: str = "age,colour,state") -> str:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return f"csv:{path}"


def test_the_same_rows_are_the_same_numbers(tmp_path: Path) -> None:
    config = DataConfig(name=table(tmp_path / "a.csv", ROWS))
    ours = load_dataset(config, 0)
    again = load_newcomers(config, 0, ours)
    for part in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_allclose(getattr(again, part), getattr(ours, part), atol=1e-6)
    assert again.class_names == ours.class_names == ("ill", "unsure", "well")


def test_few_rows_of_one_class_with_columns_in_another_order_and_one_more(tmp_path: Path) -> None:
    ours = load_dataset(DataConfig(name=table(tmp_path / "a.csv", ROWS)), 0)
    few = [("x", "well", "", "30"), ("y", "well", "blue", ""), ("z", "well", "violet", "31")]
    config = DataConfig(name=table(tmp_path / "b.csv", few, "note,state,colour,age"), test_fraction=0.01)
    (tmp_path / "t.csv").write_text("note,state,colour,age\nw,well,red,40\n")
    config = config.model_copy(update={"csv": config.csv.model_copy(update={"test": "t.csv"})})
    with pytest.raises(FedsimError, match=r"test_fraction leaves no test samples"):
        load_newcomers(config, 0, ours)  # the run's table of tests has nothing to do with a new client
    theirs = load_newcomers(config.model_copy(update={"test_fraction": 0.4}), 0, ours)
    assert set(theirs.y_train) | set(theirs.y_test) == {2}
    assert theirs.num_classes == 3
    assert ours.input_names == ("age", "colour=(blank)", "colour=blue", "colour=green", "colour=red")
    centre, unit = map(np.array, ours.input_scale)
    raw = np.concatenate([theirs.x_train, theirs.x_test]) * unit + centre
    known = sorted(map(tuple, np.round(raw, 3).tolist()))
    median = next(each.fill for each in ours.encoding.columns if each.name == "age")
    assert known == sorted([(30, 1, 0, 0, 0), (round(median, 3), 0, 1, 0, 0), (31, 0, 0, 0, 0)])


@pytest.mark.parametrize(
    ("header", "row", "says"),
    [
        ("age,state", ("30", "ill"), "has no column 'colour', which the table of the run has"),
        ("age,colour,state", ("30", "red", "dead"), "is 'dead' in some row, which is no class of the run; it has ill"),
        (
            "age,colour,state",
            ("old", "red", "ill"),
            "the column 'age' holds words, and in the table of the run numbers",
        ),
        ("age,colour,state", ("30", "red", ""), "the target 'state' is blank in row 1"),
    ],
)
def test_what_cannot_be_read_so_is_refused(tmp_path: Path, header: str, row: tuple[str, ...], says: str) -> None:
    ours = load_dataset(DataConfig(name=table(tmp_path / "a.csv", ROWS)), 0)
    other = DataConfig(name=table(tmp_path / "b.csv", [row] * 4, header))
    with pytest.raises(FedsimError, match=says):
        load_newcomers(other, 0, ours)


def test_numbers_to_predict_and_classes_by_name_of_a_table_that_was_no_file(tmp_path: Path) -> None:
    ours = load_dataset(DataConfig(name="breast_cancer"), 0)
    centre, unit = map(np.array, ours.input_scale)
    samples = list(zip(ours.x_train, ours.y_train, strict=True))
    rows = [(*map(str, (x * unit + centre).tolist()), ours.class_names[y]) for x, y in samples]
    header = ",".join([*(f"c{number}" for number in range(30)), "target"])
    theirs = load_newcomers(DataConfig(name=table(tmp_path / "b.csv", rows[:40], header)), 0, ours)
    known = {tuple(np.round(x, 3)): y for x, y in samples}
    for x, y in zip(theirs.x_train, theirs.y_train, strict=True):
        assert known[tuple(np.round(x, 3))] == y
    numbers = [(str(number), str(2 * number + 5)) for number in range(20)]
    config = DataConfig(name=table(tmp_path / "n.csv", numbers, "a,b"))
    again = load_newcomers(config, 0, load_dataset(config, 0))
    assert again.is_regression
    assert again.target_scale == load_dataset(config, 0).target_scale


def test_an_archive_with_some_of_the_classes(tmp_path: Path) -> None:
    ours = load_dataset(DataConfig(name="digits"), 0)
    rows = np.isin(ours.y_train, (3, 7))
    np.savez(tmp_path / "few.npz", x=ours.x_train[rows], y=ours.y_train[rows])
    theirs = load_newcomers(DataConfig(name=f"npz:{tmp_path / 'few.npz'}"), 0, ours)
    assert set(theirs.y_train) == {3, 7}
    assert (theirs.num_classes, theirs.mean) == (10, ours.mean)
    np.savez(tmp_path / "high.npz", x=ours.x_train[rows], y=ours.y_train[rows] + 5)
    with pytest.raises(FedsimError, match=r"has label 12, and the run's classes are 0..9"):
        load_newcomers(DataConfig(name=f"npz:{tmp_path / 'high.npz'}"), 0, ours)
