"""A path may begin with ~."""

from pathlib import Path

import pytest

from fedsim.errors import FedsimError
from fedsim.paths import expanded


def test_the_home_directory_takes_the_place_of_the_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert expanded("~/runs") == Path("/somewhere/runs")
    assert expanded("runs/~") == Path("runs/~")


def test_an_unknown_account_is_one_line() -> None:
    with pytest.raises(FedsimError, match=r"^~nobody-here/runs: there is no home directory .*; give the whole path$"):
        expanded("~nobody-here/runs")
