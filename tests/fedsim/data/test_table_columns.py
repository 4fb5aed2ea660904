"""Spellings of numbers, of nothing and of times."""

import re

import numpy as np
import pytest

from fedsim.errors import FedsimError
from tests.fedsim.data.tables import read, table
from tests.fedsim.data.test_tabular import rows

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
    ("1:30 PM", "6:00 AM"): ([13.5, 6], "hours, from hour:minute"),
    ("19700102", "19691231", "19700201"): ([1, -1, 31], "days, from yearmonthday"),
    ("1970-02", "1969-12"): ([31, -31], "days, from year-month"),
    ("Feb 1970", "Dec 1969"): ([31, -31], "days, from month year"),
    ("1 day", "2 days", "10 days"): ([1, 2, 10], "in day"),
    ("-0", "0", "-0.0", "2"): ([0, 0, 0, 2], ""),
    ("\u200b3", "4\ufeff", "5\u2028"): ([3, 4, 5], ""),
    ("1.5e-3", "2.5E+02"): ([0.0015, 250], ""),
    ("2.345", "1.250"): ([2.345, 1.25], "as well thousands by points"),
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


def test_addresses_and_versions_are_words(tmp_path):
    path = tmp_path / "t.csv"
    for cells in (["192.168.100.101", "192.168.100.102"], ["10.0.0.1", "10.0.0.2"], ["1.0.2", "1.1.0"]):
        path.write_text(table(cells))
        assert read(f"csv:{path}").input_names == tuple(f"a={cell}" for cell in cells)


def test_numbers_for_people_are_no_inputs(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("Patient ID,a,y\n" + "".join(f"{1000 + 3 * i},{i % 4},{i}\n" for i in range(20)))
    data = read(f"csv:{path}")
    assert data.input_names == ("a",)
    assert "left out: Patient ID (another number in every row)" in data.reading


def test_a_class_that_is_spelled_in_two_ways_is_one(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "".join(f"{i},{('-0', '0', '1')[i % 3]}\n" for i in range(12)))
    assert read(f"csv:{path}", {"classes": True}).class_names == ("0", "1")
