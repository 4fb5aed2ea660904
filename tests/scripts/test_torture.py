"""A short form of the campaign that breaks runs; the long one is `python scripts/torture.py --minutes 60`."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "torture.py"
KINDS = "kill_at_event,kill_at_time,signalled,full_disk,flip_half,goes_away,two_starts"


def test_a_short_campaign_loses_nothing_and_goes_on_where_it_was_left(tmp_path: Path) -> None:
    command = [
        sys.executable, SCRIPT, "--out", tmp_path, "--recipes=fedavg", "--kinds", KINDS, "--minutes=0.2", "--seed=3",
    ]  # fmt: skip
    for trials in ("1", "3"):
        done = subprocess.run([*command, "--trials", trials], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    told = [json.loads(line) for line in (tmp_path / "trials-3.jsonl").read_text().splitlines()]
    assert [trial["number"] for trial in told] == list(range(len(told)))
    assert 1 <= len(told) <= 3
    assert {trial["verdict"] for trial in told} <= {"same", "told"}
