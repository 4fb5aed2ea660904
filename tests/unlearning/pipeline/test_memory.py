"""The memory that a method takes."""

import gc
import weakref
from pathlib import Path

import pytest
import torch

from unlearning.pipeline.memory import peak_memory, quick_collections


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no high-water mark of memory here")
def test_a_method_s_memory_is_measured() -> None:
    for megabytes in (200, 50, 200):
        with peak_memory(torch.device("cpu")) as peak:
            torch.ones(megabytes * 250_000)
        assert peak.megabytes == pytest.approx(megabytes, abs=10)


def test_what_was_there_before_is_left_out_of_collections_until_the_end() -> None:
    frozen = gc.get_freeze_count()
    with quick_collections():
        assert gc.get_freeze_count() == frozen  # of whoever did so before, and left alone
    gc.unfreeze()
    try:
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
    finally:
        if frozen:
            gc.freeze()


class _Owner:
    def __init__(self, held: list[object]) -> None:
        self.held = held
