"""The record of a pruning comes back as it was; a damaged one is one line."""

from pathlib import Path

import pytest

from fedsim.errors import FedsimError
from fedsim.sealed import seal
from unlearning.pipeline.pruning_record import FILE, MeasuredModel, Pruning, read_pruning

MODEL = MeasuredModel(
    accuracy=None, loss=1.0, flops=10, parameters=5, megabytes=0.1, milliseconds_1=1.0, milliseconds_256=2.0
)
RECORD = Pruning(
    run="run", method="l1", options={}, target="flops=0.5", data="no samples", samples=0, cuts=1, compensate=False,
    batch_norm=False, before=MODEL, after=MODEL, channels={"0": (8, 4)}, seconds=0.5,
)  # fmt: skip
SEALED = seal(RECORD.model_dump_json(indent=1))


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(SEALED)
    assert read_pruning(tmp_path) == RECORD


@pytest.mark.parametrize("damage", [b"", b"{}", SEALED.replace(b"0.5", b"0.6", 1), None])
def test_a_damaged_one_is_refused(damage: bytes | None, tmp_path: Path) -> None:
    if damage is not None:
        (tmp_path / FILE).write_bytes(damage)
    with pytest.raises(FedsimError, match=r"pruning.json: cannot be read as the record of a pruning; prune the run"):
        read_pruning(tmp_path)
