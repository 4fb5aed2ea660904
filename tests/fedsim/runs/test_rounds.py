"""A round fails where its rule's condition does not hold."""

import json
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim.errors import TooFewReplies
from tests.tiny_runs import TINY

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.mark.parametrize(("rule", "needed"), [("krum", 5), ("multikrum", 5), ("bulyan", 7)])
def test_a_rule_whose_condition_does_not_hold_fails_the_round(rule: str, needed: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "strategy.name": rule, "strategy.num_malicious_nodes": 1, "clients": needed, "rounds": 1, "out": str(tmp_path),
    }  # fmt: skip
    assert fedsim.run(TINY, overrides=options).final
    with pytest.raises(TooFewReplies, match=f"round 1: . good replies, but {rule} needs at least {needed} against 1"):
        fedsim.run(TINY, overrides={**options, "faults.dropout": 0.4, "name": "fewer"})
    assert json.loads((tmp_path / "fewer" / "summary.json").read_text())["status"] == "stopped"
