"""What `fedsim prune` refuses is one line, and no folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_runs import Cli


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--target=flops=2"], "--target flops=2: must be"),
        (["--method=l3"], "--method l3: no such pruning method"),
        (["--data=mine"], "--data mine: no such source of samples"),
        (["--data=none"], "--data none: modhifi_p needs samples"),
        (["--set=per=row"], "--set modhifi_p.per"),
        (["--target=keep=1"], "--target keep=1: removes no channel of this model"),
    ],
)
def test_bad_requests_write_nothing(tiny_run: Path, cli: Cli, arguments: list[str], says: str) -> None:
    done = cli("prune", tiny_run, "--name=never", *arguments)
    assert done.code == 2
    assert done.err.startswith(f"error: {says}")
    assert done.err.count("\n") == 1
    assert not (tiny_run / "pruned").exists()
