"""Forms of a table's text."""

import gzip

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
