"""What `fedsim privacy` prints."""

import io

import pytest
from rich.console import Console

from fedsim.privacy.accountant import gaussian_epsilon
from fedsim.privacy.ledger import Release
from fedsim.privacy.show import format_epsilon, render_ledger
from tests.fedsim.privacy.small_runs import LABELS, book, run


@pytest.mark.usefixtures("no_pictures")
def test_the_command_says_what_holds_and_what_does_not(tmp_path, cli):
    outcome = cli("privacy", run(tmp_path, {"client": {"noise_multiplier": 5.0}}))
    assert outcome.code == 0
    exact = format_epsilon(gaussian_epsilon(2 / 5, 1e-5))
    assert "4 rounds, 6 clients" in outcome.out
    assert f"client added or removed {exact} 1e-05 model's readers exact" in " ".join(outcome.out.split())
    for words in (
        "the server is trusted",
        "training metrics",
        "without noise",
        "the run folder",
        "guards no real data",
    ):
        assert words in outcome.out
    silent = cli("privacy", run(tmp_path, {"example": {"noise_multiplier": 0}}, "silent"))
    assert "infinity" in silent.out
    plain = cli("privacy", run(tmp_path, {}, "plain"))
    assert "Nothing is protected" in plain.out
    assert "trained models" in plain.out
    (tmp_path / "plain" / "privacy.json").unlink()
    missing = cli("privacy", tmp_path / "plain")
    assert (missing.code, missing.err.count("\n")) == (2, 1)


def test_what_strategies_protect_themselves_takes_the_update_off_the_open_list():
    console = Console(width=150, record=True, file=io.StringIO())
    update = Release(what="trained models", covers=("model",), note="as they are")
    console.print(render_ledger(book(update, LABELS, rounds=1, took_part=[1])))
    text = console.export_text()
    assert "Not covered, for one response" in text
    assert "trained models" not in text
