"""The configuration of a run."""

import pytest

from fedsim.config.resolve import resolve


@pytest.mark.parametrize(
    ("cohort", "size"),
    [(None, 50), (7, 7), ("7", 7), (50, 50), ("30%", 15), ("100%", 50), ("1%", 1), ("0.1%", 1), ("33.3 %", 17)],
)
def test_the_cohort_is_a_number_or_a_share(cohort: object, size: int) -> None:
    assert resolve({"clients": 50, "cohort": cohort}).cohort_size == size
