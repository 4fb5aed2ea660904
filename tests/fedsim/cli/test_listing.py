"""`fedsim list`."""

import re

import pytest

from tests.tiny_runs import Cli


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("strategies", "fedloge"),
        ("datasets", "digits"),
        ("models", "cnn"),
        ("partitions", "iid"),
        ("presets", "fedavg_"),
    ],
)
def test_lists_are_one_line_per_name(what: str, name: str, cli: Cli) -> None:
    outcome = cli("list", what)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert any(line.startswith(name) for line in lines)
    assert all(re.match(r"\S+  +\S.*\S$", line) for line in lines)
    assert outcome.out in cli("list").out
