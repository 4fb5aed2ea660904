import pytest


@pytest.fixture(autouse=True)
def _coarse_pictures(monkeypatch: pytest.MonkeyPatch, real_pictures: None) -> None:
    """Draw quickly: no test looks at single pixels."""
    monkeypatch.setattr("fedsim.report.figures._DPI", 50)
