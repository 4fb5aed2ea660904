"""H, against rows of the published tables."""

import pytest

from unlearning.evaluation.harmonic_mean import h_mean


@pytest.mark.parametrize(
    ("kept", "before", "after", "h"),
    [(71.36, 70.88, 0, 71.12), (74.88, 73.91, 0.06, 74.36), (71.16, 70.88, 0, 71.02), (70.81, 72.74, 0, 71.76)],
)
def test_it_gives_the_published_rows(kept: float, before: float, after: float, h: float) -> None:
    assert 100 * h_mean(kept / 100, before / 100, after / 100) == pytest.approx(h, abs=0.006)


def test_nothing_forgotten_is_nothing() -> None:
    assert h_mean(0.9, 0.7, 0.7) == h_mean(0.9, 0.7, 0.8) == h_mean(0.0, 0.7, 0.7) == 0
    assert h_mean(0.0, 0.7, 0.1) == 0
