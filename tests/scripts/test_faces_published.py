"""The published tables add up by our own NoMUS."""

import pytest

from tests.scripts.load import script
from unlearning.evaluation.nomus import nomus

published = script("faces_published")


@pytest.mark.parametrize("name", published.TABLES)
def test_nomus_is_that_of_its_accuracy_and_forgetting_score(name: str) -> None:
    table = published.TABLES[name]
    assert {len(numbers) for numbers in table} == {len(published.METHODS)}
    for accuracy, fs, value in zip(*table, strict=True):
        assert nomus(accuracy, 0.5 + fs) == pytest.approx(value, abs=3e-4)
        assert nomus(accuracy, 0.5 - fs) == pytest.approx(value, abs=3e-4)


def test_there_are_45_of_them_and_the_ends_are_0_and_1() -> None:
    assert sum(len(table.nomus) for table in published.TABLES.values()) == 45
    assert (nomus(1, 0.5), nomus(0, 1)) == (1, 0)
