import pytest

from unlearning.api import registry as methods
from unlearning.api.registry import Method


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Method]:
    monkeypatch.setattr(methods, "_methods", {})
    return methods._methods
