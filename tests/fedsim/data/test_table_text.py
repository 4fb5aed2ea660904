"""Forms of a table's text."""

import gzip
import re
import tracemalloc
import unicodedata

import numpy as np
import pytest

from fedsim.errors import FedsimError
from tests.fedsim.data.tables import read, table
from tests.fedsim.data.test_tabular import rows

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
    "two marks": lambda text: b"\xef\xbb\xbf" + text.encode("utf-8-sig"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "the end of a file of DOS": lambda text: text.encode() + b"\x1a",
    "the header again and again": lambda text: re.sub("((?:.*\n){5})", r"\1klinik,alter,kind\n", text).encode(),
    "comments": lambda text: b"# made in 2020, by hand, here, and there\n" + text.encode(),
    "letters and their accents": lambda text: unicodedata.normalize("NFD", text).encode(),
    "an index of pandas, shuffled": lambda text: "".join(
        f"{'' if i == 0 else i * 7 % 20},{line}\n" for i, line in enumerate(text.splitlines())
    ).encode(),
    "no header": lambda text: re.sub("^.*\n", "", text).encode(),
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
    names = ("klinik=Köln", "klinik=St. Mary", "klinik=Ulm", "alter")
    if form == "no header":
        names = tuple(name.replace("klinik", "column_1").replace("alter", "column_2") for name in names)
    assert data.input_names == names
    x, y = rows(data)
    assert (len(x), data.class_names) == (20, ("gesund", "krank"))
    order = np.argsort(x[:, 3])
    np.testing.assert_allclose(x[order, 3], np.arange(30, 50), rtol=1e-6)
    assert y[order].tolist() == [0, 1] * 10


def test_words_with_line_ends_separators_and_quotes(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(table(['"a\nb"', '"x, y"', '"say ""hi"""']), encoding="utf-8")
    assert read(f"csv:{path}").input_names == ("a=a\nb", 'a=say "hi"', "a=x, y")


@pytest.mark.parametrize("mark", list("\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x1f\u00a0\u200b\ufeff"))
def test_words_with_what_ends_lines_elsewhere(tmp_path, mark):
    path = tmp_path / "t.csv"
    path.write_bytes(table([f"a{mark}b", "c"]).encode())
    data = read(f"csv:{path}")
    assert (data.input_names, len(rows(data)[0])) == ((f"a=a{mark}b", "a=c"), 12)


# cells of a table without a header, the names of its inputs
WITHOUT_HEADER = {
    "words": (["p,x", "e,x", "e,s"], ("column_1=e", "column_1=p", "column_2=s", "column_2=x")),
    "dates": (["2020-01-01,u", "2020-01-05,v"], ("column_1", "column_2=u", "column_2=v")),
    "shares": (["5%,u", "7.5%,v"], ("column_1", "column_2=u", "column_2=v")),
    "amounts": (["$5,u", "$1200,v"], ("column_1", "column_2=u", "column_2=v")),
    "a blank at first": (["NA,3.5", "1.5,2.5"], ("column_1", "column_2")),
    "numbers below zero": (["-1.5,u", "-2.5,v"], ("column_1", "column_2=u", "column_2=v")),
}


@pytest.mark.parametrize("what", WITHOUT_HEADER)
def test_tables_without_a_header(tmp_path, what):
    cells, names = WITHOUT_HEADER[what]
    path = tmp_path / "t.csv"
    path.write_text("".join(f"{cells[i % len(cells)]},{'mn'[i % 2]}\n" for i in range(12)))
    data = read(f"csv:{path}")
    assert (data.input_names, data.class_names, len(rows(data)[0])) == (names, ("m", "n"), 12)
    assert "no header" in data.reading


@pytest.mark.parametrize("names", ["country,1999,2005,2003", "country,0.1,0.2,0.3", "country,2001-01,2002-01,x1"])
def test_headers_of_numbers(tmp_path, names):
    path = tmp_path / "t.csv"
    path.write_text(f"{names}\n" + "".join(f"{'ab'[i % 2]},{i},{2 * i},{i}\n" for i in range(12)))
    data = read(f"csv:{path}")
    assert data.input_names == ("country=a", "country=b", *names.split(",")[1:3])
    assert len(rows(data)[0]) == 12


def test_one_long_value_costs_no_other_row_its_length(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,y\n" + "".join(f"{'w' * 10**6 if i < 2 else 'ab'[i % 2]},{i}\n" for i in range(2000)))
    tracemalloc.start()
    data = read(f"csv:{path}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data.input_names) == 3
    assert peak < 100e6


REFUSED = {
    "a header and at least two rows": "a,b,y\n",
    "no column besides the target 'y'": "y\n1\n2\n3\n4\n5\n6\n",
    "name what separates its values with --set data.csv.separator": "a~y\n" + "".join(f"{i}~b\n" for i in range(9)),
    "left out: a \\(another word in every row\\)": table([f"{i}_000" for i in range(12)]),
    "'a' holds dates and, in row 2, '0000-00-00'": table(["2020-01-01", "0000-00-00", "2020-01-03", "2020-02-01"]),
    "'a' holds dates and, in row 3, '30.02.2020'": table(["1.2.2020", "28.2.2020", "30.02.2020", "3.4.2021"]),
    "'a' holds infinite values": table(["1", "Infinity", "3"]),
    "the target 'y' holds infinite values": "a,y\n" + "".join(f"{i},{'2' if i % 2 else '-inf'}\n" for i in range(9)),
    "the target 'y' is 5 in every row": "a,y\n" + "".join(f"{i},5\n" for i in range(9)),
    "a quotation mark in line 3 is never closed": 'a,y\n1,2\n"3,4\n5,6\n7,8\n',
    "a quotation mark that closes a value in line 2": 'a,y\n"b" c,2\n3,4\n5,6\n7,8\n',
    "is JSON; save it as CSV": '{"a": [1, 2, 3]}\n',
    "is a page of the web": "<!DOCTYPE html>\n<table></table>\n",
    "is an ARFF file": "@relation iris\n@attribute a numeric\n@data\n1,2\n",
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


def test_one_line_in_another_encoding_is_told(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(table(["Köln", "Ulm"]).encode() + "Bürs,12\n".encode("latin-1"))
    with pytest.raises(FedsimError, match="it is UTF-8 but for line 14"):
        read(f"csv:{path}")
