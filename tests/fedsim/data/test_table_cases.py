"""What real tables look like: each is read right, or refused in one clear line."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from fedsim.data import DataConfig, load_dataset
from fedsim.errors import FedsimError
from tests.fedsim.data.test_tabular import rows

CASES = Path(__file__).parent / "cases"


def read(name, options=None, **more):
    return load_dataset(DataConfig(name=name, csv=options or {}, **more), 0)


def table(x, y="y", n=12, sep=","):
    """Return n rows of a column `a`, its cells repeated in turn, and of numbers 0.5, 1.5, ... below them."""
    cells = [x[i % len(x)] for i in range(n)]
    return f"a{sep}{y}\n" + "".join(f"{cell}{sep}{i}\n" for i, cell in enumerate(cells))


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


NUMBERS = {  # cells -> (value of each, what is said)
    ("1.5", "-2", "+3e2"): ([1.5, -2, 300], ""),
    ("1,234.5", "12", "1,000,000.25"): ([1234.5, 12, 1000000.25], "thousands by commas"),
    ("1.234,5", "12", "0,25"): ([1234.5, 12, 0.25], "decimal commas, thousands by points"),
    ("1,234", "2,500", "999"): ([1234, 2500, 999], "thousands by commas"),
    ("1.234.567", "12"): ([1234567, 12], "thousands by points"),
    ("1 234,5", "1\u00a0000", "2\u202f000,5"): ([1234.5, 1000, 2000.5], "decimal commas, thousands by spaces"),
    ("1'234.50", "12"): ([1234.5, 12], "thousands by apostrophes"),
    ("12,34,567", "1,000"): ([1234567, 1000], "thousands by commas"),
    ("12.5 %", "3 %"): ([12.5, 3], "in %"),
    ("$1,200.50", "-$3", "$0.5", "($7)"): ([1200.5, -3, 0.5, -7], r"in \$"),
    ("1.200,50 \u20ac", "3,00 \u20ac"): ([1200.5, 3], "in \u20ac"),
    ("12 mg/dL", "13.5mg/dL"): ([12, 13.5], "in mg/dL"),
    ("36.6\u00b0C", "40\u00b0C"): ([36.6, 40], "in \u00b0C"),
    ("\u22123", "4"): ([-3, 4], ""),
    ("yes", "No", "TRUE", "0"): ([1, 0, 1, 0], ""),
    ("2020-01-02", "1970-01-01"): ([18263, 0], "days, from year-month-day"),
    ("2020-01-02T12:00:00Z", "1970-01-02 00:00"): ([18263.5, 1], "days, from year-month-day"),
    ("31.12.1969", "02.01.1970"): ([-1, 1], "days, from day.month.year"),
    ("12/31/1969", "1/2/1970"): ([-1, 1], "days, from month/day/year"),
    ("02-Jan-1970", "31-Dec-1969"): ([1, -1], "days, from day-month-year"),
    ("12:30", "06:00"): ([12.5, 6], "hours, from hour:minute"),
}


@pytest.mark.parametrize("cells", NUMBERS)
@pytest.mark.parametrize("sep", [",", ";", "\t", "|"])
def test_spellings_of_numbers(tmp_path, cells, sep):
    path = tmp_path / "t.csv"
    path.write_text(table([f'"{cell}"' if sep in cell else cell for cell in cells], sep=sep), encoding="utf-8")
    data = read(f"csv:{path}")
    x, y = rows(data)
    expected, said = NUMBERS[cells]
    if cells == ("1,234", "2,500", "999") and sep == ";":  # as Excel writes them where the comma is decimal
        expected, said = [1.234, 2.5, 999], "decimal commas"
    order = np.argsort(y)
    assert data.input_names == ("a",)
    np.testing.assert_allclose(x[order, 0], np.resize(expected, 12), atol=1e-6 * np.max(np.abs(expected)))
    assert not said or re.search(f"a: [^;]*{said}", data.reading)


def test_other_columns_tell_what_a_thousand_is(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a;b;y\n" + "".join(f"{1 + i}.{100 + i};0,{i + 1};{i}\n" for i in range(9)))
    assert rows(read(f"csv:{path}"))[0].max() == pytest.approx(9108)
    path.write_text("a\tb\ty\n" + "".join(f"{1 + i},{100 + i}\t0.{i + 1}\t{i}\n" for i in range(9)))
    assert rows(read(f"csv:{path}"))[0].max() == pytest.approx(9108)
    path.write_text("a\tb\ty\n" + "".join(f"{1 + i},{100 + i}\t0.{i + 1}\t{i}\n" for i in range(9)))
    with pytest.raises(FedsimError, match="'b' holds numbers in several units or spellings"):
        read(f"csv:{path}", {"decimal": ","})


@pytest.mark.parametrize(
    "blank", ["", "NA", "#N/A", "n/a", "nan", "NULL", "-", "?", ".", "None", "#DIV/0!", "<NA>", "missing"]
)
def test_spellings_of_nothing(tmp_path, blank):
    path = tmp_path / "t.csv"
    path.write_text(table(["1", blank, "5", "9"]))
    data = read(f"csv:{path}")
    x, _ = rows(data)
    assert (data.input_names, set(np.rint(x[:, 0]).tolist()) <= {1, 5, 9}) == (("a",), True)
    assert "a: 3 blanks, filled with the training median 5" in data.reading


FORMS = {
    "BOM": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "Latin-1": lambda text: text.encode("latin-1"),
    "gzip": lambda text: gzip.compress(text.encode()),
    "Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "old Macintosh": lambda text: text.replace("\n", "\r").encode(),
    "Excel's sep": lambda text: b"sep=,\r\n" + text.encode(),
    "blank lines": lambda text: text.replace("\n", "\n\n").encode(),
    "no last line end": lambda text: text.rstrip("\n").encode(),
    "separators at the ends": lambda text: text.replace("\n", ",\n").encode(),
    "the same below the header": lambda text: text.replace("\n", ",\n").replace(",\n", "\n", 1).encode(),
    "blank columns": lambda text: text.replace("\n", ",,,\n").encode(),
    "title and notes": lambda text: f"Report of 2020\n\n{text}Source: the clinic\n".encode(),
    "padded": lambda text: text.replace(",", " , ").encode(),
    "quoted": lambda text: "".join(
        ",".join(f'"{cell}"' for cell in line.split(",")) + "\n" for line in text.splitlines()
    ).encode(),
    "row names of R": lambda text: "".join(
        f"{line if i == 0 else f'{i},{line}'}\n" for i, line in enumerate(text.splitlines())
    ).encode(),
    "index of pandas": lambda text: "".join(
        f"{'' if i == 0 else i - 1},{line}\n" for i, line in enumerate(text.splitlines())
    ).encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_same_table(tmp_path, form):
    text = "klinik,alter,kind\n" + "".join(
        f"{('Köln', 'St. Mary', 'Ulm')[i % 3]},{30 + i},{'krank' if i % 2 else 'gesund'}\n" for i in range(20)
    )
    path = tmp_path / "t.csv"
    path.write_bytes(FORMS[form](text))
    data = read(f"csv:{path}")
    assert data.input_names == ("klinik=Köln", "klinik=St. Mary", "klinik=Ulm", "alter")
    x, y = rows(data)
    assert (len(x), data.class_names) == (20, ("gesund", "krank"))
    order = np.argsort(x[:, 3])
    np.testing.assert_allclose(x[order, 3], np.arange(30, 50), rtol=1e-6)
    assert y[order].tolist() == [0, 1] * 10


def test_words_with_line_ends_separators_and_quotes(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(table(['"a\nb"', '"x, y"', '"say ""hi"""']), encoding="utf-8")
    assert read(f"csv:{path}").input_names == ("a=a\nb", 'a=say "hi"', "a=x, y")


REFUSED = {
    "a header and at least two rows": "a,b,y\n",
    "no column besides the target 'y'": "y\n1\n2\n3\n4\n5\n6\n",
    "row 3 has 1 values, the header 2": "a,y\n1,2\n3,4\n5\n6,7\n8,9\n",
    "'a' holds numbers and, in row 5, 'about 3'": table(["1.5", "2", "3.5", "4", "about 3", "9"]),
    "'a' holds numbers and, in row 1, '\\(cm\\)'": "a,y\n(cm),1\n" + "".join(f"{i}.5,{i}\n" for i in range(9)),
    "'a' holds numbers in several units or spellings": table(["1.5 mg", "2", "3.5 g"]),
    "'y' is blank in row 2": "a,y\n1,2\n3,NaN\n5,6\n7,8\n",
    "'y' has one class only": "a,y\n1,b\n3,b\n5,b\n7,b\n",
    "'y' has another word in every row": "a,y\n" + "".join(f"{i % 3},name {i}\n" for i in range(20)),
    "is an Excel workbook": "PK\x03\x04 and so on",
    "no text in UTF-8": "\x00\x01\x02\x03\x04",
    "its first row is all numbers": "".join(f"{i + 1},{2 * i + 3},{3 * i + 9}\n" for i in range(9)),
    "two columns are called 'a'": "a,b,a,y\n" + "1,2,3,4\n" * 9,
    "infinite values": "a,y\n1,2\n3,4\n1e999,6\n7,8\n9,1\n",
}


@pytest.mark.parametrize("needle", REFUSED)
def test_what_cannot_be_read_is_told_in_one_line(tmp_path, needle):
    path = tmp_path / "t.csv"
    path.write_text(REFUSED[needle], encoding="utf-8")
    with pytest.raises(FedsimError, match=needle) as caught:
        read(f"csv:{path}")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


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
