"""What exists already is left out of garbage collections."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from fedsim.garbage import quick_collections


@pytest.fixture(autouse=True)
def _nothing_frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin with nothing frozen, whatever ran in this process before, and put it back."""
    monkeypatch.setattr("fedsim.garbage._inside", False)
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    yield
    if frozen:
        gc.freeze()


def test_what_was_there_before_is_left_out_until_the_end() -> None:
    with quick_collections():
        assert gc.get_freeze_count() > 1000
        loop: list[object] = []
        loop.append(loop)
        gone = weakref.ref(owner := _Owner(loop))
        loop.append(owner)
        del loop, owner
        gc.collect()
        assert gone() is None  # what was made inside is collected
    assert gc.get_freeze_count() == 0


def test_a_block_inside_another_one_undoes_nothing() -> None:
    with quick_collections():
        with quick_collections():
            pass
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0


class _Owner:
    def __init__(self, held: list[object]) -> None:
        self.held = held
