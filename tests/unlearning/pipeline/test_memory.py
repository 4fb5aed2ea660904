"""The memory that a method takes."""

from pathlib import Path

import pytest
import torch

from unlearning.pipeline.memory import peak_memory


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no high-water mark of memory here")
def test_a_method_s_memory_is_measured() -> None:
    for megabytes in (200, 50, 200):
        with peak_memory(torch.device("cpu")) as peak:
            torch.ones(megabytes * 250_000)
        assert peak.megabytes == pytest.approx(megabytes, abs=10)
