"""Options under the names that they had before."""

import pytest

from fedsim.config.renamed import tell_renamed
from fedsim.config.resolve import resolve


@pytest.mark.parametrize(("old", "new"), [("sequential", "never"), ("vectorized", "always"), ("auto", "auto")])
def test_a_key_of_before_loads_and_one_line_says_its_name_of_today(
    old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_renamed.cache_clear()
    assert (
        resolve({"training": {"cohort": old}})
        == resolve({"training.cohort": old})
        == resolve({"training.vectorize": new})
    )
    told = capsys.readouterr().err
    assert (
        told == "note: training.cohort is called training.vectorize now (always for vectorized, never for sequential)\n"
    )


def test_a_key_of_today_goes_over_one_of_before() -> None:
    assert resolve({"training.cohort": "sequential"}, {"training.vectorize": "always"}).training.vectorize == "always"
