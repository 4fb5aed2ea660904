"""The page on extending, followed to the letter in an empty folder."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np

import fedsim
from tests.page_files import COMMANDS, FILES
from tests.tiny_runs import Cli


def test_every_command_of_the_page(page_folder: Path, cli: Cli) -> None:
    assert set(FILES) == {"entropy.py", "shrink.py", "net.py", "waves.py", "cut.py", "top.py", "timed.py", "sure.py"}
    assert len(COMMANDS) == 8
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        done = cli(*arguments, "--quiet")
        assert (program, done.code, done.err) == ("fedsim", 0, ""), (command, done.err)
    for name in ("own", "mine", "waves"):
        assert fedsim.load_model(page_folder / "runs" / name).description.outputs == (2 if name == "waves" else 10)
    counts = np.load(page_folder / "runs" / "halves" / "partition.npz")["label_counts"]
    assert not (counts[:2, 5:].any())
    assert not (counts[2:, :4].any())
    top = fedsim.compare(page_folder / "runs" / "top", metrics=["global/top2", "global/accuracy"]).iloc[0]
    assert 1 >= top["global/top2"] > top["global/accuracy"]
    measured = page_folder / "runs" / "mine" / "unlearned" / "measured"
    comparison = json.loads((measured / "comparison.json").read_text())
    sentence = "By how much more of the forgotten samples than of never-seen ones the class is named"
    assert all("surer" in row["metrics"] for row in comparison["rows"])
    assert comparison["own_metrics"] == {"surer": sentence}
    assert f'<th scope="col" title="{sentence}; best near' in (measured / "report.html").read_text()
    shown = cli("show", page_folder / "runs" / "top").out
    assert "Share of test samples whose class is among the two that are thought likeliest" in shown
    assert fedsim.load_run_model(page_folder / "runs" / "mine").feature_dim == 16


def test_the_strategy_without_its_term_is_fedavg(page_folder: Path) -> None:
    # By measurement either might be trained at once, which rounds otherwise.
    tiny = {"clients": 4, "rounds": 1, "model": "mlp", "training": {"epochs": 1, "vectorize": "always"}}
    plain, zero, some = (
        fedsim.run({**tiny, "strategy": strategy, "name": name})
        for name, strategy in (
            ("a", "fedavg"), ("b", {"name": "./entropy.py", "beta": 0}), ("c", {"name": "./entropy.py"}),
        )
    )  # fmt: skip
    state = plain.model.state_dict()
    assert all(state[name].equal(value) for name, value in zero.model.state_dict().items())
    assert any(not state[name].equal(value) for name, value in some.model.state_dict().items())
    assert 0 < some.final["train/entropy"] < 2.4  # log(10) is 2.3
