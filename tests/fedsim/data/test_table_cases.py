"""What real tables look like: each is read right, or refused in one clear line."""

from pathlib import Path

import numpy as np
import pytest

from fedsim.errors import FedsimError
from tests.fedsim.data.tables import read
from tests.fedsim.data.test_tabular import rows

CASES = Path(__file__).parent / "cases"


# file: (options, names of the inputs, how many rows, classes or smallest and largest target)
RIGHT = {
    "codes.csv": ({"classes": True}, ["x"], 90, ("1000001", "1000002", "1000003")),
    "deci.csv": ({}, ["t", "h"], 200, (0, 199)),
    "deciy.csv": ({}, ["t"], 60, (0, 3.9)),
    "hash.csv": ({"target": "# rooms"}, ["x", "price"], 60, (0, 8)),
    "index.csv": ({}, ["x"], 120, ("a", "b")),
    "iris_lab.csv": ({}, ["a", "b", "c", "d"], 150, ("Iris-setosa", "Iris-versicolor", "Iris-virginica")),
    "iris_nohead.csv": (
        {}, [f"column_{i}" for i in range(1, 5)], 150, ("Iris-setosa", "Iris-versicolor", "Iris-virginica"),
    ),
    "na.csv": ({}, ["x"], 60, ("BW", "NA", "ZA")),
    "numhead.csv": ({"target": "10", "classes": True}, ["0", "1", "2"], 60, ("0", "1")),
    "qhead.csv": ({}, ["income, gross, per head, household", "age"], 30, (0, 29)),
    "sep_u2028.csv": ({}, ["note=a\u2028b", "note=c", "x"], 30, (0, 29)),
    "sepq_u2028.csv": ({}, ["note=a\u2028b", "note=c", "x"], 30, (0, 29)),
    "stamp.csv": ({}, ["t"], 120, (0, 119)),
    "stamp0.csv": ({}, ["t"], 120, (0, 119)),
    "two.csv": ({}, ["x"], 2, (2, 4)),
    "under.csv": ({}, ["ward=1_1", "ward=1_2", "ward=2_1", "ward=2_2", "ward=3_1", "ward=3_2", "x"], 60, (0, 2)),
    "units.csv": ({}, ["height, cm"], 40, (50, 89.7)),
}  # fmt: skip
WRONG = {"dup.csv": "two columns are called 'a'; rename one", "oneclass.npz": "one class only"}


@pytest.mark.parametrize("file", RIGHT)
def test_files_that_were_misread(file):
    options, names, number, target = RIGHT[file]
    data = read(f"csv:{CASES / file}", options, test_fraction=0.5 if file == "two.csv" else 0.2)
    x, y = rows(data)
    assert (list(data.input_names), len(x)) == (names, number)
    assert np.isfinite(x).all()
    if isinstance(target[0], str):
        assert data.class_names == target
    else:
        assert (y.min(), y.max()) == pytest.approx(target, abs=1e-5)


@pytest.mark.parametrize("file", WRONG)
def test_files_that_hold_no_such_data(file):
    with pytest.raises(FedsimError, match=WRONG[file]):
        read(f"{file.split('.')[1]}:{CASES / file}")


def test_every_case_is_walked():
    assert {path.name for path in CASES.iterdir()} == {*RIGHT, *WRONG, "missing.npz"}
    assert len(read(f"npz:{CASES / 'missing.npz'}").y_test) == 30  # the rest of what it shows is about unlearning


def test_codes_are_no_numbers(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("zip,id,a,y\n" + "".join(f"0{i % 3}123,{10**17 + i},{i % 4},{i}\n" for i in range(20)))
    data = read(f"csv:{path}")
    assert data.input_names == ("zip=00123", "zip=01123", "zip=02123", "a")
    assert "left out: id (another word in every row)" in data.reading


def test_constant_and_blank_columns_change_nothing(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c,y\n" + "".join(f"0.1,,{i},{i}\n" for i in range(50)))
    data = read(f"csv:{path}")
    assert data.input_names == ("a", "c")
    assert (data.x_train[:, 0] == 0).all()
    assert (data.x_test[:, 0] == 0).all()


def test_what_is_learned_of_a_column_is_learned_of_the_training_rows(tmp_path):
    test = tmp_path / "test.csv"
    path = tmp_path / "t.csv"
    path.write_text("a,w,y\n1,u,1\n2,v,2\n3,u,3\n")
    test.write_text("y,a,w\n5,,u\n6,1000,z\n7,1000,u\n")
    data = read(f"csv:{path}", {"test": str(test)})
    assert data.input_names == ("a", "w=u", "w=v")
    assert data.input_scale[0][0] == 2
    unit = np.array(data.input_scale[1])
    raw = data.x_test * unit + data.input_scale[0]
    np.testing.assert_allclose(raw, [[2, 1, 0], [1000, 0, 0], [1000, 1, 0]], rtol=1e-6, atol=1e-6)
    assert "1 blank, filled with the training median 2" in data.reading
    test.write_text("y,w\n5,u\n")
    with pytest.raises(FedsimError, match="has no column 'a'"):
        read(f"csv:{path}", {"test": str(test)})


def test_a_column_marks_the_test_rows(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,fold,y\n" + "".join(f"{i},{'Test' if i % 5 == 0 else 'train'},{i}\n" for i in range(20)))
    data = read(f"csv:{path}", {"test": "fold"})
    assert (len(data.x_test), data.input_names) == (4, ("a",))
    path.write_text("a,fold,y\n" + "".join(f"{i},{i % 5},{i}\n" for i in range(20)))
    with pytest.raises(FedsimError, match="'fold' says '2' in row 3, not train or test"):
        read(f"csv:{path}", {"test": "fold"})
    with pytest.raises(FedsimError, match=r"'absent' is neither a column of .* nor a file"):
        read(f"csv:{path}", {"test": "absent"})


def test_seconds_since_1970_keep_their_seconds():
    stamp, count = (read(f"csv:{CASES / name}") for name in ("stamp.csv", "stamp0.csv"))
    np.testing.assert_allclose(stamp.x_train, count.x_train, rtol=1e-6)
    as_target = read(f"csv:{CASES / 'stamp.csv'}", {"target": "t"})
    assert len(np.unique(as_target.y_train)) == len(as_target.y_train)


def test_archives_keep_them_too(tmp_path):
    t = 1_700_000_000 + np.arange(100.0)
    np.savez(tmp_path / "t.npz", x=t[:, None], y=t)
    data = read(f"npz:{tmp_path / 't.npz'}")
    np.testing.assert_allclose(data.x_train[:, 0], data.y_train, atol=1e-6)
    assert len(np.unique(data.y_train)) == 80
