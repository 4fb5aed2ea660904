"""Options are what they are declared to be: pydantic alone would read true as 1."""

from typing import Any

import pytest
from pydantic import ValidationError

from fedsim.schema import Config


class Options(Config):
    number: int = 1
    share: float | None = None
    flag: bool = False
    either: bool | int = 0


def test_values_of_the_declared_types_are_taken() -> None:
    assert Options(number=2, share=None, flag=True, either=True).model_dump() == {
        "number": 2, "share": None, "flag": True, "either": True,
    }  # fmt: skip


@pytest.mark.parametrize("bad", [{"number": True}, {"share": False}, {"share": float("nan")}, {"nmber": 1}])
def test_other_values_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options(**bad)
    with pytest.raises(ValidationError, match="frozen"):
        Options().number = 2  # type: ignore[misc]
