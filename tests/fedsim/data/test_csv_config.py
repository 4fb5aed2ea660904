"""How options for tables may be written."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fedsim.data.csv_config import CsvConfig


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"separator": "tab"}, {"separator": "\t"}),
        ({"target": 3}, {"target": "3"}),  # a column may be called by a number
        ({"drop": "id"}, {"drop": ("id",)}),
        ({"drop": ["id", 7]}, {"drop": ("id", "7")}),
        ({"blank": "?"}, {"blank": ("?",)}),
    ],
)
def test_short_forms(given: dict[str, Any], read: dict[str, Any]) -> None:
    found = CsvConfig(**given).model_dump()
    assert {key: found[key] for key in read} == read


@pytest.mark.parametrize("bad", [{"separator": "::"}, {"separator": ""}, {"decimal": ";"}, {"target": True}])
def test_what_is_no_such_option_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CsvConfig(**bad)


def test_a_file_of_test_rows_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test.csv").touch()
    assert CsvConfig(test="test.csv").test == str(tmp_path / "test.csv")
    assert CsvConfig(test="split").test == "split"  # a column
